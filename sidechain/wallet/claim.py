"""Claims of Bitcoin deposits: explicit to an explicit address, blinded to a confidential one.

The one input of a claim is explicit, so a blinded claim has a second blinded output: a hidden zero
that nobody can open, which balances the blinders of the first.

Source: elements/peg.md 3 and 9; elements/transactions.md 8.3; clients.md 1.
"""

from dataclasses import dataclass, replace

from sidechain.params import INCREMENTAL_RELAY_FEE_SATS_PER_KVB, ChainParams
from sidechain.policy.fees import required_fee_sats
from sidechain.policy.standardness import dust_threshold_sats
from sidechain.primitives.address import Address
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.sighash import SighashCache
from sidechain.wallet.blinding import Opened, blind, throwaway_key
from sidechain.wallet.builder import (
    REPLACEABLE_SEQUENCE,
    TX_VERSION,
    check_made,
    explicit_output,
    p2wpkh_witness,
    with_witnesses,
)
from sidechain.wallet.keys import SecretKey
from sidechain.wallet.selection import WalletRefusal

CLAIM_SPARE_VBYTES = 200
"""Room in a claim's fee for a longer merkle proof, should the deposit move to another block."""

_P2WPKH_BYTES = 22
_PLACEHOLDER = (bytes(72), bytes(33))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimableDeposit:
    """A deposit with what a claim of it must show.

    `parent_tx` is the depositing transaction without witness, `proof` the serialized merkle block
    of its block, `claim_script` the script the deposit address commits to.
    """

    outpoint: OutPoint
    value_sats: int
    claim_script: bytes
    parent_tx: bytes
    proof: bytes


def build_claim(
    deposit: ClaimableDeposit,
    params: ChainParams,
    *,
    to: Address,
    rate_sats_per_kvb: int,
    entropy: bytes,
    least_fee_sats: int = 0,
) -> Transaction:
    """The unsigned claim of one deposit, all of it but the fee to one address.

    Args:
        entropy: 32 random bytes, kept with the deposit: the same claim is built from them again.
        least_fee_sats: pay at least this, to replace an earlier claim of the same deposit.
    Raises:
        WalletRefusal: "dust" when nothing worth having would be left, "claim-script" when the
            script is not P2WPKH.
    """
    script = deposit.claim_script
    if len(script) != _P2WPKH_BYTES or script[:2] != b"\x00\x14":
        raise WalletRefusal("claim-script", "this wallet claims to its own P2WPKH scripts only")
    pegin = (
        le64(deposit.value_sats),
        params.pegged_asset,
        params.parent_genesis_hash,
        script,
        deposit.parent_tx,
        deposit.proof,
    )
    signed = InputWitness(script=_PLACEHOLDER, pegin=pegin)
    sized = _claim(deposit, params, to, entropy, 0, signed)
    vsize = sized.discount_vsize if params.accept_discount_ct else sized.vsize
    fee = required_fee_sats(vsize + CLAIM_SPARE_VBYTES, rate_sats_per_kvb)
    fee = max(fee, least_fee_sats)
    least = dust_threshold_sats(explicit_output(params.pegged_asset, 0, to.script), params)
    if deposit.value_sats - fee < max(1, least):
        raise WalletRefusal("dust", f"{deposit.value_sats} sat does not pay for its own claim")
    return _claim(deposit, params, to, entropy, fee, InputWitness(pegin=pegin))


def replacement_fee_sats(claim: Transaction) -> int:
    """The fee with which a new claim of the same deposit takes the place of this one.

    Replacement looks at the size without discount. Source: elements/transactions.md 3.
    """
    fee = sum(output.value_sats or 0 for output in claim.outputs if output.is_fee)
    vsize = claim.vsize + CLAIM_SPARE_VBYTES
    return fee + required_fee_sats(vsize, INCREMENTAL_RELAY_FEE_SATS_PER_KVB)


def with_claim_proof(claim: Transaction, proof: bytes) -> Transaction:
    """The same claim, signed as it was, with the proof of another block.

    The proof is witness data that no signature covers: txid and signature stay.
    """
    witness = claim.input_witnesses[0]
    changed = replace(witness, pegin=(*witness.pegin[:5], proof))
    return with_witnesses(claim, (changed, *claim.input_witnesses[1:]))


def sign_claim(claim: Transaction, secret: SecretKey, params: ChainParams) -> Transaction:
    """Sign a claim with the key of its claim script, and check it.

    Raises:
        InvalidEncoding: the key is not the claim script's.
        InvariantError: consensus would not take what was made.
    """
    witness = claim.input_witnesses[0]
    spent = claimed_output(witness)
    stack = p2wpkh_witness(SighashCache(claim), 0, spent, secret)
    signed = with_witnesses(claim, (replace(witness, script=stack),))
    check_made(signed, [spent], params)
    return signed


def claimed_output(witness: InputWitness) -> TxOut:
    """What a peg-in input spends. Source: elements/transactions.md 2.5."""
    value = int.from_bytes(witness.pegin[0], "little")
    asset, script = witness.pegin[1], witness.pegin[3]
    return TxOut(explicit_asset(asset), explicit_value(value), NULL, script)


def _claim(
    deposit: ClaimableDeposit,
    params: ChainParams,
    to: Address,
    entropy: bytes,
    fee_sats: int,
    witness: InputWitness,
) -> Transaction:
    asset = params.pegged_asset
    outputs = [explicit_output(asset, deposit.value_sats - fee_sats, to.script)]
    receivers: list[bytes | None] = [to.blinding_key]
    if to.blinding_key is not None:
        outputs.append(explicit_output(asset, 0, b"\x6a"))
        receivers.append(throwaway_key(entropy))
    outputs.append(explicit_output(asset, fee_sats, b""))
    receivers.append(None)
    plain = Transaction.build(
        version=TX_VERSION,
        inputs=[TxIn(deposit.outpoint, sequence=REPLACEABLE_SEQUENCE, is_pegin=True)],
        outputs=outputs,
        input_witnesses=[witness],
    )
    spent = Opened(asset=asset, value_sats=deposit.value_sats)
    return blind(plain, [spent], receivers, entropy=entropy)
