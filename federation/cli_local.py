"""Commands about the federation itself: up, down, status, env, logs, member, mine, doctor, demo."""

import asyncio
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from federation import cli_operator, cli_recover
from federation.ceremony import bring_up
from federation.cli_logs import follow_logs, print_logs
from federation.cli_session import OWN_FOLDER_HELP, Failed, Seconds, Session, command
from federation.cli_tables import peg_notes
from federation.demo import Demo
from federation.doctor import examine
from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import FAUCET_WALLET, LocalState, Stage, UpOptions, signer_name
from peg.bitcoind import BitcoindError, to_hex
from sidechain.api.client import RpcError
from sidechain.errors import Unavailable

STATUS_TIMEOUT_S = 3
MINE_MAX = 10_000


def register(group: click.Group) -> None:
    """Add the commands to the program."""
    _register_up(group)
    _register_down(group)
    _register_status(group)
    _register_env(group)
    _register_logs(group)
    _register_member(group)
    _register_mine(group)
    _register_checks(group)


def _register_up(group: click.Group) -> None:
    @command(group, "up")
    @click.option("-n", "n", type=click.IntRange(1, 15), help="Number of members. [default: 4]")
    @click.option(
        "-k", "k", type=click.IntRange(1, 15), help="How many must sign. [default: 2n/3 + 1]"
    )
    @click.option(
        "--block-time",
        "block_time_ms",
        type=Seconds(),
        help="Seconds between blocks, 0 for blocks on demand. [default: 1]",
    )
    @click.option(
        "--allow-no-byzantine-safety",
        is_flag=True,
        help="Accept n and k with which one lying member can fork the chain.",
    )
    @click.option(
        "--second-validation/--no-second-validation",
        "second_validation",
        default=None,
        help="Have members judge every block twice, the second time with nothing cached.",
    )
    @click.option(
        "--allow-faults/--no-allow-faults",
        "allow_faults",
        default=None,
        help="Have members take orders to misbehave: `fedpeg fault` cuts, slows and damages them.",
    )
    @click.option(
        "--signers/--no-signers",
        "signers",
        default=None,
        help="Keep each member's keys in a process of its own. [default: in the member's]",
    )
    async def up(
        session: Session,
        *,
        n: int | None,
        k: int | None,
        block_time_ms: int | None,
        allow_no_byzantine_safety: bool,
        second_validation: bool | None,
        allow_faults: bool | None,
        signers: bool | None,
    ) -> None:
        """Start a federation, or go on with the one in the folder.

        A new one is founded: keys and certificates, a regtest bitcoind with coins, the anchor of
        its peg. It is ready for deposits when this command ends; `fedpeg down` stops it.
        """
        options = UpOptions(
            n=n,
            k=k,
            block_time_ms=block_time_ms,
            allow_no_byzantine_safety=allow_no_byzantine_safety,
            second_validation=second_validation,
            allow_faults=allow_faults,
            signers=signers,
        )
        federation = session.federation
        with federation.folder.locked():
            state = await bring_up(federation, options, session.output.progress)
        _show_federation(session, state)


def _show_federation(session: Session, state: LocalState) -> None:
    names = [member.name for member in state.members]
    session.output.result(
        {
            "data": session.data,
            "chain": state.chain,
            "n": state.n,
            "k": state.k,
            "parameter_hash": session.federation.load_federation(state).parameter_hash().hex(),
            "members": [
                {"name": m.name, "rpc_port": m.rpc_port, "esplora_port": m.esplora_port}
                for m in state.members
            ],
            "bitcoind_rpc_port": state.bitcoind_rpc_port,
            "wallet_rpc_port": state.wallet_rpc_port,
        },
        f"federation {state.chain} is up: {', '.join(names)} (any {state.k} sign), "
        f"bitcoind, wallet\ndata: {session.data}",
    )


