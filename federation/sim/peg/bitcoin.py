"""A Bitcoin that exists only in memory: a tree of blocks with one best tip, and a mempool.

It answers like a member's node. Spends are checked, scripts and signatures are not.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peg.bitcoind import (
    BitcoindError,
    MempoolVerdict,
    ParentHeaderInfo,
    TransactionPlace,
    UnspentOutput,
)
from peg.parent_view import ParentBlock as ViewBlock
from peg.parent_view import ParentView
from sidechain.crypto.hashes import merkle_root, sha256
from sidechain.errors import InvariantError, Unavailable
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.parent import ParentHeader, ParentTx, parse_parent_tx
from sidechain.primitives.transaction import NULL_OUTPOINT, OutPoint
from sidechain.script.script import push

REGTEST_BITS = 0x207FFFFF
SETS_KEPT_MAX = 32


def p2wpkh_script(name: str) -> bytes:
    """A Bitcoin destination that follows from a name."""
    return b"\x00\x14" + sha256(name.encode())[:20]


def parent_tx(
    inputs: Sequence[OutPoint], outputs: Sequence[tuple[int, bytes]], *, script_sig: bytes = b""
) -> bytes:
    """A Bitcoin transaction of version 2 without witness."""
    spent = b"".join(o.serialize() + vec(script_sig) + le32(0xFFFFFFFF) for o in inputs)
    made = b"".join(le64(value) + vec(script) for value, script in outputs)
    head = le32(2) + compact_size(len(inputs)) + spent
    return head + compact_size(len(outputs)) + made + le32(0)


@dataclass(slots=True)
class Mined:
    """A block of the tree."""

    info: ViewBlock
    raw: bytes
    transactions: tuple[ParentTx, ...]


def move_view(view: ParentView, blocks: Mapping[bytes, Mined], tip: bytes) -> list[ViewBlock]:
    """Make a view end in a block of a tree; what is new on it, newest first."""
    branch: list[ViewBlock] = []
    at = tip
    while at in blocks and not view.is_active(at):
        branch.append(blocks[at].info)
        at = blocks[at].info.prev_hash
    if branch:
        view.advance(list(reversed(branch)))
    elif tip in blocks:
        view.rewind(tip)
    return branch


class Bitcoin:
    """A tree of Bitcoin blocks; one tip is best. Spends are checked, scripts are not.

    Attributes:
        estimate: what nodes say a fee rate is.
        floor_sats_per_kvb: what a mempool lets in and keeps.
        pins: by txid that waits, what its descendants pay: a replacement must pay that too.
        sent: everything a mempool ever took, by txid.
    """

    def __init__(self) -> None:
        self.blocks: dict[bytes, Mined] = {}
        self.view = ParentView()
        self.mempool: dict[bytes, bytes] = {}
        self.estimate: int | None = None
        self.is_down = False
        self.floor_sats_per_kvb = 0
        self.pins: dict[bytes, int] = {}
        self.sent: dict[bytes, bytes] = {}
        self.asked: list[str] = []
        self.miner_script = p2wpkh_script("miner")
        self._serial = itertools.count()
        self._coins: OrderedDict[bytes, dict[OutPoint, tuple[int, bytes]]] = OrderedDict()
        self._parsed: dict[bytes, ParentTx] = {}
        self.tip = bytes(32)
        self.mine()

    # ---- making blocks ----

    def mine(self, raws: Sequence[bytes] = (), *, count: int = 1) -> bytes:
        """Blocks on the best tip, the transactions in the first one; the new tip."""
        for position in range(count):
            self.tip = self.grow(self.tip, raws if position == 0 else ())
        self.activate(self.tip)
        return self.tip

    def grow(self, parent: bytes, raws: Sequence[bytes] = ()) -> bytes:
        """A block on any block, without making it best."""
        serial = next(self._serial)
        height = self.height(parent) + 1
        coinbase = parent_tx(
            [NULL_OUTPOINT],
            [(50 * 10**8, self.miner_script)],
            script_sig=push(le32(height) + le32(serial)),
        )
        all_raw = [coinbase, *raws]
        parsed = tuple(self.parse(raw) for raw in all_raw)
        root, _ = merkle_root([transaction.txid for transaction in parsed])
        header = self._work(parent, root, serial)
        raw = header.serialize() + compact_size(len(all_raw)) + b"".join(all_raw)
        info = ViewBlock(
            hash=header.hash, prev_hash=parent, height=height, ntx=len(all_raw), time=header.time
        )
        self.blocks[header.hash] = Mined(info, raw, parsed)
        return header.hash

    def activate(self, tip: bytes) -> None:
        """Make a block the best tip; its transactions leave the mempool."""
        self.tip = tip
        branch = move_view(self.view, self.blocks, tip)
        confirmed = {tx.txid for at in branch for tx in self.blocks[at.hash].transactions}
        coins = self.unspent()
        for txid, raw in list(self.mempool.items()):
            # What was taken because its inputs were there goes with them.
            is_dead = txid in self.sent and any(x not in coins for x in self.parse(raw).inputs)
            if txid in confirmed or is_dead:
                del self.mempool[txid]

    def height(self, block_hash: bytes) -> int:
        """Height of a block of the tree; the first one has 0."""
        mined = self.blocks.get(block_hash)
        return -1 if mined is None else mined.info.height

    def chain(self, tip: bytes | None = None) -> list[Mined]:
        """Blocks from the first one to a tip."""
        found: list[Mined] = []
        at = self.tip if tip is None else tip
        while at in self.blocks:
            found.append(self.blocks[at])
            at = self.blocks[at].info.prev_hash
        return list(reversed(found))

    def transactions(self, tip: bytes | None = None) -> list[ParentTx]:
        """All transactions up to a tip in order."""
        return [tx for mined in self.chain(tip) for tx in mined.transactions]

    def unspent(self, tip: bytes | None = None) -> dict[OutPoint, tuple[int, bytes]]:
        """The UTXO set at a tip; not to be changed."""
        at = self.tip if tip is None else tip
        above: list[Mined] = []
        while at in self.blocks and at not in self._coins:
            above.append(self.blocks[at])
            at = self.blocks[at].info.prev_hash
        if not above:
            return self._coins.get(at, {})
        coins = dict(self._coins.get(at, {}))
        for mined in reversed(above):
            for tx in mined.transactions:
                for outpoint in tx.inputs:
                    coins.pop(outpoint, None)
                coins.update({OutPoint(tx.txid, i): made for i, made in enumerate(tx.outputs)})
        self._coins[above[0].info.hash] = coins
        if len(self._coins) > SETS_KEPT_MAX:
            self._coins.popitem(last=False)
        return coins

    def output_at(self, outpoint: OutPoint, tip: bytes) -> UnspentOutput | None:
        """An output that is unspent at a tip."""
        found = self.unspent(tip).get(outpoint)
        if found is None:
            return None
        made = next(
            mined.info.height
            for mined in reversed(self.chain(tip))
            if any(tx.txid == outpoint.txid for tx in mined.transactions)
        )
        return UnspentOutput(
            value_sats=found[0],
            script=found[1],
            confirmations=self.height(tip) - made + 1,
            coinbase=False,
            best_block_hash=tip,
        )

    def parse(self, raw: bytes) -> ParentTx:
        """A transaction, read once."""
        if raw not in self._parsed:
            self._parsed[raw] = parse_parent_tx(raw)
        return self._parsed[raw]

    def evict(self) -> None:
        """Forget what waits, and what hangs on it."""
        self.mempool.clear()
        self.pins.clear()

    def raise_floor(self, sats_per_kvb: int) -> None:
        """The market moved: what pays less is thrown out and not let in."""
        self.floor_sats_per_kvb = sats_per_kvb
        cheap = [txid for txid, raw in self.mempool.items() if self._is_cheap(self.parse(raw))]
        for txid in cheap:
            del self.mempool[txid]

    def pay(self, script: bytes, value_sats: int) -> bytes:
        """A transaction out of nowhere that pays a script at its output 0."""
        source = OutPoint(sha256(b"money" + le32(next(self._serial))), 0)
        return parent_tx([source], [(value_sats, script)])

    def _work(self, parent: bytes, root: bytes, serial: int) -> ParentHeader:
        for nonce in itertools.count():
            header = ParentHeader(
                version=0x20000000,
                prev_hash=parent,
                merkle_root=root,
                time=1_700_000_000 + serial,
                bits=REGTEST_BITS,
                nonce=nonce,
            )
            if int.from_bytes(header.hash, "little") < 1 << 255:
                return header
        raise InvariantError("a counter does not end")

    # ---- answering like a node ----

    async def raw_block(self, block_hash: bytes) -> bytes:
        """A block as bytes."""
        self._answer("raw_block")
        if block_hash not in self.blocks:
            raise BitcoindError(-5, "Block not found")
        return self.blocks[block_hash].raw

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """Place of a block, on the best chain or off it."""
        self._answer("header")
        if block_hash not in self.blocks:
            raise BitcoindError(-5, "Block not found")
        info = self.blocks[block_hash].info
        return ParentHeaderInfo(
            hash=info.hash,
            prev_hash=info.prev_hash,
            height=info.height,
            confirmations=self.view.depth(block_hash) or -1,
            ntx=info.ntx,
            time=info.time,
        )

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output of the best chain."""
        self._answer("tx_out")
        return self.output_at(outpoint, self.tip)

    async def estimate_fee_sats_per_kvb(self) -> int | None:
        """The market's rate."""
        self._answer("estimate")
        return self.estimate

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        """Where a transaction is."""
        self._answer("find_transaction")
        for mined in self.chain():
            if any(tx.txid == txid for tx in mined.transactions):
                depth = self.view.depth(mined.info.hash)
                return TransactionPlace(raw=b"", block_hash=mined.info.hash, confirmations=depth)
        if txid in self.mempool:
            return TransactionPlace(raw=self.mempool[txid], block_hash=None, confirmations=0)
        return None

    async def test_mempool_accept(self, raw: bytes) -> MempoolVerdict:
        """Whether the mempool would take it."""
        self._answer("test_mempool_accept")
        return self.judge(raw)

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        """Take a transaction; what it replaces goes."""
        self._answer("send_raw_transaction")
        tx = self.parse(raw)
        if not self.judge(raw).allowed:
            raise BitcoindError(-26, self.judge(raw).reason)
        for other in self._conflicts(tx):
            del self.mempool[other]
            self.pins.pop(other, None)
        self.mempool[tx.txid] = raw
        self.sent[tx.txid] = raw
        return tx.txid

    def judge(self, raw: bytes) -> MempoolVerdict:
        """Inputs exist, outputs are no more, and a replacement pays more."""
        tx = self.parse(raw)
        if tx.txid in self.mempool:
            return MempoolVerdict(False, "txn-already-in-mempool")
        coins = self.unspent()
        if any(outpoint not in coins for outpoint in tx.inputs):
            return MempoolVerdict(False, "missing-inputs")
        if self._fee(tx, coins) < 0:
            return MempoolVerdict(False, "bad-txns-in-belowout")
        if self._is_cheap(tx):
            return MempoolVerdict(False, "mempool min fee not met")
        for other in self._conflicts(tx):
            known = self.parse(self.mempool[other])
            pinned = self._fee(known, coins) + self.pins.get(other, 0)
            if self._fee(tx, coins) < pinned + tx.vsize:
                return MempoolVerdict(False, "insufficient fee")
        return MempoolVerdict(True, "")

    def _is_cheap(self, tx: ParentTx) -> bool:
        coins = self.unspent()
        if not self.floor_sats_per_kvb or any(spent not in coins for spent in tx.inputs):
            return False
        return self._fee(tx, coins) * 1_000 < self.floor_sats_per_kvb * tx.vsize

    def _conflicts(self, tx: ParentTx) -> list[bytes]:
        spent = set(tx.inputs)
        known = {txid: self.parse(raw) for txid, raw in self.mempool.items()}
        return [txid for txid, other in known.items() if spent & set(other.inputs)]

    def _fee(self, tx: ParentTx, coins: dict[OutPoint, tuple[int, bytes]]) -> int:
        taken = sum(coins[outpoint][0] for outpoint in tx.inputs)
        return taken - sum(value for value, _ in tx.outputs)

    def _answer(self, question: str) -> None:
        self.asked.append(question)
        if self.is_down:
            raise Unavailable("the test's node is down")
