"""PSETs as maps of fields: read strictly, written in elementsd's order, shown field for field."""

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.api.pset_transaction import (
    WRONG_VALUE_PROOF,
    final_transaction,
    output_fault,
    pset_of,
    read_pset,
    unsigned_transaction,
)
from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc_pset import PsetMethods
from sidechain.chain import Chain
from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import encode_address
from sidechain.primitives.encoding import le32, le64, vec
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.pset import FieldMap, parse_pset
from sidechain.primitives.pset_fields import GLOBAL, INPUT, OUTPUT
from sidechain.primitives.pset_values import check_tree
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import p2wpkh

PARAMS = chain_params(name="ps", initial_free_coins_sats=2_100_000_000_000_000)
LABELS = {PARAMS.pegged_asset_name: PARAMS.pegged_asset}
KEY = public_key(bytes([1]) * 32)
SCRIPT = p2wpkh(KEY)
ADDRESS = encode_address(SCRIPT, PARAMS.prefixes)
BLINDED = encode_address(SCRIPT, PARAMS.prefixes, KEY)
PLACE = {"txid": genesis_block(PARAMS).transactions[1].txid[::-1].hex(), "vout": 0}


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Any]:
    registry = Registry()
    chain = Chain.open(tmp_path / "chain", PARAMS)
    PsetMethods(chain, LABELS).register(registry)

    async def run(method: str, *params: Any) -> Any:
        return await registry.call(method, params)

    yield run
    chain.close()


