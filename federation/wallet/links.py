"""Calls to the federation, whichever member answers, and to the faucet wallet of bitcoind.

What the wallet process needs from outside is declared here as protocols, so that tests can put
their own behind them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from peg.bitcoind import (
    BitcoindClient,
    ParentHeaderInfo,
    TransactionPlace,
    UnspentOutput,
    amount_text,
)
from sidechain.api.registry import IN_WARMUP, VERIFY_ALREADY_IN_CHAIN, RpcError
from sidechain.errors import Unavailable
from sidechain.primitives.transaction import OutPoint

EACH_TIMEOUT_S = 5
FAUCET_RATE_SATS_PER_KVB = 2_000
"""Fee rate of funding transactions where the node has no estimate."""

BURN_LIMIT_COINS = 21_000_000
"""Members refuse to burn more than they are told to allow. The wallets burn what they are asked
to, in any asset, and have checked it themselves."""

ALREADY_KNOWN = ("txn-already-in-mempool", "txn-already-known", "already in block chain")
PASSING_REFUSALS = (
    "missing",
    "mempool full",
    "mempool min fee",
    "too-long-mempool-chain",
    "too many unconfirmed",
    "Needs more confirmations",
)
"""Texts of refusals that another member or a later moment may not repeat."""


class RpcLink(Protocol):
    """One JSON-RPC server; see `sidechain.api.client.RpcClient`."""

    async def call(self, method: str, *params: Any) -> Any:
        """Run a method. Raises RpcError or Unavailable."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class ParentNode(Protocol):
    """What is asked of bitcoind about its chain; see `peg.bitcoind.BitcoindClient`.

    All methods raise Unavailable when it does not answer, BitcoindError when it refuses.
    """

    async def best_block_hash(self) -> bytes:
        """Hash of the tip."""
        ...

    async def block_hash(self, height: int) -> bytes:
        """Hash of the best chain's block at a height; BitcoindError -8 above the tip."""
        ...

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """Place of a block."""
        ...

    async def raw_block(self, block_hash: bytes) -> bytes:
        """A serialized block."""
        ...

    async def raw_transaction(self, txid: bytes, block_hash: bytes | None = None) -> bytes:
        """A serialized transaction; BitcoindError -5 when it is not there."""
        ...

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        """A transaction and the best chain's block it is in; None when it is unknown."""
        ...

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output; None when it is spent or unknown."""
        ...

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        """Hand over a transaction; its txid."""
        ...

    async def mempool_txids(self) -> tuple[bytes, ...]:
        """Ids of all unconfirmed transactions."""
        ...


class FundingSource(Protocol):
    """Somebody who signs a Bitcoin payment without sending it."""

    async def signed_payment(self, address: str, value_sats: int) -> bytes:
        """A signed transaction that pays exactly `value_sats` to `address`."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a transaction handed to the federation.

    `refused_for_good` is set when every member asked gave a reason that will not pass.
    """

    accepted: bool
    reason: str = ""
    refused_for_good: bool = False


class MemberLinks:
    """The members' JSON-RPC: stays with one that answers, turns to the next when it does not."""

    def __init__(self, links: Sequence[RpcLink]) -> None:
        if not links:
            raise ValueError("a federation has at least one member")
        self._links = tuple(links)
        self._current = 0

    async def call(self, method: str, *params: Any) -> Any:
        """Run a method that changes nothing, or that may be run twice.

        Raises:
            RpcError: the refusal of the member that answered.
            Unavailable: no member answers.
        """
        reason = ""
        for _ in self._links:
            try:
                return await self._links[self._current].call(method, *params)
            except Unavailable as error:
                reason = str(error)
            except RpcError as error:
                if error.code != IN_WARMUP:
                    raise
                reason = error.message
            self.turn()
        raise Unavailable(f"no member of the federation answers: {reason}")

    async def call_each(self, method: str, *params: Any) -> tuple[list[Any], list[str]]:
        """Run a method at every member at once: the replies, and why the others gave none.

        A member that is frozen is waited for a short while only.
        """
        replies: list[Any] = []
        reasons: list[str] = []

        async def ask(link: RpcLink) -> None:
            try:
                async with asyncio.timeout(EACH_TIMEOUT_S):
                    replies.append(await link.call(method, *params))
            except TimeoutError:
                reasons.append(f"a member did not answer within {EACH_TIMEOUT_S} s")
            except Unavailable as error:
                reasons.append(str(error))
            except RpcError as error:
                reasons.append(error.message)

        async with asyncio.TaskGroup() as group:
            for link in self._links:
                group.create_task(ask(link))
        return replies, reasons

    def turn(self) -> None:
        """Go on with the next member: the current one is down, behind or on another chain."""
        self._current = (self._current + 1) % len(self._links)

    async def submit(self, raw: bytes) -> Submission:
        """Hand a transaction to the federation: to the first member that takes it."""
        reason = ""
        refusals: list[str] = []
        for offset in range(len(self._links)):
            link = self._links[(self._current + offset) % len(self._links)]
            try:
                await link.call("sendrawtransaction", raw.hex(), None, BURN_LIMIT_COINS)
            except Unavailable as error:
                reason = str(error)
            except RpcError as error:
                if _is_known(error):
                    return Submission(accepted=True)
                if error.code != IN_WARMUP:
                    refusals.append(error.message)
            else:
                return Submission(accepted=True)
        if not refusals:
            return Submission(accepted=False, reason=f"no member answers: {reason}")
        for_good = not any(passing in text for text in refusals for passing in PASSING_REFUSALS)
        return Submission(accepted=False, reason=refusals[0], refused_for_good=for_good)

    async def close(self) -> None:
        """Close all connections."""
        for link in self._links:
            await link.close()


class Faucet:
    """Funding from a wallet inside bitcoind; on regtest it holds the mined coins."""

    def __init__(self, client: BitcoindClient, wallet: str) -> None:
        self._client = client
        self._wallet = wallet

    async def signed_payment(self, address: str, value_sats: int) -> bytes:
        """A signed transaction that pays exactly `value_sats` to `address`, not sent.

        Its coins are locked in the wallet, so that no later funding takes them too.

        Raises:
            BitcoindError: not enough coins, a bad address, or a wallet that is not loaded.
            Unavailable: bitcoind does not answer.
        """
        rate = await self._client.estimate_fee_sats_per_kvb() or FAUCET_RATE_SATS_PER_KVB
        plain = await self._client.call(
            "createrawtransaction", [], [{address: amount_text(value_sats)}]
        )
        options = {"lockUnspents": True, "fee_rate": str(Decimal(rate) / 1000)}
        funded = await self._client.call(
            "fundrawtransaction", plain, options, wallet=self._wallet, repeatable=False
        )
        signed = await self._client.call(
            "signrawtransactionwithwallet", funded["hex"], wallet=self._wallet
        )
        if not signed["complete"]:
            raise Unavailable("the faucet wallet cannot sign its own coins")
        return bytes.fromhex(signed["hex"])


def _is_known(error: RpcError) -> bool:
    return error.code == VERIFY_ALREADY_IN_CHAIN or any(
        text in error.message for text in ALREADY_KNOWN
    )
