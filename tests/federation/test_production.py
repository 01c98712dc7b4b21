"""Building, judging and completing blocks: the classes of N7 and N8, and wrong bytes (V6)."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.effects import BuildBlock, CheckBlock
from federation.consensus.events import Verdict
from federation.consensus.votes import BlockSignature
from federation.member_sets import MemberSets
from federation.production import (
    BLOCK_MAX_WEIGHT_WU,
    BUILD_PATIENCE_MS,
    BlockProduction,
)
from sidechain.crypto.keys import der_to_compact, ecdsa_sign, public_key
from sidechain.errors import Invalid, InvalidBlock, InvalidEncoding, Unavailable
from sidechain.primitives.block import NULL_ENTRY, Block, ParamEntry
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import multisig_script, p2wsh
from sidechain.validation.block_check import commitment_index
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, StaticFacts, secret
from tests.federation.engine_world import FakePeg

BLOCK_KEYS = tuple(public_key(secret(f"block {i}")) for i in range(4))


class Stage:
    """One member's production on a chain of its own."""

    def __init__(self, folder: Path, *, first_epoch_blocks: int = 0) -> None:
        self.side = SignedChain.open(folder)
        self.chain = self.side.chain
        self.peg = FakePeg()
        self.now_s = FIRST_BLOCK_TIME_S + 3_600
        self.now_ms = itertools.count(0, 3)
        self.pauses = 0
        self.on_pause: Callable[[], None] = lambda: None
        self.production = BlockProduction(
            chain=self.chain,
            peg=self.peg,
            sets=MemberSets(multisig_script(3, BLOCK_KEYS)),
            first_epoch_blocks=first_epoch_blocks,
            future_limit_s=30,
            wall_clock_s=lambda: self.now_s,
            now_ms=lambda: next(self.now_ms),
            pause=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self.pauses += 1
        self.on_pause()

    def order(self, **fields: Any) -> BuildBlock:
        fields = {"round": 0, "minimal": False, "allow_empty": False, **fields}
        return BuildBlock(height=self.chain.tip_height + 1, **fields)

    async def judge(self, block: Block, **fields: Any) -> tuple[Verdict, str]:
        data = block.serialize()
        self.production.decode_proposal(data, block.hash)
        order = CheckBlock(
            height=block.header.height, round=0, block_hash=block.hash, data=data, **fields
        )
        judgement = await self.production.judge(order)
        return judgement.verdict, judgement.reason

    def claim(self, amount_sats: int = 50_000) -> Transaction:
        return self.side.claim(self.side.deposit(ALICE.script, amount_sats), ALICE)

    def take_in(self, tx: Transaction) -> bytes:
        return self.chain.submit_tx(tx, None, self.now_s)

    def block(self, transactions: tuple[Transaction, ...] = (), **fields: Any) -> Block:
        return self.chain.build_template(
            time_s=self.now_s, coinbase_scripts=(), transactions=transactions, **fields
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# -- work


def test_work_when_nothing_waits_then_none_and_each_kind_counts(stage: Stage) -> None:
    assert not stage.production.is_work_due()
    stage.peg.due = True
    assert stage.production.is_work_due()
    stage.peg.due = False
    claim = stage.claim()
    stage.take_in(claim)
    assert stage.production.is_work_due()
    stage.peg.ripe = lambda tx: not any(txin.is_pegin for txin in tx.inputs)
    assert not stage.production.is_work_due()


def test_work_when_only_a_child_of_an_unripe_claim_waits_then_none(stage: Stage) -> None:
    """Else empty blocks would follow each other as fast as the pacing lets them (C20)."""
    claim = stage.claim()
    stage.take_in(claim)
    stage.take_in(stage.side.payment(ALICE, [OutPoint(claim.txid, 0)], [(BOB.script, 20_000)]))
    stage.peg.ripe = lambda tx: not any(txin.is_pegin for txin in tx.inputs)
    assert not stage.production.is_work_due()
    assert stage.production._transactions(0) == []
    stage.peg.ripe = lambda tx: True
    assert len(stage.production._transactions(0)) == 2


def test_work_when_the_first_epoch_runs_then_due_and_no_block_is_empty(tmp_path: Path) -> None:
    stage = Stage(tmp_path, first_epoch_blocks=1)
    assert stage.production.is_work_due()
    assert not stage.production.is_empty(stage.block())
    stage.side.extend()
    assert not stage.production.is_work_due()
    assert stage.production.is_empty(stage.block())


def test_empty_when_a_block_carries_anything_then_not(stage: Stage) -> None:
    assert stage.production.is_empty(stage.block())
    assert not stage.production.is_empty(stage.block((stage.claim(),)))
    stage.peg.work = lambda block: True
    assert not stage.production.is_empty(stage.block())


# -- building


async def test_build_when_there_is_work_then_at_once(stage: Stage) -> None:
    claim = stage.claim()
    stage.take_in(claim)
    block = await stage.production.build(stage.order())
    assert block is not None and block.transactions[1:] == (claim,) and not stage.pauses
    assert block.header.time == stage.now_s
    assert await stage.judge(block) == (Verdict.ACCEPTABLE, "")


async def test_build_when_judging_is_slow_then_holds_what_the_others_can_judge_in_time(
    stage: Stage,
) -> None:
    """C25: a verdict that comes after the timer counts as no proposal."""
    claims = [stage.claim(), stage.claim()]
    for claim in claims:
        stage.take_in(claim)
    room = stage.production._room
    assert room is not None
    room.weight_wu = lambda round_number: claims[0].weight_wu + 10  # type: ignore[method-assign]
    block = await stage.production.build(stage.order())
    assert block is not None and len(block.transactions) == 2
    assert await stage.judge(block) == (Verdict.ACCEPTABLE, "")


async def test_judge_when_the_clock_goes_on_meanwhile_then_the_room_hears_of_it(
    stage: Stage,
) -> None:
    heard: list[tuple[int, int]] = []
    room = stage.production._room
    assert room is not None
    room.judged = lambda *told: heard.append(told)  # type: ignore[method-assign, assignment]
    block = stage.block()
    for _ in range(2):
        await stage.judge(block)
    assert heard == [(block.weight_wu, 3)]


async def test_build_when_nothing_to_propose_then_waits_for_it(stage: Stage) -> None:
    claim = stage.claim()
    stage.on_pause = lambda: stage.take_in(claim) if stage.pauses == 3 else None
    block = await stage.production.build(stage.order())
    assert block is not None and stage.pauses == 3 and len(block.transactions) == 2
    stage.on_pause = lambda: None
    stage.side.extend([claim])
    assert await stage.production.build(stage.order()) is None
    assert stage.pauses >= BUILD_PATIENCE_MS // 100


async def test_build_when_empty_is_allowed_or_minimal_then_as_asked(stage: Stage) -> None:
    empty = await stage.production.build(stage.order(allow_empty=True))
    assert empty is not None and len(empty.transactions) == 1
    stage.take_in(stage.claim())
    minimal = await stage.production.build(stage.order(round=2, minimal=True))
    assert minimal is not None and len(minimal.transactions) == 1


async def test_build_when_the_tip_moves_while_it_waits_then_nothing(stage: Stage) -> None:
    stage.on_pause = lambda: stage.side.extend() and None  # type: ignore[func-returns-value]
    order = stage.order()
    assert await stage.production.build(order) is None
    assert stage.pauses == 1


async def test_build_when_the_clock_is_behind_the_chain_then_least_time_or_wait(
    stage: Stage,
) -> None:
    for _ in range(3):
        stage.side.extend()
    stage.now_s = FIRST_BLOCK_TIME_S - 10_000
    median_s = stage.chain.median_time_s
    # MTP + 1 lets a chain whose clocks ran ahead go on, but never beyond two hours (V9)
    assert await stage.production.build(stage.order(allow_empty=True)) is None
    stage.now_s = median_s - 3_600
    block = await stage.production.build(stage.order(allow_empty=True))
    assert block is not None and block.header.time == median_s + 1
    assert (await stage.judge(block))[0] is Verdict.ACCEPTABLE


async def test_build_when_there_is_no_view_of_bitcoin_then_nothing(stage: Stage) -> None:
    stage.peg.scripts = None
    assert await stage.production.build(stage.order(allow_empty=True)) is None


# -- verdicts


async def test_verdict_when_only_the_clock_speaks_against_it_then_not_yet(stage: Stage) -> None:
    late = stage.chain.build_template(time_s=stage.now_s + 31, coinbase_scripts=(), transactions=())
    verdict, reason = await stage.judge(late)
    assert verdict is Verdict.NOT_YET and "V9" in reason
    stage.now_s += 1
    assert (await stage.judge(late))[0] is Verdict.ACCEPTABLE
    far = stage.chain.build_template(
        time_s=stage.now_s + 100_000, coinbase_scripts=(), transactions=()
    )
    assert (await stage.judge(far))[0] is Verdict.NOT_YET  # a clock is never objective (N7)


@pytest.mark.parametrize(
    "opinion, verdict",
    [
        ((True, True, ""), Verdict.ACCEPTABLE),
        ((False, True, "V2"), Verdict.NOT_YET),
        ((True, False, "V6"), Verdict.REFUSED),
        ((False, False, "V6"), Verdict.REFUSED),
    ],
)
async def test_verdict_when_the_peg_has_an_opinion_then_by_class(
    stage: Stage, opinion: tuple[bool, bool, str], verdict: Verdict
) -> None:
    stage.peg.opinion = opinion
    assert await stage.judge(stage.block()) == (verdict, opinion[2])


async def test_verdict_when_bitcoin_does_not_answer_then_not_yet(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(block: Block) -> tuple[bool, bool, str]:
        raise Unavailable("bitcoind is down")

    monkeypatch.setattr(stage.peg, "check_eventual_and_policy", down)
    assert await stage.judge(stage.block()) == (Verdict.NOT_YET, "bitcoind is down")


async def test_verdict_when_objectively_wrong_then_invalid_whatever_else(stage: Stage) -> None:
    def refuse(block: Block) -> None:
        raise InvalidBlock("bad-peg-record")

    stage.peg.opinion = (True, True, "")
    stage.peg.objective = refuse
    verdict, reason = await stage.judge(stage.block())
    assert verdict is Verdict.INVALID and "bad-peg-record" in reason


async def test_verdict_when_parameters_are_proposed_then_refused_by_policy(stage: Stage) -> None:
    """C83, V10: no operator has approved any."""
    current = stage.chain.full_current()
    proposed = replace(current, witness_limit=current.witness_limit + 1)
    block = stage.block(proposed=proposed)
    verdict, reason = await stage.judge(block)
    assert verdict is Verdict.REFUSED and "V10" in reason


class Change:
    """A member change as its desk would answer."""

    def __init__(self, entry: ParamEntry) -> None:
        self.entry = entry
        self.proposes = True

    def to_propose(self) -> ParamEntry | None:
        return self.entry if self.proposes else None

    def is_approved(self, entry: ParamEntry) -> bool:
        return entry == self.entry


async def test_proposal_when_a_change_is_approved_then_own_blocks_hold_it_but_minimal_ones(
    stage: Stage,
) -> None:
    """C83, N9, N17: it is work, and a minimal block holds none."""
    current = stage.chain.full_current()
    change = Change(replace(current, witness_limit=current.witness_limit + 1))
    stage.production._change = change
    assert stage.production.is_work_due()
    block = await stage.production.build(stage.order())
    assert block is not None and block.header.proposed == change.entry
    assert not stage.production.is_empty(block)
    minimal = await stage.production.build(stage.order(minimal=True))
    assert minimal is not None and minimal.header.proposed.is_null
    change.proposes = False
    assert not stage.production.is_work_due()


async def test_verdict_when_a_change_is_approved_then_exactly_that_entry_passes(
    stage: Stage,
) -> None:
    """V10: also while this member's own blocks would not hold it."""
    current = stage.chain.full_current()
    change = Change(replace(current, witness_limit=current.witness_limit + 1))
    change.proposes = False
    stage.production._change = change
    assert (await stage.judge(stage.block(proposed=change.entry)))[0] is Verdict.ACCEPTABLE
    other = replace(current, witness_limit=current.witness_limit + 2)
    verdict, reason = await stage.judge(stage.block(proposed=other))
    assert verdict is Verdict.REFUSED and "V10" in reason


def test_members_when_an_epoch_adopts_another_set_then_each_height_has_its_own(
    tmp_path: Path,
) -> None:
    """C80, C81: M_h and D_h of heights before and behind the border."""
    stage = Stage(tmp_path)
    length = stage.chain.params.dynamic_epoch_length
    others = multisig_script(3, BLOCK_KEYS[::-1])
    entry = replace(stage.chain.full_current(), signblockscript=p2wsh(others))
    old_root = stage.production.params_root()
    while stage.chain.tip_height + 1 < 2 * length:
        height = stage.chain.tip_height + 1
        stage.now_s = max(stage.now_s, stage.chain.median_time_s + 1)
        proposed = entry if height >= length else NULL_ENTRY
        stage.chain.connect(stage.side.sign(stage.block(proposed=proposed), (0, 1, 2)))
    with pytest.raises(InvalidBlock, match="unknown-signblockscript"):
        stage.production.member_set()
    stage.production._sets.learn(others)
    after, before = stage.production.member_set(), stage.production.member_set_at(2 * length - 1)
    assert [m.block_key for m in before.members] == list(BLOCK_KEYS)
    assert [m.block_key for m in after.members] == list(BLOCK_KEYS[::-1])
    assert stage.production.member_set_at(2 * length) == after
    assert stage.production.params_root() == entry.root() != old_root
    assert stage.production.params_root_at(2 * length - 1) == old_root


async def test_verdict_when_the_block_has_no_witness_commitment_then_invalid(stage: Stage) -> None:
    """V5: it is there, also where Elements would do without."""
    block = stage.block()
    coinbase = block.transactions[0]
    index = commitment_index(coinbase)
    assert index is not None
    outputs = [out for at, out in enumerate(coinbase.outputs) if at != index]
    changed = Transaction.build(
        version=coinbase.version,
        inputs=coinbase.inputs,
        outputs=outputs,
        locktime=coinbase.locktime,
    )
    without = Block(block.header, (changed,))
    root, _ = without.transaction_root()
    without = Block(replace(block.header, merkle_root=root), (changed,))
    verdict, reason = await stage.judge(without)
    assert verdict is Verdict.INVALID and "V5" in reason


@pytest.mark.slow
async def test_verdict_when_heavier_with_the_largest_witness_then_invalid(stage: Stage) -> None:
    """V1 counts the signatures that are not there yet, four times."""

    def padded(size: int) -> Block:
        return stage.chain.build_template(
            time_s=stage.now_s, coinbase_scripts=(b"\x6a" + bytes(size),), transactions=()
        )

    limit = stage.production._witness_limit()
    assert limit == stage.chain.params.max_block_sig_size
    spare_wu = BLOCK_MAX_WEIGHT_WU - 4 * (limit - 1) - padded(100_000).weight_wu
    largest = 100_000 + spare_wu // 4
    assert (await stage.judge(padded(largest)))[0] is Verdict.ACCEPTABLE
    verdict, reason = await stage.judge(padded(largest + 1))
    assert verdict is Verdict.INVALID and "weight" in reason


async def test_objective_verdict_when_asked_again_then_not_computed_again(stage: Stage) -> None:
    calls = []
    stage.peg.objective = calls.append  # type: ignore[assignment]
    block = stage.block()
    await stage.judge(block)
    await stage.judge(block)
    assert len(calls) == 1
    stage.production.begin_height()
    await stage.judge(block)
    assert len(calls) == 2


# -- bytes


def test_proposal_bytes_when_mutated_anywhere_then_only_invalid_is_raised(stage: Stage) -> None:
    block = stage.block((stage.claim(),))
    data = block.serialize()
    chance = random.Random(5)
    for number in range(2_000):
        wrong = bytearray(data)
        if number % 3 == 0:
            del wrong[chance.randrange(len(wrong)) :]
        else:
            for _ in range(1 + number % 4):
                wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        if bytes(wrong) == data:
            continue
        with pytest.raises(Invalid):
            stage.production.decode_proposal(bytes(wrong), block.hash)
    assert stage.production.decode_proposal(data, block.hash) == block


def test_proposal_bytes_when_a_transaction_is_doubled_then_wrong_bytes(stage: Stage) -> None:
    """CVE-2012-2459: the same root for a list with its end repeated (V6)."""
    first, second = stage.claim(), stage.claim()
    block = stage.block((first, second))
    doubled = Block(block.header, (*block.transactions, second))
    assert doubled.transaction_root()[0] == block.header.merkle_root
    with pytest.raises(Invalid, match="duplicate"):
        stage.production.decode_proposal(doubled.serialize(), block.hash)


def test_proposal_bytes_when_the_first_transaction_is_no_coinbase_then_wrong_bytes(
    stage: Stage,
) -> None:
    claim = stage.claim()
    block = stage.block()
    for transactions in ((claim,), ()):
        strange = Block(block.header, transactions)
        with pytest.raises(Invalid):
            stage.production.decode_proposal(strange.serialize(), block.hash)
    inputless = Transaction.build(inputs=[], outputs=block.transactions[0].outputs)
    strange = Block(block.header, (inputless,))
    root, _ = strange.transaction_root()
    strange = Block(replace(block.header, merkle_root=root), (inputless,))
    with pytest.raises(Invalid):
        stage.production.decode_proposal(strange.serialize(), strange.hash)


def test_proposal_bytes_when_signed_then_wrong_bytes(stage: Stage) -> None:
    block = stage.block()
    signed = stage.side.sign(block)
    with pytest.raises(Invalid):
        stage.production.decode_proposal(signed.serialize(), block.hash)
    assert stage.production.decode_final(signed.serialize()) == signed


# -- final blocks


def test_block_when_completed_then_connects_and_names_its_signers(stage: Stage) -> None:
    block = stage.block((stage.claim(),))
    signatures = tuple(
        BlockSignature(
            height=1,
            block_hash=block.hash,
            member=i,
            signature=der_to_compact(ecdsa_sign(secret(f"block {i}"), block.hash)),
        )
        for i in (0, 1, 3)
    )
    with pytest.raises(InvalidEncoding):
        stage.production.complete(block.serialize(), signatures[:2])
    complete = stage.production.complete(block.serialize(), signatures)
    stage.chain.connect(complete)
    assert stage.production.signatures_of(complete.header) == signatures


def test_signers_when_a_signature_is_out_of_order_or_garbage_then_not_counted_twice(
    stage: Stage,
) -> None:
    block = stage.side.sign(stage.block(), (0, 2, 3))
    items = block.header.signblock_witness
    swapped = block.with_signblock_witness((items[0], items[2], items[1], *items[3:]))
    assert [s.member for s in stage.production.signatures_of(block.header)] == [0, 2, 3]
    assert len(stage.production.signatures_of(swapped.header)) < 3
    garbage = block.with_signblock_witness((b"", b"\x30", b"", items[-1]))
    assert stage.production.signatures_of(garbage.header) == ()


def test_members_when_the_chain_demands_another_set_then_refused(stage: Stage) -> None:
    assert stage.production.member_set().k == 3
    other = stage.production
    other._sets = MemberSets(multisig_script(2, BLOCK_KEYS))
    with pytest.raises(InvalidBlock, match="unknown-signblockscript"):
        other.member_set()


# -- an own proposal that is invalid


async def test_transactions_when_an_own_proposal_was_invalid_then_left_out(stage: Stage) -> None:
    claim = stage.claim()
    stage.take_in(claim)
    block = await stage.production.build(stage.order())
    assert block is not None
    assert stage.production.distrust(b"\x01" * 32) == 0
    assert stage.production.distrust(block.hash) == 1
    assert not stage.production.is_work_due()
    again = await stage.production.build(stage.order(allow_empty=True))
    assert again is not None and len(again.transactions) == 1


def test_facts_of_claims_are_not_asked_for_a_proposal(stage: Stage) -> None:
    """peg:C1's depth is eventual (N7): a claim that is too young is objectively valid."""
    claim = stage.claim()
    stage.chain.submit_tx(claim, StaticFacts(confirmations=0) and None, stage.now_s)
    assert stage.production.objective_fault(stage.block((claim,))) == ""


def test_entry_when_the_witness_limit_is_too_small_then_invalid(stage: Stage) -> None:
    block = stage.block()
    current: ParamEntry = replace(block.header.current, witness_limit=10)
    small = Block(replace(block.header, current=current), block.transactions)
    assert "witness limit" in stage.production.objective_fault(small)
