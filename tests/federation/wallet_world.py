"""A small world for the wallet process: members over one signed chain, a Bitcoin in memory.

Nothing listens and nothing sleeps: tests call the turns of the process's loops themselves, and a
crash is simply a new process over the same store.
"""

import itertools
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.log import open_log
from federation.wallet.links import MemberLinks
from federation.wallet.parts import Outside, Parts, assemble
from peg.bitcoind import BitcoindError, ParentHeaderInfo, TransactionPlace, UnspentOutput
from sidechain.api.registry import Registry, RpcError
from sidechain.crypto.hashes import merkle_root, sha256, sha256d
from sidechain.errors import Invalid, Stalled, Unavailable
from sidechain.params import BITCOIN_REGTEST
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.book import WalletBook
from sidechain.wallet.covenant import NUMS_KEY, CovenantTerms, covenant_script
from tests.factories import REGTEST_BITS, SignedChain

PEGIN_DEPTH = 6
COMMIT_DEPTH = 2
CSV = 288
W_SWEEP = 72
RESET_DEPTH = 4
START_HEIGHT = 5


class Crash(BaseException):
    """The process dies here."""


def parent_tx(source: OutPoint, outputs: list[tuple[int, bytes]], tag: bytes = b"") -> bytes:
    """A Bitcoin transaction without witness."""
    head = le32(2) + b"\1" + source.serialize() + vec(tag) + le32(0xFFFFFFFD)
    paid = b"".join(le64(value) + vec(script) for value, script in outputs)
    return head + compact_size(len(outputs)) + paid + le32(0)


