"""Random lives of the peg on a simulated pair of chains, with the invariants of peg:14.

Bitcoin reorganises to any depth and any assembled version may confirm on any branch. The checks
use the protocol's words, not the code under test: payouts are counted from money alone, and what
may be paid is recomputed from the burns that the simulation itself made.
"""

import random
from collections import Counter
from dataclasses import dataclass, field

from peg.batches import OpenBatch
from peg.commitments import plan_commitment
from peg.ledger import PegLedger
from peg.limits import BurnStage
from peg.param_changes import param_names
from peg.parameters import LOCAL, InsaneParameters, PegParameters
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    IncludeRecord,
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ResumeRecord,
)
from peg.state import PegView
from sidechain.primitives.parent import ParentTx, parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.peg.world import Bitcoin, Sidechain, federation, p2wpkh_script, sidechain_params

NAMES = param_names(LOCAL)
CHANGES = (
    ("peg_out_fee_sats", 4_000),
    ("peg_out_fee_sats", 2_500),
    ("fee_cap_sats", 300_000),
    ("fee_cap_sats", 500_000),
    ("payout_cap_sats", 60_000_000),
    ("payout_cap_sats", 100_000_000),
    ("cap_0_abs_sats", 120_000_000),
    ("cap_0_abs_sats", 200_000_000),
    ("large_delay", 5),
    ("large_delay", 3),
    ("batch_target", 3),
    ("consolidate_at", 4),
)
"""PARAM records that operators of a simulation think of; those out of order are left out."""


class Violated(AssertionError):
    """An invariant of the protocol does not hold."""


@dataclass(slots=True)
class MadeBurn:
    """A burn the simulation made, and whether it may ever be paid."""

    burn_id: bytes
    script: bytes
    amount_sats: int
    fee_sats: int
    is_eligible: bool

    @property
    def owed(self) -> tuple[bytes, int]:
        return self.script, self.amount_sats - self.fee_sats


@dataclass(slots=True)
class PendingDeposit:
    """A deposit on its way."""

    raw: bytes
    claim_script: bytes
    claimed: bool = False

    @property
    def txid(self) -> bytes:
        return parse_parent_tx(self.raw).txid


