"""A Bitcoin and a sidechain that exist only in memory, for tests of the peg.

`Bitcoin` is a tree of blocks with one best tip, and answers like a member's node. `Sidechain`
makes final blocks out of commitments, claims and burns; nothing in it is signed or validated.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from peg.bitcoind import (
    BitcoindError,
    MempoolVerdict,
    ParentHeaderInfo,
    TransactionPlace,
    UnspentOutput,
)
from peg.commitments import Commitment, parameters_script
from peg.fedscript import FedScript, fed_script, tweaked
from peg.parameters import LOCAL, PegParameters
from peg.parent_view import ParentBlock as ViewBlock
from peg.parent_view import ParentView
from peg.records import OpenRecord, record_script
from sidechain.crypto.hashes import merkle_root, sha256
from sidechain.crypto.keys import public_key
from sidechain.errors import Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.parent import (
    ParentHeader,
    ParentTx,
    build_merkle_block,
    parse_parent_block,
    parse_parent_tx,
)
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push

PARAMETER_HASH = sha256(b"parameters of the test federation")
REGTEST_BITS = 0x207FFFFF
EASY_PARAMETERS = LOCAL


def secret(name: str) -> bytes:
    """A private key that follows from a name."""
    return sha256(b"peg test key " + name.encode())


def federation(parameters: PegParameters = LOCAL) -> FedScript:
    """The fedpegscript of a test federation."""
    return fed_script(
        k=parameters.k,
        keys=[public_key(secret(f"peg {i}")) for i in range(parameters.n)],
        csv=parameters.csv,
        emergency_keys=[public_key(secret(f"emergency {i}")) for i in range(3)],
    )


def sidechain_params(script: FedScript) -> ChainParams:
    """Parameters of the sidechain of a test federation."""
    return chain_params(
        name="pegtest",
        signblockscript=b"\x51",
        fedpegscript=script.script,
        mandatory_coinbase=b"\x6a",
        start_p2wsh_script=True,
        pegin_confirmation_depth=6,
        total_valid_epochs=30,
    )


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
class _Mined:
    info: ViewBlock
    raw: bytes
    transactions: tuple[ParentTx, ...]


class Bitcoin:
    """A tree of Bitcoin blocks; one tip is best. Spends are checked, scripts are not."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, _Mined] = {}
        self.view = ParentView()
        self.mempool: dict[bytes, bytes] = {}
        self.estimate: int | None = None
        self.is_down = False
        self.asked: list[str] = []
        self.miner_script = p2wpkh_script("miner")
        self._serial = itertools.count()
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
        parsed = tuple(parse_parent_tx(raw) for raw in all_raw)
        root, _ = merkle_root([transaction.txid for transaction in parsed])
        header = self._work(parent, root, serial)
        raw = header.serialize() + compact_size(len(all_raw)) + b"".join(all_raw)
        info = ViewBlock(
            hash=header.hash, prev_hash=parent, height=height, ntx=len(all_raw), time=header.time
        )
        self.blocks[header.hash] = _Mined(info, raw, parsed)
        return header.hash

    def activate(self, tip: bytes) -> None:
        """Make a block the best tip; its transactions leave the mempool."""
        self.tip = tip
        branch: list[ViewBlock] = []
        at = tip
        while at in self.blocks and not self.view.is_active(at):
            branch.append(self.blocks[at].info)
            at = self.blocks[at].info.prev_hash
        if branch:
            self.view.advance(list(reversed(branch)))
        else:
            self.view.rewind(tip)
        confirmed = {tx.txid for tx in self.transactions()}
        self.mempool = {txid: raw for txid, raw in self.mempool.items() if txid not in confirmed}

    def height(self, block_hash: bytes) -> int:
        """Height of a block of the tree; the first one has 0."""
        mined = self.blocks.get(block_hash)
        return -1 if mined is None else mined.info.height

    def chain(self, tip: bytes | None = None) -> list[_Mined]:
        """Blocks from the first one to a tip."""
        found: list[_Mined] = []
        at = self.tip if tip is None else tip
        while at in self.blocks:
            found.append(self.blocks[at])
            at = self.blocks[at].info.prev_hash
        return list(reversed(found))

    def transactions(self, tip: bytes | None = None) -> list[ParentTx]:
        """All transactions up to a tip in order."""
        return [tx for mined in self.chain(tip) for tx in mined.transactions]

    def unspent(self, tip: bytes | None = None) -> dict[OutPoint, tuple[int, bytes]]:
        """The UTXO set at a tip."""
        coins: dict[OutPoint, tuple[int, bytes]] = {}
        for tx in self.transactions(tip):
            for outpoint in tx.inputs:
                coins.pop(outpoint, None)
            for index, made in enumerate(tx.outputs):
                coins[OutPoint(tx.txid, index)] = made
        return coins

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
        raise AssertionError("a counter does not end")

    # ---- answering like a node ----

    async def raw_block(self, block_hash: bytes) -> bytes:
        self._answer("raw_block")
        if block_hash not in self.blocks:
            raise BitcoindError(-5, "Block not found")
        return self.blocks[block_hash].raw

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
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
        self._answer("tx_out")
        found = self.unspent().get(outpoint)
        if found is None:
            return None
        height = next(
            mined.info.height
            for mined in self.chain()
            if any(tx.txid == outpoint.txid for tx in mined.transactions)
        )
        return UnspentOutput(
            value_sats=found[0],
            script=found[1],
            confirmations=self.view.tip_height - height + 1,
            coinbase=False,
        )

    async def estimate_fee_sats_per_kvb(self) -> int | None:
        self._answer("estimate")
        return self.estimate

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        self._answer("find_transaction")
        for mined in self.chain():
            if any(tx.txid == txid for tx in mined.transactions):
                depth = self.view.depth(mined.info.hash)
                return TransactionPlace(raw=b"", block_hash=mined.info.hash, confirmations=depth)
        if txid in self.mempool:
            return TransactionPlace(raw=self.mempool[txid], block_hash=None, confirmations=0)
        return None

    async def test_mempool_accept(self, raw: bytes) -> MempoolVerdict:
        self._answer("test_mempool_accept")
        return self.judge(raw)

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        self._answer("send_raw_transaction")
        tx = parse_parent_tx(raw)
        if not self.judge(raw).allowed:
            raise BitcoindError(-26, self.judge(raw).reason)
        for other in self._conflicts(tx):
            del self.mempool[other]
        self.mempool[tx.txid] = raw
        return tx.txid

    def judge(self, raw: bytes) -> MempoolVerdict:
        """Inputs exist, outputs are no more, and a replacement pays more."""
        tx = parse_parent_tx(raw)
        if tx.txid in self.mempool:
            return MempoolVerdict(False, "txn-already-in-mempool")
        coins = self.unspent()
        if any(outpoint not in coins for outpoint in tx.inputs):
            return MempoolVerdict(False, "missing-inputs")
        if self._fee(tx, coins) < 0:
            return MempoolVerdict(False, "bad-txns-in-belowout")
        for other in self._conflicts(tx):
            known = parse_parent_tx(self.mempool[other])
            if self._fee(tx, coins) < self._fee(known, coins) + tx.vsize:
                return MempoolVerdict(False, "insufficient fee")
        return MempoolVerdict(True, "")

    def _conflicts(self, tx: ParentTx) -> list[bytes]:
        spent = set(tx.inputs)
        known = {txid: parse_parent_tx(raw) for txid, raw in self.mempool.items()}
        return [txid for txid, other in known.items() if spent & set(other.inputs)]

    def _fee(self, tx: ParentTx, coins: dict[OutPoint, tuple[int, bytes]]) -> int:
        taken = sum(coins[outpoint][0] for outpoint in tx.inputs)
        return taken - sum(value for value, _ in tx.outputs)

    def _answer(self, question: str) -> None:
        self.asked.append(question)
        if self.is_down:
            raise Unavailable("the test's node is down")


