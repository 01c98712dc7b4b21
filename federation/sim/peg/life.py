"""Plays a life of the peg: both chains, users, operators, and the checks after every event.

Bitcoin reorganises to any depth and any transaction that was ever assembled may confirm on any
branch. Nothing reads a clock or draws at random but from the seed and the events.

Source: peg:14.
"""

import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from federation.sim.peg.alone import Alone
from federation.sim.peg.bitcoin import Bitcoin, p2wpkh_script, parent_tx
from federation.sim.peg.checks import MadeBurn, PegChecker
from federation.sim.peg.events import (
    SETTINGS,
    Burn,
    Deposit,
    Donate,
    Event,
    Evict,
    Fork,
    Govern,
    Lie,
    Life,
    Market,
    Mine,
    Pin,
    Return,
    SideBlock,
    Steal,
    Trouble,
    Vanish,
    Wipe,
)
from federation.sim.peg.members import Members
from federation.sim.peg.operators import new_record
from federation.sim.peg.sidechain import Sidechain, federation, sidechain_params
from peg.limits import BurnStage
from peg.records import IncludeRecord, OpenRecord, Record, ResumeRecord
from peg.state import PegView
from sidechain.primitives.transaction import OutPoint, Transaction

ANCHOR_BLOCKS: Final = 10
KEPT_BLOCKS: Final = 12
"""Blocks at the beginning that no fork takes: the lane is founded in them."""
ROOM_SATS: Final = 1_000
SLEEPER: Final = 4
"""The user who never claims."""
INCLUDED_AT_ONCE: Final = 6
NO_SCRIPT: Final = b"\x51\x51\x51"
DUST_OF_BURNS_SATS: Final = 20_000
P2WPKH_BYTES: Final = 22


@dataclass(slots=True)
class PendingDeposit:
    """A deposit on its way; one that is left is claimed by nobody honest."""

    raw: bytes
    txid: bytes
    claim_script: bytes
    is_claimed: bool = False
    is_spent_otherwise: bool = False
    is_left: bool = False


