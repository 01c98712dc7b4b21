"""Follows the federation's final chain by the members' JSON-RPC, and keeps the keyring.

A final block never changes, so following is: ask for the next height, check that the block
follows the last one, fold it. One task calls `step` again and again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from structlog.typing import FilteringBoundLogger

from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from sidechain.api.registry import RpcError
from sidechain.errors import Invalid, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from sidechain.wallet.keys import PrivateAccount
from sidechain.wallet.records import Cursor
from sidechain.wallet.sealing import is_sealed, unseal
from sidechain.wallet.selection import WalletRefusal
from sidechain.wallet.wallet import Wallet

BLOCKS_PER_STEP = 200
FOREIGN_TRANSACTIONS_MAX = 500
MAX_RATE_SATS_PER_KVB = 100_000
"""Above this a member's minimum fee rate is not believed."""


class ChainFollower:
    """Folds final blocks into the wallets and the peg records."""

    def __init__(
        self,
        members: MemberLinks,
        store: PegStore,
        params: ChainParams,
        log: FilteringBoundLogger,
        unix_time_s: Callable[[], int],
    ) -> None:
        self._members = members
        self._store = store
        self._book = store.book
        self._params = params
        self._log = log
        self._unix_time_s = unix_time_s
        self._seen: dict[bytes, tuple[Transaction, int] | None] = {}

    @property
    def tip_height(self) -> int:
        """Height of the last final block taken in; -1 before the first."""
        return -1 if self._book.cursor is None else self._book.cursor.height

    async def step(self) -> bool:
        """Move towards the tip of the member that answers; whether it was reached.

        Raises:
            Unavailable: no member answers, or the one that did is behind or on another chain.
            RpcError: it answers with an error nobody expected.
        """
        member_height = int(await self._members.call("getblockcount"))
        await self._start(member_height)
        if member_height < self.tip_height:
            # Not an error by itself: a member that was restarted catches up. Ask another.
            self._members.turn()
        for height in range(self.tip_height + 1, member_height + 1)[:BLOCKS_PER_STEP]:
            await self._fold(height)
        if self.tip_height < member_height:
            return False
        rescanned = await self._rescan()
        await self._look_into_mempool()
        return rescanned

    async def _rescan(self) -> bool:
        """Look through earlier blocks for wallets that have a history; whether that is done."""
        for wallet in self._book.rescanning():
            for _ in range(BLOCKS_PER_STEP):
                height = wallet.record.rescan_height
                if height is None:
                    break
                block = await self._final_block(height)
                if wallet.record.rescan_height == height:
                    self._book.rescan_block(wallet, block, height)
        return not self._book.rescanning()

    async def _start(self, member_height: int) -> None:
        if self._book.cursor is not None or self._book.names:
            return
        tip_hex = await self._members.call("getblockhash", member_height)
        # Wallets made from now on have no history: their keys did not exist before.
        if not self._book.names:
            self._book.start_at(Cursor(member_height, _from_shown(tip_hex)))

    async def _final_block(self, height: int) -> Block:
        hash_hex = await self._members.call("getblockhash", height)
        raw_hex = await self._members.call("getblock", hash_hex, 0)
        try:
            block = await asyncio.to_thread(Block.decode, bytes.fromhex(raw_hex), self._params)
            if block.hash != _from_shown(hash_hex):
                raise Invalid("bad-block", "the block has another hash than asked for")
        except (Invalid, ValueError) as error:
            raise self._distrust(height, error) from error
        return block

    def _distrust(self, height: int, error: Exception) -> Unavailable:
        self._members.turn()
        self._log.error("member_block_refused", height=height, reason=str(error))
        return Unavailable(f"a member is on another chain: {error}")

    async def _fold(self, height: int) -> None:
        block = await self._final_block(height)
        try:
            if self.tip_height + 1 != height:
                return
            settled = self._store.settled_by(block, height)
            report = self._book.apply_block(block, height, self._store.changes(*settled))
        except Invalid as error:
            raise self._distrust(height, error) from error
        self._store.remember(*settled)
        for txid in report.final:
            self._log.info("transaction_final", txid=txid[::-1].hex(), height=height)
        for txid in report.dead:
            self._log.warning("transaction_conflicted", txid=txid[::-1].hex(), height=height)
        for record in settled:
            self._log.info("peg_final", id=record.id, height=height)

    async def _look_into_mempool(self) -> None:
        if not self._book.names:
            return
        txids = [_from_shown(text) for text in await self._members.call("getrawmempool")]
        kept = txids[:FOREIGN_TRANSACTIONS_MAX]
        self._seen = {txid: self._seen[txid] for txid in kept if txid in self._seen}
        for txid in kept:
            if txid not in self._seen and not self._book.is_pending(txid):
                self._seen[txid] = await self._read(txid)
        self._book.set_seen([found for found in self._seen.values() if found is not None])

    async def _read(self, txid: bytes) -> tuple[Transaction, int] | None:
        try:
            raw_hex = await self._members.call("getrawtransaction", txid[::-1].hex())
            return Transaction.decode(bytes.fromhex(raw_hex)), self._unix_time_s()
        except (RpcError, Invalid, ValueError):
            # Mined or evicted meanwhile, or not readable: it does not count as pending.
            return None

    async def fee_rate_sats_per_kvb(self) -> int:
        """What a transaction must pay to be taken now.

        Raises:
            Unavailable: no member answers, or the rate is beyond belief.
        """
        floor = self._params.min_relay_fee_sats_per_kvb
        try:
            info = await self._members.call("getmempoolinfo")
        except RpcError:
            return floor
        rates = [_sats(info.get(name)) for name in ("mempoolminfee", "minrelaytxfee")]
        rate = max([floor, *rates])
        if rate > MAX_RATE_SATS_PER_KVB:
            raise Unavailable(f"a member asks for {rate} sat/kvB, which is beyond belief")
        return rate


