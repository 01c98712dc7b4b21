"""The parent chain as its own node sees it: what a chain without `peg` asks about deposits.

Facts are fetched before a block or a transaction is judged, because judging is synchronous: a
slow parent holds up the one request that needs it, not the node.

Source: elements/peg.md 3 and 6.
"""

import asyncio
import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from sidechain.errors import InvalidTransaction, Unavailable
from sidechain.params import ChainParams
from sidechain.policy.fees import COIN_SATS
from sidechain.policy.pegins import ParentFee
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import parse_pegin

MIN_VERSION = 160_300
MIN_VERSION_FOR_FEES = 250_000
"""Since then `getrawtransaction` knows fees; a least amount or subsidy of peg-ins needs them."""

WARMUP_CODE = -28
WARMUP_PAUSE_S = 1
MAX_REPLY_BYTES = 64_000_000
MAX_CONCURRENT_CALLS = 4
_READABLE_STATUS = (200, 400, 404, 500)


class ParentError(Exception):
    """The parent's node answered with an error: `code` and `message` are its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (parent code {code})")
        self.code = code
        self.message = message


class ParentMismatch(Exception):
    """The node that answers is not one this chain can use; the text says why.

    `is_general` is False where the text is the one that elementsd ends with.
    """

    def __init__(self, text: str, *, is_general: bool = True) -> None:
        super().__init__(text)
        self.is_general = is_general


@dataclass(frozen=True, slots=True)
class FetchedFacts:
    """`ParentFacts` about the blocks that were asked for; all others are unknown.

    `fees` are those of deposits, by txid and block; asked for only where a chain needs them.
    """

    known: Mapping[bytes, tuple[int, int]]
    fees: Mapping[tuple[bytes, bytes], ParentFee] = field(default_factory=dict)

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and number of transactions of a block, or None."""
        return self.known.get(block_hash)

    def parent_fee(self, txid: bytes, block_hash: bytes) -> ParentFee | None:
        """Fee and size of a deposit's transaction, or None."""
        return self.fees.get((txid, block_hash))


class ParentRpc:
    """JSON-RPC to the parent's node. One per event loop; `close` it."""

    def __init__(
        self,
        url: str,
        *,
        user_password: str | None = None,
        cookie_path: Path | None = None,
        timeout_s: int = 900,
    ) -> None:
        """
        Args:
            user_password: `user:password`; without it the cookie file is read for every call, as
                the parent writes a new one at each start.
            timeout_s: for one call; 0 for no limit.
        """
        self._url = url
        self._user_password = user_password
        self._cookie_path = cookie_path
        self._timeout_s = timeout_s or None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def call(self, method: str, *params: Any) -> Any:
        """One call.

        Raises:
            ParentError: the parent's error reply.
            Unavailable: no reply that can be read.
        """
        body = {"jsonrpc": "2.0", "method": method, "params": list(params), "id": 1}
        try:
            async with self._slots, asyncio.timeout(self._timeout_s):
                reply = await self._post(json.dumps(body).encode())
        except TimeoutError as error:
            raise Unavailable(f"{self._url}: no reply within {self._timeout_s} s") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"{self._url}: {error}") from error
        failure = reply.get("error")
        if isinstance(failure, Mapping):
            raise ParentError(int(failure.get("code", -1)), str(failure.get("message", "")))
        if failure is not None:
            raise Unavailable(f"{self._url}: {failure}")
        return reply.get("result")

    async def _post(self, body: bytes) -> dict[str, Any]:
        headers = {"Authorization": self._authorization(), "Content-Type": "application/json"}
        session = self._open_session()
        async with session.post(self._url, data=body, headers=headers) as response:
            if response.status == 401:
                raise Unavailable(
                    "incorrect mainchainrpcuser or mainchainrpcpassword (authorization failed)"
                )
            if response.status not in _READABLE_STATUS:
                raise Unavailable(f"{self._url}: server returned HTTP error {response.status}")
            raw = await response.content.read(MAX_REPLY_BYTES)
            while not response.content.at_eof():
                if len(raw) >= MAX_REPLY_BYTES:
                    raise Unavailable(f"{self._url}: reply too large")
                raw += await response.content.read(MAX_REPLY_BYTES - len(raw))
        try:
            reply = json.loads(raw, parse_float=Decimal)
        except ValueError as error:
            raise Unavailable(f"{self._url}: couldn't parse reply from server") from error
        if not isinstance(reply, dict) or not reply:
            raise Unavailable(f"{self._url}: the reply is not an object with result and error")
        return reply

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None), trust_env=False
            )
        return self._session

    def _authorization(self) -> str:
        if self._user_password is not None:
            credentials = self._user_password.encode()
        else:
            try:
                credentials = (self._cookie_path or Path()).read_bytes().strip()
            except OSError as error:
                raise Unavailable(
                    "Could not locate mainchain RPC credentials. No authentication cookie could be"
                    " found, and no mainchainrpcpassword is set"
                ) from error
        return "Basic " + base64.b64encode(credentials).decode()


