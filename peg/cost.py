"""What a batch costs: one selected and signed by the rules that members run, beside its floor.

The keys are made up from a name, the coins from numbers: nothing here can be spent. The floor is
counted on its own, byte by byte, for the same inputs and outputs: P2WSH spends by k signatures of
72 bytes, the anchor's output, the OP_RETURN and the payouts.

Source: peg:P13 to peg:P18, peg:S13, N20.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from peg.batches import BatchView, CoinKind, FedCoin, OpenBatch, climb, select_batch
from peg.fedscript import FedScript, fed_script, key_tweak
from peg.lanes import LaneState
from peg.limits import Burn, BurnCode
from peg.parameters import PegParameters
from peg.signing import PegSig, SigningSession
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import ecdsa_sign, public_key, tweak_add_secret
from sidechain.errors import InvariantError
from sidechain.primitives.encoding import compact_size, le32, vec
from sidechain.primitives.transaction import OutPoint

PAYOUT_SATS: Final = 2_000_000
DEPOSIT_SATS: Final = 100_000_000
ANCHOR_SATS: Final = 10_000_000
HEIGHT: Final = 1_000
FLOOR_SIGNATURE_BYTES: Final = 72
GENESIS: Final = sha256(b"fedpeg/cost")
DESTINATIONS: Final = (
    (b"\x00\x14", 20, b""),
    (b"\x51\x20", 32, b""),
    (b"\x76\xa9\x14", 20, b"\x88\xac"),
    (b"\xa9\x14", 20, b"\x87"),
    (b"\x00\x20", 32, b""),
)
"""Head, size of hash or key, and tail of P2WPKH, P2TR, P2PKH, P2SH and P2WSH, taken in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """Sizes in virtual bytes and fees in satoshis of one batch of version 0 at a feerate.

    Attributes:
        vsize: of the signed transaction.
        billed_vsize: what its fee was computed for: the largest it can get (P17).
        floor_vsize: counted on its own, for signatures of 72 bytes.
    """

    n: int
    k: int
    payouts: int
    inputs: int
    rate_sats_per_kvb: int
    vsize: int
    billed_vsize: int
    floor_vsize: int
    fee_sats: int

    @property
    def floor_fee_sats(self) -> int:
        """What the floor costs at the same feerate."""
        return -(-self.rate_sats_per_kvb * self.floor_vsize // 1_000)


def batch_cost(
    parameters: PegParameters, *, n: int, k: int, payouts: int, rate_sats_per_kvb: int
) -> BatchCost:
    """Select, sign and assemble a batch of so many payouts.

    Raises:
        InvariantError: the rules do not open a batch that pays all of them.
        InvalidEncoding: k-of-n is out of range.
    """
    secrets = [sha256(b"fedpeg/cost key" + le32(member)) for member in range(n)]
    script = fed_script(
        k=k,
        keys=[public_key(secret) for secret in secrets],
        csv=parameters.csv,
        emergency_keys=[public_key(sha256(b"fedpeg/cost spare" + le32(i))) for i in range(3)],
    )
    parameters = replace(parameters, n=n, k=k)
    batch = _batch(parameters, script, payouts, rate_sats_per_kvb)
    raw = _signed(batch, script, secrets)
    weight = 3 * len(batch.unsigned(batch.versions[0].fee_sats)) + len(raw)
    return BatchCost(
        n=n,
        k=k,
        payouts=payouts,
        inputs=len(batch.inputs),
        rate_sats_per_kvb=rate_sats_per_kvb,
        vsize=-(-weight // 4),
        billed_vsize=batch.vsize,
        floor_vsize=floor_vsize(batch, script),
        fee_sats=batch.versions[0].fee_sats,
    )


def floor_vsize(batch: OpenBatch, script: FedScript) -> int:
    """Virtual bytes of the same inputs and outputs with k signatures of 72 bytes an input."""
    item = vec(bytes(FLOOR_SIGNATURE_BYTES))
    # CHECKMULTISIG takes one item more than it uses.
    witness = compact_size(script.k + 2) + vec(b"") + item * script.k + vec(script.script)
    outputs = batch.outputs(batch.versions[0].fee_sats)
    base = bytes(4) + compact_size(len(batch.inputs)) + bytes(41 * len(batch.inputs))
    base += compact_size(len(outputs))
    base += b"".join(bytes(8) + vec(program) for _, program in outputs) + bytes(4)
    return -(-(4 * len(base) + 2 + len(witness) * len(batch.inputs)) // 4)


def _batch(
    parameters: PegParameters, script: FedScript, payouts: int, rate_sats_per_kvb: int
) -> OpenBatch:
    queue = tuple(_burn(number, parameters) for number in range(payouts))
    lane = LaneState(lane=0, index=0, anchor=OutPoint(sha256(b"anchor"), 0))
    needed_sats = payouts * PAYOUT_SATS + parameters.fee_cap_sats + parameters.anchor_min_sats
    anchor = FedCoin(
        outpoint=lane.anchor,
        value_sats=ANCHOR_SATS,
        height=HEIGHT,
        kind=CoinKind.ANCHOR,
        claim_script=None,
        csv=script.csv,
    )
    deposits = -(-max(0, needed_sats - ANCHOR_SATS) // DEPOSIT_SATS)
    view = BatchView(
        height=HEIGHT,
        clock=HEIGHT,
        committed_height=HEIGHT,
        rate_sats_per_kvb=rate_sats_per_kvb,
        lane=lane,
        coins=(anchor, *(_deposit(number, script) for number in range(deposits))),
        queue=queue,
        oldest_release_clock=0,
        halted=False,
        pool_sats=ANCHOR_SATS,
    )
    batch = select_batch(view, parameters, script, GENESIS)
    if not isinstance(batch, OpenBatch) or len(batch.payouts) != payouts:
        raise InvariantError(f"the rules open no batch of {payouts} payouts: {batch}")
    batch = climb(batch, view, parameters)
    if not batch.versions:
        raise InvariantError(f"no version at {rate_sats_per_kvb} sat/kvB is within the fee cap")
    return batch


def _burn(number: int, parameters: PegParameters) -> Burn:
    head, size, tail = DESTINATIONS[number % len(DESTINATIONS)]
    return Burn(
        burn_id=sha256(b"burn" + le32(number)) + le32(0),
        height=1,
        clock=1,
        script=head + sha256(b"to" + le32(number))[:size] + tail,
        amount_sats=PAYOUT_SATS + parameters.peg_out_fee_sats,
        fee_sats=parameters.peg_out_fee_sats,
        code=BurnCode.OK,
    )


def _deposit(number: int, script: FedScript) -> FedCoin:
    return FedCoin(
        outpoint=OutPoint(sha256(b"deposit" + le32(number)), 0),
        value_sats=DEPOSIT_SATS,
        height=HEIGHT,
        kind=CoinKind.DEPOSIT,
        claim_script=b"\x00\x14" + sha256(b"claim" + le32(number))[:20],
        csv=script.csv,
    )


def _signed(batch: OpenBatch, script: FedScript, secrets: Sequence[bytes]) -> bytes:
    version = batch.versions[0]
    session = SigningSession(batch, version, script)
    for member in range(script.k):
        signatures = []
        for coin, digest in zip(batch.inputs, session.digests, strict=True):
            tweak = key_tweak(script.keys[member], coin.claim_script)
            secret = secrets[member]
            signed_by = secret if tweak is None else tweak_add_secret(secret, tweak)
            signatures.append(ecdsa_sign(signed_by, digest) + b"\x01")
        share = PegSig(
            lane=batch.lane,
            index=batch.index,
            session=session.key,
            txid=version.txid,
            state_digest=bytes(32),
            signatures=tuple(signatures),
        )
        session.add(member, share, b"")
    raw = session.assemble()
    if raw is None:
        raise InvariantError("k shares do not make a transaction")
    return raw
