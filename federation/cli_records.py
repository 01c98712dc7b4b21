"""Commands of the federation's operators: approvals, PAUSE, and the records that k approve.

A record goes into a block when the operators of k members approved exactly these bytes. On one
machine the commands approve it for all members that run, or for the one named.

Source: peg:3.3, peg:7.3, peg:7.4, N21, N23.
"""

from typing import Any

import click

from federation.cli_session import Failed, Session, command
from federation.cli_wallet import check_bitcoin_address
from federation.local_state import LocalMember
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    IncludeRecord,
    ReleaseRecord,
    ReopenRecord,
    ResumeRecord,
    ReturnRecord,
    encode_record,
)
from peg.state import LANE
from peg.status import parse_outpoint
from sidechain.api.client import RpcError
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.primitives.address import decode_address

BLOCKS_MAX = 2**32 - 1
VALUE_MAX = 2**53 - 1
ASK_TIMEOUT_S = 10

_member_option = click.option(
    "--member", "member_name", metavar="MEMBER", help="One member only. [default: all that run]"
)


class HexRecordGroup(click.Group):
    """`approve HEX` is `approve record HEX`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named, else the one that takes a record."""
        if args and args[0] not in self.commands and _is_hex(args[0]):
            args = ["record", *args]
        return super().resolve_command(ctx, args)


def register(group: click.Group, peg_group: click.Group) -> None:
    """Add `approve` to the program, and the operators' commands to `peg`."""

    @group.group("approve", cls=HexRecordGroup)
    def approve_group() -> None:
        """Approve records of the federation as its members' operator.

        `approve HEX` approves a record by its bytes; `fedpeg peg cancel|exclude|include|release|
        return|reopen|param|resume` make the record and approve it.
        """

    _register_approve(approve_group)
    _register_pause(peg_group)
    _register_burns(peg_group)
    _register_lane(peg_group)
    _register_param(peg_group)
    _register_return(peg_group)


def _register_approve(group: click.Group) -> None:
    @command(group, "list")
    @_member_option
    async def approve_list(session: Session, *, member_name: str | None) -> None:
        """Show the approvals in force at each member, and what they wait for."""
        found: dict[str, Any] = {}
        for member in _chosen(session, member_name):
            found[member.name] = await _ask(session, member, "listapprovals")
        lines = [
            f"{name:<4} {each['approval'][:16]}  {each['text']}"
            f"{'  (' + each['waits_for'] + ')' if each['waits_for'] else ''}"
            for name, approvals in found.items()
            for each in approvals
        ]
        session.output.result(found, "\n".join(lines) or "no approvals are in force")

    @command(group, "show")
    @click.argument("record", metavar="HEX")
    @_member_option
    async def approve_show(session: Session, *, record: str, member_name: str | None) -> None:
        """Show what a record says and would do; nothing is approved."""
        member = _chosen(session, member_name)[0]
        found = await _ask(session, member, "describerecord", record)
        session.output.result(found, _described(found))

    @command(group, "record")
    @click.argument("record", metavar="HEX")
    @_member_option
    async def approve_record(session: Session, *, record: str, member_name: str | None) -> None:
        """Approve a record by its bytes, or a RESET by the hash of its Bitcoin block.

        A hash is given as Bitcoin shows it.
        """
        if not _is_hex(record):
            raise click.UsageError(f"{record!r} is no hex")
        data = bytes.fromhex(record)
        await _approve(session, data[::-1] if len(data) == 32 else data, member_name)

    @command(group, "revoke")
    @click.argument("approval")
    @_member_option
    async def approve_revoke(session: Session, *, approval: str, member_name: str | None) -> None:
        """Take an approval back, by its name or the first digits of it (`approve list`)."""
        revoked: list[str] = []
        for member in _chosen(session, member_name):
            approvals = await _ask(session, member, "listapprovals")
            names = [a["approval"] for a in approvals if a["approval"].startswith(approval)]
            if len(names) > 1:
                raise Failed(f"{member.name} has {len(names)} approvals that begin so")
            if names:
                await _ask(session, member, "revokeapproval", names[0])
                revoked.append(member.name)
        if not revoked:
            raise Failed(f"no approval {approval!r} is in force")
        session.output.result({"revoked": revoked}, f"revoked at {', '.join(revoked)}")


