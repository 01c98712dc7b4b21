"""Hiding amounts and assets of outputs, and opening those that are for us.

The proofs are libwally's. Randomness comes from 32 bytes of entropy and everything that is to be
blinded, so the same transaction is blinded in the same way again, and two different ones never
share a blinding factor.

Source: elements/transactions.md 6 and 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import wallycore

from sidechain.crypto.hashes import sha256, tagged_hash
from sidechain.crypto.keys import GROUP_ORDER, public_key
from sidechain.errors import InvalidEncoding, InvariantError
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import (
    NULL,
    explicit_asset,
    explicit_value,
    is_commitment,
    is_explicit,
    value_sats,
)
from sidechain.primitives.encoding import compact_size, le32
from sidechain.primitives.issuance import asset_from_entropy, issuance_entropy, token_from_entropy
from sidechain.primitives.transaction import (
    EMPTY_OUTPUT_WITNESS,
    InputWitness,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push, push_number
from sidechain.wallet.keys import SecretKey

ZERO = bytes(32)
ENTROPY_BYTES = 32
RANGE_PROOF_BITS = 52
RANGE_PROOF_BYTES = 4_174
"""Longest range proof of these parameters; one of a zero-value output is 8 bytes shorter."""

MAX_TARGETS = 256
"""A surjection proof names at most so many inputs and issuances."""

MAX_HIDDEN_VALUE_SATS = 1 << RANGE_PROOF_BITS
"""Above this an amount would need a longer proof, which shows its size."""

USED_TARGETS = 3
WALLY_REFUSALS = (ValueError, RuntimeError)
"""How libwally refuses: bad arguments, and arguments that do not belong together."""

_SURJECTION_TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an output or an issuance holds, with the blinders of what it hides.

    `abf` and `vbf` blind asset and value; they are zero where the field is explicit.
    """

    asset: bytes
    value_sats: int
    abf: bytes = ZERO
    vbf: bytes = ZERO


def unblind(
    output: TxOut, witness: OutputWitness, secret: SecretKey | None, pegged_asset: bytes
) -> Opened | None:
    """What an output holds; None when this key does not open it or it holds nothing usable.

    Args:
        secret: the blinding key of its script; None opens explicit outputs only.
    Source: elements/transactions.md 8.2.
    """
    if is_explicit(output.asset) and is_explicit(output.value):
        value = value_sats(output.value) or 0
        asset = output.asset[1:]
        return Opened(asset=asset, value_sats=value) if 0 < value <= MAX_MONEY_SATS else None
    if secret is None or not is_commitment(output.value) or not is_commitment(output.nonce):
        return None
    try:
        nonce = wallycore.ecdh_nonce_hash(output.nonce, secret.value)
    except WALLY_REFUSALS:  # the nonce is no point, which consensus does not look at
        return None
    opened = _rewind(bytes(nonce), output.asset, output.value, output.script, witness.range_proof)
    if opened is None or (opened.value_sats == 0 and not output.is_unspendable):
        return None
    if opened.asset == pegged_asset and opened.value_sats > MAX_MONEY_SATS:
        return None
    return opened


def _rewind(
    nonce: bytes, asset_field: bytes, value_field: bytes, script: bytes, proof: bytes
) -> Opened | None:
    try:
        generator = asset_field
        if is_explicit(asset_field):
            generator = _generator(asset_field[1:], ZERO)
        value, asset, abf, vbf = wallycore.asset_unblind_with_nonce(
            nonce, proof, value_field, script or None, generator
        )
        # The message is the sender's word: it counts only when it gives this very generator.
        if _generator(bytes(asset), bytes(abf)) != generator:
            return None
    except WALLY_REFUSALS:
        return None
    return Opened(asset=bytes(asset), value_sats=value, abf=bytes(abf), vbf=bytes(vbf))


def fields(opened: Opened) -> tuple[bytes, bytes]:
    """The asset and value fields that show or hide this."""
    asset = explicit_asset(opened.asset)
    generator = _generator(opened.asset, opened.abf)
    if opened.abf != ZERO:
        asset = generator
    if opened.vbf == ZERO and opened.abf == ZERO:
        return asset, explicit_value(opened.value_sats)
    return asset, _commitment(opened.value_sats, opened.vbf, generator)


