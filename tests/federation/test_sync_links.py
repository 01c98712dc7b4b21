"""A real member behind real TLS links, whose peers lie, drip, boast or say nothing (C54)."""

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from federation.config import FederationFile
from federation.consensus.encoding import FRAME_LIMITS_BYTES, NIL, FrameKind
from federation.consensus.messages import GetFinal, Status, encode_message
from federation.founding import MemberPorts, found_federation
from federation.frames import PROTOCOL_VERSION, FrameDecoder, Hello, encode_frame
from federation.node import Node, open_node
from federation.secret_key import SecretKey
from federation.signed_heights import sign_heights
from peg.commitments import Commitment, parameters_script
from peg.parameters import LOCAL
from sidechain.chain import Chain
from sidechain.primitives.block import Block
from tests.federation.engine_world import Lines
from tests.federation.founded import NOW_UNIX_S, entropy_of, member_folder
from tests.federation.test_node import INIT, closed_port

pytestmark = pytest.mark.slow

HEIGHTS = 400
VICTIM = 3
"""The member with the highest index: all others dial it."""
STATUS_PAUSE_S = 0.2
DRIP_PAUSE_S = 0.02
PATIENCE_S = 40

Send = Callable[[int, bytes], Awaitable[None]]


@dataclass
class World:
    """A founded federation of four and the blocks that three of them have."""

    folder: Path
    file: FederationFile
    port: int
    blocks: list[bytes]
    tip_hash: bytes

    @classmethod
    def make(cls, folder: Path) -> "World":
        ports = [MemberPorts(link=closed_port(), rpc=closed_port()) for _ in range(4)]
        file = found_federation(
            folder,
            n=4,
            k=3,
            chain_name="fedpeg-test",
            block_time_ms=1_000,
            ports=ports,
            peg=LOCAL,
            bitcoind_url=f"http://127.0.0.1:{closed_port()}",
            bitcoind_cookie="../../bitcoind/regtest/.cookie",
            entropy=entropy_of("sync"),
            unix_time_s=NOW_UNIX_S,
        )
        secrets = [
            SecretKey(bytes.fromhex(member_folder(folder, i).block_key.read_text().strip()))
            for i in range(4)
        ]
        commitment = Commitment(
            reset=False, height=1, block_hash=b"\x01" * 32, feerate_sats_per_kvb=1_000
        )
        scripts = [commitment.script()]
        first = [*scripts, parameters_script(file.parameter_hash())]
        with contextlib.closing(Chain.open(folder / "signed", file.chain_params())) as chain:
            sign_heights(chain, secrets=secrets, k=3, count=1, coinbase_scripts=first)
            sign_heights(chain, secrets=secrets, k=3, count=HEIGHTS - 1, coinbase_scripts=scripts)
            blocks = [chain.block_bytes(h) for h in range(1, HEIGHTS + 1)]
            tip_hash = chain.tip_hash
        return cls(folder, file, ports[VICTIM].link, blocks, tip_hash)


def framed(kind: int, body: bytes) -> bytes:
    """A whole frame."""
    return encode_frame(kind, body, FRAME_LIMITS_BYTES)


