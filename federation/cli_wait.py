"""Waiting for a peg-in or a peg-out, stage by stage, and mining parent blocks meanwhile.

The stages live in the wallet process and in the chains; what waits here can be killed at any time
and starts again from whatever stage it finds.
"""

import asyncio
import math
import re
from collections.abc import Collection
from typing import Any

from federation.cli_session import Failed, Session, show_btc
from federation.local import BITCOIND, WALLET
from federation.local_state import FAUCET_WALLET, LocalState
from federation.wallet.links import MemberLinks
from peg.bitcoind import BitcoindClient
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

POLL_S = 0.2
OBSTACLE_POLL_S = 2
_BETWEEN_REASONS = re.compile(r", (?![^(]*\))")
PEGIN_NEEDS_BLOCKS = frozenset({"funded", "confirming"})
USUAL_REASONS = ("WAIT_COMMIT",)
"""Reasons that every peg-out shows for a while; its status says enough."""

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


class Patience:
    """Asks the wallet process again and again, and says what keeps the federation from going on."""

    def __init__(self, session: Session, wallets: RpcClient) -> None:
        self._federation = session.federation
        self._state = session.state()
        self._output = session.output
        self._wallets = wallets
        self._looked_at_s = -math.inf
        self._obstacle = ""

    async def ask(self, method: str, *params: Any) -> Any:
        """Ask the wallet process; while it is away (being restarted, say) ask again."""
        while True:
            try:
                return await self._wallets.call(method, *params)
            except Unavailable:
                self.tell("wallet", "the wallet process does not answer")
                await asyncio.sleep(POLL_S)

    def tell(self, step: str, text: str, **facts: Any) -> None:
        """Show progress, and with it which processes are missing."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_at_s >= OBSTACLE_POLL_S:
            self._looked_at_s = now_s
            self._obstacle = missing_text(self._state, self._federation.running())
        self._output.progress(step, text + self._obstacle, **facts)


def missing_text(state: LocalState, running: Collection[str]) -> str:
    """What has to be started before anything goes on, in brackets; empty when enough runs."""
    names = [member.name for member in state.members]
    missing = [name for name in (BITCOIND, WALLET) if name not in running]
    if sum(name in running for name in names) < state.k:
        missing += [name for name in names if name not in running]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return f" [{', '.join(missing)} {verb} not running: `fedpeg up` elsewhere makes this go on]"


async def wait_pegin(patience: Patience, miner: ParentMiner, pegin_id: str) -> dict[str, Any]:
    """Follow a peg-in to its end.

    Returns:
        The last view of it.
    Raises:
        Failed: it can never be claimed; says why.
        RpcError: the wallet process does not know it.
    """
    while True:
        view: dict[str, Any] = await patience.ask("getpegin", pegin_id)
        patience.tell("peg-in", describe_pegin(view), **view)
        if view["stage"] == "final":
            return view
        if view["stage"] == "failed":
            raise Failed(f"peg-in {pegin_id}: {view['reason']}")
        if view["stage"] in PEGIN_NEEDS_BLOCKS:
            await miner.advance()
        await asyncio.sleep(POLL_S)


async def wait_pegout(patience: Patience, miner: ParentMiner, pegout_id: str) -> dict[str, Any]:
    """Follow a peg-out until Bitcoin has confirmed its payment.

    Returns:
        The last view of it, with `parent_confirmations`.
    Raises:
        Failed: no member took the burn; says why.
        RpcError: the wallet process does not know it.
    """
    while True:
        view: dict[str, Any] = await patience.ask("getpegout", pegout_id)
        patience.tell("peg-out", describe_pegout(view), **view)
        if view["stage"] == "failed":
            raise Failed(f"peg-out {pegout_id}: {view['reason']}")
        if view["done"]:
            return view
        if view["stage"] not in PEGOUT_NEEDS_NO_BLOCKS:
            await miner.advance()
        await asyncio.sleep(POLL_S)


async def wait_payment(patience: Patience, wallet: str, txid: str) -> int:
    """Follow a payment into a final block; returns the height."""
    while True:
        for entry in await patience.ask("listtransactions", wallet, 1_000):
            if entry["txid"] == txid and entry["height"] is not None:
                patience.tell("payment", f"final in block {entry['height']}")
                return int(entry["height"])
        patience.tell("payment", f"payment {txid} waits for a block")
        await asyncio.sleep(POLL_S)


def describe_pegin(view: dict[str, Any]) -> str:
    """One sentence about where a peg-in stands."""
    reason = f" ({_funding_reason(view['reason'])})" if view.get("reason") else ""
    step = f"; {view['next']}" if view.get("next") else ""
    match view["stage"]:
        case "address":
            return f"waiting for a deposit to {view['address']}{reason}"
        case "funded" if reason:
            return f"deposit {view['deposit']} waits for a Bitcoin block{reason}{step}"
        case "funded":
            return f"deposit {view['deposit']} is in Bitcoin's mempool"
        case "conflicted":
            return f"deposit {view['deposit']} was replaced{reason}{step}"
        case "failed":
            return f"failed{reason}{step}"
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


def _funding_reason(reason: str) -> str:
    if "Insufficient funds" in reason:
        return "the faucet holds too few coins: `fedpeg mine 101` makes more"
    return reason


def describe_pegout(view: dict[str, Any]) -> str:
    """One sentence about where a peg-out stands."""
    parts = _BETWEEN_REASONS.split(view.get("reason", ""))
    reasons = [_reason_text(part) for part in parts if part and part not in USUAL_REASONS]
    reason = f" ({', '.join(reasons)})" if reasons else ""
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


def pegout_lines(view: dict[str, Any]) -> list[str]:
    """Place in the queue, and when the payment is likely to confirm, with the reason."""
    member = view.get("payout") or {}
    lines: list[str] = []
    if member.get("position") is not None:
        ahead = show_btc(member["ahead_sats"])
        lines.append(f"place {member['position'] + 1} in the queue, {ahead} before it")
    batch = member.get("batch")
    if batch:
        newest = batch["versions"][-1] if batch["versions"] else None
        fee = f", version {newest['version']} pays {newest['fee_sats']} sat" if newest else ""
        lines.append(f"in batch {batch['index']}, selected at block {batch['h_sel']}{fee}")
    eta = member.get("eta")
    if eta:
        if eta["latest_clock"] is None:
            when = f"not before Bitcoin block {eta['earliest_clock']}, no latest"
        else:
            when = f"Bitcoin block {eta['earliest_clock']} to {eta['latest_clock']}"
        parts = _BETWEEN_REASONS.split(eta["reason"])
        why = ", ".join(_reason_text(part) for part in parts)
        lines.append(f"likely paid and committed: {when} (now {member['clock']}): {why}")
    if member.get("note"):
        lines.append(str(member["note"]))
    return lines


def _status_text(status: str) -> str:
    """A status of peg-protocol section 12 in words."""
    words = {
        "OK": "burn accepted",
        "DELAYED": "large payout, held back",
        "HELD_OVERSIZE": "larger than any payout may be now, held",
        "READY": "in the queue",
        "RELEASED": "released for payment",
        "BATCHED": "in a batch that waits for Bitcoin",
        "CONFIRMED": "paid on Bitcoin",
        "SETTLED": "paid on Bitcoin, settled",
    }
    return words.get(status, status)


def _reason_text(reason: str) -> str:
    """A reason of peg-protocol section 12 in words."""
    name, _, details = reason.removesuffix(")").partition("(")
    match name:
        case "UNTIL":
            return f"until Bitcoin block {details}"
        case "CAP":
            window, _, free_at = details.partition(", ")
            return f"over the cap for {window} Bitcoin blocks, room at block {free_at}"
        case "HALTED":
            return f"payouts are halted: {details}"
        case "FEE_POOL_LOW":
            return "the federation's fee pool is too low"
        case "INSOLVENT":
            return "the federation's coins do not cover it now"
        case "PAUSED":
            return f"payouts are paused until Bitcoin block {details}"
        case "WAIT_COMMIT":
            return "waits for Bitcoin blocks and for members to commit to them"
        case "HELD_OVERSIZE":
            return "larger than any payout may be: k operators have to release it"
        case "EXCLUDED":
            return "taken out of the queue by k operators"
        case "RESET_PENDING":
            return "a Bitcoin reorganisation is being followed"
    return reason
