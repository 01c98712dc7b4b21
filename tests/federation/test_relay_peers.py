"""Transactions from peers that may be slow, wrong or hostile (N15, consensus:C95-C97)."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.encoding import FrameKind
from federation.relay import (
    ANNOUNCE_PAUSE_MS,
    ASK_PAUSE_MS,
    CLAIMS_JUDGED_MAX,
    FRAME_ROOM_BYTES,
    PUSHED_MAX_BYTES,
    RELAY_PAUSE_MS,
    SUBMITTED_PER_TURN,
    UNASKED_CHECKS,
    TransactionRelay,
)
from federation.tx_gossip import ASK_PATIENCE_MS, decode_inventory, encode_inventory
from sidechain.errors import InvalidTransaction, Unavailable
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, StaticFacts
from tests.federation.engine_world import Lines


class Network:
    """Three links; takes frames and charges."""

    def __init__(self) -> None:
        self.expected: frozenset[int] = frozenset()
        self.connected = frozenset((1, 2, 3))
        self.sent: list[tuple[int, FrameKind, bytes]] = []
        self.charged: dict[int, int] = {}
        self.failed: dict[int, int] = {}
        self.room = 8_000_000

    def send(self, member: int, kind: FrameKind, body: bytes) -> bool:
        self.sent.append((member, kind, body))
        return True

    def room_bytes(self, member: int) -> int:
        return self.room

    def charge_signatures(self, member: int, *, checked: int = 0, failed: int = 0) -> None:
        self.charged[member] = self.charged.get(member, 0) + checked
        self.failed[member] = self.failed.get(member, 0) + failed

    def take(self, kind: FrameKind) -> list[tuple[int, bytes]]:
        """Frames of a kind sent since the last time."""
        found = [(member, body) for member, k, body in self.sent if k == kind]
        self.sent = [frame for frame in self.sent if frame[1] != kind]
        return found


class Stage:
    """One member's relay on a real chain."""

    def __init__(self, folder: Path) -> None:
        self.side = SignedChain.open(folder)
        self.chain = self.side.chain
        self.network: Any = Network()
        self.log = Lines()
        self.work: list[Coroutine[Any, Any, None]] = []
        self.posted: list[Callable[[], None]] = []
        self.later: list[tuple[int, Callable[[], None]]] = []
        self.news = 0
        self.now_ms = 1_000
        self.facts: Any = StaticFacts()
        self.relay = TransactionRelay(
            chain=self.chain,
            network=self.network,
            facts_for=self._facts_for,
            on_new=self._on_new,
            post=self.posted.append,
            post_later=lambda after_ms, act: self.later.append((after_ms, act)),
            spawn=self.work.append,
            unix_time_s=lambda: FIRST_BLOCK_TIME_S + 3_600,
            now_ms=lambda: self.now_ms,
            log=self.log,
        )
        for member in (1, 2, 3):
            self.relay.on_link(member, True)

    def _on_new(self) -> None:
        self.news += 1

    async def _facts_for(self, tx: Transaction) -> Any:
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts

    def offer(self, member: int, *transactions: Transaction) -> None:
        wtxids = [tx.wtxid for tx in transactions]
        self.relay.on_frame(member, FrameKind.TXINV, encode_inventory(wtxids))

    def give(self, member: int, tx: Transaction) -> None:
        self.offer(member, tx)
        self.relay.on_frame(member, FrameKind.TX, tx.serialize())

    def pass_time(self, ms: int) -> None:
        """Let the clock go on, and do what was put off until then."""
        self.now_ms += ms
        due, self.later = self.later, []
        for after_ms, act in due:
            if after_ms <= ms:
                act()
            else:
                self.later.append((after_ms - ms, act))

    def asked(self) -> list[tuple[int, bytes]]:
        """What is asked once what comes with an announcement is here."""
        self.pass_time(ASK_PAUSE_MS)
        return self.network.take(FrameKind.TXGET)

    async def settle(self) -> None:
        while self.work:
            await self.work.pop(0)
        while self.posted:
            self.posted.pop(0)()

    def held(self) -> list[bytes]:
        return self.chain.mempool.txids()

    def chain_of(self, length: int) -> list[Transaction]:
        """Payments, each spending the one before; the first spends a coin of the chain."""
        point, amount = self.side.mint(ALICE, 1_000_000), 1_000_000
        found: list[Transaction] = []
        coin = self.chain.coin(point)
        assert coin is not None
        for _ in range(length):
            amount -= 1_000
            tx = self.side.payment(ALICE, [point], [(ALICE.script, amount)], fee_sats=1_000)
            self.chain.submit_tx(tx, None, FIRST_BLOCK_TIME_S + 3_600)
            found.append(tx)
            point = OutPoint(tx.txid, 0)
        for tx in found:
            self.chain.mempool.remove(tx.txid)
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_transaction_when_announced_then_asked_for_taken_and_told_to_the_others(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    stage.offer(1, tx)
    assert stage.asked() == [(1, encode_inventory([tx.wtxid]))]
    stage.relay.on_frame(1, FrameKind.TX, tx.serialize())
    assert stage.held() == [tx.txid] and stage.news == 1
    stage.pass_time(RELAY_PAUSE_MS)
    assert [member for member, _ in stage.network.take(FrameKind.TXINV)] == [2, 3]
    stage.relay.on_frame(2, FrameKind.TXGET, encode_inventory([tx.wtxid, bytes(32)]))
    assert stage.network.take(FrameKind.TX) == [(2, tx.serialize())]


def test_transaction_when_nobody_asked_for_it_then_not_taken_and_charged(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)
    stage.relay.on_frame(1, FrameKind.TX, tx.serialize())
    assert not stage.held() and stage.network.charged[1] == UNASKED_CHECKS
    stage.offer(2, tx)
    stage.relay.on_frame(3, FrameKind.TX, tx.serialize())
    assert not stage.held() and stage.network.charged[3] == UNASKED_CHECKS


def test_transaction_when_handed_over_with_its_announcement_then_taken_and_not_asked_for(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    stage.give(1, tx)
    assert stage.held() == [tx.txid] and not stage.network.charged
    assert not stage.asked()


async def test_own_transactions_when_many_come_at_once_then_announced_together(
    stage: Stage,
) -> None:
    """The first leaves at once; each goes along with its announcement."""
    transactions = stage.chain_of(5)
    for tx in transactions:
        stage.chain.submit_tx(tx, None, FIRST_BLOCK_TIME_S + 3_600)
        await stage.relay.accepted(tx)
    first = stage.network.take(FrameKind.TXINV)
    assert [(m, len(decode_inventory(b))) for m, b in first] == [(1, 1), (2, 1), (3, 1)]
    assert {b for _, b in stage.network.take(FrameKind.TX)} == {transactions[0].serialize()}
    stage.pass_time(ANNOUNCE_PAUSE_MS)
    rest = stage.network.take(FrameKind.TXINV)
    assert [(m, len(decode_inventory(b))) for m, b in rest] == [(1, 4), (2, 4), (3, 4)]
    assert len(stage.network.take(FrameKind.TX)) == 12
    await stage.relay.accepted(transactions[0])
    assert not stage.network.take(FrameKind.TXINV)


async def _give_way() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_own_transactions_when_many_are_submitted_then_engine_has_its_turn_in_between(
    stage: Stage,
) -> None:
    """However many come by RPC, votes are not late for them."""
    transactions = [tx for _ in range(3) for tx in stage.chain_of(SUBMITTED_PER_TURN - 4)]
    waiting = [asyncio.ensure_future(stage.relay.accepted(tx)) for tx in transactions]
    answered = []
    while not all(task.done() for task in waiting):
        await _give_way()
        answered.append(sum(task.done() for task in waiting))
        stage.posted.pop(0)()  # the engine's turn
        await _give_way()
    assert answered == [SUBMITTED_PER_TURN, 2 * SUBMITTED_PER_TURN]


async def test_own_transactions_when_the_engine_keeps_up_then_none_waits(stage: Stage) -> None:
    for tx in stage.chain_of(SUBMITTED_PER_TURN + 1):
        answer = asyncio.ensure_future(stage.relay.accepted(tx))
        await _give_way()
        assert answer.done()
        await stage.settle()


async def test_own_transactions_when_one_who_waits_is_gone_then_the_next_has_its_place(
    stage: Stage,
) -> None:
    transactions = stage.chain_of(SUBMITTED_PER_TURN + 2)
    waiting = [asyncio.ensure_future(stage.relay.accepted(tx)) for tx in transactions]
    await _give_way()
    waiting[-2].cancel()
    await _give_way()
    await stage.settle()
    await _give_way()
    assert waiting[-2].cancelled()
    assert waiting[-1].done()


async def test_own_transaction_when_a_peer_does_not_read_then_announced_and_not_handed_over(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    stage.chain.submit_tx(tx, None, FIRST_BLOCK_TIME_S + 3_600)
    stage.network.room = FRAME_ROOM_BYTES
    await stage.relay.accepted(tx)
    assert len(stage.network.take(FrameKind.TXINV)) == 3
    assert not stage.network.take(FrameKind.TX)


async def test_own_transaction_when_large_then_announced_and_not_handed_over(stage: Stage) -> None:
    point = stage.side.mint(ALICE, 10_000_000)
    targets = [(BOB.script, 1_000)] * (PUSHED_MAX_BYTES // 60)
    tx = stage.side.payment(ALICE, [point], targets, fee_sats=100_000)
    stage.chain.submit_tx(tx, None, FIRST_BLOCK_TIME_S + 3_600)
    await stage.relay.accepted(tx)
    assert len(stage.network.take(FrameKind.TXINV)) == 3
    assert not stage.network.take(FrameKind.TX)
    stage.relay.on_frame(2, FrameKind.TXGET, encode_inventory([tx.wtxid]))
    assert stage.network.take(FrameKind.TX) == [(2, tx.serialize())]


def test_children_when_they_come_first_then_wait_and_follow_their_parent(stage: Stage) -> None:
    transactions = stage.chain_of(4)
    for tx in reversed(transactions):
        stage.give(1, tx)
    assert stage.held() == [tx.txid for tx in transactions]


def test_child_when_its_parent_comes_in_a_block_then_taken(stage: Stage) -> None:
    parent, child = stage.chain_of(2)
    stage.give(1, child)
    assert not stage.held()
    stage.side.extend([parent])
    stage.relay.on_final(stage.chain.block(stage.chain.tip_height))
    assert stage.held() == [child.txid]


def test_waiting_when_others_are_accepted_then_not_judged_again(stage: Stage) -> None:
    """Two hundred orphans must not cost two hundred checks for every payment."""
    orphans = [tx for _ in range(3) for tx in stage.chain_of(3)[1:]]
    for tx in orphans:
        stage.give(1, tx)
    (other,) = stage.chain_of(1)
    judged: list[bytes] = []
    real = stage.chain.submit_tx

    def watch(tx: Transaction, facts: Any, now_s: int) -> bytes:
        judged.append(tx.txid)
        return real(tx, facts, now_s)

    stage.chain.submit_tx = watch  # type: ignore[method-assign]
    stage.give(2, other)
    assert judged == [other.txid]


def test_signature_when_wrong_then_the_sender_pays_and_nobody_is_asked_again(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)
    signature, key = tx.input_witnesses[0].script
    wrong = signature[:10] + bytes([signature[10] ^ 1]) + signature[11:]
    bad = Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=[InputWitness(script=(wrong, key))],
    )
    stage.give(1, bad)
    assert stage.network.failed[1] == 1 and not stage.held()
    stage.network.sent.clear()
    stage.offer(2, bad)
    assert not stage.asked() and not stage.network.sent
    stage.side.extend()
    stage.relay.on_final(stage.chain.block(stage.chain.tip_height))
    stage.offer(2, bad)
    assert stage.asked()


def test_transaction_when_refused_for_what_depends_on_the_moment_then_nobody_pays(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    rival = stage.side.payment(ALICE, [tx.inputs[0].prevout], [(BOB.script, 1_000)], fee_sats=900)
    stage.give(1, tx)
    stage.give(2, rival)
    assert stage.held() == [tx.txid] and not stage.network.failed
    assert [line["txid"] for line in stage.log.of("tx_refused")] == [rival.txid[::-1].hex()]


def test_refusals_when_endless_then_the_log_is_not(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)
    stage.give(1, tx)
    for number in range(200):
        rival = stage.side.payment(
            ALICE, [tx.inputs[0].prevout], [(BOB.script, 1_000 + number)], fee_sats=900
        )
        stage.give(2, rival)
    assert len(stage.log.of("tx_refused")) <= 51


@pytest.mark.parametrize(
    "kind, body",
    [
        (FrameKind.TXINV, b""),
        (FrameKind.TXINV, b"\x02" + bytes(32)),
        (FrameKind.TXGET, b"\x41" + bytes(65 * 32)),
        (FrameKind.TX, b""),
        (FrameKind.TX, bytes(100)),
    ],
)
def test_frame_when_malformed_then_the_sender_pays(
    stage: Stage, kind: FrameKind, body: bytes
) -> None:
    stage.relay.on_frame(3, kind, body)
    assert stage.network.failed == {3: 1}


def test_transaction_when_no_correct_member_would_hold_it_then_the_sender_pays(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    twice = Transaction.build(
        version=2,
        inputs=[tx.inputs[0], tx.inputs[0]],
        outputs=tx.outputs,
        input_witnesses=[*tx.input_witnesses, *tx.input_witnesses],
    )
    stage.give(1, twice)
    assert stage.network.failed == {1: 1}


def test_peer_when_its_queue_is_full_then_not_given_more(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)
    stage.give(1, tx)
    stage.network.room = FRAME_ROOM_BYTES
    stage.relay.on_frame(2, FrameKind.TXGET, encode_inventory([tx.wtxid]))
    assert not stage.network.take(FrameKind.TX)


def test_transaction_when_it_left_the_mempool_then_neither_announced_nor_given(
    stage: Stage,
) -> None:
    (tx,) = stage.chain_of(1)
    stage.give(1, tx)
    stage.chain.mempool.remove(tx.txid)
    stage.network.sent.clear()
    stage.relay.on_frame(2, FrameKind.TXGET, encode_inventory([tx.wtxid]))
    stage.relay.on_link(3, False)
    stage.relay.on_link(3, True)
    assert not stage.network.sent


def test_peer_when_it_keeps_what_it_announced_then_another_is_asked(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)
    stage.offer(1, tx)
    stage.offer(2, tx)
    assert [m for m, _ in stage.asked()] == [1]
    stage.now_ms += ASK_PATIENCE_MS
    stage.relay.tick()
    assert [m for m, _ in stage.network.take(FrameKind.TXGET)] == [2]
    stage.relay.on_link(2, False)
    assert [m for m, _ in stage.network.take(FrameKind.TXGET)] == [1]


# -- claims


async def test_claim_when_given_then_judged_aside_and_by_the_chain_as_it_is_then(
    stage: Stage,
) -> None:
    claim = stage.side.claim(stage.side.deposit(ALICE.script, 50_000), ALICE)
    stage.facts = None
    stage.give(1, claim)
    assert not stage.held()
    stage.side.extend([claim])  # the tip moves while Bitcoin is asked
    await stage.settle()
    assert not stage.held() and not stage.network.failed


async def test_claim_when_bitcoin_is_down_then_dropped_and_may_come_again(stage: Stage) -> None:
    claim = stage.side.claim(stage.side.deposit(ALICE.script, 50_000), ALICE)
    stage.facts = Unavailable("bitcoind is down")
    stage.give(1, claim)
    await stage.settle()
    assert not stage.held() and stage.log.of("claim_not_judged")
    stage.facts = None
    stage.give(2, claim)
    await stage.settle()
    assert stage.held() == [claim.txid]


async def test_claim_when_not_deep_enough_then_dropped_and_not_refused_for_good(
    stage: Stage,
) -> None:
    deposit = stage.side.deposit(ALICE.script, 50_000)
    claim = stage.side.claim(deposit, ALICE)
    stage.facts = StaticFacts([deposit], confirmations=1)
    stage.give(1, claim)
    await stage.settle()
    assert not stage.held()
    stage.facts = StaticFacts([deposit], confirmations=100)
    stage.give(1, claim)
    await stage.settle()
    assert stage.held() == [claim.txid]


async def test_claims_when_too_many_are_being_judged_then_the_rest_is_dropped(
    stage: Stage,
) -> None:
    claims = [
        stage.side.claim(stage.side.deposit(ALICE.script, 50_000), ALICE)
        for _ in range(CLAIMS_JUDGED_MAX + 5)
    ]
    stage.facts = None
    for claim in claims:
        stage.give(1, claim)
    assert len(stage.work) == CLAIMS_JUDGED_MAX
    await stage.settle()
    assert len(stage.held()) == CLAIMS_JUDGED_MAX
    stage.give(2, claims[-1])
    await stage.settle()
    assert len(stage.held()) == CLAIMS_JUDGED_MAX + 1


def test_refusal_when_scripts_are_of_a_later_version_then_nobody_pays(stage: Stage) -> None:
    (tx,) = stage.chain_of(1)

    def later(*_: Any) -> bytes:
        reserved = "Taproot version reserved for soft-fork upgrades"
        raise InvalidTransaction(f"non-mandatory-script-verify-flag ({reserved})")

    stage.chain.submit_tx = later  # type: ignore[method-assign, assignment]
    stage.give(1, tx)
    assert not stage.network.failed
