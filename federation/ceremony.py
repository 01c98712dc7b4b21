"""The founding ceremony of a local federation: coins, anchor, OPEN, until deposits are open.

Every step can be repeated: what was paid is found again in the node's wallet, what was approved is
approved with the same bytes. The stage reached is in local.json.

Source: peg:P1-P3, N4, N22, N23, N35.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from federation.local import LocalFederation, PortTaken, Report, all_of
from federation.local_state import (
    FAUCET_WALLET,
    LocalError,
    LocalMember,
    LocalState,
    Stage,
    UpOptions,
)
from peg.bitcoind import BitcoindClient, amount_sats
from peg.parameters import LOCAL
from peg.records import OpenRecord, encode_record
from peg.status import outpoint_text, parse_outpoint
from sidechain.api.client import RpcClient, RpcError
from sidechain.api.registry import IN_WARMUP
from sidechain.errors import Unavailable
from sidechain.primitives.transaction import OutPoint
from sidechain.script.script import p2wsh

LANE = 0
POOL_SATS = 10 * LOCAL.fee_cap_sats
TRIAL_SATS = 20_000
FAUCET_BLOCKS = 120
"""Blocks mined for the faucet; those deeper than 100 can be spent."""
FUNDING_BLOCKS = LOCAL.anchor_depth + LOCAL.commit_depth
STEP_TIMEOUT_S = 120
PORT_TRIES_MAX = 3
POLL_S = 0.1


async def bring_up(federation: LocalFederation, options: UpOptions, report: Report) -> LocalState:
    """Start everything that does not run and finish the founding; the folder must be locked.

    On failure or interruption nothing that was started here stays; the next call goes on.

    Raises:
        AlreadyRunning: there is nothing to do.
        LocalError: a step does not come about in time, or a member refuses; says which.
        BitcoindMissing, InvalidConfig, Unavailable: says what is in the way.
    """
    for _ in range(PORT_TRIES_MAX - 1):
        try:
            return await _bring_up_once(federation, options, report)
        except PortTaken:  # by another program, after it was found free
            report("ports", "another program took a port meanwhile: once more")
    return await _bring_up_once(federation, options, report)


async def _bring_up_once(
    federation: LocalFederation, options: UpOptions, report: Report
) -> LocalState:
    async with federation.stopped_on_failure():
        state = await federation.start_node(options)
        async with federation.bitcoind_client(state) as bitcoind:
            if state.stage is Stage.FILES:
                state = await _fund(federation, bitcoind, state, report)
            await prepare_coins(bitcoind)
        await federation.start_others(state)
        if state.stage is Stage.FUNDED:
            state = await _approve(federation, state, report)
        if state.stage is Stage.APPROVED:
            report("open", "waiting for the block that opens the peg")
            await _each_member(federation, state, _wait_open)
            await _wallets_follow(federation, state)
            state = _advance(federation, state, Stage.OPEN)
    return state


async def prepare_coins(bitcoind: BitcoindClient) -> None:
    """Mine until the faucet has coins that can be spent; nothing on a chain that has blocks."""
    if await bitcoind.block_count() < FAUCET_BLOCKS:
        await bitcoind.generate(FAUCET_BLOCKS, await bitcoind.new_address(FAUCET_WALLET))


async def _fund(
    federation: LocalFederation, bitcoind: BitcoindClient, state: LocalState, report: Report
) -> LocalState:
    report("fund", "mining regtest coins and funding the federation's anchor")
    await prepare_coins(bitcoind)
    script = p2wsh(federation.load_federation(state).fedpegscript)
    anchor = await _paid_once(bitcoind, script, POOL_SATS)
    trial = await _paid_once(bitcoind, script, TRIAL_SATS)
    await bitcoind.generate(FUNDING_BLOCKS, await bitcoind.new_address(FAUCET_WALLET))
    return _advance(
        federation,
        replace(state, anchor=outpoint_text(anchor), trial=outpoint_text(trial)),
        Stage.FUNDED,
    )


async def _paid_once(bitcoind: BitcoindClient, script: bytes, value_sats: int) -> OutPoint:
    """Pay a script exactly this once, also when a try before was cut short after paying."""
    address = await bitcoind.script_address(script)
    sent = await bitcoind.call("listtransactions", "*", 1_000, 0, wallet=FAUCET_WALLET)
    for entry in sent:
        same = entry["category"] == "send" and entry.get("address") == address
        if same and -amount_sats(entry["amount"]) == value_sats and entry["confirmations"] >= 0:
            return OutPoint(bytes.fromhex(entry["txid"])[::-1], entry["vout"])
    return await bitcoind.send_to_script(FAUCET_WALLET, script, value_sats)


async def _approve(federation: LocalFederation, state: LocalState, report: Report) -> LocalState:
    """Let every member show that it can sign for the script, then approve OPEN (P1, P2).

    Each bitcoind is shown a spend by another choice of k members, so that all have signed one.
    """
    if await _is_lane_open(federation, state):
        return _advance(federation, state, Stage.APPROVED)
    report("dry run", "the members try a spend of the federation's script")
    signatures: dict[int, str] = {}

    async def sign(member: LocalMember, client: RpcClient) -> None:
        reply = await _repeat(lambda: client.call("dryrunopen", state.trial))
        signatures[member.index] = reply["signature"]

    async def dry_run(member: LocalMember, client: RpcClient) -> None:
        chosen = [(member.index + i) % state.n for i in range(state.k)]
        given = {str(i): signatures[i] for i in chosen}
        verdict = await _repeat(lambda: client.call("dryrunopen", state.trial, given))
        if not verdict["allowed"]:
            raise LocalError(f"{member.name}: bitcoind refuses the spend: {verdict['reason']}")

    async def approve(_: LocalMember, client: RpcClient) -> None:
        await _repeat(lambda: client.call("approverecord", record.hex()))

    record = encode_record(OpenRecord(lane=LANE, anchor=parse_outpoint(state.anchor)))
    await _each_member(federation, state, sign)
    await _each_member(federation, state, dry_run)
    await _each_member(federation, state, approve)
    return _advance(federation, state, Stage.APPROVED)


async def _is_lane_open(federation: LocalFederation, state: LocalState) -> bool:
    """Whether a founding that was cut short had gone as far as a final OPEN.

    Members sign no trial spend from there on, and k of them have approved.
    """
    async with federation.member_client(state.members[0]) as client:
        try:
            info = await _repeat(lambda: client.call("getpeginfo"))
        except (RpcError, Unavailable) as error:
            raise LocalError(f"{state.members[0].name}: {error}") from error
    return info["lane"] is not None


async def _wait_open(_: LocalMember, client: RpcClient) -> None:
    """Until this member has the lane open and gives out deposit addresses (P3, N4)."""

    async def ask() -> Any:
        info = await client.call("getpeginfo")
        if not info["deposits_open"]:
            raise Unavailable(f"the peg is not open yet: {info.get('reason')}")
        return info

    await _repeat(ask)


async def _wallets_follow(federation: LocalFederation, state: LocalState) -> None:
    """Until the wallet process has followed the chain to where deposits are open."""
    async with federation.member_client(state.members[0]) as client:
        height = int(await _repeat(lambda: client.call("getblockcount")))

    async with federation.wallet_client(state) as wallets:

        async def ask() -> None:
            info = await wallets.call("getinfo")
            if info["followed_height"] < height:
                raise Unavailable(f"the wallet has followed to block {info['followed_height']}")

        try:
            await _repeat(ask)
        except (RpcError, Unavailable) as error:
            raise LocalError(str(error)) from error


async def _each_member(
    federation: LocalFederation,
    state: LocalState,
    act: Callable[[LocalMember, RpcClient], Awaitable[None]],
) -> None:
    async def run(member: LocalMember) -> None:
        async with federation.member_client(member) as client:
            try:
                await act(member, client)
            except (RpcError, Unavailable) as error:
                raise LocalError(f"{member.name}: {error}") from error

    await all_of(run(member) for member in state.members)


async def _repeat(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer; a refusal that is not "later" is final."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + STEP_TIMEOUT_S
    while True:
        try:
            return await ask()
        except (RpcError, Unavailable) as error:
            is_later = isinstance(error, Unavailable) or error.code == IN_WARMUP
            if not is_later or loop.time() > give_up_at:
                raise
        await asyncio.sleep(POLL_S)


def _advance(federation: LocalFederation, state: LocalState, stage: Stage) -> LocalState:
    state = replace(state, stage=stage)
    federation.folder.save(state)
    return state
