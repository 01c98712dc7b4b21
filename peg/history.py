"""What the final sidechain says to the peg: commitments, claims, burns, fees, releases.

Folds final blocks in order and never goes back. Nothing here looks at Bitcoin, so this part is
the same on every branch of it.

Source: peg:3.2-3.5, peg:3.9.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.claims import Claim, read_claims
from peg.commitments import Commitment, median_rate, read_coinbase
from peg.governance import Governance, Pause
from peg.limits import Burn, BurnCode, ReleaseSchedule, burn_code
from peg.parameters import PegParameters
from peg.records import Record
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
        inflated: circ was below zero at this height or below it, and no RESUME after it (X5).
        last_reset_height: newest block with RESET; 0 without one.
        parameters: the values in force at this height.
        pause: the pauses in force after this block's records.
        records: number of records so far.
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
    parameters: PegParameters
    pause: Pause
    records: int

    @property
    def is_paused(self) -> bool:
        """Whether releases and payouts stand still at this height (peg:7.3)."""
        return self.pause.stops(self.clock)


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
        self._hashes: list[bytes] = []
        self._feerates: list[int] = []
        self._burns: dict[bytes, Burn] = {}
        self._claims: list[ClaimedDeposit] = []
        self._by_outpoint: dict[OutPoint, ClaimedDeposit] = {}
        self.governance = Governance(parameters)
        self.schedule = ReleaseSchedule(parameters, self.governance.is_excluded)

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
        return frozenset(self.governance.opened)

    @property
    def parameters(self) -> PegParameters:
        """The values in force for the next block."""
        return self.governance.changes.at(self.height + 1)

    @property
    def clock(self) -> int:
        """clock(h) of the last block, 0 before block 1."""
        return self._totals[-1].clock if self._totals else 0

    @property
    def recent_rates(self) -> Sequence[int]:
        """The committed feerates that rate(h) is the median of, sat/kvB, oldest first."""
        return self._feerates[-(2 * self._parameters.n + 1) :]

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

    def block_hash(self, height: int) -> bytes:
        """Hash of a final block from height 1 on.

        Raises:
            InvariantError: no such block was folded.
        """
        if not 1 <= height <= len(self._hashes):
            raise InvariantError(f"no final block {height} in the peg's history")
        return self._hashes[height - 1]

    def records_at(self, height: int) -> list[Record]:
        """The records of a final block."""
        before = self.totals(height - 1).records if height > 1 else 0
        records = self.governance.records[before : self.totals(height).records]
        return [at.record for at in records]

    def burn(self, burn_id: bytes) -> Burn | None:
        """A burn by its id."""
        return self._burns.get(burn_id)

    def claimed(self, outpoint: OutPoint) -> ClaimedDeposit | None:
        """The final claim of a deposit."""
        return self._by_outpoint.get(outpoint)

    def opened_at(self, lane: int, height: int) -> OutPoint | None:
        """a_0 of a lane as of a height; None before its OPEN is final."""
        return self.governance.opened_at(lane, height)

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
        self._hashes.append(block.hash)
        clock = max(coinbase.commitment.height, self._totals[-1].clock if self._totals else 0)
        approved = self.governance.apply(height, clock, coinbase.records)
        self._parameters = self.governance.changes.at(height)
        deposits = tuple(ClaimedDeposit(claim, height) for claim in claims)
        for deposit in deposits:
            self._claims.append(deposit)
            self._by_outpoint[deposit.claim.outpoint] = deposit
        burns, sums = self._read_outputs(block, height, clock)
        sums.claimed_sats = sum(claim.value_sats for claim in claims)
        self._extend(height, coinbase.commitment, clock, burns, sums, approved)
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
        approved: Sequence[bytes],
    ) -> None:
        before = self._totals[-1] if self._totals else None
        eligible = [burn for burn in burns if burn.code is BurnCode.OK]
        claimed = (before.claimed_sats if before else 0) + sums.claimed_sats
        feeburn = (before.feeburn_sats if before else 0) + sums.feeburn_sats
        burned = (before.burned_sats if before else 0) + sums.burned_sats
        last_reset = before.last_reset_height if before else 0
        self._burns.update((burn.burn_id, burn) for burn in burns)
        pause = self.governance.pause_at(clock)
        self.schedule.apply_block(
            height,
            clock,
            eligible,
            claimed - feeburn,
            parameters=self._parameters,
            is_paused=pause.stops(clock),
            approved=approved,
        )
        resumed = self.governance.resumed_height == height
        inflated = before is not None and before.inflated and not resumed
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
                inflated=inflated or claimed - feeburn < burned,
                last_reset_height=height if commitment.reset else last_reset,
                parameters=self._parameters,
                pause=pause,
                records=len(self.governance.records),
            )
        )

    def _rate(self, commitment: Commitment) -> int:
        """rate(h): what repeats the commitment before it is no statement about fees.

        Otherwise the one proposer whose rate is repeated while Bitcoin stands still would decide
        the median alone.
        """
        if not commitment.repeats(self.previous_commitment):
            self._feerates.append(commitment.feerate_sats_per_kvb)
        return median_rate(self.recent_rates, self._parameters)
