"""Blinding and opening: the worked example, other people's outputs, what cannot be blinded."""

from dataclasses import replace

import pytest
import wallycore
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto import zkp
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.issuance import asset_from_entropy, issuance_entropy, token_from_entropy
from sidechain.primitives.transaction import (
    EMPTY_OUTPUT_WITNESS,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.validation.amounts import check_amounts
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import verify_proofs
from sidechain.wallet.blinding import (
    MAX_HIDDEN_VALUE_SATS,
    RANGE_PROOF_BYTES,
    Opened,
    blind,
    fields,
    issuance_script,
    surjection_proof_bytes,
    throwaway_key,
    unblind,
    unblind_issuance,
)
from sidechain.wallet.keys import Branch, PrivateAccount, SecretKey

PEGGED = sha256(b"pegged")
OTHER = sha256(b"other")
ENTROPY = sha256(b"entropy")
ACCOUNT = PrivateAccount.from_seed(bytes(range(64))).public
SCRIPTS = [ACCOUNT.script(Branch.RECEIVE, index) for index in range(4)]
KEYS = [ACCOUNT.blinding_public_key(script) for script in SCRIPTS]
OP_RETURN = b"\x6a"

# elements/transactions.md 9.3
EXAMPLE_SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")
EXAMPLE_ASSET = bytes.fromhex("230f4f5d4b7c6fa845806ee4f67713459e1b69e8e60fcee2e4940c7a0d5de1b2")
EXAMPLE = Opened(
    asset=EXAMPLE_ASSET,
    value_sats=12_345_678,
    abf=bytes.fromhex("431b36f2b16be7471a7cce44b22a6d9d4be6faf0a6f4e5f068a6124b951826a9"),
    vbf=bytes.fromhex("7f608440814644a4c04db62cde78a43ad4e5015350e68d72012c8a0de98eba4f"),
)
EXAMPLE_NONCE = bytes.fromhex("039c7a3a75b43dfa0c28c911a4ff1ff157a176116c4e4d00ca15fead57b4806c03")
EXAMPLE_REWIND = bytes.fromhex("aadc48fc3ec88b04deacc01a8e9f33bcbc9dd0039cf89e0d6162028377d72e75")


def plain(asset: bytes, value: int, script: bytes) -> TxOut:
    return TxOut(explicit_asset(asset), explicit_value(value), NULL, script)


def unsigned(inputs: int, outputs: list[TxOut], issuance: Issuance | None = None) -> Transaction:
    points = [OutPoint(sha256(b"in %d" % number), number) for number in range(inputs)]
    ins = [TxIn(point) for point in points]
    ins[0] = replace(ins[0], issuance=issuance)
    return Transaction.build(version=2, inputs=ins, outputs=outputs)


def coins(spent: list[Opened]) -> list[Coin]:
    made = []
    for item in spent:
        asset, value = fields(item)
        made.append(Coin(asset=asset, value=value, script=b"\x51", height=1, coinbase=False))
    return made


def verify(tx: Transaction, spent: list[Opened]) -> None:
    verify_proofs(check_amounts(tx, coins(spent), PEGGED))


def open_output(tx: Transaction, position: int) -> Opened | None:
    output = tx.outputs[position]
    secret = ACCOUNT.blinding_secret(output.script)
    return unblind(output, tx.output_witnesses[position], secret, PEGGED)


def example_output() -> tuple[TxOut, OutputWitness]:
    asset, value = fields(EXAMPLE)
    proof = wallycore.asset_rangeproof_with_nonce(
        EXAMPLE.value_sats,
        EXAMPLE_REWIND,
        EXAMPLE.asset,
        EXAMPLE.abf,
        EXAMPLE.vbf,
        value,
        EXAMPLE_SCRIPT,
        asset,
        1,
        0,
        52,
    )
    output = TxOut(asset, value, EXAMPLE_NONCE, EXAMPLE_SCRIPT)
    return output, OutputWitness(b"\0", bytes(proof))


def test_output_when_it_is_the_worked_example_then_it_opens_with_our_key() -> None:
    output, witness = example_output()
    digest = "9253d6004cf01dc212fbb6a307448d247866dffa1594eae19fec3657b0a9f32d"
    assert sha256(witness.range_proof).hex() == digest
    assert output.asset.hex().startswith("0b2fdeda28057cb2")
    assert output.value.hex().startswith("093dc754130989")
    secret = ACCOUNT.blinding_secret(EXAMPLE_SCRIPT)
    assert unblind(output, witness, secret, EXAMPLE_ASSET) == EXAMPLE


def test_output_when_anything_about_it_is_changed_then_it_does_not_open() -> None:
    output, witness = example_output()
    secret = ACCOUNT.blinding_secret(EXAMPLE_SCRIPT)
    other_asset, other_value = fields(replace(EXAMPLE, value_sats=5, abf=ENTROPY))
    for changed in (
        replace(output, asset=other_asset),
        replace(output, value=other_value),
        replace(output, script=EXAMPLE_SCRIPT[:-1] + b"\0"),
        replace(output, nonce=KEYS[0] or b""),
        replace(output, nonce=NULL),
        replace(output, nonce=b"\x02" + b"\xff" * 32),
        replace(output, asset=explicit_asset(EXAMPLE_ASSET)),
        replace(output, value=explicit_value(EXAMPLE.value_sats)),
    ):
        assert unblind(changed, witness, secret, EXAMPLE_ASSET) is None
    proof = bytearray(witness.range_proof)
    proof[-1] ^= 1
    assert unblind(output, OutputWitness(b"\0", bytes(proof)), secret, EXAMPLE_ASSET) is None
    assert unblind(output, OutputWitness(), secret, EXAMPLE_ASSET) is None
    assert unblind(output, witness, SecretKey(ENTROPY), EXAMPLE_ASSET) is None
    assert unblind(output, witness, None, EXAMPLE_ASSET) is None


def test_output_when_the_message_lies_about_the_asset_then_it_does_not_open() -> None:
    asset, value = fields(EXAMPLE)
    proof = wallycore.asset_rangeproof_with_nonce(
        EXAMPLE.value_sats,
        EXAMPLE_REWIND,
        OTHER,  # the sender says another asset than the generator is of
        EXAMPLE.abf,
        EXAMPLE.vbf,
        value,
        EXAMPLE_SCRIPT,
        asset,
        1,
        0,
        52,
    )
    output = TxOut(asset, value, EXAMPLE_NONCE, EXAMPLE_SCRIPT)
    secret = ACCOUNT.blinding_secret(EXAMPLE_SCRIPT)
    assert zkp.verify_range_proof(bytes(proof), value, asset, EXAMPLE_SCRIPT) is not None
    assert unblind(output, OutputWitness(b"\0", bytes(proof)), secret, EXAMPLE_ASSET) is None


@pytest.mark.parametrize("value", [0, MAX_MONEY_SATS + 1, 2**63])
def test_explicit_output_when_its_amount_is_no_money_then_it_holds_nothing(value: int) -> None:
    output = plain(PEGGED, value, SCRIPTS[0])
    assert unblind(output, EMPTY_OUTPUT_WITNESS, None, PEGGED) is None
    whole = plain(PEGGED, MAX_MONEY_SATS, SCRIPTS[0])
    held = Opened(asset=PEGGED, value_sats=MAX_MONEY_SATS)
    assert unblind(whole, EMPTY_OUTPUT_WITNESS, None, PEGGED) == held


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.integers(1, 10**12), min_size=1, max_size=4),
    hidden_input=st.booleans(),
    entropy=st.binary(min_size=32, max_size=32).filter(any),
)
def test_transaction_when_blinded_then_consensus_takes_it_and_receivers_open_it(
    values: list[int], hidden_input: bool, entropy: bytes
) -> None:
    fee = 100
    abf, vbf = (sha256(b"abf"), sha256(b"vbf")) if hidden_input else (bytes(32), bytes(32))
    spent = [
        Opened(asset=PEGGED, value_sats=sum(values) + fee, abf=abf, vbf=vbf),
        Opened(asset=OTHER, value_sats=77),
    ]
    outputs = [plain(PEGGED, value, SCRIPTS[0]) for value in values]
    outputs += [plain(OTHER, 77, SCRIPTS[1]), plain(PEGGED, fee, b"")]
    receivers = [*[KEYS[0]] * len(values), KEYS[1], None]
    tx = blind(unsigned(2, outputs), spent, receivers, entropy=entropy)
    verify(tx, spent)
    assert Transaction.decode(tx.raw) == tx
    for position, value in enumerate(values):
        opened = open_output(tx, position)
        assert opened is not None
        assert (opened.asset, opened.value_sats) == (PEGGED, value)
        assert fields(opened) == (tx.outputs[position].asset, tx.outputs[position].value)
    last = open_output(tx, len(values))
    assert last is not None and (last.asset, last.value_sats) == (OTHER, 77)
    assert tx.outputs[-1] == outputs[-1] and tx.output_witnesses[-1].is_empty
    assert tx == blind(unsigned(2, outputs), spent, receivers, entropy=entropy)