@dataclass(slots=True)
class MemoryBitcoin:
    """A Bitcoin node in memory: best chain, mempool, reorganisations; meets `ParentNode`."""

    blocks: list[tuple[bytes, bytes, tuple[bytes, ...]]] = field(default_factory=list)
    mempool: dict[bytes, bytes] = field(default_factory=dict)
    refuse_with: str = ""
    is_down: bool = False
    sent: list[bytes] = field(default_factory=list)
    crash_before_send: bool = False
    spent_coins: set[bytes] = field(default_factory=set)
    """Ids of transactions in blocks whose outputs are all spent."""
    serial: Any = field(default_factory=itertools.count)

    def mine(self, count: int = 1, *, with_mempool: bool = True) -> None:
        """Extend the best chain."""
        for _ in range(count):
            raws = list(self.mempool.values()) if with_mempool else []
            if with_mempool:
                self.mempool.clear()
            tag = b"\x51" + le32(next(self.serial))
            coinbase = parent_tx(OutPoint(bytes(32), 0xFFFFFFFF), [(50, b"\x51")], tag)
            self._append([coinbase, *raws])

    def mine_coinbase(self, script: bytes, value_sats: int) -> None:
        """Extend the chain by a block whose coinbase pays a script."""
        source = OutPoint(bytes(32), 0xFFFFFFFF)
        self._append([parent_tx(source, [(value_sats, script)], b"\x51" + le32(99))])

    def reorganise(self, depth: int, *, keep_transactions: bool = True) -> None:
        """Drop the last blocks; their transactions return to the mempool, or vanish."""
        for _ in range(depth):
            _, _, raws = self.blocks.pop()
            if keep_transactions:
                self.mempool |= {parse_parent_tx(raw).txid: raw for raw in raws[1:]}

    def pay(self, script: bytes, value_sats: int) -> OutPoint:
        """Somebody pays a script; the transaction waits in the mempool."""
        source = OutPoint(sha256(le32(next(self.serial))), 0)
        raw = parent_tx(source, [(777, b"\x51"), (value_sats, script)])
        txid = parse_parent_tx(raw).txid
        self.mempool[txid] = raw
        return OutPoint(txid, 1)

    @property
    def height(self) -> int:
        """Height of the tip."""
        return len(self.blocks) - 1

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Meets `ParentFacts`."""
        for height, (found, _, raws) in enumerate(self.blocks):
            if found == block_hash:
                return self.height - height + 1, len(raws)
        return None

    async def best_block_hash(self) -> bytes:
        self._answer()
        return self.blocks[-1][0]

    async def block_hash(self, height: int) -> bytes:
        self._answer()
        if not 0 <= height <= self.height:
            raise BitcoindError(-8, "Block height out of range")
        return self.blocks[height][0]

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        self._answer()
        height = [found for found, _, _ in self.blocks].index(block_hash)
        return ParentHeaderInfo(
            hash=block_hash,
            prev_hash=self.blocks[height - 1][0],
            height=height,
            confirmations=self.height - height + 1,
            ntx=1,
            time=0,
        )

    async def raw_block(self, block_hash: bytes) -> bytes:
        self._answer()
        return next(raw for found, raw, _ in self.blocks if found == block_hash)

    async def raw_transaction(self, txid: bytes, block_hash: bytes | None = None) -> bytes:
        self._answer()
        if txid not in self.mempool:
            raise BitcoindError(-5, "No such mempool transaction")
        return self.mempool[txid]

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        self._answer()
        if txid in self.spent_coins:
            return TransactionPlace(raw=b"", block_hash=self.blocks[0][0], confirmations=1)
        for block_hash, _, raws in self.blocks:
            for raw in raws:
                if parse_parent_tx(raw).txid == txid:
                    return TransactionPlace(raw=raw, block_hash=block_hash, confirmations=1)
        raw_found = self.mempool.get(txid)
        if raw_found is None:
            return None
        return TransactionPlace(raw=raw_found, block_hash=None, confirmations=0)

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        self._answer()
        if outpoint.txid in self.spent_coins:
            return None
        spent = [raw for _, _, raws in self.blocks for raw in raws]
        if include_mempool:
            spent += self.mempool.values()
        if any(outpoint in parse_parent_tx(raw).inputs for raw in spent):
            return None
        return UnspentOutput(
            value_sats=1, script=b"", confirmations=1, coinbase=False, best_block_hash=bytes(32)
        )

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        self._answer()
        if self.crash_before_send:
            raise Crash
        tx = parse_parent_tx(raw)
        if await self.find_transaction(tx.txid) is not None:
            raise BitcoindError(-27, "Transaction already in block chain")
        if self.refuse_with:
            raise BitcoindError(-25, self.refuse_with)
        self.mempool[tx.txid] = raw
        self.sent.append(raw)
        return tx.txid

    async def mempool_txids(self) -> tuple[bytes, ...]:
        self._answer()
        return tuple(self.mempool)

    def _answer(self) -> None:
        if self.is_down:
            raise Unavailable("bitcoind cannot be reached")

    def _append(self, raws: list[bytes]) -> None:
        prev_hash = self.blocks[-1][0] if self.blocks else bytes(32)
        txids = [parse_parent_tx(raw).txid for raw in raws]
        start = le32(0x20000000) + prev_hash + merkle_root(txids)[0]
        start += le32(next(self.serial)) + le32(REGTEST_BITS)
        header = next(
            candidate
            for nonce in itertools.count()
            if int.from_bytes(sha256d(candidate := start + le32(nonce)), "little") < 1 << 255
        )
        body = header + compact_size(len(raws)) + b"".join(raws)
        self.blocks.append((sha256d(header), body, tuple(raws)))


@dataclass(slots=True)
class MemoryFaucet:
    """Signs payments; meets `FundingSource`."""

    made: list[bytes] = field(default_factory=list)
    fail_with: str = ""
    crash_after: bool = False

    async def signed_payment(self, address: str, value_sats: int) -> bytes:
        """A payment from a coin of its own."""
        if self.fail_with:
            raise BitcoindError(-6, self.fail_with)
        script = decode_address(address, BITCOIN_REGTEST).script
        source = self.coin(len(self.made))
        raw = parent_tx(source, [(9_999, b"\x51"), (value_sats, script)])
        self.made.append(raw)
        if self.crash_after:
            raise Crash
        return raw

    def coin(self, number: int) -> OutPoint:
        """The coin that pays the funding of that number."""
        return OutPoint(sha256(b"faucet" + le32(number)), 0)


@dataclass(slots=True)
class Federation:
    """What all members share: the signed chain, Bitcoin as committed, the peg's answers."""

    signed: SignedChain
    bitcoin: MemoryBitcoin
    committed: tuple[int, bytes] | None = None
    deposits_open: bool = True
    pegouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    fedpegscript_hex: str = ""
    older_scripts: tuple[str, ...] = ()
    covenants: dict[str, CovenantTerms] = field(default_factory=dict)
    """Registrations by claim script in hex, as all members know them."""
    now_s: int = 1_700_000_000

    def commit(self) -> None:
        """Commit to the newest Bitcoin block that is deep enough."""
        height = self.bitcoin.height - COMMIT_DEPTH + 1
        self.committed = (height, self.bitcoin.blocks[height][0])

    def make_block(self) -> None:
        """A final block with everything in the mempool."""
        self.signed.extend(self.signed.chain.select_transactions())

    def pegin_info(self) -> dict[str, Any]:
        """Reply of getpeginfo."""
        height, block_hash = self.committed or (None, b"")
        return {
            "committed_height": height,
            "committed_hash": block_hash[::-1].hex() or None,
            "pegin_depth": PEGIN_DEPTH,
            "commit_depth": COMMIT_DEPTH,
            "csv": CSV,
            "w_sweep": W_SWEEP,
            "peg_out_fee_sats": 2_500,
            "min_pegin_sats": 20_000,
            "min_pegout_sats": 20_000,
            "payout_cap_sats": 100_000_000,
            "deposits_open": self.deposits_open,
            "reason": "" if self.deposits_open else "not yet open",
            "reset_depth": RESET_DEPTH,
            "claim_before_height": 300,
        }

    def register(self, program_hex: str, max_fee_sats: int, key_hex: str | None) -> dict[str, Any]:
        """Reply of registercovenant."""
        key = NUMS_KEY if key_hex is None else bytes.fromhex(key_hex)
        terms = CovenantTerms(
            script=bytes.fromhex(program_hex), max_fee_sats=max_fee_sats, internal_key=key
        )
        params = self.signed.params
        claim_script = covenant_script(terms, params.pegged_asset)
        self.covenants[claim_script.hex()] = terms
        fedpegscript = params.fedpegscript
        script = deposit_script(p2wsh(fedpegscript), fedpegscript, claim_script)
        return {"address": encode_address(script, params.parent_prefixes)}

    def claimed(self, shown: str) -> bool:
        """Whether a final block claims a deposit."""
        chain = self.signed.chain
        return any(
            txin.is_pegin and f"{txin.prevout.txid[::-1].hex()}:{txin.prevout.index}" == shown
            for height in range(1, chain.tip_height + 1)
            for tx in chain.block(height).transactions
            for txin in tx.inputs
        )


