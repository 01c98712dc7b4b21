"""A chain with its caches on and off, and with a second, cold validation (incidents 1)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvariantError
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, OutputWitness, Transaction, TxIn
from sidechain.script.flags import CONSENSUS_FLAGS
from sidechain.validation.checks import Check, CheckCache, Pending, ScriptsCheck
from sidechain.validation.proofs import RangeProofCheck
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, federation_params
from tests.hidden import Opening, hidden_transaction

NOW_S = FIRST_BLOCK_TIME_S + 10**6


def _open(path: Path, **options: Any) -> SignedChain:
    return SignedChain(Chain.open(path / "chain", federation_params(), **options))


def _hidden_payment(side: SignedChain, point: OutPoint, amount: int) -> Transaction:
    """Spends a shown coin of Alice's, hiding what it pays."""
    source = Opening(asset_id=side.params.pegged_asset, amount=amount, script=ALICE.script)
    outputs = [
        replace(source, amount=amount // 2, script=BOB.script).hidden("to bob"),
        replace(source, amount=amount - amount // 2 - 500).hidden("back"),
        replace(source, amount=500, script=b""),
    ]
    tx = hidden_transaction([TxIn(point)], [source], outputs)
    return ALICE.sign(tx, [source.coin])


def _with_wrong_proof(tx: Transaction) -> tuple[Transaction, RangeProofCheck]:
    """The transaction with the proof of another output, and the check of it that fails."""
    first, second, fee = tx.output_witnesses
    wrong = OutputWitness(first.surjection_proof, second.range_proof)
    changed = Transaction.build(
        inputs=tx.inputs,
        outputs=tx.outputs,
        input_witnesses=tx.input_witnesses,
        output_witnesses=[wrong, second, fee],
    )
    paid = tx.outputs[0]
    return changed, RangeProofCheck(second.range_proof, paid.value, paid.asset, paid.script)


def _poison(chain: Chain, check: Check) -> None:
    cache = chain._validator.cache
    assert isinstance(cache, CheckCache)
    assert check.fault() is not None
    cache.remember(check, cache.key(check))


Attack = Callable[[SignedChain], tuple[Block, str]]


def _bad_proof(side: SignedChain) -> tuple[Block, str]:
    point = side.mint(ALICE, 100_000)
    tx, check = _with_wrong_proof(_hidden_payment(side, point, 100_000))
    if side.chain._validator.cache is not None:
        _poison(side.chain, check)
    return side.sign(side.template([tx])), "bad-txns-in-ne-out"


def _bad_signature(side: SignedChain) -> tuple[Block, str]:
    point = side.mint(ALICE, 100_000)
    signed = side.payment(BOB, [point], [(BOB.script, 1_000)])
    coin = side.chain.coin(point)
    assert coin is not None
    check = ScriptsCheck(signed, (coin,), CONSENSUS_FLAGS, side.params.genesis_hash)
    if side.chain._validator.cache is not None:
        _poison(side.chain, check)
    return side.sign(side.template([signed])), "mandatory-script-verify-flag-failed"


@pytest.mark.parametrize("attack", [_bad_proof, _bad_signature])
def test_block_when_the_cache_was_poisoned_then_a_cold_second_validation_refuses_it(
    tmp_path: Path, attack: Attack
) -> None:
    side = _open(tmp_path, second_validation=True)
    block, reason = attack(side)
    tip = side.chain.tip_hash
    actions: list[Callable[[], object]] = [
        lambda: side.chain.check_proposal(block, now_s=NOW_S),
        lambda: side.chain.connect(block),
        lambda: side.chain.submit_block(block, facts=None, now_s=NOW_S),
        lambda: side.chain.test_proposal(block, facts=None, now_s=NOW_S),
    ]
    for action in actions:
        with pytest.raises(InvariantError) as caught:
            action()
        text = str(caught.value)
        assert "the first says valid" in text
        assert f"the second, cold, invalid ({reason}" in text
    assert side.chain.tip_hash == tip
    side.chain.close()


@pytest.mark.parametrize("attack", [_bad_proof, _bad_signature])
@pytest.mark.parametrize("second", [False, True])
def test_block_when_nothing_is_cached_then_a_bad_one_is_simply_invalid(
    tmp_path: Path, attack: Attack, second: bool
) -> None:
    side = _open(tmp_path, caches=False, second_validation=second)
    block, reason = attack(side)
    for action in (
        lambda: side.chain.check_proposal(block, now_s=NOW_S),
        lambda: side.chain.connect(block),
    ):
        with pytest.raises(InvalidBlock) as caught:
            action()
        assert caught.value.reason.startswith(reason)
    answer = side.chain.submit_block(block, facts=None, now_s=NOW_S)
    assert answer is not None
    assert answer.startswith(reason)
    side.chain.close()


class Counting:
    """Counts the checks that another verifier is given."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.count = 0

    def start(self, checks: Any) -> Pending:
        self.count += len(checks)
        started: Pending = self.inner.start(checks)
        return started


@pytest.mark.parametrize(
    ("options", "at_proposal", "at_connect"),
    [
        ({}, 5, 0),
        ({"caches": False}, 5, 5),
        ({"second_validation": True}, 10, 5),
        ({"caches": False, "second_validation": True}, 10, 10),
    ],
)
def test_checks_when_a_block_was_proposed_before_then_run_again_as_told(
    tmp_path: Path, options: dict[str, bool], at_proposal: int, at_connect: int
) -> None:
    """Two range proofs, two surjection proofs and one transaction's scripts."""
    side = _open(tmp_path, **options)
    tx = _hidden_payment(side, side.mint(ALICE, 100_000), 100_000)
    counting = Counting(side.chain._validator.verifier)
    side.chain._validator = replace(side.chain._validator, verifier=counting)
    block = side.template([tx])
    side.chain.check_proposal(block, now_s=NOW_S)
    assert counting.count == at_proposal
    counting.count = 0
    side.chain.connect(side.sign(block))
    assert counting.count == at_connect
    assert side.chain.coin(OutPoint(tx.txid, 0)) is not None
    side.chain.close()


def test_chains_with_and_without_caches_and_twice_then_reach_the_same_tip(tmp_path: Path) -> None:
    blocks: list[Block] = []
    ways: list[dict[str, bool]] = [
        {},
        {"caches": False},
        {"second_validation": True},
    ]
    for number, options in enumerate(ways):
        side = _open(tmp_path / str(number), **options)
        if not blocks:
            point = side.mint(ALICE, 100_000)
            side.extend([_hidden_payment(side, point, 100_000)])
            blocks = [side.chain.block(height) for height in (1, 2)]
        else:
            for block in blocks:
                assert side.chain.submit_block(block, facts=None, now_s=NOW_S) is None
        assert side.chain.tip_hash == blocks[-1].hash
        side.chain.close()


@pytest.mark.parametrize(
    ("options", "at_connect"), [({}, 0), ({"caches": False}, 5), ({"second_validation": True}, 5)]
)
def test_checks_when_a_transaction_waited_in_the_mempool_then_its_block_runs_them_if_cold(
    tmp_path: Path, options: dict[str, bool], at_connect: int
) -> None:
    side = _open(tmp_path, **options)
    tx = _hidden_payment(side, side.mint(ALICE, 100_000), 100_000)
    counting = Counting(side.chain._validator.verifier)
    counted = replace(side.chain._validator, verifier=counting)
    side.chain._validator = side.chain._branches._validator = counted
    side.chain.submit_tx(tx, None, NOW_S)
    assert counting.count == 5
    counting.count = 0
    block = side.sign(side.template([tx]))
    assert side.chain.submit_block(block, facts=None, now_s=NOW_S) is None
    assert counting.count == at_connect
    side.chain.close()
