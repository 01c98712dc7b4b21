"""Waiting for a peg-in or a peg-out, stage by stage, and mining parent blocks meanwhile.

The stages live in the wallet process and in the chains; what waits here can be killed at any time
and starts again from whatever stage it finds.
"""

import asyncio
from typing import Any

from federation.cli_common import Failed, Output, show_btc
from federation.local_state import FAUCET_WALLET
from federation.wallet.links import MemberLinks
from peg.bitcoind import BitcoindClient
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

POLL_S = 0.2
PEGIN_NEEDS_BLOCKS = frozenset({"funded", "confirming"})
PEGOUT_NEEDS_NO_BLOCKS = frozenset({"created", "sent"})


class ParentMiner:
    """Mines regtest blocks one by one, each when the federation has committed to the last."""

    def __init__(self, bitcoind: BitcoindClient, members: MemberLinks, *, enabled: bool) -> None:
        self._bitcoind = bitcoind
        self._members = members
        self._enabled = enabled
        self.mined = 0

    async def advance(self) -> None:
        """Mine one block, unless the federation has not caught up or mining is left to the user."""
        if not self._enabled:
            return
        try:
            info = await self._members.call("getpeginfo")
            committed, depth = info.get("committed_height"), int(info["commit_depth"])
            tip = await self._bitcoind.block_count()
            if committed is not None and int(committed) + depth - 1 >= tip:
                address = await self._bitcoind.new_address(FAUCET_WALLET)
                await self._bitcoind.generate(1, address)
                self.mined += 1
        except (RpcError, Unavailable):
            return  # asked again at the next poll


async def wait_pegin(
    wallets: RpcClient, miner: ParentMiner, output: Output, pegin_id: str
) -> dict[str, Any]:
    """Follow a peg-in to its end.

    Returns:
        The last view of it.
    Raises:
        Failed: it can never be claimed; says why.
        RpcError: the wallet process does not know it.
    """
    while True:
        view: dict[str, Any] = await _ask(wallets, "getpegin", pegin_id)
        output.progress("peg-in", describe_pegin(view), **view)
        if view["stage"] == "final":
            return view
        if view["stage"] == "failed":
            raise Failed(f"peg-in {pegin_id}: {view['reason']}")
        if view["stage"] in PEGIN_NEEDS_BLOCKS:
            await miner.advance()
        await asyncio.sleep(POLL_S)


async def wait_pegout(
    wallets: RpcClient, miner: ParentMiner, output: Output, pegout_id: str
) -> dict[str, Any]:
    """Follow a peg-out until Bitcoin has confirmed its payment.

    Returns:
        The last view of it, with `parent_confirmations`.
    Raises:
        Failed: no member took the burn; says why.
        RpcError: the wallet process does not know it.
    """
    while True:
        view: dict[str, Any] = await _ask(wallets, "getpegout", pegout_id)
        output.progress("peg-out", describe_pegout(view), **view)
        if view["stage"] == "failed":
            raise Failed(f"peg-out {pegout_id}: {view['reason']}")
        if view["done"]:
            return view
        if view["stage"] not in PEGOUT_NEEDS_NO_BLOCKS:
            await miner.advance()
        await asyncio.sleep(POLL_S)


async def wait_payment(wallets: RpcClient, output: Output, wallet: str, txid: str) -> int:
    """Follow a payment into a final block; returns the height."""
    while True:
        for entry in await _ask(wallets, "listtransactions", wallet, 1_000):
            if entry["txid"] == txid and entry["height"] is not None:
                output.progress("payment", f"final in block {entry['height']}")
                return int(entry["height"])
        output.progress("payment", f"payment {txid} waits for a block")
        await asyncio.sleep(POLL_S)


async def _ask(wallets: RpcClient, method: str, *params: Any) -> Any:
    """Ask the wallet process; while it is away (being restarted, say) ask again."""
    while True:
        try:
            return await wallets.call(method, *params)
        except Unavailable:
            await asyncio.sleep(POLL_S)


def describe_pegin(view: dict[str, Any]) -> str:
    """One sentence about where a peg-in stands."""
    reason = f" ({view['reason']})" if view.get("reason") else ""
    match view["stage"]:
        case "address":
            return f"waiting for a deposit to {view['address']}{reason}"
        case "funded":
            return f"deposit {view['deposit']} is in Bitcoin's mempool"
        case "confirming":
            return f"deposit has {view['confirmations']} of {view['required']} confirmations"
        case "claimable":
            return f"deposit is deep enough, claiming it{reason}"
        case "claim_sent":
            return f"claim {view['claim_txid']} waits for a sidechain block"
        case "final":
            return f"minted {show_btc(view['amount_sats'])} in sidechain block {view['height']}"
        case stage:
            return f"{stage}{reason}"


def describe_pegout(view: dict[str, Any]) -> str:
    """One sentence about where a peg-out stands."""
    reason = f" ({view['reason']})" if view.get("reason") else ""
    match view["stage"]:
        case "created":
            return f"burn is made, no member has taken it yet{reason}"
        case "sent":
            return f"burn {view['burn']} waits for a sidechain block"
        case "final":
            return f"burned in sidechain block {view['height']}{reason}"
        case "failed":
            return f"failed{reason}"
        case status:
            payout = view.get("payout") or {}
            txid = payout.get("txid")
            return f"{_status_text(status)}{f': {txid}' if txid else ''}{reason}"


def _status_text(status: str) -> str:
    """A status of peg-protocol section 12 in words."""
    words = {
        "SEEN": "burn seen, not final yet",
        "OK": "burn accepted",
        "READY": "in the queue",
        "RELEASED": "released for payment",
        "BATCHED": "in a batch that waits for Bitcoin",
        "CONFIRMED": "paid on Bitcoin",
        "SETTLED": "paid on Bitcoin, settled",
    }
    name, bracket, details = status.partition("(")
    if name == "DELAYED":
        return f"large payout, held back {bracket}{details}"
    return f"{words.get(name, name)}{f' ({details}' if bracket else ''}"