def _register_down(group: click.Group) -> None:
    @command(group, "down")
    async def down(session: Session) -> None:
        """Stop all processes of the federation; its data stay."""
        federation = session.federation
        if not federation.running():
            federation.require_state()
        with ExitStack() as stack:
            if federation.folder.path.is_dir():  # without it processes can still be stopped
                stack.enter_context(federation.folder.locked())
            session.output.progress("down", "stopping the federation")
            names = await asyncio.to_thread(federation.stop_all)
        stopped = f"stopped {', '.join(names)}" if names else "nothing was running"
        session.output.result({"stopped": names}, stopped)


def _register_status(group: click.Group) -> None:
    @command(group, "status")
    async def status(session: Session) -> None:
        """Show the members, both chains and what runs."""
        found = await collect_status(session.federation)
        session.output.result(found, _status_text(found))


def _register_env(group: click.Group) -> None:
    @command(group, "env")
    async def env(session: Session) -> None:
        """Print where wallets and scripts find the federation, as shell variables.

        `eval "$(fedpeg env)"` sets FEDPEG_DATA, ESPLORA (the address of a member's Esplora
        interface), POLICY (the asset of pegged bitcoin), GENESIS and PARENT (the genesis hashes
        of sidechain and Bitcoin).
        """
        found = await collect_status(session.federation)
        if found["esplora_url"] is None:
            raise Failed("no member answers: fedpeg up starts them")
        federation = session.federation
        params = federation.load_federation(federation.require_state()).chain_params()
        variables = {
            "FEDPEG_DATA": found["data"],
            "ESPLORA": found["esplora_url"],
            "POLICY": to_hex(params.policy_asset),
            "GENESIS": to_hex(params.genesis_hash),
            "PARENT": to_hex(params.parent_genesis_hash),
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        session.output.result(variables, "\n".join(lines))


async def collect_status(federation: LocalFederation) -> dict[str, Any]:
    """Everything `status` tells, from processes and from those that answer."""
    state = federation.require_state()
    running = federation.running()
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(_member_status(federation, state, i, running))
            for i in range(len(state.members))
        ]
    members = [task.result() for task in asked]
    heights = [member["height"] for member in members if member["height"] is not None]
    try:
        parameter_hash = federation.load_federation(state).parameter_hash().hex()
    except Exception as error:
        parameter_hash = f"unreadable: {error}"
    return {
        "data": str(federation.folder.path),
        "chain": state.chain,
        "parameter_hash": parameter_hash,
        "n": state.n,
        "k": state.k,
        "founding": state.stage.value,
        "online": sum(1 for member in members if member["height"] is not None),
        "height": max(heights, default=None),
        "esplora_url": next((m["esplora_url"] for m in members if m["esplora_url"]), None),
        "members": members,
        "bitcoind": await _bitcoind_status(federation, state, running),
        "wallet": {
            "running": WALLET in running,
            "pid": running[WALLET].pid if WALLET in running else None,
            "rpc_port": state.wallet_rpc_port,
        },
    }


async def _member_status(
    federation: LocalFederation, state: LocalState, index: int, running: Any
) -> dict[str, Any]:
    member = state.members[index]
    child = running.get(member.name)
    found: dict[str, Any] = {
        "name": member.name,
        "running": child is not None,
        "pid": child.pid if child else None,
        "rpc_port": member.rpc_port,
        "esplora_url": None,
        "height": None,
        "hash": None,
        "info": None,
        "problem": "" if child else "not running",
    }
    if child is None:
        return found
    async with federation.member_client(member, timeout_s=STATUS_TIMEOUT_S) as client:
        try:
            found["hash"] = await client.call("getbestblockhash")
            found["height"] = int(await client.call("getblockcount"))
            found["info"] = await client.call("getfederationinfo")
            found["esplora_url"] = found["info"].get("esplora_url")
        except (RpcError, Unavailable) as error:
            found["problem"] = str(error)
    return found


