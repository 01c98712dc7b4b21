"""Doctor names what is wrong and a fix of one line, and never fails itself."""

import json
import os
import socket
from pathlib import Path

import pytest

from federation.doctor import Check, examine
from federation.founding import MemberPorts, found_federation
from federation.local import LocalFederation
from federation.local_state import LocalFolder, LocalMember, LocalState, PortChooser, Stage
from peg.parameters import LOCAL


def quiet(_: str, __: str) -> None:
    """Nobody listens."""


async def checks_of(folder: Path) -> dict[str, Check]:
    """All checks by name."""
    return {check.name: check for check in await examine(LocalFederation(folder, quiet))}


def make_federation(folder: Path) -> LocalState:
    """A founded federation that was never started."""
    ports = PortChooser()
    members = tuple(
        LocalMember(name=f"m{i}", index=i, port=ports.choose(), rpc_port=ports.choose())
        for i in range(4)
    )
    state = LocalState(
        chain="fedpeg-test",
        n=4,
        k=3,
        block_time_ms=1_000,
        members=members,
        bitcoind_rpc_port=ports.choose(),
        wallet_rpc_port=ports.choose(),
        stage=Stage.OPEN,
    )
    LocalFolder(folder).save(state)
    found_federation(
        folder,
        n=4,
        k=3,
        chain_name=state.chain,
        block_time_ms=1_000,
        ports=[MemberPorts(link=m.port, rpc=m.rpc_port) for m in members],
        peg=LOCAL,
        bitcoind_url=f"http://127.0.0.1:{state.bitcoind_rpc_port}",
        bitcoind_cookie="../../bitcoind/.cookie",
        entropy=os.urandom,
        unix_time_s=1_700_000_000,
    )
    return state


async def test_doctor_when_there_is_no_federation_then_machine_is_examined(tmp_path: Path) -> None:
    checks = await checks_of(tmp_path)
    assert checks["python"].ok
    assert checks["libraries"].ok
    assert checks["federation"].ok
    assert "bitcoind" in checks


async def test_doctor_when_federation_is_down_and_sound_then_all_is_well(tmp_path: Path) -> None:
    make_federation(tmp_path)
    checks = await checks_of(tmp_path)
    for name in ("federation.json", "keys", "processes"):
        assert checks[name].ok, checks[name]


async def test_doctor_when_bitcoind_is_missing_then_fix_names_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITCOIND", str(tmp_path / "none"))
    check = (await checks_of(tmp_path))["bitcoind"]
    assert not check.ok
    assert "deploy/setup" in check.fix


async def test_doctor_when_key_is_open_to_others_then_fix_closes_it(tmp_path: Path) -> None:
    make_federation(tmp_path)
    key = tmp_path / "members" / "m1" / "keys" / "peg.key"
    key.chmod(0o644)
    check = (await checks_of(tmp_path))["keys"]
    assert not check.ok
    assert check.fix == f"chmod 600 {key}"


async def test_doctor_when_parameters_were_edited_then_said(tmp_path: Path) -> None:
    make_federation(tmp_path)
    path = tmp_path / "federation.json"
    content = json.loads(path.read_text())
    content["params"]["peg"]["k"] = 2
    path.write_text(json.dumps(content))
    assert not (await checks_of(tmp_path))["federation.json"].ok


async def test_doctor_when_local_file_is_damaged_then_said(tmp_path: Path) -> None:
    (tmp_path / "local.json").write_text("{")
    assert not (await checks_of(tmp_path))["local.json"].ok


async def test_doctor_when_port_is_taken_then_said(tmp_path: Path) -> None:
    state = make_federation(tmp_path)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", state.members[2].rpc_port))
        squatter.listen()
        check = (await checks_of(tmp_path))["ports"]
    assert not check.ok
    assert "(m2)" in check.found