def test_transaction_when_blinded_then_as_long_as_measured_beforehand() -> None:
    spent = [Opened(asset=PEGGED, value_sats=600)]
    outputs = [plain(PEGGED, 500, SCRIPTS[0]), plain(PEGGED, 0, OP_RETURN)]
    outputs.append(plain(PEGGED, 100, b""))
    tx = blind(
        unsigned(1, outputs), spent, [KEYS[0], throwaway_key(ENTROPY), None], entropy=ENTROPY
    )
    verify(tx, spent)
    first, second, _ = tx.output_witnesses
    assert len(first.range_proof) == RANGE_PROOF_BYTES
    assert len(second.range_proof) < RANGE_PROOF_BYTES
    assert len(first.surjection_proof) == surjection_proof_bytes(1) == 67
    empty_witness_section = 4 + 3 * 2
    assert tx.discount_weight_wu() == unsigned(1, outputs).weight_wu + empty_witness_section


def test_blinding_when_the_entropy_or_the_transaction_differs_then_nothing_is_shared() -> None:
    spent = [Opened(asset=PEGGED, value_sats=600)]
    receivers = [KEYS[0], KEYS[1], None]
    seen: set[bytes] = set()
    for entropy, split in ((ENTROPY, 200), (sha256(ENTROPY), 200), (ENTROPY, 201)):
        outputs = [plain(PEGGED, split, SCRIPTS[0]), plain(PEGGED, 500 - split, SCRIPTS[1])]
        outputs.append(plain(PEGGED, 100, b""))
        tx = blind(unsigned(1, outputs), spent, receivers, entropy=entropy)
        made = {part for out in tx.outputs[:2] for part in (out.asset, out.value, out.nonce)}
        assert len(made) == 6 and seen.isdisjoint(made)
        seen |= made