@dataclass
class Simulation:
    """One seeded life.

    Attributes:
        anchor_sats: first anchor, which is the first pool.
        rates: estimates that proposers have, sats per kvB.
        reorganises: whether Bitcoin does.
        governs: whether members pause and operators approve records.
        forced: whether a batch may spend more than the pool (P24).
        paused_until: clock, from the PAUSE and RESUME records that the simulation made.
    """

    seed: int
    parameters: PegParameters = LOCAL
    anchor_sats: int = 3_000_000
    rates: tuple[int | None, ...] = (None, None, 1_500, 20_000, 100_000)
    reorganises: bool = True
    governs: bool = True
    paused_until: int = 0
    forced: bool = False
    pauses: dict[int, tuple[int, int]] = field(default_factory=dict)
    excluded: set[bytes] = field(default_factory=set)
    touched: set[bytes] = field(default_factory=set)
    let_through: set[bytes] = field(default_factory=set)
    burns: list[MadeBurn] = field(default_factory=list)
    deposits: list[PendingDeposit] = field(default_factory=list)
    versions: dict[bytes, bytes] = field(default_factory=dict)
    selections: dict[tuple[OutPoint, int], tuple[tuple[int, bytes], ...]] = field(
        default_factory=dict
    )
    resets: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.script = federation(self.parameters)
        self.params = sidechain_params(self.script)
        self.bitcoin = Bitcoin()
        self.side = Sidechain(self.params, self.script, self.parameters)
        self.ledger = self.fresh_ledger()

    def fresh_ledger(self) -> PegLedger:
        return PegLedger(
            self.params,
            self.parameters,
            self.script,
            source=self.bitcoin,
            parent=self.bitcoin.view,
        )

    # ---- the story ----

    async def run(self, steps: int) -> None:
        """Found the lane, live, then let everything heal."""
        await self.found()
        for _ in range(steps):
            await self.step()
            self.check_forks()
        await self.heal()

    async def found(self) -> None:
        raw = self.bitcoin.pay(self.script.program, self.anchor_sats)
        self.anchor = OutPoint(parse_parent_tx(raw).txid, 0)
        self.bitcoin.mine([raw], count=10)
        await self.block()
        await self.block(opens=[OpenRecord(0, self.anchor)])

    async def step(self) -> None:
        draw = self.rng.random()
        if draw < 0.10:
            self.deposits.append(self.new_deposit())
        if draw < 0.55:
            self.bitcoin.mine(self.minable(self.bitcoin.tip))
        elif draw < 0.63 and self.reorganises:
            self.reorganise()
        else:
            transactions = self.claims() + self.new_burns()
            await self.block(transactions, self.new_records())
        if self.rng.random() < 0.03:
            await self.wipe()

    async def heal(self) -> None:
        """Calm chains: everything payable must be paid in the end (I11)."""
        calm: list[Record] = [IncludeRecord(burn_id) for burn_id in sorted(self.excluded)[:6]]
        while self.excluded:
            await self.block(self.claims(), [*calm, ResumeRecord()])
            calm = [IncludeRecord(burn_id) for burn_id in sorted(self.excluded)[:6]]
        await self.block(self.claims(), [ResumeRecord()] if self.governs else [])
        for _ in range(60):
            self.bitcoin.mine(self.minable(self.bitcoin.tip, always=True))
            await self.block(self.claims())
            self.check_forks()
        await self.wipe()

    async def block(
        self, transactions: list[Transaction] | None = None, opens: list[Record] | None = None
    ) -> None:
        """A final sidechain block by an honest proposer."""
        previous = self.ledger.history.previous_commitment
        fork = self.ledger.fork_height() if previous is not None else None
        active = previous is not None and self.bitcoin.view.is_active(previous.block_hash)
        commitment = plan_commitment(
            self.bitcoin.view,
            previous,
            self.parameters,
            self.rng.choice(self.rates),
            fork_height=None if active else fork,
        )
        if commitment is None:
            raise AssertionError("no block is deep enough")
        self.resets += commitment.reset
        block = self.side.extend(commitment, transactions or [], opens or [])
        before = self.ledger.history.clock
        self.remember(opens or [], max(before, commitment.height))
        self.ledger.apply(block)
        await self.ledger.advance()
        self.note(self.view)
        self.check_view(self.view)

    @property
    def view(self) -> PegView:
        view = self.ledger.view
        if view is None:
            raise AssertionError("no view")
        return view

    def note(self, view: PegView) -> None:
        """Every version of an open batch is assembled at once and kept for ever."""
        batch = view.open_batch
        if batch is None:
            return
        self.forced |= any(version.forced_sats for version in batch.versions)
        for version in batch.versions:
            raw = batch.unsigned(version.fee_sats)
            self.versions[parse_parent_tx(raw).txid] = raw
            self.check_version(batch, raw)

    # ---- records ----

    def new_records(self) -> list[Record]:
        """At most one record, of a kind that could have an effect now."""
        history, batch = self.ledger.history, self.view.open_batch
        if not self.governs or self.rng.random() > 0.25:
            return []
        found: list[Record] = []
        eligible = [burn for burn in self.burns if burn.is_eligible]
        match self.rng.randrange(7):
            case 0:
                found = self.new_pause()
            case 1:
                found = [ResumeRecord()]
            case 2 if batch is not None:
                found = [CancelRecord(0, batch.anchor)]
            case 3 if eligible:
                found = [ExcludeRecord(self.rng.choice(eligible).burn_id)]
            case 4 if self.excluded:
                found = [IncludeRecord(self.rng.choice(sorted(self.excluded)))]
            case 5:
                held = [b.burn_id for b in eligible if self.is_held(b.burn_id)]
                found = [ReleaseRecord(burn_id) for burn_id in held[:1]]
            case 6:
                found = self.new_value(history.height + 1)
        return found

    def new_pause(self) -> list[Record]:
        """A PAUSE that voters take: within its length and rate."""
        member, clock = self.rng.randrange(self.parameters.n), self.ledger.history.clock
        sequence, last = self.pauses.get(member, (-1, -self.parameters.pause_every))
        if clock < last + self.parameters.pause_every:
            return []
        until = clock + self.rng.randint(1, self.parameters.pause_max)
        return [
            PauseRecord(
                member=member,
                deposits=False,
                sequence=sequence + 1,
                until=until,
                signature=bytes(64),
            )
        ]

    def new_value(self, height: int) -> list[Record]:
        """A PARAM record that keeps every rule."""
        name, value = self.rng.choice(CHANGES)
        changes = self.ledger.history.governance.changes
        start = changes.earliest(NAMES[name], value, height)
        record = ParamRecord(parameter=NAMES[name], value=value, active_from=start)
        try:
            changes.check(record, height, self.script)
        except InsaneParameters:
            return []
        return [record]

    def is_held(self, burn_id: bytes) -> bool:
        place = self.ledger.history.schedule.place(burn_id)
        return place is not None and place.stage is BurnStage.HELD_OVERSIZE

    def remember(self, records: list[Record], clock: int) -> None:
        """What the simulation itself knows of the records of a block."""
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

    # ---- what happens ----

    def new_deposit(self) -> PendingDeposit:
        to = p2wpkh_script(f"user {self.rng.randrange(5)}")
        amount = self.rng.choice([50_000, 3_000_000, 60_000_000, 150_000_000])
        deposit = PendingDeposit(self.bitcoin.pay(self.side.deposit_script(to), amount), to)
        if self.rng.random() < 0.15:
            donation = self.bitcoin.pay(self.script.program, 200_000)
            self.versions[parse_parent_tx(donation).txid] = donation
        return deposit

    def new_burns(self) -> list[Transaction]:
        if self.rng.random() < 0.5:
            return []
        made: list[Transaction] = []
        for _ in range(self.rng.randint(1, 3)):
            to = self.rng.choice(
                [p2wpkh_script("same"), p2wpkh_script(f"to {len(self.burns)}"), b"\x51\x51\x51"]
            )
            if self.rng.random() < 0.1:
                to = self.script.program
            amount = self.rng.choice([19_999, 20_000, 20_000, 400_000, 30_000_000, 110_000_000])
            tip = self.ledger.history.tip
            room = 0 if tip is None else tip.claimed_sats - tip.feeburn_sats - tip.burned_sats
            room -= sum(out.value_sats or 0 for tx in made for out in tx.outputs)
            if amount + 1_000 > room:
                continue
            burn = self.side.burn(to, amount)
            made.append(burn)
            eligible = amount >= 20_000 and len(to) == 22
            burn_id = OutPoint(burn.txid, 0).serialize()
            fee = self.ledger.history.parameters.peg_out_fee_sats
            self.burns.append(MadeBurn(burn_id, to, amount, fee, eligible))
        return made

    def claims(self) -> list[Transaction]:
        """Claims whose deposits an honest proposer would take now."""
        previous = self.ledger.history.previous_commitment
        found: list[Transaction] = []
        if previous is None or not self.bitcoin.view.is_active(previous.block_hash):
            return found
        for deposit in self.deposits:
            at = self.place(deposit.txid)
            if deposit.claimed or at is None:
                continue
            depth = previous.height - self.bitcoin.height(at) + self.parameters.commit_depth
            if depth >= self.parameters.pegin_depth:
                deposit.claimed = True
                claim = self.side.claim(self.bitcoin, deposit.raw, at, deposit.claim_script)
                found.append(claim)
        return found

    def place(self, txid: bytes) -> bytes | None:
        for mined in self.bitcoin.chain():
            if any(tx.txid == txid for tx in mined.transactions):
                return mined.info.hash
        return None

    def reorganise(self) -> None:
        """Another branch wins, shallow or deep, and takes whatever it likes."""
        chain = self.bitcoin.chain()
        depth = min(self.rng.choice([1, 1, 2, 3, 5, 8]), len(chain) - 12)
        if depth < 1:
            return
        at = chain[-1 - depth].info.hash
        for _ in range(depth + self.rng.randint(1, 3)):
            at = self.bitcoin.grow(at, self.minable(at))
        self.bitcoin.activate(at)
        self.check_forks()

    def minable(self, tip: bytes, *, always: bool = False) -> list[bytes]:
        """Any set of transactions that a block on this tip may hold, old versions included."""
        coins = set(self.bitcoin.unspent(tip))
        done = {tx.txid for tx in self.bitcoin.transactions(tip)}
        waiting = [deposit.raw for deposit in self.deposits]
        versions = list(self.versions.values())
        self.rng.shuffle(versions)
        chosen: list[bytes] = []
        for raw in [*waiting, *versions]:
            tx = parse_parent_tx(raw)
            ours = tx.outputs[0][1] == self.script.program and len(tx.outputs) > 1
            spendable = not ours or all(outpoint in coins for outpoint in tx.inputs)
            if tx.txid in done or not spendable:
                continue
            if always or self.rng.random() < 0.4:
                chosen.append(raw)
                done.add(tx.txid)
                coins -= set(tx.inputs)
                coins |= {OutPoint(tx.txid, index) for index in range(len(tx.outputs))}
        return chosen

    # ---- checks ----

    async def wipe(self) -> None:
        """I12: a member with an empty disk has the same digest and the same template."""
        fresh = self.fresh_ledger()
        for block in self.side.blocks:
            fresh.apply(block)
        await fresh.advance()
        if fresh.view is None or fresh.view.digest != self.view.digest:
            raise Violated("I12: digest of a wiped member differs")
        if fresh.view.open_batch != self.view.open_batch:
            raise Violated("I12: template of a wiped member differs")
        self.ledger = fresh

    def check_view(self, view: PegView) -> None:
        if view.book.difference_sats:
            raise Violated(f"I5: {view.book}")
        if view.book.pool_sats < 0 and not self.resets and not self.forced:
            raise Violated("I6: pool below zero")
        if view.lane is not None and view.lane.broken_by is not None:
            raise Violated("I10: lane broken")
        self.check_windows()
        self.check_order(view)
        self.check_pause(view)
        self.check_ages(view)

    def check_pause(self, view: PegView) -> None:
        """I9: the records that the simulation made say whether anything may be released now."""
        if view.totals.clock >= self.paused_until:
            return
        releases = self.ledger.history.schedule.releases
        if any(release.height == view.height for release in releases):
            raise Violated("I9: released while paused")
        batch = view.open_batch
        if batch is not None and batch.h_sel == view.height and batch.payouts:
            raise Violated("I9: payouts selected while paused")

    def check_ages(self, view: PegView) -> None:
        """I14: without resets no coin comes near the emergency branch."""
        if self.resets or view.lane is None:
            return
        left = [coin.blocks_left(view.totals.commitment.height) for coin in view.coins]
        if min(left, default=self.parameters.csv) < self.parameters.csv_stop:
            raise Violated("I14: a coin is about to expire")

    def check_version(self, batch: OpenBatch, raw: bytes) -> None:
        key = (batch.anchor, batch.h_sel)
        outputs = parse_parent_tx(raw).outputs[1:]
        if self.selections.setdefault(key, outputs) != outputs:
            raise Violated("I3: a version changes outputs")

    def check_windows(self) -> None:
        """I4 at the newest height: what is released in each window, k-approved ones apart."""
        history = self.ledger.history
        releases = history.schedule.releases
        height = history.height
        plain = [
            r for r in releases if r.height == height and r.burn.burn_id not in self.let_through
        ]
        if not plain:
            return
        totals = history.totals(height)
        clock = max(history.totals(at).commitment.height for at in range(1, height + 1))
        before = sum(r.burn.amount_sats for r in releases if r.height < height)
        circulating = totals.claimed_sats - totals.feeburn_sats - before
        for cap in history.governance.changes.at(height).caps:
            inside = [r for r in releases if r.clock > clock - cap.window]
            most = max(cap.abs_sats, circulating * cap.pct_bp // 10_000)
            if sum(r.burn.amount_sats for r in inside) > most:
                raise Violated("I4: window over its cap")

    def check_order(self, view: PegView) -> None:
        order = {
            release.burn.burn_id: position
            for position, release in enumerate(self.ledger.history.schedule.releases)
        }
        paid = [
            order[burn.burn_id]
            for step in view.steps
            for burn in step.payouts
            if burn.burn_id not in self.touched
        ]
        if paid != sorted(paid):
            raise Violated("I13: not first in, first out")

    def check_forks(self) -> None:
        """I1 and I2 on every block of the best branch: payouts from money alone."""
        allowed = Counter(burn.owed for burn in self.burns if burn.is_eligible)
        paid: Counter[tuple[bytes, int]] = Counter()
        ours = {self.anchor}
        for tx in self.bitcoin.transactions():
            if self.is_batch(tx, ours):
                ours.add(OutPoint(tx.txid, 0))
                paid.update((script, value) for value, script in tx.outputs[2:])
        if paid - allowed:
            raise Violated(f"I1/I2: paid without a burn {paid - allowed}")

    def is_batch(self, tx: ParentTx, ours: set[OutPoint]) -> bool:
        """Whether federation keys must have signed it: it spends a coin of the federation."""
        known = tx.txid in self.versions and len(tx.outputs) > 1
        return known or any(outpoint in ours for outpoint in tx.inputs)

    def unpaid(self) -> list[MadeBurn]:
        """Eligible burns that fit under the cap and are still owed on the committed chain."""
        lane = self.view.lane
        paid = set(lane.paid) if lane is not None else set()
        return [
            burn
            for burn in self.burns
            if burn.is_eligible and not self.is_held(burn.burn_id) and burn.burn_id not in paid
        ]