def _register_pause(group: click.Group) -> None:
    @command(group, "pause")
    @click.option("--member", "member_name", help="Who pauses. [default: the first that runs]")
    @click.option("--deposits", is_flag=True, help="Give out no deposit addresses either.")
    @click.option(
        "--for",
        "blocks",
        type=click.IntRange(1, BLOCKS_MAX),
        help="Bitcoin blocks. [default and most: pause_max of the federation]",
    )
    async def pause(
        session: Session, *, member_name: str | None, deposits: bool, blocks: int | None
    ) -> None:
        """Stop releases and payouts, in one member's name, for a time.

        Every member may once in a while; `fedpeg peg resume` ends it by k operators. Sweeps,
        claims and blocks go on.
        """
        member = _chosen(session, member_name)[0]
        found = await _ask(session, member, "pausepeg", deposits, blocks)
        what = "payouts and deposits are" if deposits else "payouts are"
        text = f"{what} paused by {member.name} until Bitcoin block {found['until_clock']}"
        session.output.result(found, text)

    @command(group, "resume")
    @_member_option
    async def resume(session: Session, *, member_name: str | None) -> None:
        """End all pauses, and the halts X3, X5 and X7, when k operators agree."""
        await _approve(session, encode_record(ResumeRecord()), member_name)


def _register_burns(group: click.Group) -> None:
    def add(name: str, make: Any, help_text: str) -> None:
        async def run(session: Session, *, burn: str, member_name: str | None) -> None:
            burn_id = _outpoint(burn, "burn").serialize()
            await _approve(session, encode_record(make(burn_id)), member_name)

        run.__doc__ = help_text
        decorated = click.argument("burn", metavar="TXID:VOUT")(_member_option(run))
        command(group, name)(decorated)

    add(
        "exclude",
        ExcludeRecord,
        "Take a burn out of the queue when k operators agree.\n\n"
        "For a payout that Bitcoin nodes refuse; `fedpeg peg cancel` then frees its batch.",
    )
    add("include", IncludeRecord, "Put an excluded burn back into the queue.")
    add(
        "release",
        ReleaseRecord,
        "Pay a burn that is held for its size (HELD_OVERSIZE), past the limits of time.",
    )


def _register_lane(group: click.Group) -> None:
    @command(group, "cancel")
    @click.argument("anchor", metavar="[ANCHOR]", required=False)
    @_member_option
    async def cancel(session: Session, *, anchor: str | None, member_name: str | None) -> None:
        """Replace the open batch by one that pays nothing, if it has not confirmed.

        Its burns stay queued. ANCHOR (txid:vout) names the batch. [default: the open one]
        """
        if anchor is None:
            info = await _ask(session, _chosen(session, member_name)[0], "getpeginfo")
            if info["open_batch"] is None:
                raise Failed("no batch is open")
            anchor = str(info["lane"]["anchor"])
        record = CancelRecord(LANE, _outpoint(anchor, "anchor"))
        await _approve(session, encode_record(record), member_name)

    @command(group, "reopen")
    @click.argument("breaking_txid", metavar="TXID")
    @click.argument("anchor", metavar="ANCHOR")
    @click.option("--yes", is_flag=True, help="Approve; without it the record is only shown.")
    @_member_option
    async def reopen(
        session: Session, *, breaking_txid: str, anchor: str, yes: bool, member_name: str | None
    ) -> None:
        """Go on with a broken lane at ANCHOR (txid:vout), after the transaction that broke it.

        Shows which burns that transaction is taken to have paid: review them before --yes. For a
        first anchor whose funding left Bitcoin for ever TXID is that funding, and ANCHOR the
        output of a transaction that spends the same first input.
        """
        txid = _outpoint(f"{breaking_txid}:0", "txid").txid
        record = encode_record(ReopenRecord(LANE, txid, _outpoint(anchor, "anchor")))
        if yes:
            await _approve(session, record, member_name)
            return
        found = await _ask(
            session, _chosen(session, member_name)[0], "describerecord", record.hex()
        )
        session.output.result(found, _described(found) + "\n--yes approves it")


def _register_param(group: click.Group) -> None:
    @command(group, "param")
    @click.argument("name")
    @click.argument("value", type=click.IntRange(0, VALUE_MAX))
    @click.option(
        "--from",
        "active_from",
        type=click.IntRange(1, BLOCKS_MAX),
        help="First sidechain height. [default: as soon as the rules allow]",
    )
    @_member_option
    async def param(
        session: Session,
        *,
        name: str,
        value: int,
        active_from: int | None,
        member_name: str | None,
    ) -> None:
        """Change a value of the peg, such as payout_cap_sats, when k operators agree.

        Tightening acts soon, loosening after a delay. A wrong NAME lists all.
        """
        member = _chosen(session, member_name)[0]
        planned = await _ask(session, member, "planparameter", name, value, active_from)
        await _approve(session, bytes.fromhex(planned["hex"]), member_name)


