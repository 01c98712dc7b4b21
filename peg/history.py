"""What the final sidechain says to the peg: commitments, claims, burns, fees, releases.

Folds final blocks in order and never goes back. Nothing here looks at Bitcoin, so this part is
the same on every branch of it.

Source: peg:3.2-3.5, peg:3.9.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.claims import Claim, read_claims
from peg.commitments import Commitment, median_rate, read_coinbase
from peg.limits import Burn, BurnCode, ReleaseSchedule, burn_code
from peg.parameters import PegParameters
from peg.records import OpenRecord
from sidechain.errors import Invalid, InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.pegouts import parse_pegout


@dataclass(frozen=True, slots=True)
class ClaimedDeposit:
    """A deposit whose claim is final, with the sidechain height of the claim."""

    claim: Claim
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightTotals:
    """Sums over all final blocks up to one height, satoshis, and that height's Bitcoin view.

    Attributes:
        clock: clock(h).
        rate_sats_per_kvb: rate(h).
        burned_sats: explicit burns of the pegged asset of every kind.
        suspense_sats: the ineligible and plain ones among them.
        payout_sats: p(b) over OK burns.
        payout_fee_sats: their peg-out fees.
        claims: number of claims.
        inflated: circ was below zero at this height or below it (X5).
        last_reset_height: newest block with RESET; 0 without one.
    """

    height: int
    commitment: Commitment
    clock: int
    rate_sats_per_kvb: int
    claimed_sats: int
    feeburn_sats: int
    burned_sats: int
    suspense_sats: int
    payout_sats: int
    payout_fee_sats: int
    claims: int
    inflated: bool
    last_reset_height: int


@dataclass(slots=True)
class _BlockSums:
    """What one block adds."""

    claimed_sats: int = 0
    feeburn_sats: int = 0
    burned_sats: int = 0
    suspense_sats: int = 0


class PegHistory:
    """Fold of the final sidechain. One owner: the ledger."""

    def __init__(
        self, chain: ChainParams, parameters: PegParameters, fed_programs: frozenset[bytes]
    ) -> None:
        """Start before block 1.

        Args:
            fed_programs: FED of every federation past and present.
        """
        self._chain = chain
        self._parameters = parameters
        self._programs = fed_programs
        self._totals: list[HeightTotals] = []
        self._burns: dict[bytes, Burn] = {}
        self._claims: list[ClaimedDeposit] = []
        self._by_outpoint: dict[OutPoint, ClaimedDeposit] = {}
        self._opened: dict[int, tuple[OutPoint, int]] = {}
        self.schedule = ReleaseSchedule(parameters)

    @property
    def height(self) -> int:
        """Height of the last block folded, 0 before block 1."""
        return len(self._totals)

    @property
    def tip(self) -> HeightTotals | None:
        """Totals at the last block; None before block 1."""
        return self._totals[-1] if self._totals else None

    @property
    def previous_commitment(self) -> Commitment | None:
        """Commitment of the last block; None before block 1."""
        return self._totals[-1].commitment if self._totals else None

    @property
    def lanes_opened(self) -> frozenset[int]:
        """Lanes with a final OPEN."""
        return frozenset(self._opened)

    @property
    def burns(self) -> Sequence[Burn]:
        """All burns in burn order."""
        return list(self._burns.values())

    @property
    def claims(self) -> Sequence[ClaimedDeposit]:
        """All claimed deposits in the order of their claims."""
        return self._claims

    def totals(self, height: int) -> HeightTotals:
        """Totals at a height from 1 to `height`.

        Raises:
            InvariantError: no such block was folded.
        """
        if not 1 <= height <= len(self._totals):
            raise InvariantError(f"no final block {height} in the peg's history")
        return self._totals[height - 1]

    def burn(self, burn_id: bytes) -> Burn | None:
        """A burn by its id."""
        return self._burns.get(burn_id)

    def claimed(self, outpoint: OutPoint) -> ClaimedDeposit | None:
        """The final claim of a deposit."""
        return self._by_outpoint.get(outpoint)

    def opened_at(self, lane: int, height: int) -> OutPoint | None:
        """a_0 of a lane as of a height; None before its OPEN is final."""
        anchor, opened = self._opened.get(lane, (None, 0))
        return anchor if opened <= height else None

    def apply(self, block: Block) -> tuple[ClaimedDeposit, ...]:
        """Fold the next final block.

        Returns:
            The claims it carries.
        Raises:
            InvariantError: not the next height, or a final block the peg cannot read: it then
                carries what this version does not know, and going on would compute wrong sums.
        """
        height = self.height + 1
        if block.header.height != height:
            raise InvariantError(f"peg history expects block {height}")
        try:
            coinbase = read_coinbase(block.transactions[0], self._chain.pegged_asset)
            claims = read_claims(block.transactions)
        except Invalid as error:
            raise InvariantError(f"final block {height} cannot be read by the peg") from error
        clock = max(coinbase.commitment.height, self._totals[-1].clock if self._totals else 0)
        for record in coinbase.records:
            if not isinstance(record, OpenRecord) or record.lane in self._opened:
                raise InvariantError(f"final block {height} has a record that is not enabled")
            self._opened[record.lane] = (record.anchor, height)
        deposits = tuple(ClaimedDeposit(claim, height) for claim in claims)
        for deposit in deposits:
            self._claims.append(deposit)
            self._by_outpoint[deposit.claim.outpoint] = deposit
        burns, sums = self._read_outputs(block, height, clock)
        sums.claimed_sats = sum(claim.value_sats for claim in claims)
        self._extend(height, coinbase.commitment, clock, burns, sums)
        return deposits

    def _read_outputs(self, block: Block, height: int, clock: int) -> tuple[list[Burn], _BlockSums]:
        sums = _BlockSums()
        burns: list[Burn] = []
        for position, transaction in enumerate(block.transactions):
            in_coinbase = position == 0
            burns += self._read_burns(transaction, height, clock, in_coinbase)
            if in_coinbase:
                # Fees a coinbase collects are burned by its 6a outputs; they were counted where
                # they were paid.
                continue
            for output in transaction.outputs:
                if output.asset_id != self._chain.pegged_asset:
                    continue
                amount_sats = output.value_sats or 0
                if output.is_fee:
                    sums.feeburn_sats += amount_sats
                elif output.is_unspendable:
                    sums.burned_sats += amount_sats
        eligible = sum(burn.amount_sats for burn in burns if burn.code is BurnCode.OK)
        sums.suspense_sats = sums.burned_sats - eligible
        return burns, sums

    def _read_burns(
        self, transaction: Transaction, height: int, clock: int, in_coinbase: bool
    ) -> list[Burn]:
        burns: list[Burn] = []
        for index, output in enumerate(transaction.outputs):
            pegout = parse_pegout(output.script)
            if pegout is None or pegout[0] != self._chain.parent_genesis_hash:
                continue
            code = burn_code(
                output,
                pegout[1],
                pegged_asset=self._chain.pegged_asset,
                min_pegout_sats=self._parameters.min_pegout_sats,
                fed_programs=self._programs,
                in_coinbase=in_coinbase,
            )
            counts = output.asset_id == self._chain.pegged_asset and not in_coinbase
            burns.append(
                Burn(
                    burn_id=OutPoint(transaction.txid, index).serialize(),
                    height=height,
                    clock=clock,
                    script=pegout[1],
                    amount_sats=(output.value_sats or 0) if counts else 0,
                    fee_sats=self._parameters.peg_out_fee_sats,
                    code=code,
                )
            )
        return burns

    def _extend(
        self,
        height: int,
        commitment: Commitment,
        clock: int,
        burns: Sequence[Burn],
        sums: _BlockSums,
    ) -> None:
        before = self._totals[-1] if self._totals else None
        eligible = [burn for burn in burns if burn.code is BurnCode.OK]
        claimed = (before.claimed_sats if before else 0) + sums.claimed_sats
        feeburn = (before.feeburn_sats if before else 0) + sums.feeburn_sats
        burned = (before.burned_sats if before else 0) + sums.burned_sats
        last_reset = before.last_reset_height if before else 0
        self._burns.update((burn.burn_id, burn) for burn in burns)
        self.schedule.apply_block(height, clock, eligible, claimed - feeburn)
        self._totals.append(
            HeightTotals(
                height=height,
                commitment=commitment,
                clock=clock,
                rate_sats_per_kvb=self._rate(commitment),
                claimed_sats=claimed,
                feeburn_sats=feeburn,
                burned_sats=burned,
                suspense_sats=(before.suspense_sats if before else 0) + sums.suspense_sats,
                payout_sats=(before.payout_sats if before else 0)
                + sum(burn.payout_sats for burn in eligible),
                payout_fee_sats=(before.payout_fee_sats if before else 0)
                + sum(burn.fee_sats for burn in eligible),
                claims=len(self._claims),
                inflated=(before.inflated if before else False) or claimed - feeburn < burned,
                last_reset_height=height if commitment.reset else last_reset,
            )
        )

    def _rate(self, commitment: Commitment) -> int:
        window = 2 * self._parameters.n + 1
        recent = [totals.commitment.feerate_sats_per_kvb for totals in self._totals[1 - window :]]
        return median_rate([*recent, commitment.feerate_sats_per_kvb], self._parameters)