class Peer:
    """A member as the test plays it: honest but for what a subclass does otherwise."""

    claims = HEIGHTS

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.asked: list[GetFinal] = []
        self.links = 0

    async def answer(self, asked: GetFinal, send: Send) -> None:
        for height in range(asked.from_height, asked.from_height + asked.count):
            if height <= HEIGHTS:
                await send(FrameKind.FINAL, self.block(height))

    def block(self, height: int) -> bytes:
        return self.world.blocks[height - 1]

    async def run(self) -> None:
        """Dial again whenever the link ends."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve()
            await asyncio.sleep(0.2)

    async def _serve(self) -> None:
        keys = member_folder(self.world.folder, self.index).keys
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["fedpeg/1"])
        context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
        reader, writer = await asyncio.open_connection("127.0.0.1", self.world.port, ssl=context)
        try:
            writer.write(framed(FrameKind.HELLO, self._hello().encode()))
            async with asyncio.TaskGroup() as group:
                told = group.create_task(self._tell(writer))
                await self._listen(reader, writer)
                told.cancel()
        except* OSError:
            pass
        finally:
            writer.close()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        while True:
            status = Status(
                height=self.claims + 1,
                tip_hash=self.world.tip_hash,
                round=-1,
                step=0,
                valid_round=-1,
                flags=0,
                decided_hash=NIL,
                block_signatures=0,
                prevotes=0,
                precommits=0,
                positions=((-1, 0),) * 4,
            )
            kind, body = encode_message(status)
            writer.write(framed(kind, body))
            await writer.drain()
            await asyncio.sleep(STATUS_PAUSE_S)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = FrameDecoder(FRAME_LIMITS_BYTES)
        self.links += 1

        async def send(kind: int, body: bytes) -> None:
            await self.put(writer, framed(kind, body))

        while data := await reader.read(65_536):
            for kind, body in decoder.feed(data):
                if kind == FrameKind.GET_FINAL:
                    asked = GetFinal.decode(body)
                    self.asked.append(asked)
                    await self.answer(asked, send)

    async def put(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    def _hello(self) -> Hello:
        return Hello(
            protocol_version=PROTOCOL_VERSION,
            genesis=self.world.file.chain_params().genesis_hash,
            parameter_hash=self.world.file.parameter_hash(),
            block_key=self.world.file.members[self.index].block_key,
            tip_height=self.claims,
            block_interval_ms=1_000,
            timeout_base_ms=500,
            timeout_cap_ms=10_000,
            future_limit_s=30,
        )


class Liar(Peer):
    """Sends blocks that too few have signed."""

    def block(self, height: int) -> bytes:
        block = Block.decode(super().block(height), self.world.file.chain_params())
        items = block.header.signblock_witness
        return block.with_signblock_witness((*items[:2], items[1], *items[3:])).serialize()


class Forger(Peer):
    """Sends other transactions under a good header."""

    def block(self, height: int) -> bytes:
        block = Block.decode(super().block(height), self.world.file.chain_params())
        other = Block.decode(super().block(1), self.world.file.chain_params())
        return replace(block, transactions=other.transactions).serialize() if height > 1 else b""


class Silent(Peer):
    """Claims all blocks and sends none."""

    async def answer(self, asked: GetFinal, send: Send) -> None:
        pass


class Boaster(Silent):
    """Claims more blocks than there can be."""

    claims = 2**32 - 3


class Dripping(Peer):
    """Sends its frames byte by byte."""

    async def put(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for byte in data:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(DRIP_PAUSE_S)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """One STATUS at first; later ones would stand in the middle of a frame."""
        told = asyncio.create_task(super()._tell(writer))
        await asyncio.sleep(STATUS_PAUSE_S / 2)
        told.cancel()


class Slow(Peer):
    """Sends a block every half second."""

    async def answer(self, asked: GetFinal, send: Send) -> None:
        for height in range(asked.from_height, asked.from_height + asked.count):
            await asyncio.sleep(0.5)
            if height <= HEIGHTS:
                await send(FrameKind.FINAL, self.block(height))


@asynccontextmanager
async def running(world: World, peers: list[Peer]) -> AsyncIterator[tuple[Node, Lines]]:
    log = Lines()
    path = world.folder / "members" / f"m{VICTIM}"
    with open_node(path, world.folder / "federation.json", INIT, log) as node:
        stop = asyncio.Event()
        task = asyncio.ensure_future(node.run(stop))
        playing = [asyncio.ensure_future(peer.run()) for peer in peers]
        try:
            yield node, log
        finally:
            broken = [play.exception() for play in playing if play.done()]
            for play in playing:
                play.cancel()
            await asyncio.wait(playing)
            stop.set()
            await asyncio.wait([task])
        assert task.exception() is None and not broken


async def until(done: Callable[[], Any]) -> None:
    for _ in range(PATIENCE_S * 20):
        if done():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def world(signed: World) -> World:
    """The victim starts anew for every test."""
    home = member_folder(signed.folder, VICTIM)
    for folder in (home.chain, home.index, home.journal, home.peg_journal, home.guard.parent):
        shutil.rmtree(folder, ignore_errors=True)
    home.birth_mark.touch(0o600)
    return signed


@pytest.mark.parametrize(
    "kinds",
    [
        (Peer, Peer, Peer),
        (Peer, Liar, Peer),
        (Liar, Forger, Peer),
        (Silent, Peer, Silent),
        (Boaster, Boaster, Peer),
        (Dripping, Peer, Dripping),
        (Slow, Slow, Peer),
        (Slow, Liar, Silent),
    ],
    ids=lambda kinds: "-".join(kind.__name__.lower() for kind in kinds),
)
async def test_member_when_its_peers_are_of_many_kinds_then_it_catches_up_all_the_same(
    world: World, kinds: tuple[type[Peer], ...]
) -> None:
    peers = [kind(world, index) for index, kind in enumerate(kinds)]
    wanted = HEIGHTS if Peer in kinds else 20
    async with running(world, peers) as (node, log):
        await until(lambda: node._chain.tip_height >= wanted)
        tip = node._chain.block_bytes(wanted)
        assert tip == world.blocks[wanted - 1], "nothing of the liars' is in the chain"
        for peer in peers:
            if isinstance(peer, Liar | Forger) and peer.asked:
                await until(lambda peer=peer: dropped(log, peer.index))
                asked = len(peer.asked)
                await until(lambda peer=peer: peer.links > 1)
                await asyncio.sleep(1)
                assert len(peer.asked) == asked, "a liar is left alone for ten minutes"
        assert not log.of("alarm") and not log.of("halted")


def dropped(log: Lines, index: int) -> bool:
    """Whether a member's link was cut for what it sent."""
    return any(line["member"] == index for line in log.of("bad_final_block"))
