"""The invariants of peg:14, in the protocol's words and from what really happened.

Payouts are counted from money alone, and what may be paid is known from the burns that users made.
Each block of each branch of Bitcoin is checked once, when it is found.

Source: peg:14.
"""

from collections import Counter
from dataclasses import dataclass, field

from federation.sim.checker import Violation
from federation.sim.peg.bitcoin import Bitcoin
from peg.batches import OpenBatch
from peg.history import PegHistory
from peg.parameters import PegParameters
from peg.records import (
    ExcludeRecord,
    IncludeRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ResumeRecord,
)
from peg.state import PegView
from sidechain.primitives.parent import ParentTx
from sidechain.primitives.transaction import OutPoint

Owed = tuple[bytes, int]


@dataclass(slots=True)
class MadeBurn:
    """A burn that a user made, and whether it may ever be paid."""

    burn_id: bytes
    script: bytes
    amount_sats: int
    fee_sats: int
    is_eligible: bool

    @property
    def owed(self) -> Owed:
        """What its payout looks like."""
        return self.script, self.amount_sats - self.fee_sats


@dataclass(slots=True)
class Told:
    """What is known from the records that went into blocks.

    Attributes:
        clock: of the last final block.
        paused_until: clock.
        pauses: sequence number and clock of each member's last PAUSE.
        touched: burns that were ever excluded; their order says nothing any more.
        let_through: burns of a RELEASE.
    """

    clock: int = 0
    paused_until: int = 0
    pauses: dict[int, tuple[int, int]] = field(default_factory=dict)
    excluded: set[bytes] = field(default_factory=set)
    touched: set[bytes] = field(default_factory=set)
    let_through: set[bytes] = field(default_factory=set)

    def take(self, records: list[Record], clock: int) -> None:
        """The records of a final block."""
        self.clock = clock
        for record in records:
            match record:
                case PauseRecord(member=member, sequence=sequence, until=until):
                    self.pauses[member] = (sequence, clock)
                    self.paused_until = max(self.paused_until, until)
                case ResumeRecord():
                    self.paused_until = 0
                case ExcludeRecord(burn_id=burn_id):
                    self.excluded.add(burn_id)
                    self.touched.add(burn_id)
                case IncludeRecord(burn_id=burn_id):
                    self.excluded.discard(burn_id)
                case ReleaseRecord(burn_id=burn_id):
                    self.let_through.add(burn_id)
                case _:
                    pass


@dataclass(slots=True)
class _Branch:
    """What the federation did up to a block, from money alone."""

    ours: frozenset[OutPoint] = frozenset()
    paid: Counter[Owed] = field(default_factory=Counter)


