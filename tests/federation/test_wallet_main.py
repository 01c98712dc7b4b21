"""The wallet process as a process: start, refusals, signals, files."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.config import FederationFile
from federation.local_state import LocalFolder, LocalMember, LocalState
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable
from sidechain.wallet.book import WalletBook
from tests.federation.founded import found
from tests.federation.wallet_world import free_port

START_TIMEOUT_S = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A founded federation of which no process runs."""
    folder = tmp_path / "data"
    found(folder)
    state = LocalState(
        chain="fedpeg-test",
        n=4,
        k=3,
        block_time_ms=1_000,
        members=tuple(
            LocalMember(name=f"m{i}", index=i, port=1, rpc_port=free_port()) for i in range(4)
        ),
        bitcoind_rpc_port=free_port(),
        wallet_rpc_port=free_port(),
    )
    LocalFolder(folder).save(state)
    return folder


def start(data: Path) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-m", "federation.wallet_process", "--data", str(data)]
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def process(data: Path) -> Iterator["subprocess.Popen[str]"]:
    child = start(data)
    yield child
    if child.poll() is None:
        child.kill()
    child.communicate()


def client(data: Path, *, retry_for_s: int = START_TIMEOUT_S) -> RpcClient:
    state = LocalFolder(data).load()
    assert state is not None
    url = f"http://127.0.0.1:{state.wallet_rpc_port}"
    return RpcClient(url, data / "wallet" / ".cookie", retry_for_s=retry_for_s)


async def call(data: Path, method: str, *params: Any) -> Any:
    async with client(data) as rpc:
        return await rpc.call(method, *params)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_when_nobody_else_runs_then_serves_and_ends_on_a_signal(
    data: Path, process: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    assert await call(data, "createwallet", "alice", "words") == {
        "name": "alice",
        "encrypted": True,
    }
    address = await call(data, "getnewaddress", "alice")
    assert address.startswith("el1qq")
    with pytest.raises(RpcError, match="no member of the federation answers"):
        await call(data, "pegin", "alice", "0.1")
    assert (await call(data, "getbalances", "alice"))["confirmed_sats"] == 0
    folder = data / "wallet"
    for path, mode in ((folder, 0o700), (folder / "log.jsonl", 0o600), (folder / ".cookie", 0o600)):
        assert path.stat().st_mode & 0o777 == mode
    process.send_signal(number)
    output, errors = process.communicate(timeout=START_TIMEOUT_S)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not (folder / ".cookie").exists()
    assert "words" not in (folder / "log.jsonl").read_text()


@pytest.mark.slow
async def test_process_when_another_runs_on_the_folder_then_one_clear_line(
    data: Path, process: "subprocess.Popen[str]"
) -> None:
    await call(data, "listwallets")
    second = start(data)
    _, errors = second.communicate(timeout=START_TIMEOUT_S)
    assert second.returncode == 1
    assert errors == f"wallet: a wallet process already runs on {data / 'wallet'}\n"
    assert await call(data, "stop") == "wallet stopping"
    process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 0


@pytest.mark.slow
async def test_process_when_killed_then_the_next_one_has_all_wallets(
    data: Path, process: "subprocess.Popen[str]"
) -> None:
    await call(data, "createwallet", "alice")
    first = await call(data, "getnewaddress", "alice")
    process.kill()
    process.communicate(timeout=START_TIMEOUT_S)
    again = start(data)
    try:
        assert await call(data, "listwallets") == ["alice"]
        assert await call(data, "getnewaddress", "alice") != first
    finally:
        again.terminate()
        again.communicate(timeout=START_TIMEOUT_S)
    assert again.returncode == 0


@pytest.mark.parametrize("missing", ["local.json", "federation.json"])
def test_process_when_a_file_is_missing_then_says_which(data: Path, missing: str) -> None:
    (data / missing).unlink()
    child = start(data)
    _, errors = child.communicate(timeout=START_TIMEOUT_S)
    assert child.returncode == 1
    assert missing in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_process_when_its_port_is_taken_then_says_so(data: Path) -> None:
    state = LocalFolder(data).load()
    assert state is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", state.wallet_rpc_port))
        taken.listen()
        child = start(data)
        _, errors = child.communicate(timeout=START_TIMEOUT_S)
    assert child.returncode == 1
    assert errors.startswith(f"wallet: cannot listen on port {state.wallet_rpc_port}")


@pytest.mark.slow
def test_process_when_called_without_data_then_usage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "federation.wallet_process"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=os.getcwd())
    assert done.returncode == 2 and "--data" in done.stderr


@pytest.mark.slow
async def test_process_when_asked_without_its_cookie_then_refused(
    data: Path, process: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    await call(data, "listwallets")
    stranger = tmp_path / "cookie"
    stranger.write_text("__cookie__:" + "00" * 32)
    state = LocalFolder(data).load()
    assert state is not None
    rpc = RpcClient(f"http://127.0.0.1:{state.wallet_rpc_port}", stranger)
    async with rpc:
        with pytest.raises(Unavailable, match="refuses the cookie"):
            await rpc.call("listwallets")


@pytest.mark.slow
async def test_store_when_process_runs_then_cannot_be_opened_by_others(
    data: Path, process: "subprocess.Popen[str]"
) -> None:
    await call(data, "listwallets")
    file = FederationFile.load(data / "federation.json", allow_no_byzantine_safety=True)
    with pytest.raises(Unavailable, match="in use"):
        WalletBook.open(data / "wallet" / "wallets", file.chain_params())