async def refused(call: Any, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as error:
        await call(method, *params)
    return error.value.code, error.value.message


def own(subtype: int) -> bytes:
    return b"\xfc\x04pset" + bytes((subtype,))


def entry(key: bytes, value: bytes) -> bytes:
    return vec(key) + vec(value)


GLOBAL_MAP = (
    entry(b"\x02", le32(2))
    + entry(b"\x04", b"\x01")
    + entry(b"\x05", b"\x01")
    + entry(b"\xfb", le32(2))
)
INPUT_MAP = entry(b"\x0e", bytes([7]) * 32) + entry(b"\x0f", le32(0))
OUTPUT_MAP = entry(b"\x03", le64(5)) + entry(b"\x04", b"") + entry(own(2), PARAMS.pegged_asset)


def raw(shared: bytes = b"", spent: bytes = b"", paid: bytes = b"") -> bytes:
    return b"pset\xff" + b"".join(
        part + b"\0" for part in (GLOBAL_MAP + shared, INPUT_MAP + spent, OUTPUT_MAP + paid)
    )


PATH = bytes.fromhex("0a0b0c0d") + le32(84 | 1 << 31) + le32(5)


async def test_pset_when_shown_then_as_elementsd_shows_it(call: Any) -> None:
    text = await call(
        "createpsbt", [PLACE], [{BLINDED: 1, "blinder_index": 0}, {"fee": Decimal("0.5")}], 7
    )
    shown = await call("decodepsbt", text)
    assert list(shown) == [
        *("global_xpubs", "tx_version", "fallback_locktime", "input_count", "output_count"),
        *("psbt_version", "proprietary", "fees", "unknown", "inputs", "outputs"),
    ]
    assert shown["fees"] == {PARAMS.pegged_asset_name: Decimal("0.5")}
    assert shown["inputs"] == [
        {"previous_txid": PLACE["txid"], "previous_vout": 0, "sequence": 0xFFFFFFFD}
    ]
    blinded, fee = shown["outputs"]
    assert list(blinded) == [
        *("amount", "script", "asset", "blinding_pubkey", "blinder_index", "status")
    ]
    assert blinded["status"] == "needs blinding" and blinded["blinding_pubkey"] == KEY.hex()
    assert fee["script"]["type"] == "fee" and "status" not in fee
    assert await call("parsepsbt", text) == {"psbt": text, "canonical": True}


async def test_signing_fields_when_shown_then_by_name(call: Any) -> None:
    spent = (
        entry(b"\x02" + KEY, b"sig")
        + entry(b"\x03", le32(0x41))
        + entry(b"\x06" + KEY, PATH)
        + entry(b"\x0b" + bytes(32), b"preimage")
        + entry(b"\x16" + KEY[1:], b"\x01" + bytes(32) + PATH)
        + entry(b"\x15\xc0" + KEY[1:], b"\x51\xc4")
        + entry(b"\xfc\x02ab\x05", b"v")
        + entry(b"\x70", b"w")
    )
    paid = entry(b"\x06", b"\x01\xc4\x01\x51\x01\xc4\x01\x52")
    text = b64encode(raw(spent=spent, paid=paid)).decode()
    shown = await call("decodepsbt", text)
    found = shown["inputs"][0]
    assert found["partial_signatures"] == {KEY.hex(): b"sig".hex()}
    assert found["sighash"] == "ALL|RANGEPROOF"
    assert found["bip32_derivs"] == [
        {"pubkey": KEY.hex(), "master_fingerprint": "0a0b0c0d", "path": "m/84h/5"}
    ]
    assert found["sha256_preimages"] == {"00" * 32: b"preimage".hex()}
    assert found["taproot_bip32_derivs"][0]["leaf_hashes"] == ["00" * 32]
    assert found["taproot_scripts"] == [
        {"script": "51", "leaf_ver": 0xC4, "control_blocks": ["c0" + KEY[1:].hex()]}
    ]
    assert found["proprietary"][0]["subtype"] == 5 and found["unknown"] == {"70": "77"}
    assert [leaf["depth"] for leaf in shown["outputs"][0]["taproot_tree"]] == [1, 1]


async def test_pset_when_of_another_order_then_written_as_elementsd_orders(call: Any) -> None:
    text = b64encode(raw(shared=entry(b"\x03", le32(9)))).decode()
    parsed = await call("parsepsbt", text)
    assert not parsed["canonical"]
    again = await call("parsepsbt", parsed["psbt"])
    assert again == {"psbt": parsed["psbt"], "canonical": True}


def test_final_input_when_written_then_without_what_signers_needed() -> None:
    spent = entry(b"\x08", b"\x01\x01\x51") + entry(b"\x02" + KEY, b"sig")
    pset = parse_pset(raw(spent=spent), PARAMS)
    again = parse_pset(pset.serialize(), PARAMS)
    assert pset.inputs[0].entries("partial_sig") and not again.inputs[0].entries("partial_sig")
    assert final_transaction(again).input_witnesses[0].script == (b"\x51",)


# Texts as elementsd answers them, without "TX decode failed" before and the stream's word behind.
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "DataStream::read(): end of data"),
        (b"psbt\xff", "Invalid PSBT magic bytes"),
        (b"pset\xff", "Separator is missing at the end of the global map"),
        (b"pset\xff\0", "No unsigned transcation was provided"),
        (b"pset\xff\x01\x00", "Unsigned tx is not allowed in PSET"),
        (b"pset\xff" + entry(b"\xfb", le32(3)), "Unsupported version number"),
        (b"pset\xff" + entry(b"\xfb", le32(1)) + b"\0", "There is no PSBT version 1"),
        (
            b"pset\xff" + entry(b"\xfb", le32(2)) + b"\0",
            "PSBT_GLOBAL_TX_VERSION is required in PSBTv2",
        ),
        (
            raw(shared=entry(b"\x02", le32(2))),
            "Duplicate Key, global transaction version is already provided",
        ),
        (
            raw(shared=entry(b"\x06\0", b"\0")),
            "Global tx modifiable flags key is more than one byte type",
        ),
        (raw(shared=entry(own(0), b"")), "SpanReader::read(): end of data"),
        (raw(shared=entry(b"\xfc", b"")), "SpanReader::read(): end of data"),
        (raw(paid=entry(own(1), b"\x08")), "Size of value was not the stated size"),
        (
            raw(spent=entry(b"\x01", b"\x01" * 42 + b"\0\0\0")),
            "Size of value was not the stated size",
        ),
        (raw(spent=entry(b"\x10", b"")), "Size of value was not the stated size"),
        (raw(spent=entry(b"\x02" + bytes(33), b"")), "Invalid pubkey"),
        (raw(spent=entry(b"\x06" + KEY, b"")), "Invalid length for HD key path"),
        (
            raw(spent=entry(b"\x02", b"")),
            "Size of key was not the expected size for the type partial signature pubkey",
        ),
        (
            raw(spent=entry(b"\x0a", b"")),
            "Size of key was not the expected size for the type ripemd160 preimage",
        ),
        (
            raw(spent=entry(b"\x13", bytes(63))),
            "Input Taproot key path signature is shorter than 64 bytes",
        ),
        (
            raw(spent=entry(own(0x11), le64(1))),
            "Input explicit value and value proof must be provided together",
        ),
        (
            raw(spent=entry(own(0x01), b"\x08" + bytes(32))),
            "Issuance value commitment provided without value rangeproof",
        ),
        (
            raw(paid=entry(own(6), vec(KEY)[1:])),
            "Output is blinded but does not have a blinder index",
        ),
        (
            raw(paid=entry(own(6), KEY) + entry(own(8), le32(0)) + entry(own(7), KEY)),
            "Blinded output contains some blinding data but not all, this is an invalid state",
        ),
        (raw(paid=entry(b"\x06", b"")), "Output Taproot tree must not be empty"),
        (raw(paid=entry(b"\x06", b"\x01\xc4\x00")), "Output Taproot tree is malformed"),
        (
            raw(paid=entry(b"\x70", b"") * 2),
            "Duplicate Key, key for unknown value already provided",
        ),
        (raw()[:-1], "Separator is missing at the end of an output map"),
        (
            raw()[: -1 - len(OUTPUT_MAP)],
            "Outputs provided does not match the number of outputs in transaction.",
        ),
    ],
)
def test_pset_when_wrong_then_elementsds_words(data: bytes, text: str) -> None:
    with pytest.raises(RpcError) as error:
        read_pset(b64encode(data).decode(), PARAMS)
    assert error.value.code == -22
    assert error.value.message == f"TX decode failed {text}: iostream error"