class ParentNode:
    """What this chain wants to know of its parent."""

    def __init__(self, rpc: ParentRpc, params: ChainParams, *, needs_fees: bool) -> None:
        """
        Args:
            params: of this chain; they say which parent it has.
            needs_fees: whether peg-ins have a least amount or burn a subsidy.
        """
        self._rpc = rpc
        self._params = params
        self._genesis_hash = params.parent_genesis_hash
        self._needs_fees = needs_fees

    async def check(self) -> None:
        """Look whether this is a node of the parent chain; a starting one is waited for.

        Raises:
            ParentMismatch: too old, or of another chain.
            ParentError, Unavailable: as `ParentRpc.call`.
        """
        info = await self._when_ready("getnetworkinfo")
        version = info.get("version") if isinstance(info, Mapping) else None
        if not isinstance(version, int) or version < MIN_VERSION:
            raise ParentMismatch(
                f"Parent daemon too old; need Bitcoin Core version 0.16.3 or newer, not {version}"
            )
        genesis = await self._when_ready("getblockhash", 0)
        if genesis != self._genesis_hash[::-1].hex():
            raise ParentMismatch(
                f"Invalid parent genesis block hash response via RPC: {genesis}, contradictory"
                f" chain, expected {self._genesis_hash[::-1].hex()}"
            )
        is_core = "Satoshi" in str(info.get("subversion", ""))
        if self._needs_fees and is_core and version < MIN_VERSION_FOR_FEES:
            raise ParentMismatch(
                "ERROR: parent bitcoind must be version 25 or newer for peg-in subsidy/minimum"
                f" validation. Found version: {version}",
                is_general=False,
            )

    async def _when_ready(self, method: str, *params: Any) -> Any:
        while True:
            try:
                return await self._rpc.call(method, *params)
            except ParentError as error:
                if error.code != WARMUP_CODE:
                    raise
            await asyncio.sleep(WARMUP_PAUSE_S)

    async def facts_for(self, transactions: Iterable[Transaction]) -> FetchedFacts:
        """What is known now about the blocks that prove these transactions' deposits.

        Never fails: what cannot be learnt is unknown, and a peg-in with unknown facts stalls.
        """
        known: dict[bytes, tuple[int, int]] = {}
        fees: dict[tuple[bytes, bytes], ParentFee] = {}
        for txid, block_hash in proved_deposits(transactions, self._params):
            if block_hash not in known:
                facts = await self._block_facts(block_hash)
                if facts is not None:
                    known[block_hash] = facts
            fee = await self._fee(txid, block_hash) if self._needs_fees else None
            if fee is not None:
                fees[txid, block_hash] = fee
        return FetchedFacts(known, fees)

    async def _fee(self, txid: bytes, block_hash: bytes) -> ParentFee | None:
        shown = txid[::-1].hex(), block_hash[::-1].hex()
        try:
            found = await self._rpc.call("getrawtransaction", shown[0], 2, shown[1])
        except (ParentError, Unavailable):
            return None
        vsize = found.get("vsize") if isinstance(found, Mapping) else None
        if type(vsize) is not int:
            return None
        fee = found.get("fee")
        if isinstance(fee, Mapping):
            # A parent like this chain shows fees by asset.
            fee = fee.get(self._params.parent_pegged_asset[::-1].hex())
        is_amount = isinstance(fee, Decimal | int) and not isinstance(fee, bool)
        return ParentFee(int(fee * COIN_SATS) if is_amount else 0, vsize)

    async def _block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        try:
            header = await self._rpc.call("getblockheader", block_hash[::-1].hex())
        except (ParentError, Unavailable):
            return None
        if not isinstance(header, Mapping):
            return None
        confirmations, count = header.get("confirmations"), header.get("nTx")
        if type(confirmations) is not int or type(count) is not int:
            return None
        return confirmations, count


def proved_deposits(
    transactions: Iterable[Transaction], params: ChainParams
) -> list[tuple[bytes, bytes]]:
    """Txid and block of the deposits that peg-in witnesses prove, each once, in order."""
    found: dict[tuple[bytes, bytes], None] = {}
    for tx in transactions:
        for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
            if not txin.is_pegin:
                continue
            try:
                claim = parse_pegin(witness.pegin, params)
                found[claim.parent_tx.txid, claim.proof.header.hash] = None
            except InvalidTransaction:
                # It will be refused for that; nothing need be asked.
                continue
    return list(found)
