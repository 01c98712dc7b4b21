"""Reserves reports on a real federation, computed again by somebody with nodes of his own."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from federation.config import FederationFile
from federation.secret_key import SecretKey
from peg.canonical import canonical_json
from peg.reserves_report import HONEST_LIMIT, REPORT_TAG
from sidechain.crypto.hashes import tagged_hash
from tests.e2e.local import ROOT, Local
from tests.e2e.rpc import NoAnswer, Refused, Rpc
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")
SIGNED_FIELDS = ("genesis", "parameter_hash", "format", "limit")
"""Fields that are refused before anything is computed."""


@pytest.fixture
def report(local: Local, tmp_path: Path) -> Path:
    """A report of a federation that has taken deposits and paid out."""
    local.make_wallets("alice")
    if local.available("alice") < 20_000_000:
        local.fund("alice", "0.5")
        done = local.pegout("alice", local.payout_address(), "0.04")
        local.finish_pegout(done["id"])
        local.pegout("alice", local.payout_address(), "0.03")
    local.wait_committed()
    path = tmp_path / "report.json"
    made = local.answer("audit", "report", "-o", str(path))
    assert made.code == 0, made.stderr
    return path


def signed_again(local: Local, report: dict[str, Any], members: tuple[int, ...]) -> dict[str, Any]:
    """What these members would have signed had they lied."""
    digest = tagged_hash(REPORT_TAG, canonical_json(report))
    signatures = []
    for member in members:
        text = (local.folder(f"m{member}") / "keys" / "block.key").read_text()
        signature = SecretKey(bytes.fromhex(text.strip())).sign_schnorr(digest)
        signatures.append({"member": member, "signature": signature.hex()})
    return {"report": report, "signatures": signatures}


@contextmanager
def own_sidechaind(local: Local, folder: Path) -> Iterator[Rpc]:
    """A `sidechaind` of somebody who is no member, with the federation's blocks."""
    federation = FederationFile.load(local.data / "federation.json")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"-{name}={value}" for name, value in federation.options]
    words = [
        f"-datadir={folder}",
        f"-chain={federation.chain_name}",
        f"-signblockscript={federation.signblockscript.hex()}",
        f"-fedpegscript={federation.fedpegscript.hex()}",
        *options,
        "-validatepegin=0",
        f"-rpcport={port}",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "sidechain.daemon", *words], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        try:
            rpc = Rpc(port=port, cookie=folder / federation.chain_name / ".cookie")

            def answers() -> bool:
                try:
                    return rpc.call("getblockcount") is not None
                except (NoAnswer, Refused):
                    return False

            wait_for(answers, "sidechaind answers")
            for height in range(1, local.height() + 1):
                block = local.ask("getblock", local.ask("getblockhash", height), 0)
                assert rpc.call("submitblock", block) is None
            yield rpc
        finally:
            process.terminate()


def own_nodes(local: Local, sidechain: Rpc) -> list[str]:
    bitcoind = local.bitcoind()
    return [
        "--bitcoind",
        f"http://127.0.0.1:{bitcoind.port}",
        "--bitcoind-cookie",
        str(bitcoind.cookie),
        "--member",
        f"http://127.0.0.1:{sidechain.port}",
        "--member-cookie",
        str(sidechain.cookie),
    ]


