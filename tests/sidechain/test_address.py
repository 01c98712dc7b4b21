"""Addresses: plain, confidential, parent; base58 and the bech32 family."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidEncoding
from sidechain.params import BITCOIN_REGTEST, ELEMENTS_REGTEST, AddressPrefixes
from sidechain.primitives import bech32
from sidechain.primitives.address import (
    Address,
    decode_address,
    decode_secret,
    encode_address,
    encode_secret,
    read_address,
)
from sidechain.primitives.base58 import (
    ALPHABET,
    base58_decode,
    base58_encode,
    base58check_decode,
    base58check_encode,
)
from sidechain.primitives.bech32 import BECH32, BLECH32
from tests.byte_strategies import hostile
from tests.vectors import chain_json, elements_json, recorded_params

_LIQUID = AddressPrefixes(
    pubkey=57, script=39, blinded=12, secret=128, bech32_hrp="ex", blech32_hrp="lq"
)
_BITCOIN = {
    "main": AddressPrefixes(
        pubkey=0, script=5, blinded=None, secret=128, bech32_hrp="bc", blech32_hrp=None
    ),
    "test": AddressPrefixes(
        pubkey=111, script=196, blinded=None, secret=239, bech32_hrp="tb", blech32_hrp=None
    ),
    "regtest": BITCOIN_REGTEST,
}
_BITCOIN["signet"] = _BITCOIN["test"]
_KEY = public_key(b"\7" * 32)


def _complaint(text: str, prefixes: AddressPrefixes) -> str:
    with pytest.raises(InvalidEncoding) as caught:
        decode_address(text, prefixes)
    return caught.value.reason


def test_recorded_valid_addresses_encode_and_decode() -> None:
    prefixes = recorded_params().prefixes
    for entry in chain_json("addresses.json")["valid"]:
        shown = entry["validateaddress"]
        found = decode_address(entry["address"], prefixes)
        assert found.script.hex() == shown["scriptPubKey"]
        assert (found.blinding_key or b"").hex() == shown.get("confidential_key", "")
        assert encode_address(found.script, prefixes, found.blinding_key) == shown["address"]
        if "unconfidential" in shown:
            assert encode_address(found.script, prefixes) == shown["unconfidential"]


def test_recorded_confidential_forms_encode_and_decode() -> None:
    prefixes = recorded_params().prefixes
    entries = [e for e in chain_json("addresses.json")["valid"] if "confidential" in e]
    assert entries
    for entry in entries:
        script, key = bytes.fromhex(entry["script"]), bytes.fromhex(entry["blinding_pubkey"])
        assert encode_address(script, prefixes) == entry["address"]
        assert encode_address(script, prefixes, key) == entry["confidential"]
        assert decode_address(entry["confidential"], prefixes) == Address(script, key)


def test_recorded_invalid_addresses_are_refused_with_elementsd_texts() -> None:
    prefixes = recorded_params().prefixes
    for entry in chain_json("addresses.json")["invalid"]:
        reason = _complaint(entry["address"], prefixes)
        assert reason
        expected = entry["validateaddress"].get("error")
        if expected:
            assert reason == expected, entry["note"]


def test_recorded_parent_addresses_decode_with_parent_prefixes() -> None:
    parent = recorded_params().parent_prefixes
    for entry in chain_json("addresses.json")["invalid"]:
        shown = entry["validateaddress"]
        if not shown["isvalid_parent"] or shown["parent_address_info"]["confidential_key"]:
            continue
        found = decode_address(entry["address"], parent)
        assert found.script.hex() == shown["parent_address_info"]["scriptPubKey"]
        assert encode_address(found.script, parent) == entry["address"]


def test_recorded_deposit_addresses_are_parent_addresses() -> None:
    parent = recorded_params().parent_prefixes
    for entry in chain_json("parent.json")["deposits"]:
        for name in ("native_p2wsh", "deposit_address"):
            text = entry.get(name)
            if isinstance(text, str):
                script = decode_address(text, parent).script
                assert encode_address(script, parent) == text


@pytest.mark.parametrize(
    ("prefixes", "script", "plain", "confidential"),
    [
        (
            ELEMENTS_REGTEST,
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
            "ert1qw508d6qejxtdg4y5r3zarvary0c5xw7kuu73e0",
            "el1qqgnczl9lmwk8lhl0ehwvyz9lqd47kycjdr0776tvetlzkskxzanuvag7wm5pnyvk632fg8z96xe6x"
            "gl3gvaavw3j5qsum34wn",
        ),
        (
            ELEMENTS_REGTEST,
            "51207f9c9096696dc5a8ae6bb39791f74be0d7054fee748abc0b202e6e0c46976471",
            "ert1p07wfp9nfdhz63tntkwtera6turts2nlwwj9tczeq9ehqc35hv3cshpxlue",
            "el1pqgnczl9lmwk8lhl0ehwvyz9lqd47kycjdr0776tvetlzkskxzanuvluujztxjmw94zhxhvuhj8m5h"
            "cxhq487uay2hs9jqtnwp3rfwer32jjrsckhyrem",
        ),
        (
            ELEMENTS_REGTEST,
            "76a914751e76e8199196d454941c45d1b3a323f1433bd688ac",
            "2dk71wfwKDTkfLAxLyNPDnKNs2ezE7bDLRp",
            "CTEkkiNwwjTbzy6ngsEFSJ2rz2pDJMkVJpxiLJNnx3hhg9Czq9oaixNEo8CmXKZ7e5XjVSzj4etE9qP1",
        ),
        (
            _LIQUID,
            "0014751e76e8199196d454941c45d1b3a323f1433bd6",
            "ex1qw508d6qejxtdg4y5r3zarvary0c5xw7kxw5fx4",
            "lq1qqgnczl9lmwk8lhl0ehwvyz9lqd47kycjdr0776tvetlzkskxzanuvag7wm5pnyvk632fg8z96xe6x"
            "gl3gvaav9ej8r7ztk8jf",
        ),
        (
            _LIQUID,
            "76a914751e76e8199196d454941c45d1b3a323f1433bd688ac",
            "Q7wegLt2qMGhm28vch6VTzvpzs8KXvs4X7",
            "VTpu6hquiASy1AUFX5Zq95GykH5XGSNEnm1ZMBAc9zhgCYbQx6XYPdDMHomRZ5h7WZXXRNQ3Ycomuumb",
        ),
    ],
)
def test_published_addresses_encode_and_decode(
    prefixes: AddressPrefixes, script: str, plain: str, confidential: str
) -> None:
    key = bytes.fromhex("0227817cbfdbac7fdfefcddcc208bf036beb131268dfef696ccafe2b42c61767c6")
    raw = bytes.fromhex(script)
    assert encode_address(raw, prefixes) == plain
    assert encode_address(raw, prefixes, key) == confidential
    assert decode_address(plain, prefixes) == Address(raw)
    assert decode_address(confidential, prefixes) == Address(raw, key)


def test_bitcoin_addresses_of_the_reference_project_encode_and_decode() -> None:
    for text, payload, facts in elements_json("key_io_valid.json"):
        prefixes = _BITCOIN[facts["chain"]]
        if facts["isPrivkey"]:
            secret = bytes.fromhex(payload)
            assert decode_secret(text, prefixes) == (secret, facts["isCompressed"])
            assert encode_secret(secret, prefixes, compressed=facts["isCompressed"]) == text
            assert _complaint(text, prefixes)
            continue
        assert decode_address(text, prefixes) == Address(bytes.fromhex(payload))
        assert encode_address(bytes.fromhex(payload), prefixes) == text
        if facts.get("tryCaseFlip"):
            assert decode_address(text.swapcase(), prefixes) == Address(bytes.fromhex(payload))
        with pytest.raises(InvalidEncoding):
            decode_secret(text, prefixes)


def test_invalid_texts_of_the_reference_project_are_refused_on_every_chain() -> None:
    for (text,) in elements_json("key_io_invalid.json"):
        for prefixes in [*_BITCOIN.values(), ELEMENTS_REGTEST]:
            assert _complaint(text, prefixes)
            with pytest.raises(InvalidEncoding):
                decode_secret(text, prefixes)


def test_base58_of_the_reference_project_encodes_and_decodes() -> None:
    for payload, text in elements_json("base58_encode_decode.json"):
        raw = bytes.fromhex(payload)
        assert base58_encode(raw) == text
        if len(text) <= 140:
            assert base58_decode(text) == raw
    assert base58_decode("0") is None
    assert base58_decode("1" * 141) is None
    assert base58check_decode("") is None
    assert base58check_decode("1111") is None


@pytest.mark.parametrize(
    "script",
    ["", "51", "6a", "0015" + "00" * 21, "5101aa", "5129" + "00" * 41, "76a914" + "00" * 20 + "88"],
)
def test_script_without_address_is_refused(script: str) -> None:
    with pytest.raises(InvalidEncoding):
        encode_address(bytes.fromhex(script), ELEMENTS_REGTEST)


def test_confidential_address_needs_a_point_and_a_chain_that_has_them() -> None:
    script = b"\0\x14" + bytes(20)
    for prefixes, key in (
        (BITCOIN_REGTEST, _KEY),
        (ELEMENTS_REGTEST, b"\2" + b"\xff" * 32),
        (ELEMENTS_REGTEST, b""),
    ):
        with pytest.raises(InvalidEncoding):
            encode_address(script, prefixes, key)


def test_addresses_of_parent_and_sidechain_are_never_confused() -> None:
    for script in (b"\0\x14" + bytes(20), b"\xa9\x14" + bytes(20) + b"\x87"):
        assert _complaint(encode_address(script, BITCOIN_REGTEST), ELEMENTS_REGTEST)
        assert _complaint(encode_address(script, ELEMENTS_REGTEST), BITCOIN_REGTEST)
        confidential = encode_address(script, ELEMENTS_REGTEST, _KEY)
        assert _complaint(confidential, BITCOIN_REGTEST)


_programs = st.one_of(
    st.sampled_from([20, 32]).flatmap(
        lambda size: st.binary(min_size=size, max_size=size).map(
            lambda program: bytes([0, len(program)]) + program
        )
    ),
    st.tuples(st.integers(1, 16), st.binary(min_size=2, max_size=40)).map(
        lambda pair: bytes([0x50 + pair[0], len(pair[1])]) + pair[1]
    ),
    st.binary(min_size=20, max_size=20).map(lambda d: b"\x76\xa9\x14" + d + b"\x88\xac"),
    st.binary(min_size=20, max_size=20).map(lambda d: b"\xa9\x14" + d + b"\x87"),
)


@hostile
@given(_programs, st.booleans())
def test_address_of_any_standard_script_reads_back(script: bytes, confidential: bool) -> None:
    key = _KEY if confidential else None
    text = encode_address(script, ELEMENTS_REGTEST, key)
    assert decode_address(text, ELEMENTS_REGTEST) == Address(script, key)
    if not confidential:
        parent = encode_address(script, BITCOIN_REGTEST)
        assert decode_address(parent, BITCOIN_REGTEST) == Address(script)


@pytest.mark.slow
@hostile
@given(_programs, st.booleans(), st.data())
def test_address_with_one_symbol_changed_is_refused(
    script: bytes, confidential: bool, data: st.DataObject
) -> None:
    text = encode_address(script, ELEMENTS_REGTEST, _KEY if confidential else None)
    position = data.draw(st.integers(0, len(text) - 1))
    alphabet = ALPHABET if text[0] not in "e" else bech32.CHARSET
    symbol = data.draw(st.sampled_from([c for c in alphabet if c != text[position]]))
    assert _complaint(text[:position] + symbol + text[position + 1 :], ELEMENTS_REGTEST)


@hostile
@given(st.one_of(st.text(max_size=120), st.text(alphabet=bech32.CHARSET + "1", max_size=120)))
def test_text_when_arbitrary_is_refused_or_reads_back(text: str) -> None:
    for candidate in (text, "ert1" + text, "el1" + text):
        try:
            found = decode_address(candidate, ELEMENTS_REGTEST)
        except InvalidEncoding as error:
            assert error.reason
            continue
        assert encode_address(found.script, ELEMENTS_REGTEST)


@hostile
@given(st.binary(max_size=70))
def test_base58_of_any_bytes_reads_back(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data
    assert base58check_decode(base58check_encode(data)) == data


@hostile
@given(st.lists(st.integers(0, 31), max_size=60), st.booleans())
def test_bech32_family_of_any_symbols_reads_back(symbols: list[int], modified: bool) -> None:
    for code in (BECH32, BLECH32):
        text = bech32.encode(code, "hrp", symbols, modified=modified)
        found = bech32.Decoded("hrp", tuple(symbols), modified)
        assert bech32.decode(code, text) == found
        assert bech32.decode(code, text.upper()) == found


@hostile
@given(st.binary(max_size=60))
def test_five_bit_symbols_of_any_bytes_read_back(data: bytes) -> None:
    symbols = bech32.to_symbols(data)
    assert bech32.to_bytes(symbols) == data
    assert bech32.to_bytes([*symbols, 0]) in (None, data + b"\0")
    padding = 5 * len(symbols) - 8 * len(data)
    if padding:
        assert bech32.to_bytes([*symbols[:-1], symbols[-1] | 1]) is None


def test_secret_key_of_wrong_form_is_refused_without_being_repeated() -> None:
    text = encode_secret(b"\7" * 32, ELEMENTS_REGTEST)
    assert decode_secret(text, ELEMENTS_REGTEST) == (b"\7" * 32, True)
    for wrong, prefixes in (
        (text, _LIQUID),
        (text[:-1], ELEMENTS_REGTEST),
        (base58check_encode(bytes([239]) + bytes(32) + b"\2"), ELEMENTS_REGTEST),
        (base58check_encode(bytes([239]) + bytes(31)), ELEMENTS_REGTEST),
    ):
        with pytest.raises(InvalidEncoding) as caught:
            decode_secret(wrong, prefixes)
        assert wrong not in str(caught.value)


def test_reading_when_a_hidden_address_is_mistyped_then_the_reason_is_its_checksum() -> None:
    key = public_key(bytes(31) + b"\1")
    hidden = encode_address(b"\x00\x14" + bytes(20), ELEMENTS_REGTEST, key)
    assert read_address(hidden, ELEMENTS_REGTEST) == decode_address(hidden, ELEMENTS_REGTEST)
    wrong = hidden[:-1] + ("q" if hidden[-1] != "q" else "p")
    for text, reason in (
        (wrong, "Invalid Blech32 checksum: a character is wrong or missing"),
        ("ert1q", "Invalid separator position"),
    ):
        with pytest.raises(InvalidEncoding) as caught:
            read_address(text, ELEMENTS_REGTEST)
        assert caught.value.reason == reason
