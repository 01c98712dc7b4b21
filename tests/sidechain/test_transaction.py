"""Transactions: forms, identifiers, sizes and refusal of everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import Reader
from sidechain.primitives.issuance import issued_ids, token_from_entropy
from sidechain.primitives.transaction import (
    EMPTY_INPUT_WITNESS,
    EMPTY_OUTPUT_WITNESS,
    NULL_INDEX,
    NULL_OUTPOINT,
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from tests.byte_strategies import hostile, mutated
from tests.vectors import chain_json, display, internal

_REGTEST_ASSET = internal("b2e15d0d7a0c94e4e2ce0fe6e8691b9e451377f6e46e8045a86f7c4b5d4f0f23")
_SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")
_PREVOUT = OutPoint(b"\x11" * 31 + b"\x22", 1)

_SIGNED_PAYMENT = (
    "02000000010111111111111111111111111111111111111111111111111111111111111111220100000000fdffff"
    "ff0201230f4f5d4b7c6fa845806ee4f67713459e1b69e8e60fcee2e4940c7a0d5de1b2010000000005e69ec0"
    "00160014751e76e8199196d454941c45d1b3a323f1433bd601230f4f5d4b7c6fa845806ee4f67713459e1b69e8e6"
    "0fcee2e4940c7a0d5de1b20100000000000f42400000000000000000024830450221009cd5e1c2a247b08a71d7"
    "cf8c7213e6d892ca90b0e3faa73aa07da1f3f1c6d42f022056d4615c40b2b321f413bc605da024634a74bcdaf5dd"
    "0460d5f8d11e35a0308201210279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f8179800"
    "00000000"
)


def _small_transactions() -> list[bytes]:
    raws = [bytes.fromhex(entry["hex"]) for entry in chain_json("txs_valid.json")]
    return [raw for raw in raws if len(raw) < 6000]


def _output(amount_sats: int, script: bytes = _SCRIPT, asset: bytes = _REGTEST_ASSET) -> TxOut:
    return TxOut(explicit_asset(asset), explicit_value(amount_sats), NULL, script)


def _payment(**changes: object) -> Transaction:
    parts: dict[str, object] = {
        "inputs": [TxIn(_PREVOUT)],
        "outputs": [_output(99), _output(1, b"")],
    }
    return Transaction.build(**{**parts, **changes})  # type: ignore[arg-type]


def test_signed_payment_has_its_published_identifiers_and_sizes() -> None:
    raw = bytes.fromhex(_SIGNED_PAYMENT)
    tx = Transaction.decode(raw)
    assert display(tx.txid) == "0468a0646e8a81d50aec7d10fbd266bc0de43b9c506483998dd103ed106c9932"
    assert display(tx.wtxid) == "fcfe87326a491cdd722866b92d45074c5d8cc48aa12e20393331657569e9cd15"
    assert tx.witness_only_hash().hex() == (
        "b7708081420923175064e1b7c4cb2307f30437a2b8b24c6ba8f9b2bd8f69df67"
    )
    assert (tx.base_size, tx.total_size, tx.weight_wu, tx.vsize) == (162, 277, 763, 191)
    assert tx.inputs == (TxIn(_PREVOUT, sequence=0xFFFFFFFD),)
    assert tx.outputs == (_output(99_000_000), _output(1_000_000, b""))
    assert [output.is_fee for output in tx.outputs] == [False, True]
    assert not tx.is_coinbase
    assert tx.serialize() == raw


def test_stripped_form_keeps_a_zero_flags_byte() -> None:
    tx = Transaction.decode(bytes.fromhex(_SIGNED_PAYMENT))
    stripped = tx.serialize(include_witness=False)
    assert stripped == tx.raw[:4] + b"\0" + tx.raw[5:162]
    again = Transaction.decode(stripped)
    assert again.txid == again.wtxid == tx.txid
    assert again != tx
    assert not again.has_witness


def test_explicit_issuance_has_its_published_ids() -> None:
    issuance = Issuance(
        blinding_nonce=bytes(32),
        entropy=bytes(32),
        amount=explicit_value(1000),
        inflation_keys=explicit_value(2),
    )
    txin = TxIn(_PREVOUT, sequence=0xFFFFFFFD, issuance=issuance)
    ids = issued_ids(txin)
    assert ids is not None
    assert display(ids.entropy) == (
        "b152b9ae41e8a8d10e5209411200ba109dd1fb2cd53b313dbc385e2bd9494eab"
    )
    assert display(ids.asset) == "f734cea49af9ed454029ca25e0ab0e374521601c561c4bedbbffeabf5a5ce33f"
    assert display(ids.token) == "653b3e557fde0068c7891d5645e7fb2287dee10e195190750d5338d2d2d8eef7"
    assert display(token_from_entropy(ids.entropy, confidential_amount=True)) == (
        "1a2e156f0f8ec3d001af3d86dc80fb69a54ef9eee3ea1287ded3f494078a30e5"
    )
    outputs = [
        _output(99_000_000),
        _output(1000, asset=ids.asset),
        _output(2, asset=ids.token),
        _output(1_000_000, b""),
    ]
    tx = Transaction.build(inputs=[txin], outputs=outputs)
    assert display(tx.txid) == "175e20be9e5cb5afce2cf1a0b6c23d35660ed0379fbb5c3bc1ec0e50be9da7ef"
    assert tx.raw[38:42].hex() == "01000080"


def test_reissuance_takes_its_entropy_from_the_field() -> None:
    hidden = b"\x08" + b"\3" * 32
    issuance = Issuance(
        blinding_nonce=b"\1" * 32, entropy=b"\2" * 32, amount=hidden, inflation_keys=NULL
    )
    ids = issued_ids(TxIn(_PREVOUT, issuance=issuance))
    assert ids is not None
    assert issuance.is_reissuance
    assert ids.entropy == b"\2" * 32
    assert ids.token == token_from_entropy(b"\2" * 32, confidential_amount=True)
    assert issued_ids(TxIn(_PREVOUT)) is None


def test_prevout_flags_are_kept_apart_from_the_index() -> None:
    issuance = Issuance(
        blinding_nonce=bytes(32), entropy=bytes(32), amount=NULL, inflation_keys=explicit_value(1)
    )
    tx = _payment(inputs=[TxIn(OutPoint(b"\5" * 32, 7), issuance=issuance, is_pegin=True)])
    assert tx.raw[38:42].hex() == "070000c0"
    assert tx.inputs[0].prevout == OutPoint(b"\5" * 32, 7)
    assert tx.inputs[0].prevout.serialize() == b"\5" * 32 + b"\7\0\0\0"
    assert tx.inputs[0].is_pegin
    assert tx.inputs[0].issuance == issuance


def test_prevout_index_of_all_ones_carries_no_flags() -> None:
    tx = _payment(inputs=[TxIn(OutPoint(b"\5" * 32, NULL_INDEX))])
    assert not tx.inputs[0].is_pegin
    assert tx.inputs[0].issuance is None
    assert tx.inputs[0].prevout.index == NULL_INDEX
    assert not tx.is_coinbase
    assert _payment(inputs=[TxIn(NULL_OUTPOINT, b"\1\1")]).is_coinbase


@pytest.mark.parametrize(
    "txin",
    [
        TxIn(OutPoint(b"\5" * 32, 1 << 30)),
        TxIn(OutPoint(b"\5" * 32, NULL_INDEX), is_pegin=True),
        TxIn(
            OutPoint(b"\5" * 32, (1 << 30) - 1),
            issuance=Issuance(
                blinding_nonce=bytes(32),
                entropy=bytes(32),
                amount=explicit_value(1),
                inflation_keys=NULL,
            ),
            is_pegin=True,
        ),
    ],
)
def test_input_without_serialized_form_cannot_be_built(txin: TxIn) -> None:
    with pytest.raises(InvalidEncoding):
        _payment(inputs=[txin])


def test_build_when_parts_are_malformed_is_refused() -> None:
    for output in (
        TxOut(NULL, explicit_value(1), NULL, b""),
        TxOut(explicit_asset(_REGTEST_ASSET), NULL, NULL, b""),
        TxOut(b"\x02" + bytes(32), explicit_value(1), NULL, b""),
        TxOut(explicit_asset(_REGTEST_ASSET), explicit_value(1), b"\x04" + bytes(32), b""),
    ):
        with pytest.raises(InvalidEncoding):
            _payment(outputs=[output])
    with pytest.raises(InvalidEncoding):
        _payment(input_witnesses=[EMPTY_INPUT_WITNESS] * 2)
    with pytest.raises(InvalidEncoding):
        _payment(output_witnesses=[EMPTY_OUTPUT_WITNESS])


def test_witness_item_of_length_zero_counts_as_a_witness() -> None:
    tx = _payment(input_witnesses=[InputWitness(script=(b"",))])
    assert tx.has_witness
    assert tx.raw[4] == 1
    assert _payment(input_witnesses=[InputWitness(pegin=(b"",))]).has_witness
    assert _payment(output_witnesses=[OutputWitness(b"\1"), OutputWitness()]).has_witness
    assert not _payment().has_witness


def test_witness_only_hash_of_empty_witnesses_is_made_of_published_leaves() -> None:
    assert EMPTY_INPUT_WITNESS.merkle_leaf().hex() == (
        "3ea8cf996cb82dd782b0b59ae42b9fefd4e2081f2cf3631a537c9c362e7d3822"
    )
    assert EMPTY_OUTPUT_WITNESS.merkle_leaf().hex() == (
        "7d993a3ac51b76589a07c59078e2e4241f4c13c5190a763f22213e0c9ed8e7d5"
    )


def test_witness_only_hash_when_input_is_null_ignores_its_witness() -> None:
    coinbase = TxIn(NULL_OUTPOINT, b"\1\1")
    bare = _payment(inputs=[coinbase])
    reserved = _payment(inputs=[coinbase], input_witnesses=[InputWitness(script=(bytes(32),))])
    assert bare.witness_only_hash() == reserved.witness_only_hash()
    assert _payment().witness_only_hash() == bare.witness_only_hash()


def test_output_kinds_are_told_apart() -> None:
    hidden_asset = b"\x0a" + bytes(32)
    assert _output(0, b"").is_fee
    assert not TxOut(hidden_asset, explicit_value(1), NULL, b"").is_fee
    assert TxOut(hidden_asset, explicit_value(1), NULL, b"").is_unspendable
    assert _output(1, b"\x6a\x01\x02").is_unspendable
    assert _output(1, bytes(10_001)).is_unspendable
    assert not _output(1, bytes(10_000)).is_unspendable
    assert _output(5).value_sats == 5
    assert _output(5).asset_id == _REGTEST_ASSET


def test_output_when_alone_reads_exactly() -> None:
    raw = _output(5).serialize()
    assert TxOut.decode(raw) == _output(5)
    for wrong in (raw + b"\0", raw[:-1], raw[:5], b""):
        with pytest.raises(InvalidEncoding):
            TxOut.decode(wrong)


def test_decode_when_anything_follows_is_refused_but_read_goes_on() -> None:
    raw = _payment().raw
    with pytest.raises(InvalidEncoding, match="trailing data"):
        Transaction.decode(raw + b"\0")
    reader = Reader(b"xy" + raw + b"z", 2)
    assert Transaction.read(reader).raw == raw
    assert reader.remaining == 1


def test_decode_when_cut_anywhere_is_refused() -> None:
    for raw in (bytes.fromhex(_SIGNED_PAYMENT), _payment().raw):
        for length in range(len(raw)):
            with pytest.raises(InvalidEncoding):
                Transaction.decode(raw[:length])


def test_decode_when_flags_or_counts_are_wrong_is_refused_with_a_reason() -> None:
    raw = _payment().raw
    cases = {
        "Unknown transaction optional data": raw[:4] + b"\2" + raw[5:],
        "Superfluous witness record": raw[:4] + b"\1" + raw[5:] + bytes(4 + 2 + 2),
        "ReadCompactSize(): size too large": raw[:5] + b"\xfe\x01\x00\x00\x02" + raw[6:],
        "non-canonical ReadCompactSize()": raw[:5] + b"\xfd\x01\x00" + raw[6:],
        "end of data": raw[:5] + b"\xfe\x00\x00\x00\x02" + raw[6:],
    }
    for reason, wrong in cases.items():
        with pytest.raises(InvalidEncoding) as caught:
            Transaction.decode(wrong)
        assert caught.value.reason == reason


@hostile
@given(st.binary(max_size=400))
def test_decode_when_bytes_are_arbitrary_raises_or_round_trips(data: bytes) -> None:
    _decodes_exactly_or_raises(data)


@hostile
@given(st.binary(max_size=200).map(lambda tail: bytes.fromhex(_SIGNED_PAYMENT)[:40] + tail))
def test_decode_when_the_start_is_valid_raises_or_round_trips(data: bytes) -> None:
    _decodes_exactly_or_raises(data)


@hostile
@given(st.data())
def test_decode_when_valid_bytes_are_changed_raises_or_round_trips(data: st.DataObject) -> None:
    _decodes_exactly_or_raises(data.draw(mutated(_small_transactions())))


def _decodes_exactly_or_raises(data: bytes) -> None:
    try:
        tx = Transaction.decode(data)
    except InvalidEncoding:
        return
    assert tx.serialize() == data
    rebuilt = Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=tx.input_witnesses,
        output_witnesses=tx.output_witnesses,
    )
    assert rebuilt == tx
    assert hash(rebuilt) == hash(tx)
    assert rebuilt.txid == tx.txid