def test_report_when_computed_again_from_a_sidechaind_then_equal_and_every_lie_is_named(
    local: Local, report: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with own_sidechaind(local, folder) as sidechain:
        nodes = own_nodes(local, sidechain)
        done = local.answer("audit", "verify", str(report), *nodes)
        assert done.code == 0 and "equal to what both chains say" in done.stdout, done.stderr
        plain = json.loads(report.read_text())
        signers = ", ".join(f"m{each['member']}" for each in plain["signatures"])
        assert HONEST_LIMIT in done.stdout and f"signed by {signers}" in done.stdout
        assert plain["report"]["batches"] and plain["report"]["unpaid_sats"]
        for name, value in plain["report"].items():
            lie = deepcopy(plain["report"])
            if isinstance(value, int):
                lie[name] = value + 1
            elif isinstance(value, str):
                lie[name] = ("1" if value[0] == "0" else "0") + value[1:]
            else:
                lie[name] = [*value, *value]
            # k members that lie together: what differs from the chains is named all the same
            path = tmp_path / f"{name}.json"
            path.write_bytes(canonical_json(signed_again(local, lie, (0, 1, 2))))
            done = local.answer("audit", "verify", str(path), *nodes, "--json")
            assert done.code == 1, name
            told = done.json
            assert told["verified"] is False
            if name in SIGNED_FIELDS:
                assert name in told["reason"], (name, told)
            elif name == "height":
                assert "block" in told.get("reason", "") or told["differences"]
            else:
                assert [each.split(":")[0] for each in told["differences"]] == [name], told


def test_report_when_signatures_are_not_those_of_k_members_then_refused(
    local: Local, report: Path, tmp_path: Path
) -> None:
    plain = json.loads(report.read_text())
    path = tmp_path / "fewer.json"
    path.write_bytes(canonical_json(signed_again(local, plain["report"], (0, 1))))
    done = local.answer("audit", "verify", str(path))
    assert done.code == 1 and "2 members signed, 3 are needed" in done.stdout
    outsider = signed_again(local, plain["report"], (0, 1, 2))
    outsider["signatures"][2]["member"] = 3
    path.write_bytes(canonical_json(outsider))
    done = local.answer("audit", "verify", str(path))
    assert done.code == 1 and "that of member 3 is not over this report" in done.stdout


def test_report_when_asked_of_a_member_that_does_not_run_any_more_then_from_its_folder(
    local: Local, report: Path
) -> None:
    local.kill("m3")
    folder = str(local.folder("m3"))
    done = local.answer("audit", "verify", str(report), "--chain", folder)
    assert done.code == 0, done.stderr
    done = local.answer("audit", "verify", str(report), "--chain", str(local.folder("m2")))
    assert done.code == 1 and done.stderr
    done = local.answer("audit", "verify", str(report), "--chain", str(local.data / "bitcoind"))
    assert done.code == 1 and "no chain database" in done.stderr


def test_report_when_another_one_is_asked_for_then_kept_and_listed(local: Local) -> None:
    local.wait_committed()
    done = local.answer("audit", "report", "--member", "m1", "--json")
    assert done.code == 0, done.stderr
    height = done.json["report"]["height"]
    listed = local.answer("audit", "reports", "--member", "m1", "--json").json["reports"]
    assert listed[-1]["height"] == height and len(listed[-1]["signers"]) >= 3
    again = local.answer(
        "audit", "report", "--member", "m1", "--height", str(height), "--json"
    ).json
    assert again["report"] == done.json["report"]
    done = local.answer("audit", "report", "--height", "1000000")
    assert done.code == 1 and "cannot be reported on" in done.stderr


def test_report_when_its_bitcoin_block_is_left_then_refused(local: Local, report: Path) -> None:
    committed = json.loads(report.read_text())["report"]["committed_height"]
    gone = local.invalidate(committed)
    local.mine_empty(4)
    done = local.answer("audit", "verify", str(report))
    assert done.code == 1 and "is not on the best chain of your bitcoind" in done.stderr
    local.bitcoind().call("reconsiderblock", gone)
    local.mine_empty(4)
    local.wait_committed()


def test_report_when_an_epoch_of_bitcoin_blocks_passes_then_every_member_keeps_one(
    local: Local,
) -> None:
    def kept(name: str) -> list[int]:
        return [each["committed_height"] for each in local.member(name).call("listreports")]

    before = local.ask("getpeginfo")["committed_height"] // 144
    local.mine_until(
        lambda: all(
            any(height // 144 > before for height in kept(name)) for name in local.running()
        ),
        "reports of the epoch",
        blocks_max=160,
    )
