"""The peg at one sidechain height: lane, coins, book, open batch, digest.

A function of the final sidechain and the Bitcoin blocks on the path to B(h). It is folded height by
height; at a RESET everything that came from Bitcoin is computed again from the new chain, with
nothing open, so heights before the last RESET are never needed.

Source: peg:3, peg:P33, peg:9.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peg.batches import (
    BatchView,
    CoinKind,
    FedCoin,
    Idle,
    OpenBatch,
    climb,
    keeps_open,
    select_batch,
)
from peg.fedscript import FedScript, tweaked
from peg.history import ClaimedDeposit, HeightTotals, PegHistory
from peg.lanes import LaneState, LaneStep, SpendKind
from peg.limits import Burn
from peg.parameters import PegParameters
from peg.parent_path import ParentPath, PathOutput
from peg.reserves import Book, Halt, chain_halts, state_digest, stops_selection
from peg.walk import LaneWalk
from sidechain.errors import InvariantError
from sidechain.params import COINBASE_MATURITY_BLOCKS
from sidechain.primitives.transaction import OutPoint

LANE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PegView:
    """Everything the chains say about the peg at one sidechain height.

    Attributes:
        totals: sums of the sidechain and the block's Bitcoin view.
        lane: None before OPEN is final.
        steps: the walk so far, oldest first.
        coins: coins(h).
        queue: queue(h, paid).
        open_batch: open(h).
        idle: why none is open.
        halts: conditions that stop payouts.
        forced_fee_sats: what of the fees of confirmed batches the pool did not hold (P24), since
            the last RESET.
        digest: state_digest.
    """

    totals: HeightTotals
    lane: LaneState | None
    steps: tuple[LaneStep, ...]
    coins: tuple[FedCoin, ...]
    book: Book
    queue: tuple[Burn, ...]
    open_batch: OpenBatch | None
    idle: Idle | None
    halts: tuple[Halt, ...]
    forced_fee_sats: int
    digest: bytes

    @property
    def height(self) -> int:
        """h."""
        return self.totals.height


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flows:
    """Sums over the federation's transactions on the path, satoshis."""

    bitcoin_fee_sats: int
    spent_deposit_sats: int
    spent_donation_sats: int

    def plus(self, other: "_Flows") -> "_Flows":
        """Both together."""
        return _Flows(
            bitcoin_fee_sats=self.bitcoin_fee_sats + other.bitcoin_fee_sats,
            spent_deposit_sats=self.spent_deposit_sats + other.spent_deposit_sats,
            spent_donation_sats=self.spent_donation_sats + other.spent_donation_sats,
        )


_NO_FLOWS = _Flows(bitcoin_fee_sats=0, spent_deposit_sats=0, spent_donation_sats=0)