class PegChecker:
    """Looks at blocks, states and versions; raises `Violation` with the id of the invariant.

    Attributes:
        burns: everything that was burned, in order.
        versions: every transaction that federation keys made, by txid.
        resets: how many blocks were a RESET.
        gifts: txids of donations.
        was_forced: whether a batch might spend more than the pool (P24).
    """

    def __init__(self, bitcoin: Bitcoin, parameters: PegParameters) -> None:
        """Nothing is known yet."""
        self._bitcoin, self._parameters = bitcoin, parameters
        self.told = Told()
        self.burns: list[MadeBurn] = []
        self.versions: dict[bytes, bytes] = {}
        self.resets = 0
        self.was_forced = False
        self.anchor: OutPoint | None = None
        self.gifts: set[bytes] = set()
        self._allowed: Counter[Owed] = Counter()
        self._branches: dict[bytes, _Branch] = {}
        self._selections: dict[tuple[OutPoint, int], tuple[tuple[int, bytes], ...]] = {}

    def burned(self, burn: MadeBurn) -> None:
        """A user burned."""
        self.burns.append(burn)
        if burn.is_eligible:
            self._allowed[burn.owed] += 1

    # ---- Bitcoin ----

    def check_branch(self, tip: bytes) -> None:
        """I1 and I2 on every block up to one that was found: payouts from money alone."""
        found: list[bytes] = []
        at = tip
        while at in self._bitcoin.blocks and at not in self._branches:
            found.append(at)
            at = self._bitcoin.blocks[at].info.prev_hash
        for block_hash in reversed(found):
            mined = self._bitcoin.blocks[block_hash]
            below = self._branches.get(mined.info.prev_hash) or _Branch()
            self._branches[block_hash] = self._grown(below, mined.transactions)

    def _grown(self, below: _Branch, transactions: tuple[ParentTx, ...]) -> _Branch:
        ours, paid = set(below.ours), below.paid
        for tx in transactions:
            if not self._is_batch(tx, ours):
                continue
            ours.add(OutPoint(tx.txid, 0))
            paid = paid + Counter((script, value) for value, script in tx.outputs[2:])
            if over := paid - self._allowed:
                told = ", ".join(f"{sats} to {script.hex()}" for script, sats in over)
                raise Violation("I1", f"I1, I2: paid without a burn: {told}")
        if len(ours) == len(below.ours):
            return below
        return _Branch(frozenset(ours), paid)

    def _is_batch(self, tx: ParentTx, ours: set[OutPoint]) -> bool:
        """Whether federation keys must have signed it: it spends a coin of the federation."""
        known = tx.txid in self.versions
        is_first = self.anchor is not None and self.anchor in tx.inputs
        return known or is_first or any(outpoint in ours for outpoint in tx.inputs)

    # ---- the sidechain ----

    def check_version(self, batch: OpenBatch, fee_sats: int) -> None:
        """I3: all versions of a selection pay the same."""
        raw = batch.unsigned(fee_sats)
        tx = self._bitcoin.parse(raw)
        self.versions[tx.txid] = raw
        outputs = tx.outputs[1:]
        if self._selections.setdefault((batch.anchor, batch.h_sel), outputs) != outputs:
            raise Violation("I3", "a version changes outputs")

    def check_view(self, view: PegView, history: PegHistory) -> None:
        """Everything that a state at a final block must keep."""
        if view.open_batch is not None:
            self.was_forced |= any(version.forced_sats for version in view.open_batch.versions)
            for version in view.open_batch.versions:
                self.check_version(view.open_batch, version.fee_sats)
        if view.book.difference_sats:
            raise Violation("I5", f"the two computations of the book differ: {view.book}")
        if view.book.pool_sats < 0 and not self.resets and not self.was_forced:
            raise Violation("I6", f"pool at {view.book.pool_sats}")
        if view.lane is not None and view.lane.broken_by is not None:
            raise Violation("I10", "lane broken by a transaction of the federation")
        self._check_windows(history)
        self._check_order(view, history)
        self._check_pause(view, history)
        self._check_ages(view)
        self._check_gifts(view)

    def _check_pause(self, view: PegView, history: PegHistory) -> None:
        """I9: the records that were made say whether anything may be released now."""
        if view.totals.clock >= self.told.paused_until:
            return
        if any(release.height == view.height for release in history.schedule.releases):
            raise Violation("I9", "released while paused")
        batch = view.open_batch
        if batch is not None and batch.h_sel == view.height and batch.payouts:
            raise Violation("I9", "payouts selected while paused")

    def _check_ages(self, view: PegView) -> None:
        """I14: without resets no coin comes near the emergency branch."""
        if self.resets or view.lane is None:
            return
        left = [coin.blocks_left(view.totals.commitment.height) for coin in view.coins]
        if min(left, default=self._parameters.csv) < self._parameters.csv_stop:
            raise Violation("I14", f"a coin has {min(left)} blocks left")

    def _check_gifts(self, view: PegView) -> None:
        """3.8: a donation is a coin when it is D_p deep at B(h), not earlier."""
        counted = {coin.outpoint.txid for coin in view.coins} & self.gifts
        at = view.totals.commitment.block_hash
        for _ in range(self._parameters.pegin_depth - 1):
            mined = self._bitcoin.blocks.get(at)
            if mined is None or not counted:
                return
            if any(tx.txid in counted for tx in mined.transactions):
                raise Violation("P25", "a young donation is counted")
            at = mined.info.prev_hash

    def _check_windows(self, history: PegHistory) -> None:
        """I4 at the newest height: what is released in each window, k-approved ones apart."""
        releases, height = history.schedule.releases, history.height
        let_through = self.told.let_through
        now = [r for r in releases if r.height == height and r.burn.burn_id not in let_through]
        if not now:
            return
        totals = history.totals(height)
        clock = max(history.totals(at).commitment.height for at in range(1, height + 1))
        before = sum(r.burn.amount_sats for r in releases if r.height < height)
        circulating = totals.claimed_sats - totals.feeburn_sats - before
        for cap in history.governance.changes.at(height).caps:
            inside = [r for r in releases if r.clock > clock - cap.window]
            most = max(cap.abs_sats, circulating * cap.pct_bp // 10_000)
            released = sum(r.burn.amount_sats for r in inside)
            if released > most:
                raise Violation("I4", f"{released} released in {cap.window} blocks, {most} allowed")

    def _check_order(self, view: PegView, history: PegHistory) -> None:
        """I13: first in, first out, but for burns that operators took out."""
        releases = enumerate(history.schedule.releases)
        order = {release.burn.burn_id: position for position, release in releases}
        paid = [
            order[burn.burn_id]
            for step in view.steps
            for burn in step.payouts
            if burn.burn_id not in self.told.touched
        ]
        if paid != sorted(paid):
            raise Violation("I13", "not first in, first out")

    def check_same(self, fresh: PegView | None, view: PegView) -> None:
        """I12: a member with an empty disk has the same digest and the same template."""
        if fresh is None or fresh.digest != view.digest:
            raise Violation("I12", "digest of a wiped member differs")
        if fresh.open_batch != view.open_batch:
            raise Violation("I12", "template of a wiped member differs")

    def check_all_paid(self, unpaid: list[MadeBurn]) -> None:
        """I11: after healing every OK burn that is not held is paid."""
        if unpaid:
            names = ", ".join(f"{burn.amount_sats} sats" for burn in unpaid)
            raise Violation("I11", f"not paid in the end: {names}")
