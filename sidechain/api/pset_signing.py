"""Solving the inputs of a PSET: what is there, what is missing, and what can be signed.

Bare keys, key hashes, multisig, P2SH, segwit v0 (also nested) and the key path of taproot; other
witness scripts and taproot's script path are left to the wallets that made them.

Source: BIP 174, BIP 371; outcomes as elementsd's `SignPSBTInput` has them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sidechain.api.pset_transaction import pset_output, unsigned_transaction
from sidechain.crypto.hashes import hash160, ripemd160, sha256
from sidechain.crypto.keys import ecdsa_sign_short, schnorr_sign
from sidechain.errors import ScriptError
from sidechain.params import ChainParams
from sidechain.primitives.encoding import vectors
from sidechain.primitives.pset import FieldMap, Pset
from sidechain.primitives.pset_values import leaf_path, read_stack
from sidechain.primitives.transaction import OutputWitness, Transaction, TxOut
from sidechain.script.flags import STANDARD_FLAGS, Flags, SigVersion
from sidechain.script.interpreter import verify_input
from sidechain.script.script import (
    ScriptKind,
    classify,
    p2pkh_of_hash,
    parse_multisig,
    push,
    push_number,
)
from sidechain.script.sighash import (
    SighashCache,
    TaprootPath,
    legacy_sighash,
    segwit_v0_sighash,
)
from sidechain.script.taproot import taproot_sighash

DUMMY_SIGNATURE = b"\x30" + bytes(69) + b"\x01"
"""As long as most signatures, for estimates of size."""


@dataclass(slots=True)
class Provider:
    """Keys, scripts and origins that somebody brings along."""

    secrets: dict[bytes, bytes] = field(default_factory=dict)
    """By public key."""
    by_hash: dict[bytes, bytes] = field(default_factory=dict)
    """Public keys by hash160."""
    scripts: dict[bytes, bytes] = field(default_factory=dict)
    """By hash160."""
    origins: dict[bytes, bytes] = field(default_factory=dict)
    """Fingerprint and path by public key."""
    taproot: dict[bytes, tuple[bytes, bytes | None]] = field(default_factory=dict)
    """Internal key, and the secret of the output key, by output key."""

    def add_script(self, script: bytes) -> None:
        """Know a script by its hash."""
        self.scripts[hash160(script)] = script


@dataclass(slots=True)
class Solution:
    """What solving an input or output came to; hashes as they stand in scripts."""

    signatures: dict[bytes, bytes] = field(default_factory=dict)
    origins: dict[bytes, bytes] = field(default_factory=dict)
    redeem_script: bytes = b""
    witness_script: bytes = b""
    script_sig: bytes = b""
    witness: tuple[bytes, ...] = ()
    is_segwit: bool = False
    is_complete: bool = False
    internal_key: bytes = b""
    internal_origin: bytes = b""
    taproot_signature: bytes = b""
    missing_pubkeys: list[bytes] = field(default_factory=list)
    missing_signatures: list[bytes] = field(default_factory=list)
    missing_redeem_script: bytes = b""
    missing_witness_script: bytes = b""

    @property
    def misses_data(self) -> bool:
        """Whether more than signatures is missing."""
        return bool(
            self.missing_pubkeys or self.missing_redeem_script or self.missing_witness_script
        )


Sign = Callable[[bytes, bytes, SigVersion], bytes | None]
"""A signature by a public key over a script, or None."""


class _Solver:
    def __init__(
        self,
        found: FieldMap,
        provider: Provider,
        sign: Sign,
        sign_taproot: Callable[[bytes], bytes | None],
        *,
        op_true_is_mine: bool,
    ) -> None:
        self._provider = provider
        self._sign = sign
        self._sign_taproot = sign_taproot
        self._op_true_is_mine = op_true_is_mine
        self.out = Solution(
            signatures=dict(found.entries("partial_sig")),
            origins=dict(found.entries("bip32")),
            redeem_script=found.get("redeem_script"),
            witness_script=found.get("witness_script"),
            internal_key=found.get("tap_internal_key"),
            taproot_signature=found.get("tap_key_sig"),
        )
        self._by_hash = provider.by_hash | {
            hash160(key): key for key in (*self.out.origins, *self.out.signatures)
        }

    def solve(self, script: bytes) -> bool:
        """Fill `out`; whether everything is there for an input of the script."""
        out, is_nested = self.out, False
        solved, stack = self._step(script, SigVersion.BASE)
        kind = classify(script)
        if solved and kind is ScriptKind.SCRIPTHASH:
            script, is_nested = stack[0], True
            out.redeem_script = script
            kind = classify(script)
            solved, stack = self._step(script, SigVersion.BASE)
            solved = solved and kind is not ScriptKind.SCRIPTHASH
        if solved and kind is ScriptKind.WITNESS_V0_KEYHASH:
            out.is_segwit = True
            solved, stack = self._step(p2pkh_of_hash(stack[0]), SigVersion.WITNESS_V0)
            out.witness, stack = tuple(stack), []
        elif solved and kind is ScriptKind.WITNESS_V0_SCRIPTHASH:
            out.is_segwit = True
            inner = out.witness_script = stack[0]
            solved, stack = self._step(inner, SigVersion.WITNESS_V0)
            if not stack:
                # elementsd then tries the script as miniscript, and misses the same once more.
                out.missing_signatures *= 2
            solved = solved and classify(inner) not in _NEVER_WITNESS_SCRIPTS
            out.witness, stack = (*stack, inner), []
        elif kind is ScriptKind.WITNESS_V1_TAPROOT and not is_nested:
            out.is_segwit = True
            out.witness, stack = tuple(stack) if solved else (), []
        tail = [out.redeem_script] if is_nested else []
        out.script_sig = b"".join(map(_shortest_push, (*stack, *tail)))
        return solved

    def _step(self, script: bytes, version: SigVersion) -> tuple[bool, list[bytes]]:
        """Whether a script is satisfied, and what satisfies it as far as it is known."""
        out = self.out
        match classify(script):
            case ScriptKind.PUBKEY:
                signature = self._signature(script[1:-1], script, version)
                return (False, []) if signature is None else (True, [signature])
            case ScriptKind.PUBKEYHASH:
                pubkey = self._by_hash.get(script[3:23])
                if pubkey is None:
                    out.missing_pubkeys.append(script[3:23])
                    return False, []
                signature = self._signature(pubkey, script, version)
                return (False, []) if signature is None else (True, [signature, pubkey])
            case ScriptKind.SCRIPTHASH:
                found = self._script(script[2:22])
                if found is None:
                    out.missing_redeem_script = script[2:22]
                    return False, []
                return True, [found]
            case ScriptKind.MULTISIG:
                return self._multisig(script, version)
            case ScriptKind.WITNESS_V0_KEYHASH:
                return True, [script[2:]]
            case ScriptKind.WITNESS_V0_SCRIPTHASH:
                found = self._script(ripemd160(script[2:]))
                if found is None or sha256(found) != script[2:]:
                    out.missing_witness_script = script[2:]
                    return False, []
                return True, [found]
            case ScriptKind.WITNESS_V1_TAPROOT:
                return self._taproot(script[2:])
            case ScriptKind.TRUE:
                return self._op_true_is_mine, []
            case _:
                return False, []

    def _multisig(self, script: bytes, version: SigVersion) -> tuple[bool, list[bytes]]:
        parsed = parse_multisig(script)
        if parsed is None:
            return False, []
        threshold, pubkeys = parsed
        each = [self._signature(pubkey, script, version) for pubkey in pubkeys]
        have = [signature for signature in each if signature is not None][:threshold]
        is_enough = len(have) == threshold
        # elementsd leaves places for half of those that are missing.
        missing = threshold - len(have)
        return is_enough, [b"", *have, *[b""] * ((missing + 1) // 2)]

    def _taproot(self, output_key: bytes) -> tuple[bool, list[bytes]]:
        known = self._provider.taproot.get(output_key)
        if known is not None and not self.out.internal_key:
            self.out.internal_key = known[0]
        for parity in (b"\x02", b"\x03"):
            origin = self._provider.origins.get(parity + self.out.internal_key)
            if origin is not None:
                self.out.internal_origin = origin
        if not self.out.taproot_signature:
            self.out.taproot_signature = self._sign_taproot(output_key) or b""
        signature = self.out.taproot_signature
        return (True, [signature]) if signature else (False, [])

    def _script(self, script_hash: bytes) -> bytes | None:
        found = self._provider.scripts.get(script_hash)
        if found is not None:
            return found
        for script in (self.out.redeem_script, self.out.witness_script):
            if hash160(script) == script_hash:
                return script
        return None

    def _signature(self, pubkey: bytes, script: bytes, version: SigVersion) -> bytes | None:
        known = self.out.signatures.get(pubkey)
        if known is not None:
            return known
        origin = self._provider.origins.get(pubkey)
        if origin is not None:
            self.out.origins.setdefault(pubkey, origin)
        made = self._sign(pubkey, script, version)
        if made is None:
            self.out.missing_signatures.append(hash160(pubkey))
            return None
        self.out.signatures[pubkey] = made
        return made


_NEVER_WITNESS_SCRIPTS = (
    ScriptKind.SCRIPTHASH,
    ScriptKind.WITNESS_V0_SCRIPTHASH,
    ScriptKind.WITNESS_V0_KEYHASH,
)


class PsetSigner:
    """Signs and finalizes the inputs of one PSET, which it changes."""

    def __init__(
        self, pset: Pset, params: ChainParams, provider: Provider, *, hash_type: int = 1
    ) -> None:
        """
        Args:
            hash_type: 0 is ALL, and the shorter form for taproot.
        """
        self._pset = pset
        self._params = params
        self._provider = provider
        self._hash_type = hash_type
        self._bare = _signed_form(pset)
        spent = [found.spent(params) for found in pset.inputs]
        known = [output for output in spent if output is not None]
        self._whole = known if len(known) == len(spent) else []
        self._cache = SighashCache(self._bare, self._whole, params.genesis_hash)

    def is_verified(self, index: int) -> bool:
        """Whether what is final of an input lets it spend."""
        found = self._pset.inputs[index]
        spent = self._verifiable(found)
        return spent is not None and self._verifies(
            index,
            spent,
            found.get("final_script_sig"),
            read_stack(found.get("final_script_witness")),
            # Here elementsd does not yet know the hash type's bit for proofs.
            STANDARD_FLAGS & ~Flags.SIGHASH_RANGEPROOF,
        )

    def sign(self, index: int, *, finalize: bool, dummy: bool = False) -> Solution:
        """Add to an input what can be added.

        Args:
            finalize: turn complete signatures into the final script and witness.
            dummy: sign with signatures that only have the right length.
        """
        found = self._pset.inputs[index]
        self._make_pegin_witness(found)
        if self.is_verified(index) and not (dummy and self._is_taproot(found)):
            return Solution(is_complete=True)
        # Of a whole transaction elementsd looks at what it says, also for claims.
        spent = self._verifiable(found) or found.spent(self._params)
        whole = found.get("non_witness_utxo")
        if spent is None or (whole and self._verifiable(found) is None):
            return Solution()
        if found.is_final:
            # elementsd believes it where it has the whole transaction that is spent of.
            return Solution(is_complete=bool(whole))
        solver = _Solver(
            found,
            self._provider,
            self._dummy if dummy else self._signing(index, spent),
            (lambda _: bytes(64)) if dummy else self._signing_taproot(index),
            op_true_is_mine=self._params.anyone_can_spend_standard,
        )
        solved = solver.solve(spent.script)
        out = solver.out
        out.is_complete = solved and (
            dummy or self._verifies(index, spent, out.script_sig, out.witness)
        )
        if found.get("witness_utxo") and not whole and not out.is_segwit:
            out.is_complete = False
            return out
        _put(found, out, finalize=finalize and out.is_complete)
        if out.is_segwit:
            found.values["witness_utxo"] = spent.serialize()
        return out

    def _is_taproot(self, found: FieldMap) -> bool:
        """Whether estimates cannot verify a spend: elementsd knows no other inputs there."""
        spent = found.spent(self._params)
        return spent is not None and classify(spent.script) is ScriptKind.WITNESS_V1_TAPROOT

    def _make_pegin_witness(self, found: FieldMap) -> None:
        parts = [found.get(f"pegin_{name}") for name in _PEGIN_PARTS]
        if all(parts):
            value, genesis, claim, tx, proof = parts
            items = (value, self._params.pegged_asset, genesis, claim, tx, proof)
            found.values["pegin_witness"] = vectors(items)

    def _verifiable(self, found: FieldMap) -> TxOut | None:
        """What an input spends, from the transaction or the output that it carries."""
        if not found.get("non_witness_utxo") and not found.get("witness_utxo"):
            return None
        return found.spent(self._params)

    def _verifies(
        self,
        index: int,
        spent: TxOut,
        script_sig: bytes,
        witness: tuple[bytes, ...],
        flags: Flags = STANDARD_FLAGS,
    ) -> bool:
        bare = self._bare
        if classify(spent.script) is ScriptKind.WITNESS_V1_TAPROOT and not self._whole:
            return False
        inputs, witnesses = list(bare.inputs), list(bare.input_witnesses)
        inputs[index] = replace(inputs[index], script_sig=script_sig)
        witnesses[index] = replace(witnesses[index], script=witness)
        tx = Transaction.build(
            version=bare.version,
            inputs=inputs,
            outputs=bare.outputs,
            locktime=bare.locktime,
            input_witnesses=witnesses,
            output_witnesses=bare.output_witnesses,
        )
        cache = SighashCache(tx, self._whole, self._params.genesis_hash)
        try:
            verify_input(tx, index, spent, flags, cache)
        except ScriptError:
            return False
        return True

    def _dummy(self, pubkey: bytes, script: bytes, version: SigVersion) -> bytes | None:
        return DUMMY_SIGNATURE

    def _signing(self, index: int, spent: TxOut) -> Sign:
        hash_type = self._hash_type or 1

        def sign(pubkey: bytes, script: bytes, version: SigVersion) -> bytes | None:
            secret = self._provider.secrets.get(pubkey)
            if secret is None:
                return None
            if version is SigVersion.BASE:
                digest = legacy_sighash(
                    self._bare, index, script, hash_type, rangeproof=True, cache=self._cache
                )
            elif len(pubkey) == 33:
                digest = segwit_v0_sighash(
                    self._bare,
                    index,
                    script,
                    spent.value,
                    hash_type,
                    rangeproof=True,
                    cache=self._cache,
                )
            else:
                return None
            return ecdsa_sign_short(secret, digest) + bytes((hash_type,))

        return sign

    def _signing_taproot(self, index: int) -> Callable[[bytes], bytes | None]:
        def sign(output_key: bytes) -> bytes | None:
            _, secret = self._provider.taproot.get(output_key, (b"", None))
            if secret is None or not self._whole:
                return None
            digest = taproot_sighash(self._cache, index, self._hash_type, TaprootPath())
            if digest is None:
                return None
            tail = bytes((self._hash_type,)) if self._hash_type else b""
            return schnorr_sign(secret, digest) + tail

        return sign


_PEGIN_PARTS = ("value", "genesis_hash", "claim_script", "tx", "proof")


def update_output(found: FieldMap, params: ChainParams, provider: Provider) -> None:
    """Add scripts and origins of keys to an output."""
    solver = _Solver(
        found,
        provider,
        lambda *_: None,
        lambda _: None,
        op_true_is_mine=params.anyone_can_spend_standard,
    )
    solver.solve(pset_output(found).script)
    _put_data(found, solver.out)


def _put(found: FieldMap, out: Solution, *, finalize: bool) -> None:
    if not finalize:
        _put_data(found, out)
        known = found.keyed.setdefault("partial_sig", {})
        for pubkey, signature in out.signatures.items():
            known.setdefault(pubkey, signature)
        if out.taproot_signature:
            found.values["tap_key_sig"] = out.taproot_signature
        return
    for name in ("partial_sig", "bip32"):
        found.keyed.pop(name, None)
    for name in ("redeem_script", "witness_script"):
        found.values.pop(name, None)
    if out.script_sig:
        found.values["final_script_sig"] = out.script_sig
    if out.witness:
        found.values["final_script_witness"] = vectors(out.witness)


def _put_data(found: FieldMap, out: Solution) -> None:
    for name, script in (
        ("redeem_script", out.redeem_script),
        ("witness_script", out.witness_script),
        ("tap_internal_key", out.internal_key),
    ):
        if script and not found.get(name):
            found.values[name] = script
    if out.internal_origin:
        paths = found.keyed.setdefault("tap_bip32", {})
        paths.setdefault(out.internal_key, leaf_path((), out.internal_origin))
    if out.origins:
        known = found.keyed.setdefault("bip32", {})
        for pubkey, origin in out.origins.items():
            known.setdefault(pubkey, origin)


def _signed_form(pset: Pset) -> Transaction:
    """The transaction that signatures are made for: with the proofs of hidden outputs."""
    bare = unsigned_transaction(pset)
    return Transaction.build(
        version=bare.version,
        inputs=bare.inputs,
        outputs=bare.outputs,
        locktime=bare.locktime,
        output_witnesses=[
            OutputWitness(
                found.get("surjection_proof") if found.get("asset_commitment") else b"",
                found.get("rangeproof") if found.get("value_commitment") else b"",
            )
            for found in pset.outputs
        ],
    )


def _shortest_push(item: bytes) -> bytes:
    """A push as elementsd writes it into scripts: small numbers by their opcodes."""
    if len(item) == 1 and 1 <= item[0] <= 16:
        return push_number(item[0])
    return push_number(-1) if item == b"\x81" else push(item)