class PegFold:
    """Folds heights into `PegView`. One owner: the ledger, which feeds `path` first."""

    def __init__(
        self,
        history: PegHistory,
        path: ParentPath,
        parameters: PegParameters,
        script: FedScript,
        genesis: bytes,
    ) -> None:
        """Start before block 1.

        Args:
            path: must end in B(h) whenever `step` is called for h.
            script: the federation's plain fedpegscript.
            genesis: sidechain genesis hash.
        """
        self._history = history
        self._path = path
        self._parameters = parameters
        self._script = script
        self._genesis = genesis
        self._programs: frozenset[bytes] = frozenset((script.program,))
        self._csv: dict[OutPoint, int] = {}
        self._queue: tuple[Burn, ...] = ()
        self._restart()
        self.view: PegView | None = None
        self.height = 0

    def _restart(self) -> None:
        """Forget what came from Bitcoin. What is kept beside it only saves computing again."""
        self._walk = LaneWalk(
            LANE,
            self._history,
            self._path,
            self._script,
            genesis=self._genesis,
            anchor_min_sats=self._parameters.anchor_min_sats,
        )
        self._open: OpenBatch | None = None
        self._queue_at: tuple[int, int, int] | None = None
        self._coins_at: tuple[int, int, int] | None = None
        self._kept_coins: tuple[FedCoin, ...] = ()
        self._flows_at: tuple[int, int, int] | None = None
        self._flows = _NO_FLOWS
        self._settled = _NO_FLOWS
        self._settled_steps = 0
        self._anchors: set[OutPoint] = set()
        self._strange: list[LaneStep] = []
        self._forced: dict[bytes, int] = {}

    def step(self, height: int) -> PegView:
        """Fold one height.

        Raises:
            InvariantError: the path does not end in B(h), or heights go back.
        """
        totals = self._history.totals(height)
        if self._path.tip_hash != totals.commitment.block_hash or height <= self.height:
            raise InvariantError("peg state is fed out of step with the Bitcoin path")
        self.height = height
        if totals.commitment.reset:
            self._restart()
        self._walk.follow(height)
        coins = self._coins(totals)
        book = self._book(totals, coins)
        halts = self._halts(totals, coins, book)
        self._refresh_queue(totals)
        self._open, idle = self._next_open(totals, coins, book, halts)
        self.view = PegView(
            totals=totals,
            lane=self._walk.lane,
            steps=tuple(self._walk.steps),
            coins=coins,
            book=book,
            queue=self._queue,
            open_batch=self._open,
            idle=idle,
            halts=halts,
            forced_fee_sats=self._forced_fee_sats(),
            digest=self._digest(totals, book),
        )
        return self.view

    # ---- coins and book ----

    def _coins(self, totals: HeightTotals) -> tuple[FedCoin, ...]:
        """coins(h), ordered by outpoint (peg:3.8)."""
        at = (self._path.revision, self._walk.revision, totals.claims)
        if at != self._coins_at:
            self._coins_at = at
            self._kept_coins = self._find_coins(totals)
        return self._kept_coins

    def _find_coins(self, totals: HeightTotals) -> tuple[FedCoin, ...]:
        found = (self._coin(output, totals) for output in self._path.unspent())
        coins = [coin for coin in found if coin is not None]
        return tuple(sorted(coins, key=lambda coin: coin.outpoint.serialize()))

    def _coin(self, output: PathOutput, totals: HeightTotals) -> FedCoin | None:
        outpoint = output.outpoint
        lane = self._walk.lane
        if lane is not None and outpoint == lane.anchor and lane.broken_by is None:
            return self._fed_coin(output, CoinKind.ANCHOR)
        deposit = self._deposit(outpoint, totals.height)
        if deposit is not None:
            return FedCoin(
                outpoint=outpoint,
                value_sats=output.value_sats,
                height=output.height,
                kind=CoinKind.DEPOSIT,
                claim_script=deposit.claim.claim_script,
                csv=self._deposit_csv(deposit),
            )
        depth = totals.commitment.height - output.height + 1
        required = self._parameters.pegin_depth
        if output.is_coinbase:
            # Younger ones cannot be spent: as an input one would stop the lane for 100 blocks.
            required = max(required, COINBASE_MATURITY_BLOCKS)
        if output.script not in self._programs or depth < required:
            return None
        if output.value_sats < self._parameters.min_pegin_sats:
            # Sweeping dust costs more than it brings, and anybody can send it. The first value
            # counts for ever: a coin must not stop being one while a batch spends it.
            return None
        return self._fed_coin(output, CoinKind.DONATION)

    def _fed_coin(self, output: PathOutput, kind: CoinKind) -> FedCoin:
        return FedCoin(
            outpoint=output.outpoint,
            value_sats=output.value_sats,
            height=output.height,
            kind=kind,
            claim_script=None,
            csv=self._script.csv,
        )

    def _deposit(self, outpoint: OutPoint, height: int) -> ClaimedDeposit | None:
        deposit = self._history.claimed(outpoint)
        return deposit if deposit is not None and deposit.height <= height else None

    def _deposit_csv(self, deposit: ClaimedDeposit) -> int:
        """The lock of a deposit's own script, read back from it."""
        outpoint = deposit.claim.outpoint
        if outpoint not in self._csv:
            own = tweaked(self._script, deposit.claim.claim_script)
            if own.program != deposit.claim.script:
                raise InvariantError("a final claim is of an output that is not ours")
            self._csv[outpoint] = own.csv
        return self._csv[outpoint]

    def _book(self, totals: HeightTotals, coins: Sequence[FedCoin]) -> Book:
        self._refresh_flows(totals)
        held = dict.fromkeys(CoinKind, 0)
        for coin in coins:
            held[coin.kind] += coin.value_sats
        flows = self._flows
        present_sats = held[CoinKind.DEPOSIT] + flows.spent_deposit_sats
        return Book(
            reserve_sats=sum(held.values()),
            claimed_sats=totals.claimed_sats,
            feeburn_sats=totals.feeburn_sats,
            burned_sats=totals.burned_sats,
            unpaid_sats=totals.payout_sats - self._walk.paid_sats,
            pending_fee_sats=totals.payout_fee_sats - self._walk.earned_sats,
            suspense_sats=totals.suspense_sats,
            vanished_sats=totals.claimed_sats - present_sats,
            opened_sats=self._opened_sats(),
            donated_sats=held[CoinKind.DONATION] + flows.spent_donation_sats,
            earned_sats=self._walk.earned_sats,
            bitcoin_fee_sats=flows.bitcoin_fee_sats,
        )

    def _opened_sats(self) -> int:
        start = self._walk.start
        output = self._path.output(start) if start is not None else None
        return 0 if output is None else output.value_sats

    def _refresh_flows(self, totals: HeightTotals) -> None:
        """Sums over the walk; computed again when the path, the walk or the claims changed.

        A batch spends coins only, so its part never changes. Other transactions may spend what is
        claimed later, so their part is looked at again.
        """
        at = (self._path.revision, self._walk.revision, totals.claims)
        if at == self._flows_at:
            return
        self._flows_at = at
        for step in self._walk.steps[self._settled_steps :]:
            if step.kind is SpendKind.BREAK:
                break
            if step.kind is SpendKind.BATCH:
                self._settled = self._settled.plus(self._flow(step, totals))
            else:
                self._strange.append(step)
            self._anchors.add(step.anchor_after)
            self._settled_steps += 1
        self._flows = self._settled
        for step in self._strange:
            self._flows = self._flows.plus(self._flow(step, totals))

    def _flow(self, step: LaneStep, totals: HeightTotals) -> _Flows:
        """What one transaction of the walk took and gave.

        All that is neither the next anchor nor a payout is gone; of a batch that is its fee.
        """
        after = self._path.output(step.anchor_after)
        cost_sats = -sum(burn.payout_sats for burn in step.payouts)
        cost_sats -= 0 if after is None else after.value_sats
        deposit_sats = donation_sats = 0
        for outpoint in step.transaction.inputs:
            output = self._path.output(outpoint)
            if output is None:
                continue
            if self._deposit(outpoint, totals.height) is not None:
                deposit_sats += output.value_sats
            elif output.script not in self._programs:
                continue
            elif outpoint != self._walk.start and outpoint not in self._anchors:
                donation_sats += output.value_sats
            cost_sats += output.value_sats
        return _Flows(
            bitcoin_fee_sats=cost_sats,
            spent_deposit_sats=deposit_sats,
            spent_donation_sats=donation_sats,
        )

    # ---- halts, queue, open batch ----

    def _halts(
        self, totals: HeightTotals, coins: Sequence[FedCoin], book: Book
    ) -> tuple[Halt, ...]:
        left = [coin.blocks_left(totals.commitment.height) for coin in coins]
        lane = self._walk.lane
        return chain_halts(
            book,
            broken=lane is not None and lane.broken_by is not None,
            inflated=totals.inflated,
            oldest_blocks_left=min(left, default=None),
            csv_stop=self._parameters.csv_stop,
        )

    def _refresh_queue(self, totals: HeightTotals) -> None:
        """queue(h, paid); computed again when something was released, excluded or paid."""
        released = self._history.schedule.released_count(totals.height)
        at = (released, self._walk.revision, totals.records)
        if at != self._queue_at:
            self._queue_at = at
            self._queue = tuple(self._walk.unpaid(totals.height))

    def _next_open(
        self,
        totals: HeightTotals,
        coins: tuple[FedCoin, ...],
        book: Book,
        halts: tuple[Halt, ...],
    ) -> tuple[OpenBatch | None, Idle | None]:
        """open(h) from open(h - 1) (peg:3.8)."""
        lane, current = self._walk.lane, self._open
        if lane is None:
            return None, Idle.NO_LANE
        if current is not None and not keeps_open(current, lane, coins):
            current = None
        cancelled = current is not None and self._history.governance.cancelled_between(
            current.anchor, totals.height - 1, totals.height
        )
        view = self._batch_view(totals, coins, book, halts, lane)
        if current is None or cancelled:
            if cancelled:
                view = replace(view, cancelled=current)
            chosen = select_batch(view, totals.parameters, self._script, self._genesis)
            if isinstance(chosen, Idle):
                return None, chosen
            current = chosen
        climbed = climb(current, view, totals.parameters)
        for version in climbed.versions:
            if version.forced_sats:
                self._forced[version.txid] = version.forced_sats
        return climbed, None

    def _forced_fee_sats(self) -> int:
        """Forced fees on the path; a version of before a RESET is not known to who starts after."""
        if not self._forced:
            return 0
        return sum(self._forced.get(step.txid, 0) for step in self._walk.steps)

    def _batch_view(
        self,
        totals: HeightTotals,
        coins: tuple[FedCoin, ...],
        book: Book,
        halts: tuple[Halt, ...],
        lane: LaneState,
    ) -> BatchView:
        queue = self._queue
        head = self._history.schedule.release_of(queue[0].burn_id) if queue else None
        return BatchView(
            height=totals.height,
            clock=totals.clock,
            committed_height=totals.commitment.height,
            rate_sats_per_kvb=totals.rate_sats_per_kvb,
            lane=lane,
            coins=coins,
            queue=queue,
            oldest_release_clock=0 if head is None else head.clock,
            halted=stops_selection(halts) or totals.is_paused,
            pool_sats=book.pool_sats,
        )

    def _digest(self, totals: HeightTotals, book: Book) -> bytes:
        lane = self._walk.lane
        versions = self._open.versions if self._open is not None else ()
        return state_digest(
            height=totals.height,
            committed_hash=totals.commitment.block_hash,
            index=lane.index if lane else 0,
            anchor=lane.anchor if lane else None,
            paid_hash=self._walk.paid_hash,
            open_txid=versions[-1].txid if versions else None,
            reserve_sats=book.reserve_sats,
            pool_sats=book.pool_sats,
        )