def throwaway_key(entropy: bytes) -> bytes:
    """A public key that nobody has the secret of, to blind an output that nobody will open."""
    return public_key(_Draws(tagged_hash("fedpeg/throwaway", entropy)).scalar())


def issuance_script(prevout: OutPoint) -> bytes:
    """The pseudo script whose blinding key hides the amounts of an issuance on `prevout`.

    Source: elements/transactions.md 8.4.
    """
    return b"\x6a" + push(prevout.txid) + push_number(prevout.index)


def blind(
    tx: Transaction,
    spent: Sequence[Opened],
    receivers: Sequence[bytes | None],
    *,
    entropy: bytes,
    issuance_secrets: Mapping[int, SecretKey] | None = None,
) -> Transaction:
    """Blind the outputs that have a receiver, and the issuances that have a key.

    Args:
        tx: unsigned, everything in it explicit; fee and burn outputs stay so.
        spent: what the inputs spend, in their order.
        receivers: blinding public key for each output, None where it stays explicit.
        entropy: FRESH random bytes, 32 of them.
        issuance_secrets: by input, the key that hides what this input issues. The outputs must
            already name the token of a hidden issuance.
    Raises:
        InvalidEncoding: entropy of another length or all zero, or no way to blind this: one
            output alone has no free blinder, more than 256 targets, an amount above 2^52.
    """
    return blind_and_open(
        tx, spent, receivers, entropy=entropy, issuance_secrets=issuance_secrets
    ).tx


@dataclass(frozen=True, slots=True)
class Blinded:
    """A blinded transaction, and what each of its outputs holds."""

    tx: Transaction
    opened: tuple[Opened, ...]


def blind_and_open(
    tx: Transaction,
    spent: Sequence[Opened],
    receivers: Sequence[bytes | None],
    *,
    entropy: bytes,
    issuance_secrets: Mapping[int, SecretKey] | None = None,
) -> Blinded:
    """As `blind`, for who has to show others what is in it."""
    if len(entropy) != ENTROPY_BYTES or not any(entropy):
        raise InvalidEncoding("blinding needs 32 fresh random bytes")
    secrets = issuance_secrets or {}
    draws = _Draws(_seed(tx, spent, receivers, entropy))
    issued = _blind_issuances(tx, secrets, draws)
    targets = _targets(spent, issued)
    opened = _open_outputs(tx.outputs, receivers, targets, draws)
    outputs, witnesses = [], []
    for output, receiver, item in zip(tx.outputs, receivers, opened, strict=True):
        if receiver is None:
            outputs.append(replace(output, nonce=NULL))
            witnesses.append(EMPTY_OUTPUT_WITNESS)
            continue
        made, witness = _blind_output(output.script, receiver, item, targets, draws)
        outputs.append(made)
        witnesses.append(witness)
    made_tx = Transaction.build(
        version=tx.version,
        inputs=[item.txin for item in issued],
        outputs=outputs,
        locktime=tx.locktime,
        input_witnesses=[
            replace(
                witness,
                issuance_range_proof=item.amount_proof,
                inflation_range_proof=item.token_proof,
            )
            for witness, item in zip(tx.input_witnesses, issued, strict=True)
        ],
        output_witnesses=witnesses,
    )
    return Blinded(made_tx, tuple(opened))


@dataclass(frozen=True, slots=True)
class _Issued:
    """An input with what it issues: nothing, or one or two pseudo-inputs and their proofs."""

    txin: TxIn
    created: tuple[Opened, ...] = ()
    amount_proof: bytes = b""
    token_proof: bytes = b""