class PegSimulation:
    """One life; `run` plays it to its end or to the first `Violation`.

    Args:
        keep_trace: whether every event is kept as a line.
    """

    def __init__(self, life: Life, seed: int, *, keep_trace: bool = False) -> None:
        """Make both chains; nothing happens yet."""
        self.life, self.seed = life, seed
        self.setting = SETTINGS[life.setting]
        self.parameters = self.setting.parameters
        self.script = federation(self.parameters)
        self.params = sidechain_params(self.script)
        self.bitcoin = Bitcoin()
        self.bitcoin.estimate = self.setting.rate_sats_per_kvb or None
        self.side = Sidechain(self.params, self.script, self.parameters)
        self.checker = PegChecker(self.bitcoin, self.parameters)
        self._folder = tempfile.TemporaryDirectory() if life.members else None
        self.peg = self._make_peg()
        self.deposits: list[PendingDeposit] = []
        self.gifts: list[bytes] = []
        self.thefts: list[bytes] = []
        self.waiting: list[Transaction] = []
        self.losers: list[bytes] = []
        self.events = 0
        self.lines: list[str] | None = [] if keep_trace else None

    def _make_peg(self) -> Alone:
        parts: dict[str, Any] = {
            "bitcoin": self.bitcoin,
            "side": self.side,
            "params": self.params,
            "parameters": self.parameters,
            "script": self.script,
            "checker": self.checker,
        }
        if self._folder is None:
            return Alone(**parts)
        return Members(Path(self._folder.name), self.life.liars, **parts)

    @property
    def view(self) -> PegView:
        """The state at the newest final block."""
        return self.peg.view

    def note(self, text: str) -> None:
        """A line of the trace: which event, both heights, what."""
        if self.lines is not None:
            heights = f"{self.bitcoin.view.tip_height:>4} {self.side.height:>4}"
            self.lines.append(f"{self.events:>5} {heights}  {text}")

    # ---- the story ----

    async def run(self) -> None:
        """Found the lane, live, then let everything heal.

        Raises:
            Violation: an invariant does not hold.
        """
        try:
            await self.found()
            for event in self.life.events:
                self.events += 1
                self.note(told(event))
                await self._play(event)
                self.checker.check_branch(self.bitcoin.tip)
            await self.heal()
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    async def found(self) -> None:
        """The first anchor, and the block that opens the lane."""
        raw = self.bitcoin.pay(self.script.program, self.setting.anchor_sats)
        anchor = OutPoint(self.bitcoin.parse(raw).txid, 0)
        self.checker.anchor = anchor
        self.bitcoin.mine([raw], count=ANCHOR_BLOCKS)
        await self.peg.moved()
        await self.block(random.Random(self.seed))
        await self.peg.approve(OpenRecord(0, anchor))
        await self.block(random.Random(self.seed))

    async def heal(self) -> None:
        """Calm chains: everything payable must be paid in the end (I11)."""
        rng = random.Random(self.seed)
        self.note("calm from here on")
        self.bitcoin.raise_floor(0)
        await self.peg.calm()
        while excluded := sorted(self.checker.told.excluded)[:INCLUDED_AT_ONCE]:
            for burn_id in excluded:
                await self.peg.approve(IncludeRecord(burn_id))
                await self.block(rng)
        await self.peg.approve(ResumeRecord())
        for _ in range(self.life.calm_blocks):
            versions = self.peg.calmly_confirmable()
            self.bitcoin.mine(self.minable(self.bitcoin.tip, 1_000, rng, versions))
            await self.peg.moved()
            await self.block(rng)
            self.checker.check_branch(self.bitcoin.tip)
        await self.peg.wipe(0)
        if self.is_progress_due():
            self.checker.check_all_paid(self.unpaid())

    def is_progress_due(self) -> bool:
        """Whether everything payable has to be paid after the calm blocks."""
        view = self.view
        solvent = not view.halts and view.book.vanished_sats == 0 and view.lane is not None
        return self.setting.is_bounded and solvent and self.life.calm_blocks > 0

    async def block(self, rng: random.Random) -> None:
        """A block of the sidechain with everything that fits, and its checks."""
        claims = self.claims()
        transactions = [claim for _, claim in claims] + self.waiting
        block = await self.peg.block(transactions, rng)
        if block is None:
            self.note("no block: not enough votes")
            return
        included = {tx.txid for tx in block.transactions}
        for deposit, claim in claims:
            deposit.is_claimed |= claim.txid in included
        self.waiting = [tx for tx in self.waiting if tx.txid not in included]
        self.note(f"block {block.header.height}: {self._say_state()}")
        self.checker.check_view(self.view, self.peg.ledger.history)

    def _say_state(self) -> str:
        view = self.view
        commitment = view.totals.commitment
        reset = " RESET" if commitment.reset else ""
        batch = view.open_batch
        open_one = "nothing" if batch is None else f"{len(batch.payouts)} payouts"
        versions = 0 if batch is None else len(batch.versions)
        return (
            f"commits {commitment.height} {commitment.block_hash[:3].hex()}{reset}, open: "
            f"{open_one} in {versions} versions, queue {len(view.queue)}, pool "
            f"{view.book.pool_sats} {' '.join(view.halts)}".rstrip()
        )

    async def _play(self, event: Event) -> None:
        match event:
            case Mine(count, take, draw):
                rng = random.Random(draw)
                for _ in range(count):
                    self.bitcoin.mine(self.minable(self.bitcoin.tip, take, rng))
                await self.peg.moved()
            case Fork() | Return():
                self._reorganise(event)
                await self.peg.moved()
            case SideBlock(draw):
                await self.block(random.Random(draw))
            case Govern(kind, draw):
                await self._govern(kind, random.Random(draw))
            case Wipe(member):
                await self.peg.wipe(member)
            case Trouble(member, kind, moves):
                await self.peg.trouble(member, kind, moves)
            case Lie(kind):
                await self.peg.lie(kind)
            case Market(rate):
                self.bitcoin.estimate = rate or None
                self.bitcoin.raise_floor(rate // 2)
                await self.peg.moved()
            case Evict():
                self.bitcoin.evict()
            case Pin(fee_sats, draw):
                if self.bitcoin.mempool:
                    txid = random.Random(draw).choice(sorted(self.bitcoin.mempool))
                    self.bitcoin.pins[txid] = fee_sats
            case _:
                self._use(event)

    def _use(self, event: Event) -> None:
        """What users do."""
        match event:
            case Deposit(amount_sats, user):
                to = p2wpkh_script(f"user {user}")
                raw = self.bitcoin.pay(self.side.deposit_script(to), amount_sats)
                left = user == SLEEPER
                txid = self.bitcoin.parse(raw).txid
                self.deposits.append(PendingDeposit(raw, txid, to, is_left=left))
            case Donate(amount_sats):
                gift = self.bitcoin.pay(self.script.program, amount_sats)
                self.gifts.append(gift)
                self.checker.gifts.add(self.bitcoin.parse(gift).txid)
            case Vanish(draw):
                if self.deposits:
                    lost = random.Random(draw).choice(self.deposits)
                    lost.is_spent_otherwise = True
            case Steal(draw):
                self._steal(random.Random(draw))
            case Burn(amount_sats, to):
                self._burn(amount_sats, to)
            case _:
                pass

    # ---- users and operators ----

    def _steal(self, rng: random.Random) -> None:
        coins = self.bitcoin.unspent()
        there = [deposit for deposit in self.deposits if OutPoint(deposit.txid, 0) in coins]
        loose = [deposit for deposit in there if not deposit.is_claimed]
        if loose:
            taken = OutPoint(rng.choice(loose).txid, 0)
            theft = parent_tx([taken], [(coins[taken][0] - ROOM_SATS, p2wpkh_script("thief"))])
            self.bitcoin.mine([theft])
            self.thefts.append(theft)

    def _burn(self, amount_sats: int, to: int) -> None:
        history, number = self.peg.ledger.history, len(self.checker.burns)
        script = {
            0: p2wpkh_script("same"),
            1: p2wpkh_script(f"to {number}"),
            2: NO_SCRIPT,
            3: self.script.program,
        }[to]
        tip = history.tip
        room = 0 if tip is None else tip.claimed_sats - tip.feeburn_sats - tip.burned_sats
        room -= sum(out.value_sats or 0 for tx in self.waiting for out in tx.outputs)
        if amount_sats + ROOM_SATS > room:
            return
        burn = self.side.burn(script, amount_sats)
        self.waiting.append(burn)
        self.checker.burned(
            MadeBurn(
                burn_id=OutPoint(burn.txid, 0).serialize(),
                script=script,
                amount_sats=amount_sats,
                fee_sats=history.parameters.peg_out_fee_sats,
                is_eligible=amount_sats >= DUST_OF_BURNS_SATS and len(script) == P2WPKH_BYTES,
            )
        )

    async def _govern(self, kind: str, rng: random.Random) -> None:
        if kind == "pause":
            member, most = rng.randrange(self.parameters.n), self.parameters.pause_max
            await self.peg.pause(member, rng.randint(1, most))
            return
        record = self._record(kind, rng)
        if record is not None:
            await self.peg.approve(record)

    def _record(self, kind: str, rng: random.Random) -> Record | None:
        eligible = [burn.burn_id for burn in self.checker.burns if burn.is_eligible]
        return new_record(
            kind,
            rng,
            history=self.peg.ledger.history,
            batch=self.view.open_batch,
            script=self.script,
            burns=[burn_id for burn_id in eligible if self._is_final(burn_id)],
            excluded=sorted(self.checker.told.excluded),
            held=[burn_id for burn_id in eligible if self.is_held(burn_id)],
        )

    def _is_final(self, burn_id: bytes) -> bool:
        return self.peg.ledger.history.schedule.place(burn_id) is not None

    def is_held(self, burn_id: bytes) -> bool:
        """Whether a burn is over the cap and waits for a RELEASE."""
        place = self.peg.ledger.history.schedule.place(burn_id)
        return place is not None and place.stage is BurnStage.HELD_OVERSIZE

    def claims(self) -> list[tuple[PendingDeposit, Transaction]]:
        """Claims whose deposits an honest proposer would take now."""
        previous = self.peg.ledger.history.previous_commitment
        if previous is None or not self.bitcoin.view.is_active(previous.block_hash):
            return []
        found: list[tuple[PendingDeposit, Transaction]] = []
        coins = self.bitcoin.unspent()
        for deposit in self.deposits:
            if deposit.is_claimed or deposit.is_left or OutPoint(deposit.txid, 0) not in coins:
                continue
            at = self._place(deposit.txid)
            if at is None:
                continue
            age = previous.height - self.bitcoin.height(at)
            deep = age + self.parameters.commit_depth >= self.parameters.pegin_depth
            if deep and age < self.parameters.csv - self.parameters.sweep_window:
                claim = self.side.claim(self.bitcoin, deposit.raw, at, deposit.claim_script)
                found.append((deposit, claim))
        return found

    def _place(self, txid: bytes) -> bytes | None:
        for mined in reversed(self.bitcoin.chain()):
            if any(tx.txid == txid for tx in mined.transactions):
                return mined.info.hash
        return None

    # ---- Bitcoin ----

    def _reorganise(self, event: Fork | Return) -> None:
        """Another branch wins, shallow or deep, new or one that lost before."""
        rng, old, chain = random.Random(event.draw), self.bitcoin.tip, self.bitcoin.chain()
        if isinstance(event, Fork):
            depth = min(event.depth, len(chain) - KEPT_BLOCKS)
            if depth < 1:
                return
            at = chain[-1 - depth].info.hash
            missing = depth + event.longer
        else:
            losers = [tip for tip in self.losers if not self.bitcoin.view.is_active(tip)]
            if not losers:
                return
            at = rng.choice(losers)
            self.losers.remove(at)
            missing = max(self.bitcoin.height(old) - self.bitcoin.height(at) + 1, 1)
        for _ in range(missing):
            at = self.bitcoin.grow(at, self.minable(at, event.take_permille, rng))
        self.losers.append(old)
        self.checker.check_branch(at)
        self.bitcoin.activate(at)
        self.note(f"Bitcoin's tip is {at[:3].hex()}, {missing} new blocks")

    def minable(
        self,
        tip: bytes,
        take_permille: int,
        rng: random.Random,
        versions: list[bytes] | None = None,
    ) -> list[bytes]:
        """Any set of transactions that a block on this tip may hold, old versions included."""
        coins = set(self.bitcoin.unspent(tip))
        done = {tx.txid for tx in self.bitcoin.transactions(tip)}
        alive = [deposit.raw for deposit in self.deposits if not deposit.is_spent_otherwise]
        versions = self.peg.confirmable() if versions is None else versions
        rng.shuffle(versions)
        chosen: list[bytes] = []
        made_of_nothing = {*alive, *self.gifts}
        for raw in [*alive, *self.gifts, *self.thefts, *versions]:
            tx = self.bitcoin.parse(raw)
            is_free = raw in made_of_nothing
            if tx.txid in done or not (is_free or all(spent in coins for spent in tx.inputs)):
                continue
            if rng.randrange(1_000) < take_permille:
                chosen.append(raw)
                done.add(tx.txid)
                coins -= set(tx.inputs)
                coins |= {OutPoint(tx.txid, index) for index in range(len(tx.outputs))}
        return chosen

    def unpaid(self) -> list[MadeBurn]:
        """Eligible burns that fit under the cap and are still owed on the committed chain."""
        lane = self.view.lane
        paid = set(lane.paid) if lane is not None else set()
        return [
            burn
            for burn in self.checker.burns
            if burn.is_eligible and not self.is_held(burn.burn_id) and burn.burn_id not in paid
        ]


def told(event: Event) -> str:
    """An event in a line."""
    plain: dict[str, Any] = asdict(event)
    plain.pop("draw", None)
    facts = " ".join(f"{name}={value}" for name, value in plain.items())
    return f"{type(event).__name__} {facts}".rstrip()
