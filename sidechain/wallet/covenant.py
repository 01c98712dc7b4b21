"""The keyless claim: a claim script that anybody may satisfy, but only in favour of one program.

A deposit to it needs no signature to be claimed. Its one leaf lets the claimer keep at most the
price the user agreed to, and demands the rest for the user's program, in plain, at the output of
the input's own position, so that no output serves two inputs.

The claim script is never shown as a sidechain address: coins paid to it *there* could be moved by
anybody under the same rule.

Source: peg:4 ("Covenant claim script"), elements/script.md 4.
"""

from dataclasses import dataclass

from sidechain.crypto.keys import tweak_add_public
from sidechain.errors import InvalidEncoding, InvariantError, ScriptError
from sidechain.params import ChainParams
from sidechain.policy.fees import required_fee_sats
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import InputWitness, Transaction, TxIn, TxOut
from sidechain.script import opcodes as op
from sidechain.script.flags import CONSENSUS_FLAGS
from sidechain.script.interpreter import verify_input
from sidechain.script.script import p2tr, push, push_number, witness_program
from sidechain.script.sighash import SighashCache
from sidechain.script.taproot import LEAF_TAPSCRIPT, leaf_hash, tweak_hash
from sidechain.wallet.builder import (
    REPLACEABLE_SEQUENCE,
    TX_VERSION,
    check_made,
    explicit_output,
)
from sidechain.wallet.claim import CLAIM_SPARE_VBYTES, ClaimableDeposit, claimed_output
from sidechain.wallet.selection import WalletRefusal

NUMS_KEY = bytes.fromhex("50929b74c1a04954b78b4b6035e97a5e078a5a0f28ec96d547bfee9ace803ac0")
"""A point of which nobody knows the logarithm: the internal key of a user who gives none."""