class _Draws:
    """Numbers below the group order, one after another, from one seed."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def scalar(self) -> bytes:
        """The next one, 32 bytes, not zero."""
        while True:
            drawn = sha256(self._seed + le32(self._count))
            self._count += 1
            if 0 < int.from_bytes(drawn, "big") < GROUP_ORDER:
                return drawn


def _seed(
    tx: Transaction, spent: Sequence[Opened], receivers: Sequence[bytes | None], entropy: bytes
) -> bytes:
    known = b"".join(item.asset + item.abf + item.vbf for item in spent)
    keys = b"".join(key or bytes(33) for key in receivers)
    body = compact_size(len(spent)) + known + compact_size(len(receivers)) + keys + tx.raw
    return tagged_hash("fedpeg/blinding", entropy + body)


def _blind_issuances(
    tx: Transaction, secrets: Mapping[int, SecretKey], draws: _Draws
) -> list[_Issued]:
    return [
        _Issued(txin) if txin.issuance is None else _issued(txin, secrets.get(position), draws)
        for position, txin in enumerate(tx.inputs)
    ]


def _issued(txin: TxIn, secret: SecretKey | None, draws: _Draws) -> _Issued:
    issuance = txin.issuance
    if issuance is None:
        return _Issued(txin)
    entropy = issuance.entropy
    if not issuance.is_reissuance:
        entropy = issuance_entropy(txin.prevout, issuance.entropy)
    hidden = secret is not None and issuance.amount != NULL
    ids = asset_from_entropy(entropy), token_from_entropy(entropy, confidential_amount=hidden)
    created, made, proofs = [], [], []
    for asset, field in zip(ids, (issuance.amount, issuance.inflation_keys), strict=True):
        amount = value_sats(field)
        if amount is None:
            made.append(field)
            proofs.append(b"")
            continue
        opened = Opened(asset=asset, value_sats=amount)
        proof = b""
        if secret is not None:
            opened = replace(opened, vbf=draws.scalar())
            field, proof = _hide(opened, secret.value, b"", min_value=1)
        created.append(opened)
        made.append(field)
        proofs.append(proof)
    hidden_issuance = replace(issuance, amount=made[0], inflation_keys=made[1])
    return _Issued(replace(txin, issuance=hidden_issuance), tuple(created), *proofs)


def _targets(spent: Sequence[Opened], issued: Sequence[_Issued]) -> list[Opened]:
    """Inputs and issuances in the order of elements/transactions.md 6.2 step 1."""
    targets: list[Opened] = []
    for coin, item in zip(spent, issued, strict=True):
        targets.append(coin)
        targets.extend(item.created)
    return targets


def _open_outputs(
    outputs: Sequence[TxOut],
    receivers: Sequence[bytes | None],
    targets: Sequence[Opened],
    draws: _Draws,
) -> list[Opened]:
    """Outputs with their blinders; that of the last blinded value balances all others."""
    chosen = [position for position, receiver in enumerate(receivers) if receiver is not None]
    opened = []
    for output, receiver in zip(outputs, receivers, strict=True):
        asset, value = output.asset_id, output.value_sats
        if asset is None or value is None:
            raise InvalidEncoding("only explicit outputs can be blinded")
        item = Opened(asset=asset, value_sats=value)
        if receiver is not None:
            if value > MAX_HIDDEN_VALUE_SATS:
                raise InvalidEncoding("the amount is too large to be hidden")
            item = replace(item, abf=draws.scalar(), vbf=draws.scalar())
        opened.append(item)
    has_blinders = any(item.abf != ZERO or item.vbf != ZERO for item in targets)
    if not chosen:
        if has_blinders:
            raise InvalidEncoding("blinded inputs need a blinded output")
        return opened
    if len(chosen) == 1 and not has_blinders:
        raise InvalidEncoding("one blinded output alone would hide nothing")
    if len(targets) > MAX_TARGETS:
        raise InvalidEncoding("too many inputs for a blinded output")
    last = chosen[-1]
    others = [opened[position] for position in chosen[:-1]]
    opened[last] = replace(opened[last], vbf=_final_vbf(targets, others, opened[last]))
    return opened


def _final_vbf(targets: Sequence[Opened], others: Sequence[Opened], last: Opened) -> bytes:
    terms = [*targets, *others, last]
    found = wallycore.asset_final_vbf(
        [item.value_sats for item in terms],
        len(targets),
        b"".join(item.abf for item in terms),
        b"".join(item.vbf for item in terms[:-1]),
    )
    if not any(found):
        raise InvariantError("the last blinder came out as zero")
    return bytes(found)


def _blind_output(
    script: bytes, receiver: bytes, opened: Opened, targets: Sequence[Opened], draws: _Draws
) -> tuple[TxOut, OutputWitness]:
    ephemeral = draws.scalar()
    try:
        nonce = bytes(wallycore.ecdh_nonce_hash(receiver, ephemeral))
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("blinding key is not a compressed public key") from error
    generator = _generator(opened.asset, opened.abf)
    unspendable = script[:1] == b"\x6a"
    value, proof = _hide(opened, nonce, script, min_value=0 if unspendable else 1)
    made = TxOut(generator, value, public_key(ephemeral), script)
    surjection = _surjection_proof(opened, generator, targets, draws)
    return made, OutputWitness(surjection_proof=surjection, range_proof=proof)


def _hide(opened: Opened, nonce: bytes, script: bytes, *, min_value: int) -> tuple[bytes, bytes]:
    """The value commitment and its range proof, which whoever knows the nonce can rewind."""
    generator = _generator(opened.asset, opened.abf)
    commitment = _commitment(opened.value_sats, opened.vbf, generator)
    proof = wallycore.asset_rangeproof_with_nonce(
        opened.value_sats,
        nonce,
        opened.asset,
        opened.abf,
        opened.vbf,
        commitment,
        script or None,  # libwally wants no pointer where there are no bytes
        generator,
        min_value,
        0,
        RANGE_PROOF_BITS,
    )
    return commitment, bytes(proof)


def _surjection_proof(
    opened: Opened, generator: bytes, targets: Sequence[Opened], draws: _Draws
) -> bytes:
    if all(target.asset != opened.asset for target in targets):
        raise InvalidEncoding("a blinded output is of an asset that no input has")
    assets = b"".join(target.asset for target in targets)
    abfs = b"".join(target.abf for target in targets)
    generators = b"".join(_generator(target.asset, target.abf) for target in targets)
    for _ in range(_SURJECTION_TRIES):
        # Among many targets a draw of three may miss the right one: draw again.
        try:
            return bytes(
                wallycore.asset_surjectionproof(
                    opened.asset, opened.abf, generator, draws.scalar(), assets, abfs, generators
                )
            )
        except WALLY_REFUSALS:
            continue
    raise InvariantError("no surjection proof could be made")


def _generator(asset: bytes, abf: bytes) -> bytes:
    return bytes(wallycore.asset_generator_from_bytes(asset, abf))


def _commitment(value: int, vbf: bytes, generator: bytes) -> bytes:
    return bytes(wallycore.asset_value_commitment(value, vbf, generator))


def surjection_proof_bytes(targets: int) -> int:
    """Size of a surjection proof over so many inputs and issuances."""
    return 2 + (targets + 7) // 8 + 32 * (1 + min(USED_TARGETS, targets))


def unblind_issuance(
    txin: TxIn, witness: InputWitness, secret: SecretKey
) -> tuple[Opened | None, Opened | None]:
    """The hidden amounts of an own issuance: asset and token, None where there is none to open.

    Source: elements/transactions.md 8.1.
    """
    issuance = txin.issuance
    if issuance is None:
        return None, None
    entropy = issuance.entropy
    if not issuance.is_reissuance:
        entropy = issuance_entropy(txin.prevout, issuance.entropy)
    hidden = is_commitment(issuance.amount)
    found: list[Opened | None] = []
    for asset, field, proof in (
        (asset_from_entropy(entropy), issuance.amount, witness.issuance_range_proof),
        (
            token_from_entropy(entropy, confidential_amount=hidden),
            issuance.inflation_keys,
            witness.inflation_range_proof,
        ),
    ):
        if is_explicit(field):
            found.append(Opened(asset=asset, value_sats=value_sats(field) or 0))
        elif is_commitment(field):
            found.append(_rewind(secret.value, explicit_asset(asset), field, b"", proof))
        else:
            found.append(None)
    return found[0], found[1]
