"""The direct paths against the interpreter, on spends that are right and on spends that are not."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.keys import ecdsa_sign, public_key, schnorr_sign
from sidechain.errors import ScriptError
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.direct import verify_direct
from sidechain.script.flags import CONSENSUS_FLAGS, POLICY_FLAGS, STANDARD_FLAGS, Flags
from sidechain.script.interpreter import run_input, verify_input
from sidechain.script.script import (
    multisig_script,
    p2pkh,
    p2sh,
    p2tr,
    p2wpkh,
    p2wsh,
    push,
)
from sidechain.script.sighash import SighashCache, TaprootPath, legacy_sighash, segwit_v0_sighash
from sidechain.script.taproot import taproot_sighash

GENESIS_HASH = b"\x0c" * 32
SECRETS = [bytes([number]) * 32 for number in range(1, 5)]
KEYS = [public_key(secret) for secret in SECRETS]
ASSET = explicit_asset(b"\x07" * 32)
OTHER = TxOut(ASSET, explicit_value(5), NULL, p2wpkh(KEYS[3]))
FORMS = ["p2wpkh", "p2sh-p2wpkh", "p2wsh", "p2sh-p2wsh", "p2pkh", "p2tr"]
HASH_TYPES = [1, 1, 1, 2, 3, 0x81, 0x82, 0x83, 0x41, 0xC3, 0, 4, 0x21, 0x80]
FLAG_SETS = [
    CONSENSUS_FLAGS,
    STANDARD_FLAGS,
    CONSENSUS_FLAGS & ~Flags.SIGHASH_RANGEPROOF,
    CONSENSUS_FLAGS & ~Flags.TAPROOT,
    Flags.P2SH | Flags.WITNESS,
    Flags.P2SH | POLICY_FLAGS | Flags.WITNESS,
    Flags.P2SH,
    Flags.NONE,
]


@dataclass(frozen=True)
class Spend:
    """One input to judge, with everything that is known about it."""

    tx: Transaction
    index: int
    spent: list[TxOut]

    @property
    def cache(self) -> SighashCache:
        return SighashCache(self.tx, self.spent, GENESIS_HASH)

    def direct(self, flags: Flags) -> bool:
        return verify_direct(self.tx, self.index, self.spent[self.index], flags, self.cache)

    def run(self, flags: Flags) -> str:
        return self._reason(run_input, flags)

    def verify(self, flags: Flags) -> str:
        return self._reason(verify_input, flags)

    def _reason(self, judge: object, flags: Flags) -> str:
        spent = self.spent[self.index]
        try:
            judge(self.tx, self.index, spent, flags, self.cache)  # type: ignore[operator]
        except ScriptError as fault:
            return fault.reason
        return ""


def unsigned(sequence: int, *, odd: bool = False) -> Transaction:
    """Two inputs and an output; the odd one has an issuance, a peg-in flag and proofs."""
    issuance = Issuance(
        blinding_nonce=bytes(32),
        entropy=b"\x03" * 32,
        amount=explicit_value(7),
        inflation_keys=NULL,
    )
    first = TxIn(OutPoint(b"\x01" * 32, 1), b"", sequence, issuance if odd else None)
    second = TxIn(OutPoint(b"\x02" * 32, 0), is_pegin=odd)
    proofs = [OutputWitness(b"surjection", b"range")] if odd else ()
    return Transaction.build(inputs=[first, second], outputs=[OTHER], output_witnesses=proofs)


def script_of(form: str, code: bytes) -> tuple[bytes, bytes]:
    """Output script, and what an input reveals of it in its own script."""
    program = {"p2wpkh": p2wpkh(KEYS[0]), "p2wsh": p2wsh(code)}.get(form.removeprefix("p2sh-"), b"")
    if form.startswith("p2sh-"):
        return p2sh(program), push(program)
    return program or (p2tr(KEYS[0][1:]) if form == "p2tr" else p2pkh(KEYS[0])), b""


def sign(spend: Spend, form: str, code: bytes, secret: bytes, kind: int) -> bytes:
    """A signature in the form that the output asks for; undefined types give a wrong one."""
    if form == "p2tr":
        digest = taproot_sighash(spend.cache, spend.index, kind, TaprootPath()) or bytes(32)
        return schnorr_sign(secret, digest) + (bytes((kind,)) if kind else b"")
    if form == "p2pkh":
        digest = legacy_sighash(spend.tx, spend.index, code, kind, rangeproof=True)
    else:
        value = spend.spent[spend.index].value
        digest = segwit_v0_sighash(spend.tx, spend.index, code, value, kind, rangeproof=True)
    return ecdsa_sign(secret, digest) + bytes((kind,))


def signed(
    spend: Spend, form: str, code: bytes, signatures: list[bytes], dummy: bytes, key: bytes
) -> tuple[bytes, list[bytes]]:
    """Input script and witness."""
    script_sig = script_of(form, code)[1]
    if form == "p2pkh":
        return push(signatures[0]) + push(key), []
    if form == "p2tr":
        return script_sig, signatures
    if form.endswith("p2wpkh"):
        return script_sig, [*signatures, key]
    return script_sig, [dummy, *signatures, code]


def completed(spend: Spend, script_sig: bytes, witness: list[bytes]) -> Spend:
    """The spend with what its input shows."""
    inputs = list(spend.tx.inputs)
    inputs[spend.index] = replace(inputs[spend.index], script_sig=script_sig)
    witnesses = [InputWitness(), InputWitness()]
    witnesses[spend.index] = InputWitness(script=tuple(witness))
    tx = Transaction.build(
        inputs=inputs,
        outputs=spend.tx.outputs,
        input_witnesses=witnesses,
        output_witnesses=spend.tx.output_witnesses,
    )
    return replace(spend, tx=tx)


@st.composite
def spends(draw: st.DrawFn) -> Spend:
    """A signed input of one of the direct forms, often with something wrong about it."""
    index = draw(st.integers(0, 1))
    form = draw(st.sampled_from(FORMS))
    kind = draw(st.sampled_from(HASH_TYPES))
    count = draw(st.integers(1, 4))
    threshold = draw(st.integers(1, count))
    multisig = form.endswith("p2wsh")
    code = multisig_script(threshold, KEYS[:count]) if multisig else p2pkh(KEYS[0])
    value = explicit_value(draw(st.integers(1, 10**9)))
    spent = [OTHER, OTHER]
    spent[index] = TxOut(ASSET, value, NULL, script_of(form, code)[0])
    tx = unsigned(draw(st.sampled_from([0, 0xFFFFFFFF])), odd=draw(st.booleans()))
    spend = Spend(tx, index, spent)
    chosen = [0]
    if multisig:
        size = threshold + draw(st.sampled_from([0, 0, 0, -1, 1]))
        order = list(draw(st.permutations(range(4))))[:size]
        chosen = sorted(order) if draw(st.booleans()) else order
    signatures = [sign(spend, form, code, SECRETS[i], kind) for i in chosen]
    dummy = draw(st.sampled_from([b"", b"", b"", b"\x01"]))
    key = KEYS[draw(st.sampled_from([0, 0, 0, 1]))]
    script_sig, witness = signed(spend, form, code, signatures, dummy, key)
    return completed(spend, *_disturb(draw, script_sig, witness))


def _disturb(draw: st.DrawFn, script_sig: bytes, witness: list[bytes]) -> tuple[bytes, list[bytes]]:
    fault = draw(st.sampled_from(["none", "none", "none", "flip", "extra", "drop", "swap"]))
    if fault == "extra":
        script_sig += draw(st.sampled_from([b"", b"\x00", b"\x51"]))
        more = draw(st.sampled_from([b"\x01", b"\x50", b""]))
        witness = [*witness, more] if draw(st.booleans()) else witness
    elif fault == "drop":
        script_sig, witness = script_sig[:-1], witness[1:]
    elif fault == "swap":
        witness = witness[::-1]
    elif fault == "flip":
        place = draw(st.integers(0, 200))
        witness = [_flip(item, place) if i == 0 else item for i, item in enumerate(witness)]
        script_sig = _flip(script_sig, place)
    return script_sig, witness


def _flip(item: bytes, place: int) -> bytes:
    if not item:
        return item
    place %= len(item)
    return item[:place] + bytes((item[place] ^ 1,)) + item[place + 1 :]


@settings(max_examples=600, deadline=None)
@given(spends(), st.sampled_from(FLAG_SETS))
def test_direct_path_when_it_accepts_then_so_does_the_interpreter(
    spend: Spend, flags: Flags
) -> None:
    reason = spend.run(flags)
    assert not (spend.direct(flags) and reason)
    assert spend.verify(flags) == reason


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flags", [CONSENSUS_FLAGS, STANDARD_FLAGS])
def test_direct_path_when_spend_is_plain_then_taken(form: str, flags: Flags) -> None:
    multisig = form.endswith("p2wsh")
    code = multisig_script(2, KEYS[:3]) if multisig else p2pkh(KEYS[0])
    own = TxOut(ASSET, explicit_value(9), NULL, script_of(form, code)[0])
    spend = Spend(unsigned(0), 0, [own, OTHER])
    chosen = (SECRETS[0], SECRETS[2]) if multisig else (SECRETS[0],)
    signatures = [sign(spend, form, code, secret, 1) for secret in chosen]
    spend = completed(spend, *signed(spend, form, code, signatures, b"", KEYS[0]))
    assert spend.direct(flags)
    assert spend.run(flags) == ""


def test_direct_path_when_spent_outputs_are_unknown_then_not_taken_for_taproot() -> None:
    own = TxOut(ASSET, explicit_value(9), NULL, p2tr(KEYS[0][1:]))
    spend = Spend(unsigned(0), 0, [own, OTHER])
    signature = sign(spend, "p2tr", b"", SECRETS[0], 0)
    spend = completed(spend, b"", [signature])
    assert spend.direct(CONSENSUS_FLAGS)
    assert not verify_direct(spend.tx, 0, own, CONSENSUS_FLAGS)
