"""Funding, following and claiming against a real bitcoind."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from federation.bitcoind_process import BitcoindMissing, bitcoind_arguments, find_bitcoind
from federation.log import open_log
from federation.wallet.links import Faucet, MemberLinks
from federation.wallet.parts import Outside, assemble
from peg.bitcoind import BitcoindClient
from sidechain.api.registry import Registry
from sidechain.crypto.hashes import sha256
from sidechain.primitives.encoding import le32
from sidechain.wallet.book import WalletBook
from tests.factories import SignedChain
from tests.federation.wallet_world import PEGIN_DEPTH, Federation, Member, World, free_port

pytestmark = pytest.mark.e2e
FAUCET = "faucet"


@dataclass(slots=True)
class NodeFacts:
    """What the fake members know of the real node, as of the last `sync`."""

    client: BitcoindClient
    blocks: list[tuple[bytes, bytes, tuple[bytes, ...]]] = field(default_factory=list)
    counts: dict[bytes, int] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return len(self.blocks) - 1

    async def sync(self) -> None:
        height = await self.client.block_count()
        headers = await self.client.headers_at(list(range(height + 1)))
        self.blocks = [(header.hash, b"", ()) for header in headers]
        self.counts = {header.hash: header.ntx for header in headers}

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        for height, (found, _, _) in enumerate(self.blocks):
            if found == block_hash:
                return self.height - height + 1, self.counts[block_hash]
        return None


class RealWorld(World):
    """The world of the wallet tests with a real node in place of the one in memory."""

    def __init__(self, path: Path, client: BitcoindClient) -> None:
        self.path = path
        self.client = client
        self.facts = NodeFacts(client)
        signed = SignedChain.open(path / "chain", pegin_confirmation_depth=PEGIN_DEPTH)
        self.params = signed.params
        self.federation = Federation(signed, self.facts)  # type: ignore[arg-type]
        for _ in range(self.params.dynamic_epoch_length):
            signed.extend()
        self.members = [Member(self.federation) for _ in range(2)]
        self.now_ms = 0
        self.draws = 0
        self.start_real()

    def start_real(self) -> None:
        self.log = open_log("wallet", path=self.path / "log.jsonl")
        self.book = WalletBook.open(self.path / "wallets", self.params)
        outside = Outside(
            members=MemberLinks(self.members),
            parent=self.client,
            funding=Faucet(self.client, FAUCET),
            log=self.log.logger,
            unix_time_s=lambda: self.federation.now_s,
            monotonic_ms=lambda: self.now_ms,
            entropy=self._draw,
            on_peg_work=lambda: None,
        )
        self.parts = assemble(self.book, self.params, outside)
        self.registry = Registry()
        self.parts.methods.register(self.registry)

    async def mine(self, count: int) -> None:
        for _ in range(count):
            await self.client.generate(1, await self.client.new_address(FAUCET))
            await self.facts.sync()
            self.federation.commit()
            self.federation.make_block()
            await self.turn()

    def _draw(self, count: int) -> bytes:
        self.draws += 1
        return (sha256(b"real" + le32(self.draws)) * 2)[:count]


@pytest.fixture
def node_port(tmp_path: Path) -> Iterator[int]:
    """A running node with its data in `bitcoind` under the test's folder."""
    try:
        program = find_bitcoind()
    except BitcoindMissing as error:
        pytest.skip(str(error))
    folder = tmp_path / "bitcoind"
    folder.mkdir()
    port = free_port()
    node = subprocess.Popen(bitcoind_arguments(program, folder, port))
    yield port
    node.terminate()
    node.wait(60)


@pytest.fixture
async def world(tmp_path: Path, node_port: int) -> AsyncIterator[RealWorld]:
    cookie = tmp_path / "bitcoind" / ".cookie"
    client = BitcoindClient(f"http://127.0.0.1:{node_port}", cookie_path=cookie)
    try:
        await client.wait_until_ready(60_000)
        await client.create_wallet(FAUCET)
        await client.generate(110, await client.new_address(FAUCET))
        made = RealWorld(tmp_path, client)
        await made.facts.sync()
        await made.call("createwallet", "alice")
        await made.turn()
        yield made
        made.close()
        made.federation.signed.chain.close()
    finally:
        await client.close()


async def test_pegin_when_node_is_real_then_funded_found_and_claimed(world: RealWorld) -> None:
    made = await world.call("pegin", "alice", "1")
    await world.turn()
    await world.turn()
    assert (await world.call("getpegin", made["id"]))["stage"] == "funded"
    assert await world.client.mempool_txids() != ()
    await world.mine(PEGIN_DEPTH + 1)
    view = await world.call("getpegin", made["id"])
    assert view["stage"] == "final"
    fee = 100_000_000 - (await world.call("getbalances", "alice"))["confirmed_sats"]
    assert 0 < fee < 200


async def test_pegin_when_node_reorganises_then_claim_follows(world: RealWorld) -> None:
    made = await world.call("pegin", "alice", "0.5")
    other = await world.call("getpeginaddress", "alice")
    await world.client.send_to_address(FAUCET, other["address"], 30_000)
    await world.turn()
    await world.mine(3)
    assert (await world.call("getpegin", made["id"]))["confirmations"] == 3
    height = await world.client.block_count()
    await world.client.invalidate_block(await world.client.block_hash(height - 2))
    await world.turn()
    assert (await world.call("getpegin", made["id"]))["stage"] == "funded"
    await world.mine(5)
    await world.facts.sync()
    assert (await world.call("getpegin", made["id"]))["confirmations"] == 5
    await world.mine(PEGIN_DEPTH)
    assert [view["stage"] for view in await world.call("listpegins")] == ["final", "final"]


async def test_pegin_when_faucet_has_too_little_then_the_reason_is_shown(world: RealWorld) -> None:
    made = await world.call("pegin", "alice", "20000000")
    await world.turn()
    view = await world.call("getpegin", made["id"])
    assert view["stage"] == "address"
    assert "nsufficient" in view["reason"] or "funds" in view["reason"]


async def test_two_pegins_when_funded_together_then_their_coins_differ(world: RealWorld) -> None:
    for _ in range(3):
        await world.call("pegin", "alice", "0.1", True)
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)
    assert [view["stage"] for view in await world.call("listpegins")] == ["final"] * 3
