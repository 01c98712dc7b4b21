"""Transactions between members, where a peg-in's proof may lose its block."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.encoding import FrameKind
from federation.relay import TransactionRelay
from federation.tx_gossip import encode_inventory
from sidechain.errors import InvalidTransaction
from sidechain.mempool.entry import Entry, Trait
from sidechain.mempool.pool import Mempool
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.validation.pegins import ParentFacts
from tests.peg.members import Log, PegWorld
from tests.peg.test_service import ALICE, DEPOSIT_SATS, found
from tests.sidechain.example_chain import example_params


class FakeChain:
    """A mempool that knows what the relay has to know: one transaction a txid."""

    def __init__(self) -> None:
        self.mempool = Mempool()

    def submit_tx(self, tx: Transaction, facts: ParentFacts | None, now_s: int) -> bytes:
        if tx.txid in self.mempool:
            raise InvalidTransaction("txn-same-nonwitness-data-in-mempool")
        self.mempool.add(
            Entry(
                tx,
                fee_sats=1,
                sigop_cost=0,
                time_s=0,
                height=1,
                traits=Trait.CLAIM if any(txin.is_pegin for txin in tx.inputs) else Trait.NONE,
                params=example_params(),
            ),
            tx,
        )
        return tx.txid


class FakeNetwork:
    """Takes frames and charges."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, FrameKind, bytes]] = []

    def send(self, member: int, kind: FrameKind, body: bytes) -> None:
        self.sent.append((member, kind, body))

    def room_bytes(self, member: int) -> int:
        return 8_000_000

    def charge_signatures(self, member: int, *, checked: int = 0, failed: int = 0) -> None:
        raise AssertionError("nobody is to blame")


class Relayed:
    """The relay of one member of a peg world, with what it spawned."""

    def __init__(self, world: PegWorld) -> None:
        self.world = world
        self.chain = FakeChain()
        self.network = FakeNetwork()
        self.work: list[Coroutine[Any, Any, None]] = []
        self.posted: list[Callable[[], None]] = []
        self.voting = world.services[0].voting
        fakes: Any = {"chain": self.chain, "network": self.network}
        self.relay = TransactionRelay(
            **fakes,
            facts_for=world.services[0].parent_facts_for,
            on_new=lambda: None,
            post=self.posted.append,
            post_later=lambda after_ms, act: self.posted.append(act),
            spawn=self.work.append,
            unix_time_s=lambda: 1_700_000_000,
            now_ms=lambda: 0,
            log=Log(),
        )

    async def receive(self, tx: Transaction) -> None:
        """A peer hands a transaction over."""
        self.hand_over(1, tx)
        await self.finish()

    def hand_over(self, member: int, tx: Transaction) -> None:
        """A peer announces a transaction, is asked for it, and sends it."""
        self.relay.on_frame(member, FrameKind.TXINV, encode_inventory([tx.wtxid]))
        self.relay.on_frame(member, FrameKind.TX, tx.serialize())

    async def finish(self) -> None:
        for coroutine in self.work:
            await coroutine
        self.work.clear()
        for act in self.posted:
            act()
        self.posted.clear()

    def drop(self) -> None:
        self.relay.drop(self.voting.names_lost_block)

    def held(self) -> list[bytes]:
        return [tx.wtxid for tx in self.chain.mempool.transactions()]


@pytest.fixture
async def relayed(tmp_path: Path) -> Relayed:
    world = PegWorld(tmp_path)
    await found(world)
    return Relayed(world)


async def moved_deposit(world: PegWorld) -> tuple[Transaction, Transaction, bytes]:
    """A deposit claimed in one block and, on a branch not active yet, in another."""
    raw = world.bitcoin.pay(world.side.deposit_script(ALICE), DEPOSIT_SATS)
    fork = world.bitcoin.tip
    first = world.bitcoin.mine([raw])
    world.bitcoin.mine(count=5)
    other = second = world.bitcoin.grow(fork, [raw])
    for _ in range(7):
        other = world.bitcoin.grow(other)
    old = world.side.claim(world.bitcoin, raw, first, ALICE)
    new = world.side.claim(world.bitcoin, raw, second, ALICE)
    assert old.txid == new.txid and old.wtxid != new.wtxid
    return old, new, other


def child_of(tx: Transaction) -> Transaction:
    return Transaction.build(
        version=2, inputs=[TxIn(OutPoint(tx.txid, 0))], outputs=tx.outputs, locktime=0
    )


async def test_claim_whose_block_left_the_chain_makes_room_for_its_new_proof(
    relayed: Relayed,
) -> None:
    old, new, branch = await moved_deposit(relayed.world)
    child = child_of(old)
    await relayed.receive(old)
    await relayed.receive(child)
    relayed.drop()
    assert relayed.held() == [old.wtxid, child.wtxid]
    relayed.world.bitcoin.activate(branch)
    relayed.drop()
    assert relayed.held() == []
    await relayed.receive(new)
    assert relayed.held() == [new.wtxid]
    await relayed.receive(child)
    assert relayed.held() == [new.wtxid, child.wtxid]


async def test_new_proof_that_comes_before_the_news_of_the_reorganisation_is_taken(
    relayed: Relayed,
) -> None:
    """It is judged aside, and the old claim goes while the own node is asked."""
    old, new, branch = await moved_deposit(relayed.world)
    await relayed.receive(old)
    relayed.hand_over(1, new)
    relayed.world.bitcoin.activate(branch)
    relayed.posted.append(relayed.drop)
    await relayed.finish()
    assert relayed.held() == [new.wtxid]


async def test_claims_stay_while_the_own_node_does_not_answer(relayed: Relayed) -> None:
    old, _, branch = await moved_deposit(relayed.world)
    await relayed.receive(old)
    relayed.world.bitcoin.activate(branch)
    relayed.world.healthy = False
    relayed.drop()
    assert relayed.held() == [old.wtxid]


async def test_same_claim_again_is_not_judged_again(relayed: Relayed) -> None:
    old, _, _ = await moved_deposit(relayed.world)
    await relayed.receive(old)
    relayed.relay.on_frame(2, FrameKind.TXINV, encode_inventory([old.wtxid]))
    assert relayed.network.sent == [] and relayed.work == []
