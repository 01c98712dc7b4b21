"""Checks of a transaction against coins, claims and times."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import InvalidTransaction
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags
from sidechain.script.script import multisig_script, p2pkh_of_hash, p2sh, p2wpkh, p2wsh, push
from sidechain.script.sighash import segwit_v0_sighash
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.pegins import PeginClaim, parse_pegin
from sidechain.validation.tx_verify import (
    check_final,
    check_inputs,
    check_scripts,
    check_sequence_locks,
    is_final,
    resolve_inputs,
    sigop_cost,
)
from tests.sidechain.example_chain import (
    DictView,
    ListedHeaders,
    coin,
    example_params,
    output,
    spend,
)
from tests.vectors import recorded_blocks

PARAMS = example_params()
POINTS = [OutPoint(bytes([n]) * 32, n) for n in range(1, 5)]
KEY = public_key(b"\x01" * 32)


def _reason(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        call()
    return caught.value.reason


def _no_pegin(tx: Transaction, index: int) -> PeginClaim:
    raise AssertionError("no peg-in here")


def test_inputs_resolve_to_their_coins_in_order() -> None:
    view = DictView()
    view.coins = {POINTS[0]: coin(PARAMS, 1), POINTS[1]: coin(PARAMS, 2)}
    tx = spend(POINTS[1], POINTS[0], outputs=[output(PARAMS, 3)])
    spent, keys = resolve_inputs(tx, view, _no_pegin)
    assert spent == (view.coins[POINTS[1]], view.coins[POINTS[0]])
    assert keys == ()


def test_faults_of_inputs_are_reported_in_the_order_of_the_inputs() -> None:
    def refuse(tx: Transaction, index: int) -> PeginClaim:
        raise InvalidTransaction("bad-pegin-witness", str(index))

    view = DictView()
    view.coins = {POINTS[0]: coin(PARAMS, 1, height=1, coinbase=True)}
    young, pegin = TxIn(POINTS[0]), TxIn(POINTS[1], is_pegin=True)
    for inputs, height, reason in (
        ([young, pegin], 100, "bad-txns-premature-spend-of-coinbase"),
        ([young, pegin], 101, "bad-pegin-witness"),
        ([pegin, young], 100, "bad-pegin-witness"),
        ([young, pegin], None, "bad-pegin-witness"),
    ):
        tx = Transaction.build(inputs=inputs, outputs=[output(PARAMS, 1)])
        call = lambda tx=tx, height=height: resolve_inputs(  # noqa: E731
            tx, view, refuse, height=height
        )
        assert _reason(call) == reason


def test_missing_coin_is_reported_before_any_pegin_is_judged() -> None:
    tx = Transaction.build(
        inputs=[TxIn(POINTS[0], is_pegin=True), TxIn(POINTS[1])], outputs=[output(PARAMS, 1)]
    )
    reason = _reason(lambda: resolve_inputs(tx, DictView(), _no_pegin))
    assert reason == "bad-txns-inputs-missingorspent"


def _recorded_claim() -> PeginClaim:
    for block in recorded_blocks():
        for tx in block.transactions:
            for item, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
                if item.is_pegin:
                    return parse_pegin(witness.pegin)
    raise AssertionError("the recorded chain has no peg-in")


def test_pegin_resolves_to_its_claim_and_only_once() -> None:
    claim = _recorded_claim()
    tx = Transaction.build(inputs=[TxIn(POINTS[0], is_pegin=True)], outputs=[output(PARAMS, 1)])
    view = DictView()
    key = PeginKey(claim.parent_genesis, POINTS[0])
    assert resolve_inputs(tx, view, lambda *_: claim) == ((claim.coin,), (key,))
    view.claimed.add(key)
    assert _reason(lambda: resolve_inputs(tx, view, lambda *_: claim)) == "bad-txns-double-pegin"
    again = lambda: resolve_inputs(tx, DictView(), lambda *_: claim, [key])  # noqa: E731
    assert _reason(again) == "bad-txns-double-pegin"


def test_coinbase_coins_mature_after_100_blocks() -> None:
    tx = spend(POINTS[0], outputs=[output(PARAMS, 5)])
    young = coin(PARAMS, 5, height=10, coinbase=True)
    check_inputs(tx, [young], height=110, params=PARAMS)
    reason = _reason(lambda: check_inputs(tx, [young], height=109, params=PARAMS))
    assert reason == "bad-txns-premature-spend-of-coinbase"
    check_inputs(tx, [replace(young, coinbase=False)], height=11, params=PARAMS)


def test_fees_come_back_per_asset() -> None:
    tx = spend(POINTS[0], outputs=[output(PARAMS, 5), output(PARAMS, 2, b"")])
    fees = check_inputs(tx, [coin(PARAMS, 7)], height=5, params=PARAMS)
    assert fees == {PARAMS.pegged_asset: 2}


@pytest.mark.parametrize(
    ("locktime", "sequence", "height", "time_s", "final"),
    [
        (0, 0, 1, 1, True),
        (9, 0, 10, 1, True),
        (10, 0, 10, 10**9, False),
        (10, 0xFFFFFFFF, 10, 1, True),
        (500_000_000, 0, 10**6, 500_000_000, False),
        (500_000_000, 0, 1, 500_000_001, True),
        (499_999_999, 0, 10, 10**9, False),
    ],
)
def test_locktime_counts_until_it_is_passed(
    locktime: int, sequence: int, height: int, time_s: int, final: bool
) -> None:
    tx = Transaction.build(
        inputs=[TxIn(POINTS[0], b"", sequence)], outputs=[output(PARAMS, 1)], locktime=locktime
    )
    assert is_final(tx, height=height, time_s=time_s) is final
    if not final:
        reason = _reason(lambda: check_final(tx, height=height, time_s=time_s))
        assert reason == "bad-txns-nonfinal"


def _locked(sequence: int, version: int = 2, is_pegin: bool = False) -> Transaction:
    return Transaction.build(
        version=version,
        inputs=[TxIn(POINTS[0], b"", sequence, is_pegin=is_pegin)],
        outputs=[output(PARAMS, 1)],
    )


@pytest.mark.parametrize(("made_at", "locked"), [(16, False), (17, True)])
def test_relative_height_lock(made_at: int, locked: bool) -> None:
    chain = ListedHeaders(PARAMS)
    chain.grow(20)
    coins = [coin(PARAMS, 1, height=made_at)]
    tx = _locked(5)
    if locked:
        reason = _reason(lambda: check_sequence_locks(tx, coins, chain, height=21))
        assert reason == "bad-txns-nonfinal"
    else:
        check_sequence_locks(tx, coins, chain, height=21)
    for free in (_locked(5, version=1), _locked(5 | 1 << 31), _locked(5, is_pegin=True)):
        check_sequence_locks(free, coins, chain, height=21)


def test_relative_time_lock_counts_from_the_block_before_the_coin() -> None:
    chain = ListedHeaders(PARAMS)
    chain.grow(40)
    # A minute a block: 18 blocks are 1,080 seconds, which is two units and a bit.
    for height, units, locked in ((23, 2, False), (23, 3, True), (24, 2, True), (41, 1, True)):
        tx, coins = _locked(units | 1 << 22), [coin(PARAMS, 1, height=height)]
        if locked:
            _reason(lambda tx=tx, coins=coins: check_sequence_locks(tx, coins, chain, height=41))
        else:
            check_sequence_locks(tx, coins, chain, height=41)
    check_sequence_locks(_locked(1 << 22), [coin(PARAMS, 1, height=41)], chain, height=41)


def _signed(kind: int = 1) -> tuple[Transaction, bytes]:
    script = p2wpkh(KEY)
    tx = spend(POINTS[0], outputs=[output(PARAMS, 5)])
    value = output(PARAMS, 5).value
    digest = segwit_v0_sighash(tx, 0, p2pkh_of_hash(script[2:]), value, kind, rangeproof=True)
    witness = (ecdsa_sign(b"\x01" * 32, digest) + bytes((kind,)), KEY)
    signed = Transaction.build(
        inputs=tx.inputs, outputs=tx.outputs, input_witnesses=[InputWitness(script=witness)]
    )
    return signed, script


def _check(tx: Transaction, spent: Sequence[Coin], flags: Flags) -> None:
    check_scripts(tx, spent, flags, PARAMS.genesis_hash)


def test_scripts_are_checked_under_the_flags_given() -> None:
    signed, script = _signed()
    spent = [coin(PARAMS, 5, script=script)]
    _check(signed, spent, STANDARD_FLAGS)
    odd, _ = _signed(0x21)
    _check(odd, spent, CONSENSUS_FLAGS)
    reason = _reason(lambda: _check(odd, spent, STANDARD_FLAGS))
    text = "Signature hash type missing or not understood"
    assert reason == f"non-mandatory-script-verify-flag ({text})"
    changed = [coin(PARAMS, 6, script=script)]
    # Policy has another name for this fault; what consensus says of it is what counts.
    expected = "mandatory-script-verify-flag-failed (Script evaluated without error"
    assert _reason(lambda: _check(signed, changed, CONSENSUS_FLAGS)).startswith(expected)
    assert _reason(lambda: _check(signed, changed, STANDARD_FLAGS)).startswith(expected)


def test_first_input_that_fails_names_the_reason_when_a_later_one_fails_worse() -> None:
    tx = spend(POINTS[0], POINTS[1], outputs=[output(PARAMS, 5)])
    upgradable = coin(PARAMS, 5, script=b"\x52\x02\x01\x02")
    never = coin(PARAMS, 5, script=b"\x00")
    for spent, expected in (
        ([upgradable, never], "non-mandatory-script-verify-flag (Witness version reserved"),
        ([never, upgradable], "mandatory-script-verify-flag-failed (Script evaluated"),
    ):
        with pytest.raises(InvalidTransaction) as caught:
            _check(tx, spent, STANDARD_FLAGS)
        assert caught.value.reason.startswith(expected)
        assert caught.value.detail.startswith(f"input 0 of {tx.txid[::-1].hex()} (wtxid ")


def test_sigop_cost_counts_every_form() -> None:
    multisig = multisig_script(1, [KEY] * 3)
    base = spend(POINTS[0], outputs=[output(PARAMS, 1)])
    assert sigop_cost(base, [coin(PARAMS, 1, script=p2wpkh(KEY))]) == 1
    with_script = Transaction.build(
        inputs=[TxIn(POINTS[0], push(multisig))], outputs=[output(PARAMS, 1, multisig)]
    )
    assert sigop_cost(with_script, [coin(PARAMS, 1, script=p2sh(multisig))]) == 4 * (20 + 3)
    pegin = Transaction.build(
        inputs=[TxIn(POINTS[0], push(multisig), is_pegin=True)], outputs=[output(PARAMS, 1)]
    )
    assert sigop_cost(pegin, [coin(PARAMS, 1, script=p2sh(multisig))]) == 0
    witness = Transaction.build(
        inputs=[TxIn(POINTS[0])],
        outputs=[output(PARAMS, 1)],
        input_witnesses=[InputWitness(script=(multisig,))],
    )
    assert sigop_cost(witness, [coin(PARAMS, 1, script=p2wsh(multisig))]) == 3