async def _bitcoind_status(
    federation: LocalFederation, state: LocalState, running: Any
) -> dict[str, Any]:
    child = running.get(BITCOIND)
    found: dict[str, Any] = {
        "running": child is not None,
        "pid": child.pid if child else None,
        "rpc_port": state.bitcoind_rpc_port,
        "height": None,
        "hash": None,
        "problem": "" if child else "not running",
    }
    if child is not None:
        async with federation.bitcoind_client(state, timeout_ms=3_000) as client:
            try:
                info = await client.chain_info()
                found |= {"height": info.blocks, "hash": to_hex(info.best_block_hash)}
            except (BitcoindError, Unavailable) as error:
                found["problem"] = str(error)
    return found


def _status_text(found: dict[str, Any]) -> str:
    lines = [
        f"federation {found['chain']}: {found['online']} of {len(found['members'])} members "
        f"online, {found['k']} sign",
        f"data            {found['data']}",
        f"parameter hash  {found['parameter_hash']}",
    ]
    if found["founding"] != Stage.OPEN:
        lines.append(f"founding        unfinished ({found['founding']}): `fedpeg up` goes on")
    for member in found["members"]:
        place = f"height {member['height']}  {(member['hash'] or '')[:16]}"
        state = f"pid {member['pid']}  " if member["running"] else ""
        lines.append(f"{member['name']:<15} {state}{member['problem'] or place}")
        lines += [f"{'':<15} {note}" for note in _member_notes(member["info"] or {})]
    if found["esplora_url"] is not None:
        lines.append(f"{'esplora':<15} {found['esplora_url']}")
    node = found["bitcoind"]
    state = f"pid {node['pid']}  " if node["running"] else ""
    lines.append(f"{BITCOIND:<15} {state}{node['problem'] or 'height ' + str(node['height'])}")
    wallet = found["wallet"]
    lines.append(f"{WALLET:<15} {'pid ' + str(wallet['pid']) if wallet['pid'] else 'not running'}")
    return "\n".join(lines)


def _member_notes(info: dict[str, Any]) -> list[str]:
    """What an operator has to know of a member that answers (C60, C76)."""
    notes = []
    if info and info.get("member", 0) is None:
        notes.append("observes: it is not in the set that signs now")
    if info.get("mode", "VOTING") != "VOTING":
        reason = f": {info['mode_reason']}" if info.get("mode_reason") else ""
        notes.append(f"does not vote: {info['mode']}{reason}")
    if info.get("halted"):
        notes.append(
            "signs nothing until operators of k members decide: `fedpeg member unhalt --help`"
        )
    signer = info.get("signer", {"kind": "in-process"})
    if signer["kind"] != "in-process":
        place = f"pid {signer['pid']}" if signer["connected"] else "does not answer: nothing signed"
        notes.append(f"signer: {place}")
    if info.get("resumed_at") is not None:
        notes.append(f"votes from height {info['resumed_at']} on by an operator's order (C76)")
    if info.get("catch_up"):
        notes.append(info["catch_up"]["text"])
    notes += peg_notes(info.get("peg") or {})
    if info.get("evidence"):
        notes.append(f"keeps {info['evidence']} pieces of evidence: `fedpeg evidence` lists them")
    return notes


def _register_logs(group: click.Group) -> None:
    @command(group, "logs", json_help="Print the logs' own JSON lines.")
    @click.argument("member", required=False)
    @click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
    @click.option(
        "-n",
        "--lines",
        type=click.IntRange(0),
        default=100,
        show_default=True,
        help="Lines of the past.",
    )
    async def logs(session: Session, *, member: str | None, follow: bool, lines: int) -> None:
        """Show what the members and the wallet process have logged, by time.

        MEMBER shows one alone; it may also be `wallet`, `bitcoind`, or a signer, as `m0-signer`.
        """
        federation = session.federation
        state = federation.require_state()
        signers = [signer_name(m.name) for m in state.members if state.signers]
        names = [m.name for m in state.members] + signers + [WALLET]
        if member in signers or member in (BITCOIND, WALLET):
            names = [str(member)]
        elif member is not None:
            names = [federation.find_member(state, member).name]
        paths = {name: federation.folder.log(name) for name in names}
        ends = print_logs(paths, lines, as_json=session.output.as_json)
        if follow:
            await follow_logs(paths, ends, as_json=session.output.as_json)


