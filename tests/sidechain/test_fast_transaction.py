"""The fast reader of transactions equals the plain one, on everything that can be sent to it."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import p2pkh_of_hash
from sidechain.script.sighash import (
    SIGHASH_ALL,
    SighashCache,
    p2wpkh_all_sighash,
    segwit_v0_sighash,
)
from tests.byte_strategies import hostile, mutated
from tests.sidechain.plain_reader import read_plainly
from tests.vectors import chain_json

ASSETS = [explicit_asset(b"\1" * 32), explicit_asset(b"\2" * 32), b"\x0a" + b"\3" * 32]
VALUES = [explicit_value(0), explicit_value(2**64 - 1), b"\x08" + b"\4" * 32]
NONCES = [b"\0", b"\x01" + b"\5" * 32, b"\x02" + b"\6" * 32]
LENGTHS = [0, 1, 2, 22, 0xFC, 0xFD, 0xFFFF, 0x10000]
FIELDS = (
    "version",
    "inputs",
    "outputs",
    "locktime",
    "input_witnesses",
    "output_witnesses",
    "has_witness",
    "raw",
    "base_size",
    "txid",
    "wtxid",
)

scripts = st.sampled_from(LENGTHS).map(lambda size: b"\x51" * size)
items = st.one_of(st.binary(max_size=4), scripts)
stacks = st.lists(items, max_size=3).map(tuple)
issuances = st.builds(
    Issuance,
    blinding_nonce=st.sampled_from([bytes(32), b"\7" * 32]),
    entropy=st.just(b"\x08" * 32),
    amount=st.sampled_from(VALUES),
    inflation_keys=st.sampled_from([*VALUES, b"\0"]),
)
inputs = st.one_of(
    st.builds(TxIn, st.builds(OutPoint, st.just(b"\x09" * 32), st.sampled_from([0, 1, 2**30 - 2]))),
    st.builds(
        TxIn,
        st.builds(OutPoint, st.just(b"\x0a" * 32), st.integers(0, 2**30 - 2)),
        scripts,
        st.integers(0, 2**32 - 1),
        st.none() | issuances,
        st.booleans(),
    ),
    st.builds(TxIn, st.just(NULL_OUTPOINT), scripts),
)
outputs = st.builds(
    TxOut, st.sampled_from(ASSETS), st.sampled_from(VALUES), st.sampled_from(NONCES), scripts
)
input_witnesses = st.one_of(
    st.just(InputWitness()),
    st.builds(InputWitness, script=stacks),
    st.builds(InputWitness, items, items, stacks, stacks),
)
output_witnesses = st.one_of(st.just(OutputWitness()), st.builds(OutputWitness, items, items))


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    ins = draw(st.lists(inputs, max_size=4))
    outs = draw(st.lists(outputs, max_size=4))
    return Transaction.build(
        version=draw(st.integers(0, 2**32 - 1)),
        inputs=ins,
        outputs=outs,
        locktime=draw(st.integers(0, 2**32 - 1)),
        input_witnesses=[draw(input_witnesses) for _ in ins],
        output_witnesses=[draw(output_witnesses) for _ in outs],
    )


def recorded() -> list[bytes]:
    raws = [bytes.fromhex(entry["hex"]) for entry in chain_json("txs_valid.json")]
    return [raw for raw in raws if len(raw) < 6_000]


def check(data: bytes) -> None:
    try:
        plain = read_plainly(data)
    except InvalidEncoding as error:
        with pytest.raises(InvalidEncoding) as refused:
            Transaction.decode(data)
        if refused.value.reason != error.reason:
            # Where data ends too early the two may notice another fault first.
            assert "end of data" in (refused.value.reason, error.reason)
        return
    fast = Transaction.decode(data)
    for name in FIELDS:
        assert getattr(fast, name) == getattr(plain, name), name
    assert fast.outputs_bytes() == plain.outputs_bytes
    assert fast.witness_only_hash() == plain.witness_only_hash()


@hostile
@given(transactions())
def test_reader_when_transaction_is_any_then_equal_to_the_plain_one(tx: Transaction) -> None:
    check(tx.raw)


@hostile
@given(st.data())
def test_reader_when_recorded_ones_are_changed_then_equal_to_the_plain_one(
    data: st.DataObject,
) -> None:
    check(data.draw(mutated(recorded())))


@hostile
@given(st.data())
def test_reader_when_made_ones_are_changed_then_equal_to_the_plain_one(
    data: st.DataObject,
) -> None:
    check(data.draw(mutated([data.draw(transactions()).raw])))


def test_reader_when_every_byte_of_a_payment_is_changed_then_equal_to_the_plain_one() -> None:
    payment = Transaction.build(
        inputs=[TxIn(OutPoint(b"\1" * 32, 7))],
        outputs=[
            TxOut(ASSETS[0], VALUES[0], b"\0", b"\0\x14" + b"\2" * 20),
            TxOut(ASSETS[0], VALUES[0], b"\0", b""),
        ],
        input_witnesses=[InputWitness(script=(b"\3" * 71, b"\4" * 33))],
    ).raw
    check(payment)
    for position, bit in itertools.product(range(len(payment)), range(8)):
        check(payment[:position] + bytes([payment[position] ^ 1 << bit]) + payment[position + 1 :])
        check(payment[:position] + bytes([bit * 36]) + payment[position:])
    for cut in range(len(payment)):
        check(payment[:cut])
        check(payment[:cut] + payment[cut + 1 :])
        check(payment + payment[:cut])


@hostile
@given(transactions(), st.data())
def test_p2wpkh_hash_when_transaction_is_any_then_equal_to_the_plain_one(
    tx: Transaction, data: st.DataObject
) -> None:
    assume(tx.inputs)
    cache = SighashCache(tx)
    for _ in range(2):
        index = data.draw(st.integers(0, len(tx.inputs) - 1))
        value, key_hash = (
            data.draw(st.sampled_from(VALUES)),
            data.draw(st.binary(min_size=20, max_size=20)),
        )
        code = p2pkh_of_hash(key_hash)
        expected = segwit_v0_sighash(tx, index, code, value, SIGHASH_ALL, rangeproof=True)
        assert p2wpkh_all_sighash(cache, index, key_hash, value) == expected


@given(transactions())
def test_wtxid_when_asked_for_later_then_that_of_the_bytes(tx: Transaction) -> None:
    assert Transaction.decode(tx.raw).wtxid == read_plainly(tx.raw).wtxid
    with pytest.raises(AttributeError):
        _ = tx.nothing_of_this_name  # type: ignore[attr-defined]