def test_pset_when_more_follows_or_no_base64_then_refused() -> None:
    for text, why in (
        (b64encode(raw() + b"\0").decode(), "extra data after PSBT"),
        ("xx", "invalid base64"),
        ("cHNldP8A\n", "invalid base64"),
        ("é", "invalid base64"),
    ):
        with pytest.raises(RpcError) as error:
            read_pset(text, PARAMS)
        assert (error.value.code, error.value.message) == (-22, f"TX decode failed {why}")


def test_lock_times_when_they_exclude_one_another_then_refused() -> None:
    # elementsd ends itself here, and where an index has more than 30 bits.
    shared = GLOBAL_MAP.replace(entry(b"\x04", b"\x01"), entry(b"\x04", b"\x02"))
    inputs = [INPUT_MAP + entry(key, le32(lock)) for key, lock in ((b"\x11", 5), (b"\x12", 6))]
    data = b"pset\xff" + b"".join(part + b"\0" for part in (shared, *inputs, OUTPUT_MAP))
    with pytest.raises(InvalidEncoding, match="exclude"):
        parse_pset(data, PARAMS)
    both = INPUT_MAP + entry(b"\x11", le32(5)) + entry(b"\x12", le32(6))
    for second, locktime in ((inputs[0], 5), (inputs[1], 6), (both, 6)):
        data = b"pset\xff" + b"".join(part + b"\0" for part in (shared, both, second, OUTPUT_MAP))
        assert parse_pset(data, PARAMS).locktime() == locktime
    high = raw().replace(entry(b"\x0f", le32(0)), entry(b"\x0f", le32(1 << 30)))
    with pytest.raises(RpcError, match="30 bits"):
        read_pset(b64encode(high).decode(), PARAMS)


@pytest.mark.parametrize("depths", [[0], [1, 1], [1, 2, 2], [2, 2, 1], [2, 2, 2, 2]])
def test_tree_when_whole_then_taken_and_not_with_a_leaf_more_or_less(depths: list[int]) -> None:
    leaves = [bytes((depth, 0xC4)) + vec(b"\x51") for depth in depths]
    check_tree(b"".join(leaves))
    for wrong in (leaves[1:] or [b"\x00\xc5\x00"], [*leaves, leaves[0]]):
        with pytest.raises(InvalidEncoding):
            check_tree(b"".join(wrong))


async def test_issuance_when_asked_for_then_its_outputs_must_be_there(call: Any) -> None:
    place = PLACE | {"issuance_amount": 3, "issuance_tokens": 1, "blind_reissuance": False}
    error = await refused(call, "createpsbt", [place], [{ADDRESS: 1}, {"fee": 1}])
    assert error == (-8, "Missing output for new assets")
    bare = unsigned_transaction(
        parse_pset(raw(spent=entry(own(0), le64(3)) + entry(own(0x0A), le64(1))), PARAMS)
    )
    assert bare.inputs[0].issuance is not None
    again = pset_of(bare, PARAMS).inputs[0]
    assert again.number("issuance_value") == 3 and again.number("issuance_keys") == 1


