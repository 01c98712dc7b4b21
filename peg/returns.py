"""Giving a late deposit back: the one transaction of a RETURN record, its fee ladder and its proof.

A deposit too old to be claimed stays under the federation's tweaked script. After a RETURN record
k members sign a plain transaction of it to the script that the record names; the fee comes out of
the deposit. All versions spend the same input, so one of them confirms at most.

Source: peg:C9, peg:P39, N22.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peg.batches import BatchVersion, CoinKind, FedCoin, fee_at, next_fee
from peg.fedscript import FedScript, tweaked
from peg.history import HeightTotals
from peg.lanes import encode_unsigned, worst_vsize
from peg.limits import is_payable
from peg.parameters import LARGEST_DUST_SATS, RETURN_FEE_MAX_SATS
from peg.records import ReturnRecord
from sidechain.crypto.hashes import hash160, sha256, sha256d, tagged_hash
from sidechain.crypto.keys import ecdsa_verify, is_public_key, schnorr_verify
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint

RETURN_LANE = 0xF2
"""Lane byte of signatures on a RETURN; no lane has it."""
_PUBLIC_KEY_BYTES = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnDetails:
    """What a RETURN record only hashes, and the depositor's word.

    Attributes:
        claim_script: what tweaks the deposit's script.
        return_script: where the coins go on Bitcoin.
        proof: signature by the key of the claim script over `return_message`.
    """

    claim_script: bytes
    return_script: bytes
    proof: bytes

    def to_json(self) -> dict[str, str]:
        """By name, in hex."""
        return {
            "claim_script": self.claim_script.hex(),
            "proof": self.proof.hex(),
            "return_script": self.return_script.hex(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnBatch:
    """The transaction that gives one deposit back; signed like a batch, in a session of its own."""

    coin: FedCoin
    script: bytes
    h_sel: int
    vsize: int
    versions: tuple[BatchVersion, ...] = ()

    lane = RETURN_LANE
    index = 0

    @property
    def anchor(self) -> OutPoint:
        """What names its session: the deposit itself."""
        return self.coin.outpoint

    @property
    def inputs(self) -> tuple[FedCoin, ...]:
        """The deposit."""
        return (self.coin,)

    @property
    def digest(self) -> bytes:
        """What the journal remembers of its outputs (R5)."""
        return sha256(self.script)

    def outputs(self, fee_sats: int) -> tuple[tuple[int, bytes], ...]:
        """Its output at a fee."""
        return ((self.coin.value_sats - fee_sats, self.script),)

    def unsigned(self, fee_sats: int) -> bytes:
        """The transaction without witness at a fee."""
        return encode_unsigned([self.coin.outpoint], self.outputs(fee_sats))


def return_message(genesis: bytes, deposit: OutPoint, return_script: bytes) -> bytes:
    """The 32 bytes whose signature proves control of the claim script."""
    return tagged_hash("fedpeg/return", genesis + deposit.serialize() + sha256(return_script))


def read_details(
    record: ReturnRecord, plain: Mapping[str, Any], genesis: bytes, fed_program: bytes
) -> ReturnDetails:
    """Read and check what an operator gives with a RETURN record.

    Args:
        fed_program: the federation's own script, to which nothing is given back (P39).
    Raises:
        InvalidEncoding: missing or malformed parts, a script that is not the named one, not
            standard or the federation's, or a proof that the claim script's key did not sign.
    """
    try:
        parts = {name: bytes.fromhex(plain[name]) for name in ReturnDetails.__annotations__}
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidEncoding("RETURN", "needs claim_script, return_script, proof") from error
    details = ReturnDetails(**parts)
    if sha256(details.return_script) != record.script_hash:
        raise InvalidEncoding("RETURN", "return_script is not what the record names")
    if not is_payable(details.return_script):
        raise InvalidEncoding("RETURN", "return_script has no standard form")
    if details.return_script == fed_program:
        raise InvalidEncoding("RETURN", "return_script is the federation's own")
    message = return_message(genesis, record.deposit, details.return_script)
    if not _proves(details.claim_script, details.proof, message):
        raise InvalidEncoding("RETURN", "proof does not verify for the claim script")
    return details


def plan_return(
    record: ReturnRecord,
    details: ReturnDetails,
    value_sats: int,
    script: FedScript,
    totals: Sequence[HeightTotals],
) -> ReturnBatch:
    """The transaction with every version that exists now, in the way of P17.

    Args:
        value_sats: of the deposit.
        script: the federation's plain fedpegscript.
        totals: of the heights from the record's block to the last one.
    """
    own = tweaked(script, details.claim_script)
    coin = FedCoin(
        outpoint=record.deposit,
        value_sats=value_sats,
        height=0,
        kind=CoinKind.DEPOSIT,
        claim_script=details.claim_script,
        csv=own.csv,
    )
    output_bytes = 9 + len(details.return_script)
    batch = ReturnBatch(
        coin=coin,
        script=details.return_script,
        h_sel=totals[0].height,
        vsize=worst_vsize([own.witness_worst_bytes], output_bytes, 1),
    )
    versions: list[BatchVersion] = []
    step = 0
    for at in totals:
        while at.clock >= totals[0].clock + step * at.parameters.ladder_step:
            version = _rung(batch, versions, step, at)
            versions += [version] if version is not None else []
            step += 1
    return ReturnBatch(
        coin=coin,
        script=batch.script,
        h_sel=batch.h_sel,
        vsize=batch.vsize,
        versions=tuple(versions),
    )


def _rung(
    batch: ReturnBatch, versions: Sequence[BatchVersion], step: int, at: HeightTotals
) -> BatchVersion | None:
    fee_sats = fee_at(at.rate_sats_per_kvb, batch.vsize)
    if versions:
        fee_sats = max(fee_sats, next_fee(versions[-1].fee_sats, batch.vsize))
    cap_sats = min(at.parameters.fee_cap_sats, RETURN_FEE_MAX_SATS)
    most_sats = min(cap_sats, batch.coin.value_sats - LARGEST_DUST_SATS)
    if fee_sats > most_sats:
        return None
    return BatchVersion(
        version=step,
        height=at.height,
        fee_sats=fee_sats,
        forced_sats=0,
        txid=sha256d(batch.unsigned(fee_sats)),
    )


def _proves(claim_script: bytes, proof: bytes, message: bytes) -> bool:
    """Whether a proof shows control of a P2WPKH or P2TR claim script."""
    if len(claim_script) == 34 and claim_script[:2] == b"\x51\x20":
        return len(proof) == 64 and schnorr_verify(claim_script[2:], proof, message)
    if len(claim_script) != 22 or claim_script[:2] != b"\x00\x14":
        return False
    key, signature = proof[:_PUBLIC_KEY_BYTES], proof[_PUBLIC_KEY_BYTES:]
    if len(key) != _PUBLIC_KEY_BYTES or not is_public_key(key):
        return False
    try:
        return hash160(key) == claim_script[2:] and ecdsa_verify(key, signature, message)
    except InvalidEncoding:
        return False
