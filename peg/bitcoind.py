"""Typed client of one Bitcoin node.

Bytes go in and come out in internal byte order; the reversed hex of Bitcoin's RPC never leaves
this file. Amounts are satoshis. Calls that change nothing are repeated while the node starts or
cannot be reached (`peg.bitcoind_rpc`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, NamedTuple

from peg.bitcoind_rpc import BitcoindError, BitcoindRpc
from sidechain.errors import Unavailable
from sidechain.primitives.transaction import OutPoint

__all__ = ["BitcoindClient", "BitcoindError"]

SATS_PER_BTC = 100_000_000
CODE_INVALID_ADDRESS_OR_KEY = -5
CODE_WALLET_ALREADY_LOADED = -35
POLL_PAUSE_MS = 50
SCAN_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentHeaderInfo:
    """One block header as the node knows it; `confirmations` is -1 off the best chain."""

    hash: bytes
    prev_hash: bytes
    height: int
    confirmations: int
    ntx: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentChainInfo:
    """What `getblockchaininfo` tells: network name, heights, sync state, pruning."""

    chain: str
    blocks: int
    headers: int
    best_block_hash: bytes
    initial_block_download: bool
    pruned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnspentOutput:
    """An output of the node's UTXO set; `confirmations` is 0 in the mempool.

    Attributes:
        best_block_hash: the tip that confirmations count from.
    """

    value_sats: int
    script: bytes
    confirmations: int
    coinbase: bool
    best_block_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannedOutput:
    """A confirmed unspent output that a scan found by its script."""

    outpoint: OutPoint
    value_sats: int
    script: bytes
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MempoolEntry:
    """Size and base fee of an unconfirmed transaction."""

    vsize: int
    fee_sats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionPlace:
    """A transaction's bytes and the best-chain block it is in (None: unconfirmed)."""

    raw: bytes
    block_hash: bytes | None
    confirmations: int


class MempoolVerdict(NamedTuple):
    """Answer of `testmempoolaccept`: `reason` is the node's reject reason or empty."""

    allowed: bool
    reason: str


def to_hex(hash_bytes: bytes) -> str:
    """Internal byte order to the reversed hex that Bitcoin shows."""
    return hash_bytes[::-1].hex()


def from_hex(hash_hex: str) -> bytes:
    """Reversed hex to internal byte order."""
    return bytes.fromhex(hash_hex)[::-1]


def amount_sats(value: Decimal | int | str) -> int:
    """A bitcoin amount of JSON to satoshis, exactly.

    Raises:
        ValueError: the amount has more than eight decimals.
    """
    scaled = Decimal(value) * SATS_PER_BTC
    sats = int(scaled)
    if scaled != sats:
        raise ValueError(f"{value} is finer than a satoshi")
    return sats


def amount_text(sats: int) -> str:
    """Satoshis as a decimal string with eight decimals, which the node takes as an amount."""
    sign = "-" if sats < 0 else ""
    whole, rest = divmod(abs(sats), SATS_PER_BTC)
    return f"{sign}{whole}.{rest:08d}"