def _register_member(group: click.Group) -> None:
    @group.group("member")
    def member_group() -> None:
        """One member, named m0, m1… or 0, 1…: start, stop, kill it, or decide for it."""

    @command(member_group, "start")
    @click.argument("member")
    async def start(session: Session, *, member: str) -> None:
        """Start a member and wait until it answers."""
        federation = session.federation
        federation.require_state()
        with federation.folder.locked():
            name = federation.find_member(federation.require_running(BITCOIND), member).name
            if not await federation.start_members([name]):
                raise Failed(f"{name} runs already")
        session.output.result({"member": name, "running": True}, f"{name} runs")

    @command(member_group, "stop")
    @click.argument("member")
    async def stop(session: Session, *, member: str) -> None:
        """Stop a member in an orderly way (SIGTERM)."""
        _stop(session, member, kill=False)

    @command(member_group, "kill")
    @click.argument("member")
    async def kill(session: Session, *, member: str) -> None:
        """Kill a member without warning (SIGKILL)."""
        _stop(session, member, kill=True)

    cli_operator.register(member_group)
    cli_recover.register(member_group)


def _stop(session: Session, member: str, *, kill: bool) -> None:
    federation = session.federation
    federation.require_state()
    name = federation.find_member(federation.require_state(), member).name
    with federation.folder.locked():
        if not federation.stop_member(name, kill=kill):
            raise Failed(f"{name} is not running")
    word = "killed" if kill else "stopped"
    session.output.result({"member": name, "running": False}, f"{name} is {word}")


def _register_mine(group: click.Group) -> None:
    @command(group, "mine")
    @click.argument("blocks", type=click.IntRange(1, MINE_MAX))
    async def mine(session: Session, *, blocks: int) -> None:
        """Mine regtest Bitcoin blocks; the faucet gets their coins."""
        async with session.bitcoind() as bitcoind:
            hashes = await bitcoind.generate(blocks, await bitcoind.new_address(FAUCET_WALLET))
            height = await bitcoind.block_count()
        session.output.result(
            {"mined": blocks, "height": height, "hash": to_hex(hashes[-1])},
            f"mined {blocks}, Bitcoin is at height {height}",
        )


def _register_checks(group: click.Group) -> None:
    @command(group, "doctor")
    async def doctor(session: Session) -> None:
        """Say what is wrong here, and how to fix it.

        Looks at this machine and at the federation in the folder; for everything that is wrong
        there is a fix of one line. Exit code 1 when something is.
        """
        checks = await examine(session.federation)
        lines = []
        for check in checks:
            lines.append(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
            if not check.ok:
                lines.append(f"      fix: {check.fix}")
        wrong = sum(1 for check in checks if not check.ok)
        plain = [
            {"name": c.name, "ok": c.ok, "found": c.found, "fix": "" if c.ok else c.fix}
            for c in checks
        ]
        session.output.result({"ok": wrong == 0, "checks": plain}, "\n".join(lines))
        if wrong:
            raise Failed(f"{wrong} of {len(checks)} checks failed")

    @command(
        group,
        "demo",
        json_help="Print one JSON line a sentence or step.",
        data_help=OWN_FOLDER_HELP,
    )
    @click.option("--keep", is_flag=True, help="Leave the federation running at the end.")
    async def demo(session: Session, *, keep: bool) -> None:
        """Show a federation at work, then clean up.

        A deposit, payments, a member killed and back, a peg-out, the audit, the signers.
        Everything happens in a new folder of its own, which is removed at the end. No process
        is left, but with --keep. --data names an empty folder to use instead; it stays.
        """
        named = click.get_current_context().params["data"]
        folder: Path | None = session.data if named is not None else None
        await Demo(folder, keep=keep, as_json=session.output.as_json).run()
