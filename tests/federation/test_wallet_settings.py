"""Reading local.json: what the runner writes is read, anything else is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.local_state import LocalFolder, LocalMember, LocalState
from federation.wallet.settings import read_local
from sidechain.errors import Invalid

STATE = LocalState(
    chain="fedpeg-test",
    n=1,
    k=1,
    block_time_ms=1_000,
    members=(LocalMember(name="m0", index=0, port=20_000, rpc_port=21_000),),
    bitcoind_rpc_port=22_000,
    wallet_rpc_port=23_000,
)


def test_file_when_written_by_the_runner_then_read(tmp_path: Path) -> None:
    LocalFolder(tmp_path).save(STATE)
    found = read_local(tmp_path)
    assert [member.url for member in found.members] == ["http://127.0.0.1:21000"]
    assert found.members[0].cookie_path == tmp_path / "members" / "m0" / ".cookie"
    assert found.bitcoind.cookie_path == tmp_path / "bitcoind" / ".cookie"
    assert (found.bitcoind.url, found.rpc_port) == ("http://127.0.0.1:22000", 23_000)
    assert (found.chain, found.faucet_wallet) == ("fedpeg-test", "faucet")


@pytest.mark.parametrize("missing", ["chain", "members", "bitcoind", "wallet"])
def test_file_when_something_is_missing_then_refused(tmp_path: Path, missing: str) -> None:
    plain = STATE.to_json()
    del plain[missing]
    (tmp_path / "local.json").write_text(json.dumps(plain))
    with pytest.raises(Invalid, match="not complete"):
        read_local(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("members", []), ("members", [{"name": "m0", "rpc_port": 0}]), ("bitcoind", {"rpc_port": 1})],
)
def test_file_when_something_is_unusable_then_refused(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "local.json").write_text(json.dumps(STATE.to_json() | {key: value}))
    with pytest.raises(Invalid):
        read_local(tmp_path)


def test_file_when_absent_then_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"local\.json"):
        read_local(tmp_path)


@given(
    content=st.binary(max_size=100) | st.text(max_size=100).map(lambda t: json.dumps(t).encode())
)
def test_file_when_garbage_then_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "local.json").write_bytes(content)
    with pytest.raises(Invalid):
        read_local(folder)