class BitcoindClient(BitcoindRpc):
    """The calls fedpeg makes to a Bitcoin node; constructor and errors as in `BitcoindRpc`."""

    async def wait_until_ready(self, deadline_ms: int) -> ParentChainInfo:
        """Ask until the node answers.

        Raises:
            Unavailable: it did not within `deadline_ms`.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + deadline_ms / 1000
        while True:
            try:
                return await self.chain_info()
            except Unavailable:
                if loop.time() >= give_up_at:
                    raise
                await asyncio.sleep(POLL_PAUSE_MS / 1000)

    async def chain_info(self) -> ParentChainInfo:
        """Network name, heights and sync state of the node."""
        info = await self.call("getblockchaininfo")
        return ParentChainInfo(
            chain=info["chain"],
            blocks=info["blocks"],
            headers=info["headers"],
            best_block_hash=from_hex(info["bestblockhash"]),
            initial_block_download=info["initialblockdownload"],
            pruned=info["pruned"],
        )

    async def subversion(self) -> str:
        """The node's user agent, such as `/Satoshi:29.0.0/`."""
        return str((await self.call("getnetworkinfo"))["subversion"])

    async def has_transaction_index(self) -> bool:
        """Whether txindex is on and has caught up with the chain."""
        index = (await self.call("getindexinfo", "txindex")).get("txindex")
        return bool(index and index["synced"])

    async def block_count(self) -> int:
        """Height of the best chain."""
        return int(await self.call("getblockcount"))

    async def best_block_hash(self) -> bytes:
        """Hash of the best chain's tip."""
        return from_hex(await self.call("getbestblockhash"))

    async def block_hash(self, height: int) -> bytes:
        """Hash of the best chain's block at a height.

        Raises:
            BitcoindError: code -8, no such height.
        """
        return from_hex(await self.call("getblockhash", height))

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """Place and size of a block, on the best chain or off it.

        Raises:
            BitcoindError: code -5, block unknown.
        """
        return _header_info(await self.call("getblockheader", to_hex(block_hash), True))

    async def headers_at(self, heights: Sequence[int]) -> list[ParentHeaderInfo]:
        """Headers of the best chain at these heights, with two batched requests."""
        hashes = await self.batch([("getblockhash", (height,)) for height in heights])
        replies = await self.batch([("getblockheader", (hash_hex, True)) for hash_hex in hashes])
        return [_header_info(reply) for reply in replies]

    async def raw_header(self, block_hash: bytes) -> bytes:
        """The 80 header bytes of a block."""
        return bytes.fromhex(await self.call("getblockheader", to_hex(block_hash), False))

    async def raw_block(self, block_hash: bytes) -> bytes:
        """Serialized block with witnesses.

        Raises:
            BitcoindError: code -5 unknown, code -1 not on disk.
        """
        return bytes.fromhex(await self.call("getblock", to_hex(block_hash), 0))

    # ---- transactions ----

    async def raw_transaction(self, txid: bytes, block_hash: bytes | None = None) -> bytes:
        """Serialized transaction from the mempool, the index, or the block named.

        Raises:
            BitcoindError: code -5, not found.
        """
        where = [] if block_hash is None else [to_hex(block_hash)]
        return bytes.fromhex(await self.call("getrawtransaction", to_hex(txid), False, *where))

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        """A transaction and where it is; None when the node does not know it."""
        try:
            found = await self.call("getrawtransaction", to_hex(txid), True)
        except BitcoindError as error:
            if error.code == CODE_INVALID_ADDRESS_OR_KEY:
                return None
            raise
        block_hex = found.get("blockhash")
        confirmations = int(found.get("confirmations", 0))
        return TransactionPlace(
            raw=bytes.fromhex(found["hex"]),
            block_hash=from_hex(block_hex) if block_hex and confirmations > 0 else None,
            confirmations=confirmations,
        )

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output; None when it is spent or unknown."""
        reply = await self.call("gettxout", to_hex(outpoint.txid), outpoint.index, include_mempool)
        if reply is None:
            return None
        return UnspentOutput(
            value_sats=amount_sats(reply["value"]),
            script=bytes.fromhex(reply["scriptPubKey"]["hex"]),
            confirmations=reply["confirmations"],
            coinbase=reply["coinbase"],
            best_block_hash=from_hex(reply["bestblock"]),
        )

    async def scan_scripts(self, scripts: Sequence[bytes]) -> tuple[ScannedOutput, ...]:
        """All confirmed unspent outputs of these scripts; takes minutes on a large chain.

        Raises:
            BitcoindError: code -8, another scan runs.
        """
        reply = await self.call(
            "scantxoutset",
            "start",
            [f"raw({script.hex()})" for script in scripts],
            timeout_ms=SCAN_TIMEOUT_MS,
            repeatable=False,
        )
        return tuple(
            ScannedOutput(
                outpoint=OutPoint(from_hex(found["txid"]), found["vout"]),
                value_sats=amount_sats(found["amount"]),
                script=bytes.fromhex(found["scriptPubKey"]),
                height=found["height"],
            )
            for found in reply["unspents"]
        )

    async def scan_percent(self) -> int | None:
        """How far a scan is; None when none runs."""
        reply = await self.call("scantxoutset", "status")
        return None if reply is None else int(reply["progress"])

    async def first_spent_script(self, txid: bytes, block_hash: bytes) -> bytes:
        """Script of the output that a confirmed transaction's first input spends; b"" for none.

        The node needs no index for it, only the block and its undo data.
        """
        found = await self.call("getrawtransaction", to_hex(txid), 2, to_hex(block_hash))
        spent = found["vin"][0].get("prevout")
        return b"" if spent is None else bytes.fromhex(spent["scriptPubKey"]["hex"])

    async def spending_txid(self, outpoint: OutPoint) -> bytes | None:
        """Id of the mempool transaction that spends this output, if there is one."""
        query = [{"txid": to_hex(outpoint.txid), "vout": outpoint.index}]
        found = (await self.call("gettxspendingprevout", query))[0].get("spendingtxid")
        return from_hex(found) if found else None

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        """Hand a transaction to the node, at any fee rate; returns its txid.

        Raises:
            BitcoindError: refused, the message is the reject reason; code -27 when it is already
                in a block.
        """
        return from_hex(await self.call("sendrawtransaction", raw.hex(), 0))

    async def test_mempool_accept(self, raw: bytes) -> MempoolVerdict:
        """Whether the mempool would take a transaction, at any fee rate, and why not."""
        verdict = (await self.call("testmempoolaccept", [raw.hex()], 0))[0]
        reason = verdict.get("reject-reason") or verdict.get("package-error") or ""
        return MempoolVerdict(bool(verdict.get("allowed", False)), str(reason))

    async def mempool_entry(self, txid: bytes) -> MempoolEntry | None:
        """Size and fee of an unconfirmed transaction; None when it is not in the mempool."""
        try:
            entry = await self.call("getmempoolentry", to_hex(txid))
        except BitcoindError as error:
            if error.code == CODE_INVALID_ADDRESS_OR_KEY:
                return None
            raise
        return MempoolEntry(vsize=entry["vsize"], fee_sats=amount_sats(entry["fees"]["base"]))

    async def mempool_txids(self) -> tuple[bytes, ...]:
        """Ids of all unconfirmed transactions."""
        return tuple(from_hex(txid_hex) for txid_hex in await self.call("getrawmempool"))

    async def estimate_fee_sats_per_kvb(self) -> int | None:
        """The node's economical estimate for six blocks, rounded up; None when it has none.

        Source: N20.
        """
        rate = (await self.call("estimatesmartfee", 6, "economical")).get("feerate")
        scaled = None if rate is None else Decimal(rate) * SATS_PER_BTC
        return None if scaled is None else int(scaled.to_integral_value(ROUND_CEILING))

    async def tx_out_proof(self, txids: Sequence[bytes], block_hash: bytes) -> bytes:
        """Serialized merkle block that proves these transactions to be in a block.

        Raises:
            BitcoindError: code -5, not all of them are in that block.
        """
        hexes = [to_hex(txid) for txid in txids]
        return bytes.fromhex(await self.call("gettxoutproof", hexes, to_hex(block_hash)))

    async def address_script(self, address: str) -> bytes | None:
        """Script of an address of the node's network; None when it is not one."""
        reply = await self.call("validateaddress", address)
        return bytes.fromhex(reply["scriptPubKey"]) if reply["isvalid"] else None

    async def script_address(self, script: bytes) -> str:
        """Address of a standard output script.

        Raises:
            BitcoindError: the script has none.
        """
        reply = await self.call("decodescript", script.hex())
        if "address" not in reply:
            raise BitcoindError(CODE_INVALID_ADDRESS_OR_KEY, "script has no address")
        return str(reply["address"])

    # ---- the node's wallets (local federations and tests) ----

    async def create_wallet(self, wallet: str) -> None:
        """Create a wallet in the node, or load it when it exists; nothing if it is loaded."""
        if wallet in await self.call("listwallets"):
            return
        known = await self.call("listwalletdir")
        try:
            if any(entry["name"] == wallet for entry in known["wallets"]):
                await self.call("loadwallet", wallet, True)
            else:
                await self.call(
                    "createwallet", wallet, False, False, "", False, True, True, repeatable=False
                )
        except BitcoindError as error:
            if error.code != CODE_WALLET_ALREADY_LOADED:
                raise

    async def new_address(self, wallet: str) -> str:
        """A fresh native segwit address of a wallet."""
        return str(await self.call("getnewaddress", "", "bech32", wallet=wallet))

    async def wallet_balance_sats(self, wallet: str) -> int:
        """Spendable confirmed satoshis of a wallet."""
        reply = await self.call("getbalances", wallet=wallet)
        return amount_sats(reply["mine"]["trusted"])

    async def send_to_address(self, wallet: str, address: str, value_sats: int) -> bytes:
        """Pay an address from a wallet; returns the txid. Not repeated when no answer comes.

        Raises:
            BitcoindError: code -6 too little money, -5 bad address.
        """
        amount = amount_text(value_sats)
        return from_hex(
            await self.call("sendtoaddress", address, amount, wallet=wallet, repeatable=False)
        )

    async def send_to_script(self, wallet: str, script: bytes, value_sats: int) -> OutPoint:
        """Pay a standard script from a wallet; returns the output that pays it."""
        address = await self.script_address(script)
        txid = await self.send_to_address(wallet, address, value_sats)
        details = await self.call("gettransaction", to_hex(txid), True, True, wallet=wallet)
        for output in details["decoded"]["vout"]:
            if output["scriptPubKey"]["hex"] == script.hex():
                return OutPoint(txid, output["n"])
        raise Unavailable("bitcoind paid another script than the one asked for")

    async def generate(self, count: int, address: str) -> tuple[bytes, ...]:
        """Mine regtest blocks that pay an address; returns their hashes, lowest first."""
        hashes = await self.call("generatetoaddress", count, address, repeatable=False)
        return tuple(from_hex(hash_hex) for hash_hex in hashes)

    async def invalidate_block(self, block_hash: bytes) -> None:
        """Make the node drop a block and its descendants from its best chain."""
        await self.call("invalidateblock", to_hex(block_hash))

    async def reconsider_block(self, block_hash: bytes) -> None:
        """Undo `invalidate_block`."""
        await self.call("reconsiderblock", to_hex(block_hash))

    async def stop(self) -> None:
        """Ask the node to shut down."""
        await self.call("stop", repeatable=False)


def _header_info(reply: dict[str, Any]) -> ParentHeaderInfo:
    return ParentHeaderInfo(
        hash=from_hex(reply["hash"]),
        prev_hash=from_hex(reply.get("previousblockhash", "00" * 32)),
        height=reply["height"],
        confirmations=reply["confirmations"],
        ntx=reply["nTx"],
        time=reply["time"],
    )
