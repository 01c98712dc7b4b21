"""Signing the inputs of a transaction with keys that are handed over: nothing is kept.

Bare keys, key hashes, multisig, P2SH, segwit v0 (also nested) and the key path of taproot. A
signature that an input has already, in whatever order, is used again where it fits; so several
partly signed copies of a transaction can be put together.

Source: elements/script.md 2 and 6; texts of faults as elementsd's `signrawtransactionwithkey`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidechain.crypto.hashes import hash160, ripemd160, sha256
from sidechain.crypto.keys import (
    GROUP_ORDER,
    ecdsa_sign_short,
    ecdsa_verify,
    public_key,
    schnorr_sign,
    schnorr_verify,
    tweak_add_secret,
)
from sidechain.errors import ScriptError
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import STANDARD_FLAGS, SigVersion
from sidechain.script.interpreter import verify_input
from sidechain.script.script import (
    ScriptKind,
    classify,
    iter_ops,
    p2pkh_of_hash,
    p2wsh,
    parse_multisig,
    push,
)
from sidechain.script.sighash import (
    SIGHASH_ANYONECANPAY,
    SIGHASH_SINGLE,
    SighashCache,
    TaprootPath,
    legacy_sighash,
    segwit_v0_sighash,
)
from sidechain.script.taproot import taproot_sighash, tweak_hash

_FAULT_TEXTS = {
    ScriptFault.INVALID_STACK_OPERATION.value: (
        "Unable to sign input, invalid stack size (possibly missing key)"
    ),
    ScriptFault.NULLFAIL.value: (
        "CHECK(MULTI)SIG failing with non-zero signature (possibly need more signatures)"
    ),
}


@dataclass(slots=True)
class KeyStore:
    """Keys and scripts by what outputs show of them."""

    secrets: dict[bytes, bytes] = field(default_factory=dict)
    """By public key, as it stands in scripts."""
    by_hash: dict[bytes, bytes] = field(default_factory=dict)
    """Public keys by their hash160."""
    taproot: dict[bytes, bytes] = field(default_factory=dict)
    """Secrets by the output key of taproot that they can sign for."""
    scripts: dict[bytes, bytes] = field(default_factory=dict)
    """Scripts by their hash160."""

    def add_secret(self, secret: bytes, *, compressed: bool = True) -> None:
        """Take in a private key: for its public key, and for the taproot outputs made of it."""
        pubkey = public_key(secret)
        even = secret
        if pubkey[0] == 3:
            even = (GROUP_ORDER - int.from_bytes(secret, "big")).to_bytes(32, "big")
        self.taproot[pubkey[1:]] = secret
        tweaked = tweak_add_secret(even, tweak_hash(pubkey[1:]))
        self.taproot[public_key(tweaked)[1:]] = tweaked
        if not compressed:
            pubkey = public_key(secret, compressed=False)
        self.secrets[pubkey] = secret
        self.add_key(pubkey)

    def add_key(self, pubkey: bytes) -> None:
        """Know a public key by its hash."""
        self.by_hash[hash160(pubkey)] = pubkey

    def add_script(self, script: bytes) -> None:
        """Know a script, and the P2WSH output made of it, by their hashes."""
        for each in (script, p2wsh(script)):
            self.scripts[hash160(each)] = each


@dataclass(frozen=True, slots=True)
class Signed:
    """What signing came to: the transaction and the fault of every input that is not complete."""

    tx: Transaction
    faults: Mapping[int, str]


def sign_transaction(
    tx: Transaction,
    spent: Sequence[TxOut | None],
    keys: KeyStore,
    *,
    hash_type: int,
    genesis_hash: bytes,
    others: Iterable[Transaction] = (),
) -> Signed:
    """Sign what can be signed.

    Args:
        spent: what every input spends; None where it is not known, and such an input stays.
        hash_type: 0 is ALL, and the shorter form for taproot.
        others: copies of the transaction that may have signatures of their own.
    """
    known = [output for output in spent if output is not None]
    whole = known if len(known) == len(spent) else []
    cache = SighashCache(tx, whole, genesis_hash)
    inputs, witnesses = list(tx.inputs), list(tx.input_witnesses)
    for index, output in enumerate(spent):
        base = hash_type & ~SIGHASH_ANYONECANPAY
        if output is None or (base == SIGHASH_SINGLE and index >= len(tx.outputs)):
            continue
        signer = _InputSigner(cache, index, output, keys, hash_type, (tx, *others))
        script_sig, stack = signer.solve()
        inputs[index] = replace(inputs[index], script_sig=script_sig)
        witnesses[index] = replace(witnesses[index], script=stack)
    signed = Transaction.build(
        version=tx.version,
        inputs=inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=witnesses,
        output_witnesses=tx.output_witnesses,
    )
    return Signed(signed, _faults(signed, spent, whole, genesis_hash))


def _faults(
    tx: Transaction,
    spent: Sequence[TxOut | None],
    whole: Sequence[TxOut],
    genesis_hash: bytes,
) -> dict[int, str]:
    cache = SighashCache(tx, whole, genesis_hash)
    found: dict[int, str] = {}
    for index, output in enumerate(spent):
        if output is None:
            found[index] = "Input not found or already spent"
            continue
        try:
            if classify(output.script) is ScriptKind.WITNESS_V1_TAPROOT and not whole:
                # Its signature commits to all spent outputs, and one is not known.
                raise ScriptError(ScriptFault.SCHNORR_SIG.value)
            verify_input(tx, index, output, STANDARD_FLAGS, cache)
        except ScriptError as error:
            found[index] = _FAULT_TEXTS.get(error.reason, error.reason)
    return found


class _InputSigner:
    """Finds the script and witness of one input."""

    def __init__(
        self,
        cache: SighashCache,
        index: int,
        spent: TxOut,
        keys: KeyStore,
        hash_type: int,
        copies: Sequence[Transaction],
    ) -> None:
        self._cache = cache
        self._index = index
        self._spent = spent
        self._keys = keys
        self._hash_type = hash_type
        self._copies = [copy for copy in copies if index < len(copy.inputs)]
        self._pool = [item for copy in self._copies for item in _pushed(copy, index)]
        self._scripts = dict(keys.scripts)
        self._by_hash = dict(keys.by_hash)
        for item in self._pool:
            self._scripts[hash160(item)] = item
            self._by_hash.setdefault(hash160(item), item)

    def solve(self) -> tuple[bytes, tuple[bytes, ...]]:
        """The input's script and witness, as complete as keys and copies allow."""
        solved = self._solve()
        if solved is not None:
            return solved
        # Not a form known here: the first copy that has anything keeps it.
        for copy in self._copies:
            script_sig = copy.inputs[self._index].script_sig
            witness = copy.input_witnesses[self._index].script
            if script_sig or witness:
                return script_sig, witness
        return b"", ()

    def _solve(self) -> tuple[bytes, tuple[bytes, ...]] | None:
        script, redeem = self._spent.script, b""
        if classify(script) is ScriptKind.SCRIPTHASH:
            found = self._scripts.get(script[2:22])
            if found is None:
                return None
            script, redeem = found, push(found)
        kind = classify(script)
        if kind is ScriptKind.WITNESS_V0_KEYHASH:
            items = self._stack(p2pkh_of_hash(script[2:]), SigVersion.WITNESS_V0)
            return None if items is None else (redeem, tuple(items))
        if kind is ScriptKind.WITNESS_V0_SCRIPTHASH:
            inner = self._scripts.get(ripemd160(script[2:]))
            if inner is None or sha256(inner) != script[2:]:
                return None
            items = self._stack(inner, SigVersion.WITNESS_V0)
            return None if items is None else (redeem, (*items, inner))
        if kind is ScriptKind.WITNESS_V1_TAPROOT and not redeem:
            signature = self._taproot_signature(script[2:])
            return None if signature is None else (b"", (signature,))
        items = self._stack(script, SigVersion.BASE)
        if items is None:
            return None
        return b"".join(map(push, items)) + redeem, ()

    def _stack(self, script: bytes, version: SigVersion) -> list[bytes] | None:
        """What makes a script true, or None for a form that is not known."""
        match classify(script):
            case ScriptKind.TRUE:
                return []
            case ScriptKind.PUBKEY:
                signature = self._signature(script[1:-1], script, version)
                return None if signature is None else [signature]
            case ScriptKind.PUBKEYHASH:
                pubkey = self._by_hash.get(script[3:23])
                signature = None if pubkey is None else self._signature(pubkey, script, version)
                return None if pubkey is None or signature is None else [signature, pubkey]
            case ScriptKind.MULTISIG:
                return self._multisig(script, version)
            case _:
                return None

    def _multisig(self, script: bytes, version: SigVersion) -> list[bytes] | None:
        parsed = parse_multisig(script)
        if parsed is None:
            return None
        threshold, pubkeys = parsed
        found = [self._signature(pubkey, script, version) for pubkey in pubkeys]
        signatures = [each for each in found if each is not None][:threshold]
        # elementsd leaves places for half of those that are missing.
        missing = threshold - len(signatures)
        return [b"", *signatures, *[b""] * ((missing + 1) // 2)]

    def _signature(self, pubkey: bytes, script: bytes, version: SigVersion) -> bytes | None:
        """A signature by a key: a new one, or one that a copy has."""
        for item in self._pool:
            if 9 <= len(item) <= 73 and item[0] == 0x30:
                digest = self._digest(script, version, item[-1])
                if ecdsa_verify(pubkey, item[:-1], digest):
                    return item
        secret = self._keys.secrets.get(pubkey)
        if secret is None or (version is SigVersion.WITNESS_V0 and len(pubkey) != 33):
            return None
        hash_type = self._hash_type or 1
        signature = ecdsa_sign_short(secret, self._digest(script, version, hash_type))
        return signature + bytes((hash_type,))

    def _digest(self, script: bytes, version: SigVersion, hash_type: int) -> bytes:
        tx, cache = self._cache.tx, self._cache
        if version is SigVersion.BASE:
            return legacy_sighash(tx, self._index, script, hash_type, rangeproof=True, cache=cache)
        return segwit_v0_sighash(
            tx,
            self._index,
            script,
            self._spent.value,
            hash_type,
            rangeproof=True,
            cache=cache,
        )

    def _taproot_signature(self, output_key: bytes) -> bytes | None:
        if not self._cache.spent:
            return None
        for item in self._pool:
            if len(item) in (64, 65):
                digest = self._taproot_digest(item[64] if len(item) == 65 else 0)
                if digest is not None and schnorr_verify(output_key, item[:64], digest):
                    return item
        secret = self._keys.taproot.get(output_key)
        digest = self._taproot_digest(self._hash_type)
        if secret is None or digest is None:
            return None
        tail = bytes((self._hash_type,)) if self._hash_type else b""
        return schnorr_sign(secret, digest) + tail

    def _taproot_digest(self, hash_type: int) -> bytes | None:
        return taproot_sighash(self._cache, self._index, hash_type, TaprootPath())


def _pushed(tx: Transaction, index: int) -> list[bytes]:
    """What an input pushes, in its script and its witness."""
    items = [op.data for op in iter_ops(tx.inputs[index].script_sig) if op.data]
    return items + [item for item in tx.input_witnesses[index].script if item]
