"""An operator's two decisions that no rule can make: leave HALTED, and vote without a roll-call.

Both can break the federation when they are wrong, so both say what they rest on and ask first.

Source: consensus:C60, consensus:C76, N13.
"""

import sys
from pathlib import Path
from typing import Any

import click

from federation.cli_member import Ask, asking, folder_option
from federation.cli_session import Failed, Session, command

UNHALT_WARNING = """\
{name} is halted: {reason}

Two blocks that exclude each other carry enough signatures. So more than {f_s} members have signed
both, or their keys are in other hands; `fedpeg evidence` names those whose signatures are known.
No rule chooses between the two. Go on only when the operators of {k} members have agreed, by other
means than these members, on ONE block; if two groups keep different ones, the federation splits
and bitcoin can be paid out twice.

{name} will keep {keep}
and vote, sign blocks and sign peg-outs again."""

RESUME_WARNING = """\
{name} does not vote now ({mode}): it does not know what it may have signed before its journal was
lost, and the answers of enough other members would tell.

This order lets it vote from height {height} on without them. If {name} has signed anything at
height {height} or above before, two blocks of one height can get enough signatures, and bitcoin can
be paid out twice. It is for a federation that cannot go on otherwise, after its operators have made
sure that no member has seen a vote of {name} at or above this height. The order is recorded and
shown by `fedpeg status` from now on."""


def register(member_group: click.Group) -> None:
    """Add the commands to the group `member`."""
    yes = click.option("--yes", is_flag=True, help="Do not ask; for scripts.")

    @command(member_group, "unhalt")
    @click.argument("member", required=False)
    @click.option("--keep", help="Hash of the block of this member's chain that stands.")
    @yes
    @folder_option()
    async def unhalt(
        session: Session, *, member: str | None, keep: str | None, yes: bool, folder: Path | None
    ) -> None:
        """Let a halted member go on, once operators have agreed which block stands.

        Without --keep it says why the member is halted, and changes nothing. A member whose chain
        holds the other block has to start with an empty chain folder instead.
        """
        name = _name(member, folder)
        async with asking(session, member, folder) as ask:
            info = await ask("getfederationinfo")
            if info["halted"] is None:
                raise Failed(f"{name} is not halted, its mode is {info['mode']}")
            if keep is None:
                reason = info["halted"]["reason"]
                raise Failed(f"{name} is halted: {reason}; --keep HASH names the block that stands")
            await _check_held(ask, keep, name)
            facts = {"reason": info["halted"]["reason"], "f_s": info["f_s"], "k": info["k"]}
            _confirm(session, UNHALT_WARNING.format(name=name, keep=keep, **facts), yes=yes)
            found = await ask("unhalt", keep)
        session.output.result(
            {"member": name, **found}, f"{name} keeps {keep} and is in mode {found['mode']}"
        )

    @command(member_group, "resume-at")
    @click.argument("words", nargs=-1, required=True, metavar="[MEMBER] HEIGHT")
    @yes
    @folder_option()
    async def resume_at(
        session: Session, *, words: tuple[str, ...], yes: bool, folder: Path | None
    ) -> None:
        """Let a member that lost its journal vote from HEIGHT on, by your word alone.

        Only for a federation that cannot go on otherwise: a member with enough others to ask goes
        on by itself.
        """
        member, height = _member_and_height(words, folder)
        name = _name(member, folder)
        async with asking(session, member, folder) as ask:
            info = await ask("getfederationinfo")
            _confirm(
                session,
                RESUME_WARNING.format(name=name, mode=info["mode"], height=height),
                yes=yes,
            )
            found = await ask("resumeat", height)
        session.output.result(
            {"member": name, **found},
            f"{name} votes from height {height} on, its mode is {found['mode']}",
        )


async def _check_held(ask: Ask, keep: str, name: str) -> None:
    """Refuse before the question what the member would refuse after it."""
    if len(keep) != 64 or keep.strip("0123456789abcdef"):
        raise Failed(f"{keep!r} is not a block hash: 64 lower-case hex digits")
    header: dict[str, Any] = await ask("getblockheader", keep)
    if header.get("confirmations", 0) < 1:
        raise Failed(f"the chain of {name} does not hold block {keep}")


def _name(member: str | None, folder: Path | None) -> str:
    if (member is None) == (folder is None):
        raise click.UsageError("name a member, or its folder with --folder")
    return member if member is not None else str(folder)


def _member_and_height(words: tuple[str, ...], folder: Path | None) -> tuple[str | None, int]:
    if len(words) != (2 if folder is None else 1):
        raise click.UsageError("name a member and a height, or --folder and a height")
    if not (words[-1].isascii() and words[-1].isdigit()) or not 1 <= int(words[-1]) < 2**32:
        raise click.UsageError(f"{words[-1]!r} is not a height")
    return (words[0] if folder is None else None), int(words[-1])


def _confirm(session: Session, warning: str, *, yes: bool) -> None:
    """Show what the decision means, and ask unless it was answered already."""
    if yes:
        return
    if session.output.as_json or not sys.stdin.isatty():
        raise Failed("this needs a person's answer at a terminal, or --yes")
    session.output.close()
    click.echo(warning, err=True)
    if not click.confirm("\nGo on?", default=False, err=True):
        raise Failed("nothing was changed")
