"""Peg-ins: the contract tweak, deposit scripts, and every check of a peg-in witness.

Source: elements/peg.md 1 to 3.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from sidechain.crypto.keys import tweak_add_public
from sidechain.errors import InvalidBlock, InvalidEncoding, InvalidTransaction, Stalled
from sidechain.params import COINBASE_MATURITY_BLOCKS, MAX_MONEY_SATS, ChainParams
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.parent import (
    MerkleBlock,
    ParentTx,
    parse_merkle_block,
    parse_parent_tx,
)
from sidechain.primitives.signed_parent import (
    SignedMerkleBlock,
    parse_elements_parent_tx,
    parse_signed_merkle_block,
)
from sidechain.primitives.transaction import OutPoint
from sidechain.script import opcodes as op
from sidechain.script.block_signature import verify_parent_signature
from sidechain.script.script import (
    Op,
    is_minimal_push,
    is_p2sh,
    iter_ops,
    p2sh,
    p2wsh,
    push,
    witness_program,
)
from sidechain.validation.coins import Coin, PeginKey

PEGIN_WITNESS_ITEMS = 6
MAX_CLAIM_SCRIPT_SIZE_BYTES = 100

_KEY_SIZE_BYTES = 33


class FedpegPair(NamedTuple):
    """A fedpegscript with the program that says how deposits to it are written."""

    program: bytes
    script: bytes


class ParentFacts(Protocol):
    """What is known about the parent chain at this moment."""

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and number of transactions of a block of the best chain.

        None when the block is unknown, stale, or the parent cannot be asked.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeginClaim:
    """A peg-in witness, read.

    Attributes:
        value_sats: the amount claimed, 0 to 21 million coins.
        asset: 32-byte asset id.
        claim_script: script the deposit commits to; it is what the input must satisfy.
        parent_tx: the deposit's transaction.
        proof: the parent header with the one transaction it proves.
    """

    value_sats: int
    asset: bytes
    parent_genesis: bytes
    claim_script: bytes
    parent_tx: ParentTx
    proof: MerkleBlock | SignedMerkleBlock

    @property
    def coin(self) -> Coin:
        """What the input is taken to spend: explicit, height 0, no coinbase."""
        return Coin(
            asset=explicit_asset(self.asset),
            value=explicit_value(self.value_sats),
            script=self.claim_script,
            height=0,
            coinbase=False,
        )

    def key(self, prevout: OutPoint) -> PeginKey:
        """Under what a claim of `prevout` is remembered."""
        return PeginKey(self.parent_genesis, prevout)


def calculate_contract(fedpegscript: bytes, claim_script: bytes) -> bytes:
    """The fedpegscript with every 33-byte push tweaked by the claim script.

    In a script of the watchman form (`is_watchman_script`) the keys of the emergency branch stay.

    Raises:
        InvalidEncoding: a 33-byte push is no public key, or a tweak is out of range.
    Source: elements/peg.md 1.
    """
    watchman = is_watchman_script(fedpegscript)
    pieces: list[bytes] = []
    emergency = False
    for found in iter_ops(fedpegscript):
        emergency = emergency or (watchman and found.opcode == op.OP_ELSE)
        tweaked = found.data if emergency else _tweak(found.data, claim_script)
        # Every push gets the shortest length, also where its data stays.
        pieces.append(push(tweaked) if tweaked else bytes((found.opcode,)))
    return b"".join(pieces)


def contract_tweak(pubkey: bytes, claim_script: bytes) -> bytes:
    """The scalar that is added to one key (and, by its holder, to the secret): 32 bytes."""
    return hmac.digest(pubkey, claim_script, "sha256")


def _tweak(data: bytes | None, claim_script: bytes) -> bytes | None:
    """Pushed data, tweaked where it is a key."""
    if data is None or len(data) != _KEY_SIZE_BYTES:
        return data
    return tweak_add_public(data, contract_tweak(data, claim_script))


def is_watchman_script(script: bytes) -> bool:
    """Whether a script has Liquid's form: multisig, or a smaller one after a relative lock.

    `DEPTH x EQUAL IF k … ELSE lock CSV DROP n … ENDIF CHECKMULTISIG` with k different from n,
    lock, k and n minimal pushes.

    Source: elements/peg.md 1.
    """
    ops = list(iter_ops(script))
    codes = [item.opcode for item in ops]
    if not ops or ops[-1].end != len(script) or len(ops) < 12:
        return False
    if codes[0] != op.OP_DEPTH or codes[2:4] != [op.OP_EQUAL, op.OP_IF]:
        return False
    if not _is_small_push(ops[4]) or op.OP_ELSE not in codes[5:]:
        return False
    tail = ops[codes.index(op.OP_ELSE, 5) + 1 :]
    if len(tail) < 6 or not _is_small_push(tail[0]) or not _is_small_push(tail[3]):
        return False
    if [item.opcode for item in tail[1:3]] != [op.OP_CHECKSEQUENCEVERIFY, op.OP_DROP]:
        return False
    if (ops[4].opcode, ops[4].data) == (tail[3].opcode, tail[3].data):
        return False
    ends = [item.opcode for item in tail[4:]]
    return op.OP_ENDIF in ends and ends[ends.index(op.OP_ENDIF) + 1 :] == [op.OP_CHECKMULTISIG]


def _is_small_push(found: Op) -> bool:
    if found.opcode > op.OP_16:
        return False
    return found.data is None or is_minimal_push(found.data, found.opcode)


def deposit_script(fedpeg_program: bytes, fedpegscript: bytes, claim_script: bytes) -> bytes:
    """The parent output script that a deposit for `claim_script` pays.

    Args:
        fedpeg_program: only its kind matters: P2SH gives nested P2WSH, all else native P2WSH.
    Raises:
        InvalidEncoding: the fedpegscript cannot be tweaked.
    Source: elements/peg.md 2.
    """
    native = p2wsh(calculate_contract(fedpegscript, claim_script))
    return p2sh(native) if is_p2sh(fedpeg_program) else native


def parse_pegin(witness_items: Sequence[bytes], params: ChainParams | None = None) -> PeginClaim:
    """Read a peg-in witness; nothing is checked against a chain, nor the header's work.

    Args:
        params: say whether the parent is an Elements chain; without them it is Bitcoin.
    Raises:
        InvalidTransaction: "bad-pegin-witness" with Elements' text.
    """
    value_sats = _check_items(witness_items)
    proof = _parse_proof(witness_items[5], params)
    return _claim(witness_items, value_sats, proof, params)


def check_pegin(
    witness_items: Sequence[bytes],
    prevout: OutPoint,
    params: ChainParams,
    fedpegscripts: Sequence[FedpegPair],
    facts: ParentFacts | None,
) -> PeginClaim:
    """All checks of one peg-in input, in Elements' order.

    Args:
        prevout: the input's outpoint, index without flags.
        fedpegscripts: those valid for the block judged, newest first.
        facts: the parent chain now; None leaves out the depth check.
    Raises:
        InvalidTransaction: "bad-pegin-witness" with Elements' text.
        Stalled: everything but the depth is right.
    Source: elements/peg.md 3.1.
    """
    if not params.has_parent_chain:
        _refuse("Parent chain is not enabled on this network.")
    value_sats = _check_items(witness_items)
    proof = _parse_proof(witness_items[5], params)
    _check_parent_header(proof, params)
    claim = _claim(witness_items, value_sats, proof, params)
    if not _pays_federation(claim, prevout, fedpegscripts):
        _refuse("Peg-in tx is invalid.")
    position, proved_txid = proof.matches[0]
    if proved_txid != prevout.txid:
        _refuse("Merkle proof and txid mismatch.")
    if claim.parent_genesis != params.parent_genesis_hash:
        _refuse("Parent genesis block mismatch.")
    if claim.asset != params.pegged_asset:
        # Elements sets no text of its own here; its callers show this one.
        _refuse("no peg-in witness attached")
    if facts is not None and params.validate_pegin:
        _check_depth(proof, position, params.pegin_confirmation_depth, facts)
    return claim


def _check_items(items: Sequence[bytes]) -> int:
    """Checks of number, lengths and amount; the amount in satoshis."""
    if len(items) != PEGIN_WITNESS_ITEMS:
        _refuse("Not enough stack items.")
    if len(items[0]) < 8:
        _refuse("Could not deserialize value.")
    # Bytes behind the eighth are ignored: so Elements reads it, and such blocks exist.
    value_sats = int.from_bytes(items[0][:8], "little", signed=True)
    if not 0 <= value_sats <= MAX_MONEY_SATS:
        _refuse("Value was not in valid value range.")
    if len(items[1]) != 32:
        _refuse("Asset type was not 32 bytes.")
    if len(items[2]) != 32:
        # The misspelling is elementsd's.
        _refuse("Parent genesis blockchaash was not 32 bytes.")
    if len(items[3]) > MAX_CLAIM_SCRIPT_SIZE_BYTES:
        _refuse("Claim script is too large.")
    return value_sats


def _is_signed_parent(params: ChainParams | None) -> bool:
    return params is not None and bool(params.parent_chain_signblockscript)


def _parse_proof(item: bytes, params: ChainParams | None) -> MerkleBlock | SignedMerkleBlock:
    proof: MerkleBlock | SignedMerkleBlock
    try:
        if params is not None and _is_signed_parent(params):
            proof = parse_signed_merkle_block(item, params)
        else:
            proof = parse_merkle_block(item)
    except InvalidEncoding:
        _refuse("Could not extract block and tx from merkleblock.")
    if len(proof.matches) != 1:
        _refuse("Could not extract block and tx from merkleblock.")
    return proof


def _check_parent_header(proof: MerkleBlock | SignedMerkleBlock, params: ChainParams) -> None:
    """Check work or signatures. A header with federation parameters passes unchecked: who signs
    such a parent is not followed here, as it is not by Elements."""
    if isinstance(proof, MerkleBlock):
        try:
            proof.header.check_pow(params.parent_pow_limit)
        except InvalidEncoding:
            _refuse("Parent proof of work is invalid or insufficient.")
        return
    try:
        verify_parent_signature(proof.header, params)
    except InvalidBlock:
        _refuse("Parent signed block is invalid.")


def _claim(
    items: Sequence[bytes],
    value_sats: int,
    proof: MerkleBlock | SignedMerkleBlock,
    params: ChainParams | None,
) -> PeginClaim:
    try:
        if params is not None and _is_signed_parent(params):
            parent_tx = parse_elements_parent_tx(items[4], params)
        else:
            parent_tx = parse_parent_tx(items[4])
    except InvalidEncoding:
        _refuse("Peg-in tx is invalid.")
    return PeginClaim(
        value_sats=value_sats,
        asset=items[1],
        parent_genesis=items[2],
        claim_script=items[3],
        parent_tx=parent_tx,
        proof=proof,
    )


def _pays_federation(
    claim: PeginClaim, prevout: OutPoint, fedpegscripts: Sequence[FedpegPair]
) -> bool:
    """Whether the named parent output is a deposit of the claimed amount for the claim script."""
    tx = claim.parent_tx
    if tx.txid != prevout.txid or prevout.index >= len(tx.outputs):
        return False
    value_sats, script = tx.outputs[prevout.index]
    if value_sats != claim.value_sats:
        return False
    for pair in fedpegscripts:
        program = witness_program(pair.program)
        if program is not None and program[0] > 0:
            # A program no rule is known for lets every claim pass, as in Elements.
            return True
        if script == _deposit_script_or_none(pair, claim.claim_script):
            return True
    return False


def _deposit_script_or_none(pair: FedpegPair, claim_script: bytes) -> bytes | None:
    try:
        return deposit_script(pair.program, pair.script, claim_script)
    except InvalidEncoding:
        return None


def _check_depth(
    proof: MerkleBlock | SignedMerkleBlock, position: int, depth_blocks: int, facts: ParentFacts
) -> None:
    # The position 0 is the parent's coinbase, which matures only after 100 blocks.
    required = max(depth_blocks, COINBASE_MATURITY_BLOCKS) if position == 0 else depth_blocks
    known = facts.block_facts(proof.header.hash)
    if known is None or known[0] < required or known[1] != proof.tx_count:
        raise Stalled("Needs more confirmations.")


def _refuse(text: str) -> NoReturn:
    raise InvalidTransaction("bad-pegin-witness", text)