@dataclass(slots=True)
class _Unlocked:
    account: PrivateAccount
    until_ms: int


class Keyring:
    """Private accounts: of wallets without passphrase always, of others while unlocked.

    An unlocked account is in memory only; it is dropped when its time is over.
    """

    def __init__(self, monotonic_ms: Callable[[], int]) -> None:
        self._monotonic_ms = monotonic_ms
        self._unlocked: dict[str, _Unlocked] = {}

    def unlock(self, name: str, account: PrivateAccount, seconds: int) -> None:
        """Keep an account for some seconds; 0 locks the wallet again."""
        self.lock(name)
        if seconds > 0:
            self._unlocked[name] = _Unlocked(account, self._monotonic_ms() + 1000 * seconds)

    def lock(self, name: str) -> None:
        """Forget an account now."""
        self._unlocked.pop(name, None)

    def forget_expired(self) -> None:
        """Drop accounts whose time is over."""
        now_ms = self._monotonic_ms()
        expired = [name for name, held in self._unlocked.items() if held.until_ms <= now_ms]
        for name in expired:
            del self._unlocked[name]

    def seconds_left(self, name: str) -> int:
        """How long a wallet stays unlocked, rounded up."""
        held = self._unlocked.get(name)
        return 0 if held is None else max(0, -(-(held.until_ms - self._monotonic_ms()) // 1000))

    def account(self, wallet: Wallet) -> PrivateAccount:
        """The private account of a wallet, to sign with at once.

        Raises:
            WalletRefusal: "locked" or "watch-only".
        """
        if wallet.is_watch_only:
            raise WalletRefusal(
                "watch-only", f"wallet {wallet.name!r} only watches: sign elsewhere, with a PSET"
            )
        if not is_sealed(wallet.record.stored_seed):
            seed = unseal(wallet.record.stored_seed, "", wallet.account)
            return PrivateAccount.from_seed(seed)
        self.forget_expired()
        held = self._unlocked.get(wallet.name)
        if held is None:
            raise WalletRefusal("locked", f"wallet {wallet.name!r} is locked: unlock it first")
        return held.account


def _sats(coins: Any) -> int:
    return -int(-Decimal(coins) * 100_000_000 // 1) if isinstance(coins, Decimal | int) else 0


def _from_shown(text: str) -> bytes:
    return bytes.fromhex(text)[::-1]