async def test_pegin_when_added_then_kept_as_far_as_given(call: Any) -> None:
    text = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": 1}])
    text = await call("updatepsbtpegin", text, 0, "1.5", None, None, SCRIPT.hex(), "11" * 31 + "22")
    shown = (await call("decodepsbt", text))["inputs"][0]
    assert shown["pegin_value"] == Decimal("1.5")
    assert shown["pegin_claim_script"] == SCRIPT.hex()
    assert shown["pegin_genesis_hash"] == "11" * 31 + "22"
    for params, wrong in (
        ((None, "00"), (-3, "The bitcoin_tx is malformed")),
        ((None, None, "zz"), (-3, "The txout proof is malformed")),
    ):
        assert await refused(call, "updatepsbtpegin", text, 0, *params) == wrong
    assert (await refused(call, "updatepsbtpegin", text, 1, 1))[0] == -8


def test_value_proof_when_it_does_not_hold_then_the_amount_may_be_a_lie() -> None:
    point = public_key(bytes([2]) * 32)[1:]
    values = {
        "blinding_pubkey": KEY,
        "ecdh_pubkey": KEY,
        "value_commitment": b"\x08" + point,
        "asset_commitment": b"\x0a" + point,
        "rangeproof": b"\1",
        "surjection_proof": b"\1",
        "amount": le64(1),
        "blind_value_proof": b"\1",
    }
    assert output_fault(FieldMap(values)) == WRONG_VALUE_PROOF


async def test_conversion_when_signed_then_elementsds_words(call: Any) -> None:
    tx = unsigned_transaction(parse_pset(raw(), PARAMS))
    signed = Transaction.build(
        inputs=[type(tx.inputs[0])(tx.inputs[0].prevout, script_sig=b"\x51")], outputs=tx.outputs
    )
    assert await refused(call, "converttopsbt", signed.raw.hex()) == (
        -22,
        "Inputs must not have scriptSigs",
    )


_FIELD_KEYS = [
    (own(field.number) if field.own else bytes((field.number,)), field.form)
    for field in (*GLOBAL, *INPUT, *OUTPUT)
]
_KEYS = st.builds(
    lambda found, rest: found[0] + rest,
    st.sampled_from(_FIELD_KEYS),
    st.one_of(st.just(b""), st.just(KEY), st.just(KEY[1:]), st.binary(max_size=70)),
)
_ENTRIES = st.lists(
    st.builds(entry, _KEYS, st.one_of(st.binary(max_size=80), st.just(le32(1)), st.just(le64(1)))),
    max_size=3,
).map(b"".join)


def _answers(make: Callable[[], Any]) -> None:
    """Run it; nothing but a failure to decode may come of it."""
    try:
        make()
    except RpcError as error:
        assert error.code == -22


@given(_ENTRIES, _ENTRIES, _ENTRIES)
def test_fields_when_arbitrary_then_refused_or_kept_through_writing(
    shared: bytes, spent: bytes, paid: bytes
) -> None:
    def make() -> None:
        pset = read_pset(b64encode(raw(shared, spent, paid)).decode(), PARAMS)
        written = read_pset(pset.text(), PARAMS)
        assert written.text() == pset.text()
        assert unsigned_transaction(written).raw == unsigned_transaction(pset).raw

    _answers(make)


@given(st.binary(max_size=300), st.integers(0, 250), st.text(max_size=40))
def test_input_when_garbage_then_only_a_failure_to_decode(
    data: bytes, start: int, text: str
) -> None:
    whole = raw()
    mutated = whole[:start] + data + whole[start + len(data) :]
    for each in (b64encode(data).decode(), b64encode(mutated).decode(), text):
        _answers(lambda each=each: read_pset(each, PARAMS))  # type: ignore[misc]


def test_example_when_decoded_then_the_same_bytes() -> None:
    pset = parse_pset(raw(), PARAMS)
    assert parse_pset(b64decode(pset.text()), PARAMS) == pset
