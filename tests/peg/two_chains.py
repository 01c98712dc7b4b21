"""An auditor that has the two chains and nothing else: who was paid, and where the coins are.

It asks a Bitcoin node for its blocks, those of losing branches too, and is given the final blocks
of the sidechain. It uses no code of `peg`, no state of a member, no journal, and tells a federation
transaction by its spending a coin of the federation. Of governance it knows OPEN alone.

Source: peg:3.4, peg:3.5, peg:3.8, peg:3.9, peg:14 (I1, I2, I5).
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.parent import ParentBlock, ParentTx, parse_parent_block
from sidechain.primitives.transaction import OutPoint, Transaction

Money = tuple[bytes, int]
"""A destination script and what it gets, satoshis."""
OPEN_PREFIX = bytes.fromhex("6a2a4650520101")
RECORD_PREFIX = bytes.fromhex("46505201")
COMMITMENT_PREFIX = bytes.fromhex("6a2d46504301")


class Terms(Protocol):
    """Values of the parameter file that the two chains are judged by."""

    peg_out_fee_sats: int
    min_pegout_sats: int
    min_pegin_sats: int
    payout_cap_sats: int
    large_sats: int
    large_delay: int
    sweep_window: int
    csv: int
    pegin_depth: int
    caps: Sequence[Any]


class CaughtByChains(AssertionError):
    """The chains show what must never be."""


@dataclass(frozen=True, slots=True)
class Owed:
    """An OK burn: clock of its block, amount, and what Bitcoin owes for it."""

    clock: int
    amount_sats: int
    money: Money


@dataclass(slots=True)
class Side:
    """What the sidechain says."""

    clock: int = 0
    committed: bytes = b""
    committed_height: int = 0
    opened: OutPoint | None = None
    claimed: dict[OutPoint, int] = field(default_factory=dict)
    feeburn_sats: int = 0
    burned_sats: int = 0
    owed: list[Owed] = field(default_factory=list)
    released: list[tuple[int, Owed]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Coin:
    """An output that only the federation can spend; `kind` is fed, anchor or deposit."""

    value_sats: int
    height: int
    kind: str


@dataclass(slots=True)
class Branch:
    """What one Bitcoin chain says up to one of its blocks."""

    height: int
    coins: dict[OutPoint, Coin] = field(default_factory=dict)
    spent: dict[OutPoint, Coin] = field(default_factory=dict)
    paid: Counter[Money] = field(default_factory=Counter)
    fees_sats: int = 0
    excused_fees_sats: int = 0
    batches: list[bytes] = field(default_factory=list)

    def copy(self, height: int) -> "Branch":
        """The state the next block starts from."""
        return Branch(
            height,
            dict(self.coins),
            dict(self.spent),
            Counter(self.paid),
            self.fees_sats,
            self.excused_fees_sats,
            list(self.batches),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainBook:
    """Sums at the last committed block, satoshis."""

    reserve_sats: int
    liabilities_sats: int
    pool_sats: int
    vanished_sats: int


class TwoChains:
    """The auditor of one federation."""

    def __init__(
        self,
        node: Any,
        blocks: Sequence[Block],
        params: ChainParams,
        terms: Any,
        *,
        fed_program: bytes,
        base_height: int,
    ) -> None:
        """Remember where to look.

        Args:
            node: only `call` is used.
            blocks: the final blocks, which may grow.
            base_height: of a Bitcoin block below everything that concerns the federation.
        """
        self._node = node
        self._blocks = blocks
        self._params = params
        self._terms: Terms = terms
        self._fed_program = fed_program
        self._base_height = base_height
        self._parsed: dict[str, ParentBlock] = {}

    async def check(self) -> ChainBook:
        """Every block of every branch, and the book at the committed block.

        Raises:
            CaughtByChains: paid twice or without a burn, or the book is wrong.
        """
        side = self.read_side()
        branches = await self._branches(side)
        allowed = Counter(owed.money for _, owed in side.released)
        for block_hash, branch in branches.items():
            if wrong := branch.paid - allowed:
                raise CaughtByChains(f"I1/I2 at {block_hash}: paid without a burn: {wrong}")
        return self._book(side, branches[side.committed[::-1].hex()])

    async def owed_at_tip(self) -> Counter[Money]:
        """What the best chain has not paid, of everything that was burned for payment."""
        side = self.read_side()
        tip = (await self._branches(side))[str(await self._node.call("getbestblockhash"))]
        return Counter(owed.money for owed in side.owed) - tip.paid

    async def batches_at_tip(self) -> list[bytes]:
        """Federation transactions of the best chain, oldest first."""
        branches = await self._branches(self.read_side())
        return branches[str(await self._node.call("getbestblockhash"))].batches

    async def branch_count(self) -> int:
        """How many branches the node knows above the base."""
        return len(await self._tips())

    # ---- the sidechain ----

    def read_side(self) -> Side:
        """Fold the final blocks (peg:3.2 to peg:3.5)."""
        side = Side()
        waiting: list[tuple[int, Owed]] = []
        ready: deque[Owed] = deque()
        for height, block in enumerate(self._blocks, start=1):
            self._read_coinbase(side, block.transactions[0])
            still: list[tuple[int, Owed]] = []
            for made, owed in waiting:
                large = owed.amount_sats >= self._terms.large_sats
                due = owed.clock + (self._terms.large_delay if large else 0)
                if side.clock < due:
                    still.append((made, owed))
                elif owed.amount_sats <= self._terms.payout_cap_sats:
                    ready.append(owed)
            waiting = still
            before = len(side.owed)
            for transaction in block.transactions[1:]:
                self._read_transaction(side, transaction)
            self._release(side, ready)
            waiting += [(height, owed) for owed in side.owed[before:]]
        return side

    def _read_coinbase(self, side: Side, coinbase: Transaction) -> None:
        for output in coinbase.outputs:
            script = output.script
            if script.startswith(COMMITMENT_PREFIX):
                side.committed_height = int.from_bytes(script[7:11], "little")
                side.committed = script[11:43]
                side.clock = max(side.clock, side.committed_height)
            elif script.startswith(OPEN_PREFIX):
                txid, index = script[8:40], int.from_bytes(script[40:44], "little")
                side.opened = OutPoint(txid, index)
            elif RECORD_PREFIX in script[:7]:
                raise CaughtByChains(f"a record this auditor does not know: {script.hex()}")

    def _read_transaction(self, side: Side, transaction: Transaction) -> None:
        for position, spent in enumerate(transaction.inputs):
            if spent.is_pegin:
                if spent.prevout in side.claimed:
                    raise CaughtByChains(f"claimed twice: {spent.prevout}")
                value = transaction.input_witnesses[position].pegin[0]
                side.claimed[spent.prevout] = int.from_bytes(value, "little")
        for output in transaction.outputs:
            amount_sats = output.value_sats or 0
            if output.asset_id != self._params.pegged_asset:
                continue
            if output.is_fee:
                side.feeburn_sats += amount_sats
            elif output.script[:1] == b"\x6a":
                side.burned_sats += amount_sats
                destination = self._destination(output.script)
                if destination and amount_sats >= self._terms.min_pegout_sats:
                    payout_sats = amount_sats - self._terms.peg_out_fee_sats
                    side.owed.append(Owed(side.clock, amount_sats, (destination, payout_sats)))

    def _destination(self, script: bytes) -> bytes:
        """Where a burn asks Bitcoin to pay; empty when nobody may be paid for it (peg:3.4)."""
        head = b"\x6a\x20" + self._params.parent_genesis_hash
        to = script[len(head) + 1 :]
        if not script.startswith(head) or to == self._fed_program:
            return b""
        good = (
            (len(to) == 25 and to[:3] == b"\x76\xa9\x14" and to[23:] == b"\x88\xac")
            or (len(to) == 23 and to[:2] == b"\xa9\x14" and to[22:] == b"\x87")
            or (len(to) == 22 and to[:2] == b"\x00\x14")
            or (len(to) == 34 and to[:2] in (b"\x00\x20", b"\x51\x20"))
        )
        return to if good and script[len(head)] == len(to) else b""

    def _release(self, side: Side, ready: deque[Owed]) -> None:
        out_sats = sum(owed.amount_sats for _, owed in side.released)
        left_sats = sum(side.claimed.values()) - side.feeburn_sats - out_sats
        limits = [
            (cap.window, max(cap.abs_sats, left_sats * cap.pct_bp // 10_000))
            for cap in self._terms.caps
        ]
        while ready:
            for window, limit in limits:
                inside = [o for clock, o in side.released if clock > side.clock - window]
                if sum(o.amount_sats for o in inside) + ready[0].amount_sats > limit:
                    return
            side.released.append((side.clock, ready.popleft()))

    # ---- Bitcoin ----

    async def _tips(self) -> list[str]:
        tips = await self._node.call("getchaintips")
        return [t["hash"] for t in tips if t["height"] > self._base_height]

    async def _branches(self, side: Side) -> dict[str, Branch]:
        """The state at each block above the base, by hash as shown."""
        found: dict[str, Branch] = {}
        for tip in await self._tips():
            path: list[tuple[str, ParentBlock]] = []
            at = tip
            while at not in found:
                block = await self._block(at)
                if block is None:
                    break
                path.append((at, block))
                at = block.header.prev_hash[::-1].hex()
            below = found.get(at, Branch(self._base_height))
            for block_hash, block in reversed(path):
                state = below.copy(below.height + 1)
                for transaction in block.transactions:
                    self._take(side, state, transaction)
                found[block_hash] = below = state
        return found

    async def _block(self, block_hash: str) -> ParentBlock | None:
        """A block above the base."""
        if block_hash not in self._parsed:
            header = await self._node.call("getblockheader", block_hash)
            if header["height"] <= self._base_height:
                return None
            raw = await self._node.call("getblock", block_hash, 0)
            self._parsed[block_hash] = parse_parent_block(bytes.fromhex(raw))
        return self._parsed[block_hash]

    def _take(self, side: Side, branch: Branch, transaction: ParentTx) -> None:
        ours = [outpoint for outpoint in transaction.inputs if outpoint in branch.coins]
        kind = "anchor" if ours else "fed"
        if ours:
            self._take_spend(branch, transaction, ours)
        for index, (value_sats, script) in enumerate(transaction.outputs):
            outpoint = OutPoint(transaction.txid, index)
            if outpoint in side.claimed:
                branch.coins[outpoint] = Coin(value_sats, branch.height, "deposit")
            elif script == self._fed_program:
                made = "anchor" if outpoint == side.opened else kind
                branch.coins[outpoint] = Coin(value_sats, branch.height, made)

    def _take_spend(self, branch: Branch, transaction: ParentTx, ours: list[OutPoint]) -> None:
        """A federation transaction: what it takes, what it pays, what it leaves to miners."""
        if len(ours) != len(transaction.inputs):
            raise CaughtByChains("a federation transaction spends a coin that is not its own")
        left_sats = 0
        pays = any(script[:1] != b"\x6a" for _, script in transaction.outputs[1:])
        oldest = min(branch.coins[outpoint].height for outpoint in ours)
        expires = self._terms.csv - (branch.height - oldest + 1) <= self._terms.sweep_window
        for outpoint in ours:
            branch.spent[outpoint] = branch.coins.pop(outpoint)
            left_sats += branch.spent[outpoint].value_sats
        for value_sats, script in transaction.outputs:
            left_sats -= value_sats
            if script != self._fed_program and script[:1] != b"\x6a":
                branch.paid[(script, value_sats)] += 1
        branch.fees_sats += left_sats
        if expires or not pays:
            branch.excused_fees_sats += left_sats
        branch.batches.append(transaction.txid)

    # ---- the book ----

    def _counts(self, coin: Coin, branch: Branch) -> bool:
        """Whether a coin that is unspent counts (peg:3.8); gifts only when deep."""
        deep = branch.height - coin.height + 1 >= self._terms.pegin_depth
        return coin.kind != "fed" or (deep and coin.value_sats >= self._terms.min_pegin_sats)

    def _book(self, side: Side, branch: Branch) -> ChainBook:
        """Both computations of peg:3.9.

        That they agree is bookkeeping: any payment and any fee that is in one is in the other. It
        catches coins that are missing or counted twice, and terms that are not those in force.
        What cannot be in a good book is a pool below zero: all deposits there, and more paid out
        than there was for it. Fees of batches that pay nobody or move an old coin may do that
        (peg:P24); how far is not judged.
        """
        if branch.height != side.committed_height:
            raise CaughtByChains("the committed block has another height")
        held = [coin for coin in branch.coins.values() if self._counts(coin, branch)]
        claimed_sats = sum(side.claimed.values())
        fee_sats = self._terms.peg_out_fee_sats
        paid_count = branch.paid.total()
        paid_sats = sum(money[1] * count for money, count in branch.paid.items())
        burned_for_payment = sum(owed.amount_sats for owed in side.owed)
        circulating = claimed_sats - side.feeburn_sats - side.burned_sats
        owed_sats = sum(owed.money[1] for owed in side.owed) - paid_sats
        pending = (len(side.owed) - paid_count) * fee_sats
        liabilities = circulating + owed_sats + pending + side.burned_sats - burned_for_payment
        everything = [*held, *branch.spent.values()]
        present = sum(coin.value_sats for coin in everything if coin.kind == "deposit")
        gifts = sum(coin.value_sats for coin in everything if coin.kind == "fed")
        opened = branch.coins.get(side.opened) if side.opened else None
        if opened is None and side.opened is not None:
            opened = branch.spent.get(side.opened)
        vanished = claimed_sats - present
        pool = (opened.value_sats if opened else 0) + gifts + side.feeburn_sats
        pool += paid_count * fee_sats - branch.fees_sats - vanished
        reserve = sum(coin.value_sats for coin in held)
        if reserve != liabilities + pool:
            raise CaughtByChains(f"I5: {reserve} held, {liabilities} owed, pool {pool}")
        if vanished == 0 and pool + branch.excused_fees_sats < 0:
            raise CaughtByChains(f"I5: the pool is {pool}, and nothing excuses it")
        return ChainBook(
            reserve_sats=reserve,
            liabilities_sats=liabilities,
            pool_sats=pool,
            vanished_sats=vanished,
        )