def _register_return(group: click.Group) -> None:
    @command(group, "return")
    @click.argument("deposit", metavar="TXID:VOUT")
    @click.argument("address", metavar="BTC_ADDRESS")
    @click.option("--claim-script", metavar="HEX", help="What the deposit was made for.")
    @click.option(
        "--proof",
        metavar="HEX",
        help="The depositor's signature: public key and DER, or 64 bytes for taproot.",
    )
    @_member_option
    async def give_back(
        session: Session,
        *,
        deposit: str,
        address: str,
        claim_script: str | None,
        proof: str | None,
        member_name: str | None,
    ) -> None:
        """Give a deposit that is too old to be claimed back to a Bitcoin address.

        A wallet of this machine proves that the deposit is its own. For somebody else's give
        --claim-script and --proof: a signature by the key of the claim script over
        tagged_hash("fedpeg/return", genesis ‖ outpoint ‖ SHA256(scriptPubKey of the address)).
        """
        if (claim_script is None) != (proof is None):
            raise click.UsageError("--claim-script and --proof belong together")
        outpoint = _outpoint(deposit, "deposit")
        async with session.bitcoind() as bitcoind:
            await check_bitcoin_address(bitcoind, address)
        if claim_script is None or proof is None:
            async with session.wallets() as wallets:
                made = await wallets.call("provereturn", deposit, address)
            claim_script, proof = made["claim_script"], made["proof"]
        federation = session.federation
        params = federation.load_federation(federation.require_state()).chain_params()
        script = decode_address(address, params.parent_prefixes).script
        details = {"claim_script": claim_script, "proof": proof, "return_script": script.hex()}
        record = encode_record(ReturnRecord(outpoint, sha256(script)))
        await _approve(session, record, member_name, details)


# -- parts


async def _approve(
    session: Session,
    record: bytes,
    member_name: str | None,
    details: dict[str, str] | None = None,
) -> None:
    """Approve a record at the chosen members, and say what is still missing.

    Raises:
        Failed: no member takes it; with the reason of the first.
    """
    approved: list[str] = []
    refused: dict[str, str] = {}
    name = ""
    for member in _chosen(session, member_name):
        try:
            reply = await _ask(session, member, "approverecord", record.hex(), details)
            name = str(reply["approved"])
            approved.append(member.name)
        except (Failed, RpcError) as error:
            refused[member.name] = error.message if isinstance(error, RpcError) else str(error)
    if not approved:
        raise Failed(next(iter(refused.values())))
    needed = session.state().k
    text = f"approved by {', '.join(approved)}; {needed} members must approve ({name[:16]})"
    text += "".join(f"\nrefused by {member}: {why}" for member, why in refused.items())
    found = {
        "approval": name,
        "approved": approved,
        "hex": record.hex(),
        "needed": needed,
        "refused": refused,
    }
    session.output.result(found, text)


async def _ask(session: Session, member: LocalMember, method: str, *params: Any) -> Any:
    """Call a method of one member.

    Raises:
        Failed: it does not answer. RpcError: its refusal.
    """
    async with session.federation.member_client(member, timeout_s=ASK_TIMEOUT_S) as client:
        try:
            return await client.call(method, *params)
        except Unavailable as error:
            raise Failed(f"{member.name} does not answer: {error}") from error


def _chosen(session: Session, name: str | None) -> list[LocalMember]:
    """The member named, or all that run.

    Raises:
        Failed: none runs, or the named one does not.
    """
    federation = session.federation
    state = federation.require_running()
    running = federation.running()
    if name is not None:
        member = federation.find_member(state, name)
        if member.name not in running:
            raise Failed(f"{member.name} does not run: `fedpeg member start {member.name}`")
        return [member]
    found = [member for member in state.members if member.name in running]
    if not found:
        raise Failed("no member runs: `fedpeg up` starts them")
    return found


def _described(found: dict[str, Any]) -> str:
    lines = [found["text"]]
    if found["no_effect"]:
        lines.append(f"would have no effect now: {found['no_effect']}")
    lines += [
        f"output {paid['vout']} is taken to pay burn {paid['burn']}, {paid['payout_sats']} sat"
        for paid in found["pays"]
    ]
    return "\n".join(lines)


def _outpoint(text: str, name: str) -> Any:
    try:
        return parse_outpoint(text)
    except InvalidEncoding as error:
        raise click.UsageError(f"{name} {text!r} is not txid:vout") from error


def _is_hex(text: str) -> bool:
    try:
        return bool(bytes.fromhex(text))
    except ValueError:
        return False