@dataclass(slots=True)
class Sidechain:
    """Final blocks of a sidechain, made on order."""

    params: ChainParams
    script: FedScript
    parameters: PegParameters = LOCAL
    blocks: list[Block] = field(default_factory=list)
    serial: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def height(self) -> int:
        """Of the last block."""
        return len(self.blocks)

    def block(
        self,
        scripts: Sequence[bytes],
        transactions: Sequence[Transaction] = (),
        *,
        height: int | None = None,
    ) -> Block:
        """The next block with these coinbase scripts, not kept."""
        height = self.height + 1 if height is None else height
        coinbase = Transaction.build(
            version=2,
            inputs=[TxIn(NULL_OUTPOINT, push(le32(height)) + push(le32(next(self.serial))))],
            outputs=[self.output(script, 0) for script in scripts],
            locktime=0,
        )
        header = BlockHeader(
            version=0x20000000,
            prev_hash=self.blocks[-1].hash if self.blocks else self.params.genesis_hash,
            merkle_root=coinbase.txid,
            time=1_700_000_000 + height,
            height=height,
        )
        return Block(header, (coinbase, *transactions))

    def add(self, block: Block) -> Block:
        """Keep a block as final."""
        self.blocks.append(block)
        return block

    def extend(
        self,
        commitment: Commitment,
        transactions: Sequence[Transaction] = (),
        opens: Sequence[OpenRecord] = (),
    ) -> Block:
        """Make and keep the next block."""
        scripts = [commitment.script(), *(record_script(record) for record in opens)]
        if self.height == 0:
            scripts.append(parameters_script(PARAMETER_HASH))
        return self.add(self.block(scripts, transactions))

    def output(self, script: bytes, value_sats: int) -> TxOut:
        """An explicit output in the pegged asset."""
        asset = explicit_asset(self.params.pegged_asset)
        return TxOut(asset, explicit_value(value_sats), NULL, script)

    def deposit_script(self, claim_script: bytes) -> bytes:
        """What a deposit for a claim script pays."""
        return tweaked(self.script, claim_script).program

    def claim(
        self,
        bitcoin: Bitcoin,
        raw: bytes,
        block_hash: bytes,
        claim_script: bytes,
        *,
        fee_sats: int = 1_000,
        index: int = 0,
    ) -> Transaction:
        """A claim of output `index` of a Bitcoin transaction in a block of the tree."""
        raw_block = bitcoin.blocks[block_hash].raw
        return self.claim_of(raw, raw_block, claim_script, fee_sats=fee_sats, index=index)

    def claim_of(
        self,
        raw: bytes,
        raw_block: bytes,
        claim_script: bytes,
        *,
        fee_sats: int = 1_000,
        index: int,
    ) -> Transaction:
        """A claim of output `index` of a Bitcoin transaction in a block."""
        tx = parse_parent_tx(raw)
        value_sats = tx.outputs[index][0]
        proof = build_merkle_block(parse_parent_block(raw_block), tx.txid)
        witness = InputWitness(
            pegin=(
                le64(value_sats),
                self.params.pegged_asset,
                self.params.parent_genesis_hash,
                claim_script,
                tx.stripped,
                proof,
            )
        )
        return Transaction.build(
            version=2,
            inputs=[TxIn(OutPoint(tx.txid, index), is_pegin=True)],
            outputs=[
                self.output(claim_script, value_sats - fee_sats),
                self.output(b"", fee_sats),
            ],
            locktime=0,
            input_witnesses=[witness],
        )

    def burn(
        self, destination: bytes, amount_sats: int, *, fee_sats: int = 100, **changes: bytes
    ) -> Transaction:
        """A peg-out of an amount; `changes` replace fields of its output."""
        script = b"\x6a" + push(self.params.parent_genesis_hash) + push(destination)
        made = replace(self.output(script, amount_sats), **changes)
        source = OutPoint(sha256(b"coin" + le32(next(self.serial))), 0)
        return Transaction.build(
            version=2,
            inputs=[TxIn(source)],
            outputs=[made, self.output(b"", fee_sats)],
            locktime=0,
        )
