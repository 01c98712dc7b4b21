"""One member's process for real: opened, run, stopped, started again; no bitcoind answers it."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest

from federation.config import FederationFile
from federation.consensus import effects
from federation.consensus.events import StartMode
from federation.engine import Engine, Halted
from federation.founding import MemberPorts, found_federation
from federation.member_folder import MemberFolder
from federation.node import CannotStart, Node, StartOptions, open_node
from federation.signer import SignerFailed
from federation.start import stored_blocks
from federation.wal import BlockFiles, JournalLocked
from peg.parameters import LOCAL
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import InvalidBlock
from sidechain.params import ChainParams
from tests.federation.engine_world import Lines
from tests.federation.founded import NOW_UNIX_S, entropy_of

INIT = StartOptions(init=True)


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Home:
    """A federation of one, whose bitcoind is down."""

    def __init__(self, folder: Path) -> None:
        self.rpc_port = closed_port()
        found_federation(
            folder,
            n=1,
            k=1,
            chain_name="fedpeg-test",
            block_time_ms=1_000,
            ports=[MemberPorts(link=closed_port(), rpc=self.rpc_port)],
            peg=LOCAL,
            bitcoind_url=f"http://127.0.0.1:{closed_port()}",
            bitcoind_cookie="../../bitcoind/regtest/.cookie",
            entropy=entropy_of("node"),
            unix_time_s=NOW_UNIX_S,
            allow_no_byzantine_safety=True,
        )
        self.path = folder / "members" / "m0"
        self.folder = MemberFolder(self.path)
        self.file = folder / "federation.json"
        self.log = Lines()
        self.failure: BaseException | None = None

    def open(self, options: StartOptions = INIT) -> Any:
        return open_node(self.path, self.file, options, self.log)

    def params(self) -> ChainParams:
        loaded = FederationFile.load(self.file, allow_no_byzantine_safety=True)
        return loaded.chain_params()

    def client(self) -> RpcClient:
        url = f"http://127.0.0.1:{self.rpc_port}"
        return RpcClient(url, self.folder.cookie, retry_for_s=30)

    @asynccontextmanager
    async def running(self, node: Node) -> AsyncIterator[RpcClient]:
        stop = asyncio.Event()
        task = asyncio.ensure_future(node.run(stop))
        try:
            async with self.client() as client:
                yield client
        finally:
            stop.set()
            await asyncio.wait([task])
            self.failure = task.exception()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_member_when_run_then_born_answers_and_stops_in_order(home: Home) -> None:
    assert home.folder.birth_mark.exists()
    with home.open() as node:
        assert not home.folder.birth_mark.exists()
        async with home.running(node) as client:
            info = await client.call("getfederationinfo")
            assert (info["mode"], info["height"], info["n"]) == ("VOTING", 0, 1)
            assert info["parent"]["healthy"] is False and info["parent"]["height"] is None
            assert await client.call("getblockcount") == 0
            async with (
                aiohttp.ClientSession() as session,
                session.get(info["esplora_url"] + "/blocks/tip/hash") as reply,
            ):
                assert await reply.text() == await client.call("getbestblockhash")
            assert "getblocksigners" in await client.call("help")
            await client.call("stop")
    assert home.failure is None
    started = home.log.of("member_started")[0]
    assert started["start"] == "fresh" and started["rpc_port"] == home.rpc_port
    assert info["esplora_url"] == f"http://127.0.0.1:{started['esplora_port']}"
    assert home.log.of("no_byzantine_safety")
    with home.open() as node:
        assert node._parts.start is StartMode.INTACT


@pytest.mark.parametrize("second_validation", [False, True])
def test_member_when_told_to_validate_twice_then_its_chain_does(
    home: Home, second_validation: bool
) -> None:
    with home.open(StartOptions(init=True, second_validation=second_validation)) as node:
        assert node._chain._validator.second_validation == second_validation


def test_folder_when_in_use_then_locked_and_when_closed_then_free(home: Home) -> None:
    with home.open(), pytest.raises(JournalLocked), home.open():
        pass
    with pytest.raises(CannotStart, match="--restored"), home.open():
        pass  # the birth mark is used up, and nothing was written


def test_birth_mark_when_something_else_fails_then_not_used_up(home: Home) -> None:
    """N5: a member that cannot start yet must not lose its one permission."""
    home.folder.peg_key.chmod(0o644)
    with pytest.raises(SignerFailed), home.open():
        pass
    assert home.folder.birth_mark.exists()
    home.folder.peg_key.chmod(0o600)
    with home.open():
        pass
    assert not home.folder.birth_mark.exists()


def test_index_when_outside_the_federation_then_cannot_start(home: Home) -> None:
    path = home.path / "member.json"
    plain = json.loads(path.read_text())
    plain["index"] = 3
    path.write_text(json.dumps(plain))
    with pytest.raises(CannotStart, match="index 3"), home.open():
        pass


async def test_core_when_it_orders_an_exit_then_run_ends_with_it(home: Home) -> None:
    with home.open() as node:
        async with home.running(node) as client:
            await client.call("getblockcount")

            def end() -> None:
                raise Halted("another process may be using the key")

            node._engine.post(end)
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(5))], timeout=0.3)
    assert isinstance(home.failure, ExceptionGroup)
    assert isinstance(home.failure.exceptions[0], Halted)


async def test_rpc_when_asked_at_the_first_moment_then_answered(home: Home) -> None:
    """The API opens once a height is in progress, not before."""
    with home.open() as node:
        async with home.running(node) as client:
            for _ in range(3):
                assert "round" in await client.call("getfederationinfo")
            with pytest.raises(RpcError):
                await client.call("nosuchmethod")
    assert not home.log.of("rpc_fault")


def test_stored_blocks_when_damaged_then_dropped_and_can_be_stored_again(tmp_path: Path) -> None:
    files = BlockFiles(tmp_path)
    for name in (b"\x01" * 32, b"\x02" * 32):
        files.save(name, name + b" bytes")

    class Production:
        def decode_proposal(self, data: bytes, block_hash: bytes) -> None:
            if not data.startswith(block_hash) or data.endswith(b"rot"):
                raise InvalidBlock("not the block named")

    production: Any = Production()
    assert len(stored_blocks(files, production)) == 2
    (tmp_path / f"block-{'01' * 32}").write_bytes(b"\x01" * 32 + b" rot")
    assert stored_blocks(files, production) == {b"\x02" * 32: b"\x02" * 32 + b" bytes"}
    assert not (tmp_path / f"block-{'01' * 32}").exists()
    files.save(b"\x01" * 32, b"\x01" * 32 + b" again")
    assert files.load(b"\x01" * 32) == b"\x01" * 32 + b" again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_when_told_to_end_then_ends_in_order(home: Home, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "federation.member", "--folder", str(home.path)]
        + ["--federation", str(home.file), "--init"],
        stderr=subprocess.PIPE,
    )
    try:
        asyncio.run(_until_it_answers(home))
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()
    events = [json.loads(line)["event"] for line in home.folder.log.read_text().splitlines()]
    assert events[-1] == "member_stopped" and "member_stopping" in events
    with home.open() as node:
        assert node._parts.start is StartMode.INTACT


async def _until_it_answers(home: Home) -> None:
    async with home.client() as client:
        assert await client.call("getblockcount") == 0


def test_effects_when_the_core_gets_a_new_one_then_the_engine_names_it_too() -> None:
    """An effect that falls through the table would be dropped without a word."""
    names = Engine._obey.__code__.co_names
    missing = [kind.__name__ for kind in get_args(effects.Effect) if kind.__name__ not in names]
    assert not missing
