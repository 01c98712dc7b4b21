"""Commands that change who the federation is: propose a member set, vote for it, see how far it is.

Source: consensus:C83, peg:8.
"""

from pathlib import Path
from typing import Any

import click

from federation.cli_session import Failed, Session, command
from federation.config_fields import InvalidConfig
from federation.local_change import plan_replacement, write_change
from federation.local_state import LocalMember
from federation.member_change import MemberChange
from federation.member_folder import read_config_json
from sidechain.errors import Unavailable

ASK_TIMEOUT_S = 10
HEIGHT_MAX = 2**32 - 1


def register(group: click.Group) -> None:
    """Add `federation` to the program."""

    @group.group("federation")
    def federation_group() -> None:
        """Change who the members are.

        `propose` makes the new member and a file that says who the federation would be, `vote`
        approves exactly that file, `status` tells how far it is. Blocks of four fifths of an epoch
        must vote for it; then the new set signs from the next epoch's first block on.
        """

    _register_propose(federation_group)
    _register_vote(federation_group)
    _register_status(federation_group)


def _register_propose(group: click.Group) -> None:
    @command(group, "propose")
    @click.option("--replace", "old", metavar="MEMBER", required=True, help="Who leaves.")
    @click.option(
        "--not-before",
        type=click.IntRange(1, HEIGHT_MAX),
        help="First height the new set may sign. [default: the next epoch]",
    )
    @click.option(
        "-o",
        "--output",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The file. [default: change-NAME.json in the data folder]",
    )
    async def propose(
        session: Session, *, old: str, not_before: int | None, path: Path | None
    ) -> None:
        """Make a member that takes the place of another, and the file to vote for.

        The new member starts; the others link to it once their operators have voted.
        """
        federation = session.federation
        with federation.folder.locked():
            member = _running(session, None)[0]
            status = await _ask(session, member, "getchange")
            change = plan_replacement(federation, status, old, not_before)
            joins = max(change.members, key=lambda entry: entry.index).name
            session.output.progress("member", f"starting {joins}")
            await federation.start_members([joins])
        path = path or federation.folder.path / f"change-{joins}.json"
        write_change(change, path)
        shown = change.to_json()
        session.output.result(
            {"file": str(path), "joins": joins, "root": shown["entry"]["root"]},
            f"{joins} runs and would take the place of {old}\n{path}: read it, then "
            f"`fedpeg federation vote {path}`",
        )


def _register_vote(group: click.Group) -> None:
    @command(group, "vote")
    @click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False))
    @click.option(
        "--member", "member_name", metavar="MEMBER", help="One member only. [default: all that run]"
    )
    @click.option("--revoke", is_flag=True, help="Take the vote back instead.")
    async def vote(session: Session, *, path: Path, member_name: str | None, revoke: bool) -> None:
        """Approve exactly this file as the operator of a member.

        Its own blocks vote for it from then on, while k members of the new set are connected to it
        at the tip, and it votes for blocks of others that hold the same.
        """
        change = MemberChange.from_json(_read(path))
        root = change.entry().root()[::-1].hex()
        voted: dict[str, str] = {}
        for member in _running(session, member_name):
            if revoke:
                if (await _ask(session, member, "getchange"))["approved_root"] == root:
                    await _ask(session, member, "revokechange")
                    voted[member.name] = "revoked"
                continue
            said = await _ask(session, member, "approvechange", change.to_json())
            voted[member.name] = said["waits_for"]
        if not voted:
            raise Failed("no member has approved this file")
        lines = [f"{name:<4} {why or 'votes'}" for name, why in voted.items()]
        session.output.result({"root": root, "members": voted}, "\n".join(lines))


def _register_status(group: click.Group) -> None:
    @command(group, "status")
    async def status(session: Session) -> None:
        """Show the set in force, the epoch's votes, and what each member waits for."""
        found: dict[str, Any] = {}
        for member in _running(session, None):
            try:
                found[member.name] = await _ask(session, member, "getchange")
            except Failed as failure:
                found[member.name] = {"problem": str(failure)}
        session.output.result(found, _status_text(found))


def _status_text(found: dict[str, Any]) -> str:
    answers = [each for each in found.values() if "problem" not in each]
    if not answers:
        raise Failed("no member answers")
    newest = max(answers, key=lambda each: int(each["height"]))
    epoch, left = newest["epoch"], newest["epoch"]["last"] - newest["height"]
    lines = [
        f"set in force    {', '.join(newest['members'])} (parameters {newest['root'][:16]})",
        f"height          {newest['height']}, epoch {epoch['first']} to {epoch['last']}, "
        f"{left} blocks left",
    ]
    lines += [
        f"votes           {count} of {newest['needed']} for {root[:16]}"
        for root, count in newest["tally"].items()
    ]
    for name, each in found.items():
        if "problem" in each:
            lines.append(f"{name:<15} {each['problem']}")
        elif each["approved_root"] is None:
            lines.append(f"{name:<15} approves no change")
        else:
            waits = f", waits: {each['waits_for']}" if each["waits_for"] else ""
            lines.append(f"{name:<15} approves {each['approved_root'][:16]}{waits}")
    return "\n".join(lines)


def _read(path: Path) -> Any:
    try:
        return read_config_json(path)
    except InvalidConfig as error:
        raise Failed(str(error)) from error


async def _ask(session: Session, member: LocalMember, method: str, *params: Any) -> Any:
    async with session.federation.member_client(member, timeout_s=ASK_TIMEOUT_S) as client:
        try:
            return await client.call(method, *params)
        except Unavailable as error:
            raise Failed(f"{member.name} does not answer: {error}") from error


def _running(session: Session, name: str | None) -> list[LocalMember]:
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