@pytest.mark.parametrize("inputs", [1, 3, 40, 256])
def test_surjection_proof_when_there_are_many_inputs_then_it_names_three(inputs: int) -> None:
    each = sha256(b"a"), sha256(b"v")
    spent = [Opened(asset=OTHER, value_sats=1) for _ in range(inputs - 1)]
    spent.append(Opened(asset=PEGGED, value_sats=900, abf=each[0], vbf=each[1]))
    outputs = [plain(PEGGED, 800, SCRIPTS[0]), plain(PEGGED, 100, b"")]
    receivers = [KEYS[0], None]
    if inputs > 1:
        outputs.append(plain(OTHER, inputs - 1, SCRIPTS[1]))
        receivers.append(None)
    tx = blind(unsigned(inputs, outputs), spent, receivers, entropy=ENTROPY)
    verify(tx, spent)
    assert len(tx.output_witnesses[0].surjection_proof) == surjection_proof_bytes(inputs)


@pytest.mark.parametrize(
    ("inputs", "value", "receivers", "reason"),
    [
        (1, 500, [KEYS[0], None], "one blinded output alone"),
        (257, 500, [KEYS[0], None], "too many inputs"),
        (1, 500, [b"\x02" + b"\xff" * 32, None], "not a compressed public key"),
        (2, MAX_HIDDEN_VALUE_SATS + 1, [KEYS[0], None], "too large"),
        (2, 500, [None, None], "need a blinded output"),
    ],
)
def test_blinding_when_there_is_no_way_then_refused(
    inputs: int, value: int, receivers: list[bytes | None], reason: str
) -> None:
    spent = [Opened(asset=PEGGED, value_sats=value + 100)]
    spent += [
        Opened(asset=OTHER, value_sats=1, abf=sha256(b"a"), vbf=sha256(b"v"))
        for _ in range(inputs - 1)
    ]
    if "compressed" in reason:
        spent[0] = replace(spent[0], abf=ENTROPY, vbf=ENTROPY)
    outputs = [plain(PEGGED, value, SCRIPTS[0]), plain(PEGGED, 100, b"")]
    with pytest.raises(InvalidEncoding, match=reason):
        blind(unsigned(inputs, outputs), spent, receivers, entropy=ENTROPY)


@pytest.mark.parametrize("entropy", [b"", bytes(32), b"\1" * 31, b"\1" * 33])
def test_blinding_when_the_entropy_is_none_then_refused(entropy: bytes) -> None:
    with pytest.raises(InvalidEncoding, match="fresh random bytes"):
        blind(unsigned(1, []), [Opened(asset=PEGGED, value_sats=1)], [], entropy=entropy)


def test_blinded_output_when_no_input_has_its_asset_then_refused() -> None:
    spent = [Opened(asset=PEGGED, value_sats=600)]
    outputs = [plain(OTHER, 500, SCRIPTS[0]), plain(PEGGED, 100, SCRIPTS[1])]
    with pytest.raises(InvalidEncoding, match="no input has"):
        blind(unsigned(1, outputs), spent, [KEYS[0], KEYS[1]], entropy=ENTROPY)


