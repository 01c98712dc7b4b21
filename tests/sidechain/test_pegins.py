"""Peg-ins: tweaks, deposit scripts, and the order and texts of all checks."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.keys import public_key, tweak_add_secret
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled
from sidechain.params import BITCOIN_REGTEST, MAX_MONEY_SATS
from sidechain.primitives.address import encode_address
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import multisig_script, p2sh, p2wsh, push
from sidechain.validation.dynafed import valid_fedpegscripts
from sidechain.validation.pegins import (
    FedpegPair,
    calculate_contract,
    check_pegin,
    contract_tweak,
    deposit_script,
    is_watchman_script,
    parse_pegin,
)
from tests.sidechain.bitcoin_scripts import assemble
from tests.sidechain.example_chain import FEDPEGSCRIPT, PEG_KEYS
from tests.sidechain.recorded_chain import RecordedFacts, RecordedHeaders, parent_height_at
from tests.vectors import case_bytes, chain_json, internal, recorded_blocks, recorded_params

CLAIM = b"\x00\x14" + b"\xab" * 20


def test_contract_is_that_of_the_specification() -> None:
    expected = [
        (
            "8ddcb17d5e94239d35e794b21dd3a108f0c74c1d02b6d31f165910c76d14b9b5",
            "02526bab15ff50f9d3856d65867672f581e0d99a6103ed0aeb2ebe04f21a956541",
        ),
        (
            "4d34e86401e2d8cc8334a0149892fb47950de9b226587a03704e546cb4931853",
            "0348608db3e65f3f85481cf1ca516457f52443800fd02b1138ac2e332d04dd982a",
        ),
        (
            "0cca9c13d38b1c8ad3162c73556965fb9c7ae04c91d99be4725515ac54074f04",
            "02866535dde69405a8be1454c883daed5299aed25160bff83ddefad5ae6b2f0af4",
        ),
    ]
    for key, (tweak, _) in zip(PEG_KEYS, expected, strict=True):
        assert contract_tweak(key, CLAIM).hex() == tweak
    tweaked = multisig_script(2, [bytes.fromhex(key) for _, key in expected])
    assert calculate_contract(FEDPEGSCRIPT, CLAIM) == tweaked
    prefixes = BITCOIN_REGTEST
    native = deposit_script(p2wsh(FEDPEGSCRIPT), FEDPEGSCRIPT, CLAIM)
    nested = deposit_script(p2sh(p2wsh(FEDPEGSCRIPT)), FEDPEGSCRIPT, CLAIM)
    address = "bcrt1qykeptuka3k9qjgyctn3ru24lsttwpdrhkf9lvhd6pngvu7g5hpcqnuuhq9"
    assert encode_address(native, prefixes) == address
    assert encode_address(nested, prefixes) == "2N3R7juNCk3N1PjpUcQrGwBbiaNXA69ZB3D"


def test_recorded_deposits_agree() -> None:
    prefixes = recorded_params().parent_prefixes
    for deposit in chain_json("parent.json")["deposits"]:
        script = bytes.fromhex(deposit["fedpegscript"])
        claim = bytes.fromhex(deposit["claim_script"])
        tweaked = calculate_contract(script, claim)
        assert tweaked.hex() == deposit["tweaked_script"]
        assert encode_address(p2wsh(tweaked), prefixes) == deposit["p2wsh_address"]
        assert encode_address(p2sh(p2wsh(tweaked)), prefixes) == deposit["p2sh_p2wsh_address"]
        program = p2wsh(script) if deposit["native_p2wsh"] else p2sh(p2wsh(script))
        assert deposit_script(program, script, claim).hex() == deposit["script_pubkey"]


def test_tweaked_secret_owns_the_tweaked_key() -> None:
    secret = b"\x05" * 32
    key = public_key(secret)
    tweaked = calculate_contract(push(key), CLAIM)
    assert tweaked[1:] == public_key(tweak_add_secret(secret, contract_tweak(key, CLAIM)))


KEYS = " ".join(f"0x21 0x{key.hex()}" for key in PEG_KEYS)
WATCHMAN = f"DEPTH 4 EQUAL IF 2 {KEYS} 3 ELSE 144 CSV DROP 1 {KEYS} 3 ENDIF CHECKMULTISIG"


def _watchman(text: str = WATCHMAN) -> bytes:
    return assemble(text.replace("CSV", "CHECKSEQUENCEVERIFY"))


def test_emergency_branch_of_a_watchman_script_is_not_tweaked() -> None:
    script = _watchman()
    tweaked = calculate_contract(script, CLAIM)
    split = script.index(b"\x67")
    assert is_watchman_script(script)
    assert tweaked[split:] == script[split:]
    assert tweaked[:split] != script[:split]
    assert len(tweaked) == len(script)


def test_emergency_branch_when_pushes_are_long_then_they_get_the_shortest_length() -> None:
    script = _watchman()
    split = script.index(b"\x67") + 1
    key = bytes.fromhex("02") + bytes(32)
    short = b"\x02\x90\x00\xb2\x75\x51" + push(key) + b"\x51\x68\xae"
    long = short.replace(push(key), b"\x4c" + push(key))
    assert is_watchman_script(script[:split] + long)
    tweaked = calculate_contract(script[:split] + long, CLAIM)
    assert tweaked == calculate_contract(script[:split] + short, CLAIM)
    assert tweaked.endswith(short)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DEPTH", "1"),
        ("EQUAL", "EQUALVERIFY"),
        ("IF 2", "NOTIF 2"),
        ("IF 2", "IF NOP"),
        ("IF 2", "IF 1"),
        ("IF 2", "IF 0x01 0x02"),
        ("144", "0x02 0x9000 NOP"),
        ("144", "0x03 0x900000 NOP"),
        ("CSV", "CHECKLOCKTIMEVERIFY"),
        ("DROP", "NOP"),
        ("ENDIF", "NOP"),
        ("ENDIF", "ENDIF NOP"),
        (" CHECKMULTISIG", ""),
        ("CHECKMULTISIG", "CHECKMULTISIG NOP"),
        ("CHECKMULTISIG", "CHECKMULTISIG 0x02"),
        ("ELSE", "NOP"),
    ],
)
def test_script_that_only_resembles_the_watchman_form_is_tweaked_everywhere(
    old: str, new: str
) -> None:
    script = _watchman(WATCHMAN.replace(old, new))
    assert not is_watchman_script(script)
    tweaked = calculate_contract(script, CLAIM)
    assert not any(key in tweaked for key in PEG_KEYS)


SHORTEST = "DEPTH 4 EQUAL IF 16 ELSE 144 CSV DROP 1 ENDIF CHECKMULTISIG"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", True),
        ("DROP 1", "DROP 16", False),
        ("DROP 1", "DROP 0x01 0x11", True),
        ("IF 16", "IF 0x01 0x12", True),
        ("IF 16 ELSE 144 CSV DROP 1", "IF 0x01 0x11 ELSE 144 CSV DROP 0x01 0x11", False),
        ("IF 16 ELSE 144 CSV DROP 1", "IF 0x01 0x11 ELSE 144 CSV DROP 0x01 0x12", True),
        ("DROP 1", "DROP NOP", False),
        ("ELSE 144", "ELSE NOP", False),
        ("ELSE 144", "ELSE 16", True),
        (" ENDIF", "", False),
    ],
)
def test_watchman_form_when_shortest_then_its_numbers_decide(
    old: str, new: str, expected: bool
) -> None:
    assert is_watchman_script(_watchman(SHORTEST.replace(old, new))) is expected


@pytest.mark.parametrize(
    ("script", "tweaked"),
    [("51", "51"), ("00", "00"), ("4c0161", "0161"), ("0101", "0101"), ("51026161", "51026161")],
)
def test_other_pushes_get_the_shortest_length_and_stay(script: str, tweaked: str) -> None:
    assert calculate_contract(bytes.fromhex(script), CLAIM).hex() == tweaked


def test_script_is_read_up_to_a_cut_off_push() -> None:
    assert calculate_contract(bytes.fromhex("5102aa"), CLAIM) == b"\x51"


def test_push_of_33_bytes_that_is_no_key_is_refused() -> None:
    with pytest.raises(InvalidEncoding):
        calculate_contract(push(b"\x05" * 33), CLAIM)


def _next_pairs(tip: int) -> tuple[FedpegPair, ...]:
    params = recorded_params()
    return valid_fedpegscripts(RecordedHeaders(tip), tip, params, next_block=True)


def _check_first_pegin(entry: dict[str, Any]) -> None:
    tx = Transaction.decode(case_bytes(entry))
    parent_height = entry["parent_height"]
    facts = RecordedFacts(parent_height)
    for index, item in enumerate(tx.inputs):
        if item.is_pegin:
            items = tx.input_witnesses[index].pegin
            pairs = _next_pairs(entry["tip_height"])
            check_pegin(items, item.prevout, recorded_params(), pairs, facts)


def test_recorded_refusals_have_the_recorded_texts(capsys: pytest.CaptureFixture[str]) -> None:
    texts = set()
    judged = 0
    for entry in chain_json("invalid_txs.json"):
        details = (entry["mempool"] or {}).get("reject-details", "")
        reason, _, text = details.partition(", ")
        if reason == "bad-pegin-witness":
            with pytest.raises(Stalled, match="Needs more confirmations."):
                _check_first_pegin(entry)
        elif reason == "pegin-no-witness":
            with pytest.raises(InvalidTransaction) as caught:
                _check_first_pegin(entry)
            assert caught.value.reason == "bad-pegin-witness"
            assert caught.value.detail == text, entry["label"]
        else:
            continue
        texts.add(text)
        judged += 1
    with capsys.disabled():
        print(f"\npeg-ins: {judged} refusals with {len(texts)} different texts agree")
    assert judged


def _recorded_pegins() -> list[tuple[int, Transaction, int]]:
    return [
        (height, tx, index)
        for height, block in enumerate(recorded_blocks())
        for tx in block.transactions
        for index, item in enumerate(tx.inputs)
        if item.is_pegin
    ]


def test_every_recorded_pegin_passes_with_its_depth(capsys: pytest.CaptureFixture[str]) -> None:
    params = recorded_params()
    found = _recorded_pegins()
    for height, tx, index in found:
        pairs = valid_fedpegscripts(RecordedHeaders(height), height, params, next_block=False)
        items, prevout = tx.input_witnesses[index].pegin, tx.inputs[index].prevout
        facts = RecordedFacts(parent_height_at(height))
        claim = check_pegin(items, prevout, params, pairs, facts)
        assert claim == parse_pegin(items)
        assert claim.key(prevout) == (params.parent_genesis_hash, prevout)
        assert claim.coin.output.value_sats == claim.value_sats
    with capsys.disabled():
        print(f"\npeg-ins: all {len(found)} of the recorded chain pass")
    assert found


def _first() -> tuple[list[bytes], OutPoint, tuple[FedpegPair, ...]]:
    height, tx, index = _recorded_pegins()[0]
    pairs = valid_fedpegscripts(
        RecordedHeaders(height), height, recorded_params(), next_block=False
    )
    return list(tx.input_witnesses[index].pegin), tx.inputs[index].prevout, pairs


def test_depth_needs_confirmations_and_the_right_transaction_count() -> None:
    items, prevout, pairs = _first()
    params = recorded_params()
    proof = parse_pegin(items).proof

    class Facts:
        def __init__(self, answer: tuple[int, int] | None) -> None:
            self.answer = answer

        def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
            assert block_hash == proof.header.hash
            return self.answer

    depth, count = params.pegin_confirmation_depth, proof.tx_count
    check_pegin(items, prevout, params, pairs, Facts((depth, count)))
    check_pegin(items, prevout, params, pairs, None)
    for answer in (None, (depth - 1, count), (-1, count), (depth, count + 1)):
        with pytest.raises(Stalled):
            check_pegin(items, prevout, params, pairs, Facts(answer))


def test_trailing_bytes_of_the_value_are_ignored_and_a_short_value_is_not() -> None:
    items, prevout, pairs = _first()
    params = recorded_params()
    longer = [items[0] + b"\xff", *items[1:]]
    assert check_pegin(longer, prevout, params, pairs, None) == parse_pegin(items)
    with pytest.raises(InvalidTransaction, match="Could not deserialize value."):
        check_pegin([items[0][:7], *items[1:]], prevout, params, pairs, None)


def test_earlier_check_is_reported_first() -> None:
    items, prevout, pairs = _first()
    params = recorded_params()
    wrong = {
        0: (b"\xff" * 8, "Value was not in valid value range."),
        1: (bytes(31), "Asset type was not 32 bytes."),
        3: (bytes(101), "Claim script is too large."),
        5: (b"", "Could not extract block and tx from merkleblock."),
        4: (b"", "Peg-in tx is invalid."),
    }
    for number in range(len(wrong)):
        changed = list(items)
        for place, (value, _) in list(wrong.items())[number:]:
            changed[place] = value
        with pytest.raises(InvalidTransaction) as caught:
            check_pegin(changed, prevout, params, pairs, None)
        assert caught.value.detail == list(wrong.values())[number][1]


def test_unknown_witness_version_of_the_program_lets_every_claim_pass() -> None:
    items, prevout, _ = _first()
    params = recorded_params()
    open_pair = FedpegPair(b"\x51\x20" + bytes(32), b"\x51")
    check_pegin(items, prevout, params, [open_pair], None)
    with pytest.raises(InvalidTransaction, match="Peg-in tx is invalid."):
        check_pegin(items, prevout, params, [FedpegPair(p2wsh(b"\x51"), b"\x51")], None)


def test_fedpegscript_that_cannot_be_tweaked_matches_nothing() -> None:
    items, prevout, pairs = _first()
    broken = FedpegPair(p2wsh(b""), push(b"\x05" * 33))
    check_pegin(items, prevout, recorded_params(), [broken, *pairs], None)
    with pytest.raises(InvalidTransaction):
        check_pegin(items, prevout, recorded_params(), [broken], None)


def test_limits_of_a_witness_when_reached_then_allowed_and_when_passed_then_refused() -> None:
    """elements/peg.md 3.1: the amount up to all money, the claim script up to 100 bytes."""
    items, prevout, pairs = _first()
    params = recorded_params()

    def refusal(place: int, value: bytes) -> str:
        changed = [*items[:place], value, *items[place + 1 :]]
        with pytest.raises(InvalidTransaction) as caught:
            check_pegin(changed, prevout, params, pairs, None)
        return caught.value.detail

    out_of_range = "Value was not in valid value range."
    assert refusal(0, le64(MAX_MONEY_SATS)) == refusal(0, le64(0)) == "Peg-in tx is invalid."
    assert refusal(0, le64(MAX_MONEY_SATS + 1)) == out_of_range
    assert refusal(0, items[0][:7] + b"\x01") == refusal(0, b"\xff" * 8) == out_of_range
    assert refusal(3, bytes(100)) == "Peg-in tx is invalid."
    assert refusal(3, bytes(101)) == "Claim script is too large."
    for size in (31, 33):
        assert refusal(2, bytes(size)) == "Parent genesis blockchaash was not 32 bytes."
    outputs = parse_pegin(items).parent_tx.outputs
    behind = OutPoint(prevout.txid, len(outputs))
    with pytest.raises(InvalidTransaction, match="Peg-in tx is invalid."):
        check_pegin(items, behind, params, pairs, None)


def test_coin_of_a_claim_when_made_then_of_no_block() -> None:
    coin = parse_pegin(_first()[0]).coin
    assert (coin.height, coin.coinbase) == (0, False)


@given(st.lists(st.binary(max_size=120), max_size=8))
def test_any_witness_is_read_or_refused(items: list[bytes]) -> None:
    with pytest.raises(InvalidTransaction):
        parse_pegin(items)


def test_recorded_claims_say_what_was_deposited() -> None:
    for deposit in chain_json("parent.json")["deposits"]:
        if deposit.get("claimed_by") is None:
            continue
        tx = next(
            tx
            for tx in recorded_blocks()[deposit["claimed_at_height"]].transactions
            if tx.txid == internal(deposit["claimed_by"])
        )
        outpoint = OutPoint(internal(deposit["txid"]), deposit["vout"])
        index = [item.prevout for item in tx.inputs].index(outpoint)
        claim = parse_pegin(tx.input_witnesses[index].pegin)
        assert claim.value_sats == deposit["amount_sat"]
        assert claim.claim_script.hex() == deposit["claim_script"]
        assert claim.parent_tx.stripped.hex() == deposit["raw_tx_stripped"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_witness_is_refused_and_nothing_worse(data: st.DataObject) -> None:
    items, prevout, pairs = _first()
    place = data.draw(st.integers(0, 5))
    position = data.draw(st.integers(0, len(items[place]) - 1))
    tail = items[place][position + 1 :]
    damaged = items[place][:position] + data.draw(st.binary(max_size=3)) + tail
    changed = [damaged if n == place else item for n, item in enumerate(items)]
    try:
        claim = check_pegin(changed, prevout, recorded_params(), pairs, None)
    except InvalidTransaction as fault:
        assert fault.reason == "bad-pegin-witness"
    else:
        assert claim.value_sats == parse_pegin(items).value_sats
        assert claim.claim_script == items[3]