class Member:
    """One member's RPC; meets `RpcLink`."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.is_down = False
        self.refuse_with = ""
        self.crash_before_send = False
        self.crash_after_send = False
        self.meanwhile: dict[str, Callable[[], Awaitable[object]]] = {}
        """What happens, once, while a method is being answered."""
        self.calls: list[str] = []
        self.covenant_deposits: list[dict[str, Any]] = []

    async def call(self, method: str, *params: Any) -> Any:
        """Answer one method."""
        if self.is_down:
            raise Unavailable("cannot connect")
        self.calls.append(method)
        if method in self.meanwhile:
            await self.meanwhile.pop(method)()
        chain = self.federation.signed.chain
        match method:
            case "getblockcount":
                return chain.tip_height
            case "getblockhash":
                return chain.block(params[0]).hash[::-1].hex()
            case "getblock":
                height = chain.height_of(bytes.fromhex(params[0])[::-1])
                return chain.block(height or 0).serialize().hex()
            case "getrawmempool":
                return [tx.txid[::-1].hex() for tx in chain.mempool.transactions()]
            case "getrawtransaction":
                wanted = bytes.fromhex(params[0])[::-1]
                found = [tx for tx in chain.mempool.transactions() if tx.txid == wanted]
                if not found:
                    raise RpcError(-5, "No such mempool transaction")
                return found[0].serialize().hex()
            case "getmempoolinfo":
                return {}
            case "getpeginfo":
                return self.federation.pegin_info()
            case "getsidechaininfo":
                script_hex = self.federation.fedpegscript_hex or chain.params.fedpegscript.hex()
                return {"current_fedpegscripts": [script_hex, *self.federation.older_scripts]}
            case "registercovenant":
                return self.federation.register(*params)
            case "getcovenant":
                if params[0] not in self.federation.covenants:
                    raise RpcError(-5, "this member knows no such registration")
                return {"deposits": self.covenant_deposits}
            case "getdeposit":
                return {"claimed": self.federation.claimed(params[0])}
            case "getpegout":
                if params[0] not in self.federation.pegouts:
                    raise RpcError(-8, "unknown burn")
                return self.federation.pegouts[params[0]]
            case "sendrawtransaction":
                return self._send(params[0])
        raise RpcError(-32601, "Method not found")

    def _send(self, raw_hex: str) -> str:
        if self.crash_before_send:
            raise Crash
        if self.refuse_with:
            raise RpcError(-26, self.refuse_with)
        tx = Transaction.decode(bytes.fromhex(raw_hex))
        federation = self.federation
        if tx.txid in federation.signed.chain.mempool:
            return tx.txid[::-1].hex()  # as elementsd: the one held is relayed again
        try:
            federation.signed.chain.submit_tx(tx, federation.bitcoin, federation.now_s)
        except (Invalid, Stalled) as error:
            raise RpcError(-26, str(error)) from error
        if self.crash_after_send:
            raise Crash
        return tx.txid[::-1].hex()

    async def close(self) -> None:
        """Nothing to close."""


class World:
    """A federation of three members, a Bitcoin, and one wallet process over a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bitcoin = MemoryBitcoin()
        self.bitcoin.mine(START_HEIGHT + 1)
        signed = SignedChain.open(path / "chain", pegin_confirmation_depth=PEGIN_DEPTH)
        self.params = signed.params
        self.federation = Federation(signed, self.bitcoin)
        for _ in range(self.params.dynamic_epoch_length):
            signed.extend()
        self.members = [Member(self.federation) for _ in range(3)]
        self.faucet = MemoryFaucet()
        self.now_ms = 0
        self.drawn = itertools.count(1)
        self.parts = self.start()

    def start(self) -> Parts:
        """Start the process over the store as it is on disk."""
        self.log = open_log("wallet", path=self.path / "log.jsonl")
        self.book = WalletBook.open(self.path / "wallets", self.params)
        outside = Outside(
            members=MemberLinks(self.members),
            parent=self.bitcoin,
            funding=self.faucet,
            log=self.log.logger,
            unix_time_s=lambda: self.federation.now_s,
            monotonic_ms=lambda: self.now_ms,
            entropy=lambda count: (sha256(b"draw" + le32(next(self.drawn))) * 2)[:count],
            on_peg_work=lambda: None,
        )
        self.parts = assemble(self.book, self.params, outside)
        self.registry = Registry()
        self.parts.methods.register(self.registry)
        return self.parts

    def crash(self) -> None:
        """Kill the process and start it again; nothing but the store is left of it."""
        self.close()
        for member in self.members:
            member.crash_before_send = member.crash_after_send = False
        self.bitcoin.crash_before_send = self.faucet.crash_after = False
        self.start()

    def close(self) -> None:
        """Release the files of the process."""
        self.book.close()
        self.log.close()

    async def call(self, method: str, *params: Any) -> Any:
        """Call a method of the process."""
        return await self.registry.call(method, list(params))

    async def turn(self) -> None:
        """One turn of both loops, late enough for a resend."""
        self.now_ms += 5_000
        while not await self.parts.follow_chain():
            pass
        while not await self.parts.follow_parent():
            pass

    async def mine(self, count: int) -> None:
        """Bitcoin blocks, committed by a final block each, seen by the process."""
        for _ in range(count):
            self.bitcoin.mine()
            self.federation.commit()
            self.federation.make_block()
            await self.turn()

    async def rich_wallet(self, name: str, amount_sats: int = 50_000_000) -> None:
        """A wallet with coins from a finished peg-in."""
        await self.call("createwallet", name)
        await self.turn()
        made = await self.call("pegin", name, coins(amount_sats))
        await self.turn()
        await self.mine(PEGIN_DEPTH + 1)
        assert (await self.call("getpegin", made["id"]))["stage"] == "final"


def coins(amount_sats: int) -> str:
    return f"{amount_sats // 10**8}.{amount_sats % 10**8:08d}"


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