MAX_FEE_DEFAULT_SATS = 2_000
_AMOUNT_MAX_SATS = 2**63 - 1
_PROGRAMS = frozenset(((0, 20), (0, 32), (1, 32)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CovenantTerms:
    """What a claim script is made from: who is paid, and what a claimer may take.

    Attributes:
        script: the user's unblinded P2WPKH, P2WSH or P2TR script.
        max_fee_sats: the price of one claim, for the network fee or the claimer.
        internal_key: x-only; its owner may also claim in the ordinary way, with a signature.
    """

    script: bytes
    max_fee_sats: int
    internal_key: bytes = NUMS_KEY

    def __post_init__(self) -> None:
        """
        Raises:
            InvalidEncoding: no such script, amount or key.
        """
        found = witness_program(self.script)
        if found is None or (found[0], len(found[1])) not in _PROGRAMS:
            raise InvalidEncoding("covenant", "coins can go to P2WPKH, P2WSH and P2TR alone")
        if not 0 < self.max_fee_sats <= _AMOUNT_MAX_SATS:
            raise InvalidEncoding("covenant", "max_fee is out of range")
        if len(self.internal_key) != 32:
            raise InvalidEncoding("covenant", "the internal key is not 32 bytes")
        tweak_add_public(b"\x02" + self.internal_key, tweak_hash(self.internal_key))


def leaf_script(terms: CovenantTerms, pegged_asset: bytes) -> bytes:
    """The one leaf: 89 bytes for P2WPKH, 101 for the longer programs."""
    version, program = witness_program(terms.script) or (0, b"")
    return b"".join(
        (
            _ops(op.OP_PUSHCURRENTINPUTINDEX),
            _ops(op.OP_DUP, op.OP_INSPECTOUTPUTSCRIPTPUBKEY),
            push_number(version) + _ops(op.OP_EQUALVERIFY),
            push(program) + _ops(op.OP_EQUALVERIFY),
            _ops(op.OP_DUP, op.OP_INSPECTOUTPUTASSET, op.OP_1, op.OP_EQUALVERIFY),
            push(pegged_asset) + _ops(op.OP_EQUALVERIFY),
            _ops(op.OP_DUP, op.OP_INSPECTOUTPUTNONCE, op.OP_0, op.OP_EQUALVERIFY),
            _ops(op.OP_DUP, op.OP_INSPECTOUTPUTVALUE, op.OP_1, op.OP_EQUALVERIFY),
            _ops(op.OP_SWAP, op.OP_INSPECTINPUTVALUE, op.OP_1, op.OP_EQUALVERIFY),
            push(le64(terms.max_fee_sats)) + _ops(op.OP_SUB64, op.OP_VERIFY),
            _ops(op.OP_GREATERTHANOREQUAL64),
        )
    )


def covenant_script(terms: CovenantTerms, pegged_asset: bytes) -> bytes:
    """The claim script, 34 bytes: a taproot program over the leaf."""
    return p2tr(_output_key(terms, pegged_asset)[1:])


def covenant_witness(terms: CovenantTerms, pegged_asset: bytes) -> tuple[bytes, bytes]:
    """What satisfies the claim script: the leaf and its control block."""
    parity = _output_key(terms, pegged_asset)[0] & 1
    control = bytes((LEAF_TAPSCRIPT | parity,)) + terms.internal_key
    return leaf_script(terms, pegged_asset), control


def build_covenant_claim(
    deposit: ClaimableDeposit, terms: CovenantTerms, params: ChainParams, *, rate_sats_per_kvb: int
) -> Transaction:
    """The claim of one deposit, ready to send. The user gets all but the network fee.

    Equal arguments give equal transactions, so members who claim at the same time do not compete.

    Raises:
        WalletRefusal: "fee" when the price does not pay for the claim at this rate.
        InvariantError: consensus would not take what was made.
    """
    asset = params.pegged_asset
    pegin = (
        le64(deposit.value_sats),
        asset,
        params.parent_genesis_hash,
        covenant_script(terms, asset),
        deposit.parent_tx,
        deposit.proof,
    )
    witness = InputWitness(script=covenant_witness(terms, asset), pegin=pegin)
    sized = _claim(deposit, terms, asset, 0, witness)
    vsize = sized.discount_vsize if params.accept_discount_ct else sized.vsize
    fee_sats = required_fee_sats(vsize + CLAIM_SPARE_VBYTES, rate_sats_per_kvb)
    if fee_sats > terms.max_fee_sats:
        raise WalletRefusal(
            "fee",
            f"a claim costs {fee_sats} sat now, the claim script allows {terms.max_fee_sats} sat",
        )
    claim = _claim(deposit, terms, asset, fee_sats, witness)
    check_covenant(claim, params)
    return claim


def check_covenant(claim: Transaction, params: ChainParams) -> None:
    """Judge an own claim as every node will, its script too.

    Raises:
        InvariantError: it is not valid.
    """
    spent = [claimed_output(witness) for witness in claim.input_witnesses]
    check_made(claim, spent, params)
    cache = SighashCache(claim, spent, params.genesis_hash)
    try:
        for index, output in enumerate(spent):
            verify_input(claim, index, output, CONSENSUS_FLAGS, cache)
    except ScriptError as error:
        raise InvariantError(f"an own covenant claim is not valid: {error}") from error


def _claim(
    deposit: ClaimableDeposit,
    terms: CovenantTerms,
    asset: bytes,
    fee_sats: int,
    witness: InputWitness,
) -> Transaction:
    outputs: list[TxOut] = [
        explicit_output(asset, deposit.value_sats - fee_sats, terms.script),
        explicit_output(asset, fee_sats, b""),
    ]
    return Transaction.build(
        version=TX_VERSION,
        inputs=[TxIn(deposit.outpoint, sequence=REPLACEABLE_SEQUENCE, is_pegin=True)],
        outputs=outputs,
        input_witnesses=[witness],
    )


def _output_key(terms: CovenantTerms, pegged_asset: bytes) -> bytes:
    """The output key with its parity, 33 bytes."""
    root = leaf_hash(LEAF_TAPSCRIPT, leaf_script(terms, pegged_asset))
    return tweak_add_public(b"\x02" + terms.internal_key, tweak_hash(terms.internal_key, root))


def _ops(*codes: int) -> bytes:
    return bytes(codes)