@pytest.mark.parametrize("tokens", [0, 2])
def test_hidden_issuance_when_blinded_then_consensus_takes_it_and_its_key_opens_it(
    tokens: int,
) -> None:
    issuance = Issuance(
        blinding_nonce=bytes(32),
        entropy=sha256(b"contract"),
        amount=explicit_value(1_000),
        inflation_keys=explicit_value(tokens) if tokens else NULL,
    )
    point = OutPoint(sha256(b"in 0"), 0)
    entropy = issuance_entropy(point, sha256(b"contract"))
    asset = asset_from_entropy(entropy)
    outputs = [plain(asset, 1_000, SCRIPTS[0]), plain(PEGGED, 500, SCRIPTS[1])]
    receivers: list[bytes | None] = [KEYS[0], KEYS[1]]
    if tokens:
        token = token_from_entropy(entropy, confidential_amount=True)
        outputs.append(plain(token, tokens, SCRIPTS[2]))
        receivers.append(KEYS[2])
    outputs.append(plain(PEGGED, 100, b""))
    receivers.append(None)
    spent = [Opened(asset=PEGGED, value_sats=600)]
    secret = ACCOUNT.blinding_secret(issuance_script(point))
    assert secret is not None
    tx = blind(
        unsigned(1, outputs, issuance),
        spent,
        receivers,
        entropy=ENTROPY,
        issuance_secrets={0: secret},
    )
    verify(tx, spent)
    opened = unblind_issuance(tx.inputs[0], tx.input_witnesses[0], secret)
    assert [None if item is None else item.value_sats for item in opened] == [
        1_000,
        tokens or None,
    ]
    wrong = unblind_issuance(tx.inputs[0], tx.input_witnesses[0], SecretKey(ENTROPY))
    assert wrong == (None, None)


def test_issuance_script_when_built_then_as_elements_writes_it() -> None:
    txid = sha256(b"tx")
    assert issuance_script(OutPoint(txid, 0)) == b"\x6a\x20" + txid + b"\x00"
    assert issuance_script(OutPoint(txid, 16)) == b"\x6a\x20" + txid + b"\x60"
    assert issuance_script(OutPoint(txid, 200)) == b"\x6a\x20" + txid + b"\x02\xc8\x00"


@settings(max_examples=15, deadline=None)
@given(value=st.integers(1, 2**40), entropy=st.binary(min_size=32, max_size=32).filter(any))
def test_our_output_when_wallycore_opens_it_then_the_same(value: int, entropy: bytes) -> None:
    spent = [Opened(asset=PEGGED, value_sats=value + 1_000)]
    outputs = [plain(PEGGED, value, SCRIPTS[0]), plain(PEGGED, 900, SCRIPTS[1])]
    outputs.append(plain(PEGGED, 100, b""))
    tx = blind(unsigned(1, outputs), spent, [KEYS[0], KEYS[1], None], entropy=entropy)
    made, witness = tx.outputs[0], tx.output_witnesses[0]
    secret = ACCOUNT.blinding_secret(made.script)
    assert secret is not None
    amount, asset, abf, vbf = wallycore.asset_unblind(
        made.nonce, secret.value, witness.range_proof, made.value, made.script, made.asset
    )
    ours = open_output(tx, 0)
    assert ours == Opened(asset=bytes(asset), value_sats=amount, abf=bytes(abf), vbf=bytes(vbf))
    assert ours is not None and ours.value_sats == value


@settings(max_examples=15, deadline=None)
@given(
    value=st.integers(1, 2**40),
    blinders=st.lists(st.binary(min_size=32, max_size=32), min_size=3, max_size=3, unique=True),
    asset_is_shown=st.booleans(),
)
def test_output_when_wallycore_blinded_it_then_we_open_it(
    value: int, blinders: list[bytes], asset_is_shown: bool
) -> None:
    abf, vbf, ephemeral = (sha256(drawn) for drawn in blinders)
    abf = bytes(32) if asset_is_shown else abf
    generator = bytes(wallycore.asset_generator_from_bytes(OTHER, abf))
    commitment = bytes(wallycore.asset_value_commitment(value, vbf, generator))
    proof = wallycore.asset_rangeproof(
        value, KEYS[0], ephemeral, OTHER, abf, vbf, commitment, SCRIPTS[0], generator, 1, 0, 52
    )
    field = explicit_asset(OTHER) if asset_is_shown else generator
    nonce = bytes(wallycore.ec_public_key_from_private_key(ephemeral))
    output = TxOut(field, commitment, nonce, SCRIPTS[0])
    secret = ACCOUNT.blinding_secret(SCRIPTS[0])
    found = unblind(output, OutputWitness(b"", bytes(proof)), secret, PEGGED)
    assert found == Opened(asset=OTHER, value_sats=value, abf=abf, vbf=vbf)
    assert fields(found) == (field, commitment)
