"""Balance of amounts that are shown; `test_hidden_amounts` has the others."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.validation.amounts import (
    balances_plainly,
    check_amounts,
    fees_by_asset,
    judge_amounts,
)
from sidechain.validation.coins import Coin

PEGGED = b"\x01" * 32
ASSETS = [PEGGED, b"\x02" * 32, b"\x03" * 32]
PREVOUT = OutPoint(b"\x0a" * 32, 0)
WITNESS = [InputWitness(script=(b"x",))]


def _out(amount: int, asset: bytes = PEGGED, script: bytes = b"\x51") -> TxOut:
    return TxOut(explicit_asset(asset), explicit_value(amount), NULL, script)


def _coin(amount: int, asset: bytes = PEGGED) -> Coin:
    return Coin.of(_out(amount, asset), height=1, coinbase=False)


def _tx(outputs: list[TxOut], inputs: list[TxIn] | None = None, **fields: object) -> Transaction:
    chosen = [TxIn(PREVOUT)] if inputs is None else inputs
    return Transaction.build(inputs=chosen, outputs=outputs, **fields)  # type: ignore[arg-type]


def _accepted(tx: Transaction, *coins: Coin) -> None:
    assert check_amounts(tx, coins, PEGGED) == ()
    assert judge_amounts(tx, coins, PEGGED) == ()


def _refused(tx: Transaction, *coins: Coin) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        check_amounts(tx, coins, PEGGED)
    assert caught.value.reason == "bad-txns-in-ne-out"
    assert not balances_plainly(tx, coins)
    return caught.value.detail


AMOUNTS = st.sampled_from([0, 1, 2, 3, MAX_MONEY_SATS, MAX_MONEY_SATS + 1, 2**63, 2**64 - 1])


@given(
    st.lists(st.tuples(st.sampled_from(ASSETS), AMOUNTS), min_size=1, max_size=3),
    st.lists(
        st.tuples(AMOUNTS, st.sampled_from(ASSETS), st.sampled_from([b"", b"\x51", b"\x6a"])),
        min_size=1,
        max_size=3,
    ),
)
def test_short_way_when_it_says_yes_then_so_does_the_sheet(
    paid_in: list[tuple[bytes, int]], paid_out: list[tuple[int, bytes, bytes]]
) -> None:
    inputs = [TxIn(OutPoint(bytes([n]) * 32, 0)) for n in range(len(paid_in))]
    coins = [_coin(amount, asset) for asset, amount in paid_in]
    tx = _tx([_out(*each) for each in paid_out], inputs)
    if balances_plainly(tx, coins):
        assert judge_amounts(tx, coins, PEGGED) == ()


def test_short_way_when_payment_is_plain_then_taken() -> None:
    tx = _tx([_out(60), _out(39), _out(1, script=b"")])
    assert balances_plainly(tx, [_coin(100)])
    for amount in (1, MAX_MONEY_SATS):
        assert balances_plainly(_tx([_out(amount)]), [_coin(amount)])
    hidden = TxOut(b"\x0a" + bytes(32), explicit_value(60), NULL, b"\x51")
    assert not balances_plainly(_tx([hidden, _out(40)]), [_coin(100)])


@given(
    st.lists(st.tuples(st.sampled_from(ASSETS), st.integers(1, 10**9)), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from(ASSETS), st.integers(1, 10**9)), min_size=1, max_size=5),
)
def test_balance_is_kept_per_asset(
    paid_in: list[tuple[bytes, int]], paid_out: list[tuple[bytes, int]]
) -> None:
    inputs = [TxIn(OutPoint(bytes([n]) * 32, 0)) for n in range(len(paid_in))]
    coins = [_coin(amount, asset) for asset, amount in paid_in]
    tx = _tx([_out(amount, asset) for asset, amount in paid_out], inputs)
    balance: Counter[bytes] = Counter()
    for asset, amount in paid_in:
        balance[asset] += amount
    for asset, amount in paid_out:
        balance[asset] -= amount
    if any(balance.values()):
        _refused(tx, *coins)
    else:
        _accepted(tx, *coins)
    same = _tx([_out(amount, asset) for asset, amount in paid_in[::-1]], inputs)
    _accepted(same, *coins)


def test_fee_and_burn_outputs_take_part() -> None:
    tx = _tx([_out(5), _out(3, script=b""), _out(2, script=b"\x6a")])
    _accepted(tx, _coin(10))
    _refused(tx, _coin(11))


def test_zero_is_allowed_only_where_nothing_can_be_spent() -> None:
    _accepted(_tx([_out(10), _out(0, script=b"\x6a")]), _coin(10))
    _refused(_tx([_out(10), _out(0)]), _coin(10))
    _refused(_tx([_out(10), _out(0, script=b"\x6a")]), _coin(9))


def test_spending_zero_or_more_than_all_money_is_refused() -> None:
    _refused(_tx([_out(0, script=b"\x6a")]), _coin(0))
    _refused(_tx([_out(MAX_MONEY_SATS)]), _coin(MAX_MONEY_SATS + 1))


def test_amounts_when_their_top_bytes_differ_then_not_equal() -> None:
    _refused(_tx([_out(2**56 + 5)]), _coin(5))
    _refused(_tx([_out(5)]), _coin(2**56 + 5))
    _refused(_tx([_out(10), _out(1, ASSETS[1])]), _coin(10))
    _accepted(_tx([_out(MAX_MONEY_SATS)]), _coin(MAX_MONEY_SATS))
    two = [TxIn(PREVOUT), TxIn(OutPoint(PREVOUT.txid, 1))]
    _refused(_tx([_out(5)], two), _coin(0), _coin(5))


def test_proofs_of_explicit_outputs_are_refused() -> None:
    for witness in (OutputWitness(b"p", b""), OutputWitness(b"", b"p")):
        _refused(_tx([_out(10)], output_witnesses=[witness]), _coin(10))


def test_commitment_in_a_nonce_hides_nothing() -> None:
    output = replace(_out(10), nonce=b"\x02" + b"\x11" * 32)
    _accepted(_tx([output]), _coin(10))


def _issuance(amount: bytes, keys: bytes, nonce: bytes = bytes(32)) -> TxIn:
    made = Issuance(blinding_nonce=nonce, entropy=b"\x05" * 32, amount=amount, inflation_keys=keys)
    return TxIn(PREVOUT, issuance=made)


def _issuing(item: TxIn, amount: int, keys: int, **fields: object) -> Transaction:
    ids = issued_ids(item)
    assert ids is not None
    outputs = [_out(10)]
    outputs += [_out(amount, ids.asset)] if amount else []
    outputs += [_out(keys, ids.token)] if keys else []
    return _tx(outputs, [item], **{"input_witnesses": WITNESS, **fields})


@pytest.mark.parametrize(("amount", "keys"), [(7, 0), (0, 2), (7, 2), (1, 1), (2**62, 0)])
def test_issued_assets_and_tokens_can_be_paid_out(amount: int, keys: int) -> None:
    fields = [explicit_value(number) if number else NULL for number in (amount, keys)]
    item = _issuance(*fields)
    if amount < MAX_MONEY_SATS:
        _accepted(_issuing(item, amount, keys), _coin(10))
        _refused(_issuing(item, amount + 1, keys), _coin(10))
        _refused(_issuing(item, amount, keys + 1), _coin(10))
    else:
        # An issued amount has no limit of its own; its outputs do.
        assert _refused(_issuing(item, amount, keys), _coin(10)) == "output amount out of range"


def test_issuance_of_zero_or_less_is_refused() -> None:
    for field in (explicit_value(0), explicit_value(2**64 - 1)):
        _refused(_issuing(_issuance(field, NULL), 0, 0), _coin(10))
        _refused(_issuing(_issuance(NULL, field), 0, 0), _coin(10))


def test_issuance_needs_a_witness_section() -> None:
    item = _issuance(explicit_value(7), NULL)
    detail = _refused(_issuing(item, 7, 0, input_witnesses=[InputWitness()]), _coin(10))
    assert detail == "issuance without a witness section"


def test_explicit_issuance_with_a_proof_is_refused_and_a_stray_proof_is_not() -> None:
    item = _issuance(explicit_value(7), NULL)
    wrong = [InputWitness(issuance_range_proof=b"p")]
    stray = [InputWitness(inflation_range_proof=b"p")]
    _refused(_issuing(item, 7, 0, input_witnesses=wrong), _coin(10))
    _accepted(_issuing(item, 7, 0, input_witnesses=stray), _coin(10))


def test_reissuance_needs_a_hidden_token() -> None:
    item = _issuance(explicit_value(7), NULL, nonce=b"\x01" * 32)
    detail = _refused(_issuing(item, 7, 0), _coin(10))
    assert detail == "reissuance does not spend the asset's token"


def test_pegged_asset_as_issued_asset_is_limited() -> None:
    item = _issuance(explicit_value(MAX_MONEY_SATS + 1), NULL)
    ids = issued_ids(item)
    assert ids is not None
    tx = _issuing(item, 1, 0)
    with pytest.raises(InvalidTransaction, match="issued amount out of range"):
        check_amounts(tx, [_coin(10)], ids.asset)
    item = _issuance(explicit_value(MAX_MONEY_SATS), NULL)
    ids = issued_ids(item)
    assert ids is not None
    assert check_amounts(_issuing(item, MAX_MONEY_SATS, 0), [_coin(10)], ids.asset) == ()


def test_fees_are_summed_per_asset() -> None:
    paid = ((3, ASSETS[1]), (4, PEGGED), (5, PEGGED))
    outputs = [_out(amount, asset, script=b"") for amount, asset in paid]
    assert fees_by_asset(_tx([*outputs, _out(9)])) == {ASSETS[1]: 3, PEGGED: 9}
    assert fees_by_asset(_tx([_out(9)])) == {}
    for amount in (1, MAX_MONEY_SATS):
        assert fees_by_asset(_tx([_out(amount, script=b"")])) == {PEGGED: amount}
    most = [_out(MAX_MONEY_SATS - 1, script=b""), _out(1, script=b"")]
    assert fees_by_asset(_tx(most)) == {PEGGED: MAX_MONEY_SATS}


@pytest.mark.parametrize("amounts", [[0], [MAX_MONEY_SATS + 1], [2**64 - 1], [MAX_MONEY_SATS, 1]])
def test_fees_out_of_range_are_refused(amounts: list[int]) -> None:
    with pytest.raises(InvalidTransaction, match="bad-txns-fee-outofrange"):
        fees_by_asset(_tx([_out(amount, script=b"") for amount in amounts]))
