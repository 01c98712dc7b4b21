"""`fedpeg member recover`: members that lost their folders come back from the two chains.

Source: peg:9; docs/emergency.md.
"""

from pathlib import Path

import click

from federation.cli_session import Failed, Session, command
from federation.recovery import Recovered, Recovery


def register(member_group: click.Group) -> None:
    """Add the command to the group `member`."""

    @command(member_group, "recover")
    @click.argument("member", required=False)
    @click.option(
        "--keys",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder with your backup of the member's key files, if these are lost too.",
    )
    async def recover(session: Session, *, member: str | None, keys: Path | None) -> None:
        """Rebuild a member that lost its state, or all that did, and compare it with the others.

        The sidechain comes from the other members, the state of the peg from the two chains; the
        same peg-out transactions are signed again. Done when k - 1 other members have the same
        state at one height; a member whose state differs is stopped. Votes come back by
        themselves, when enough others have told what the member may have signed. Keys are in no
        chain: when they are gone, --keys names the backup.
        """
        if keys is not None and member is None:
            raise click.UsageError("--keys needs the member whose keys they are")
        federation = session.federation
        state = federation.require_state()
        with federation.folder.locked():
            recovery = Recovery(federation, session.output.progress)
            if member is not None:
                names: tuple[str, ...] = (federation.find_member(state, member).name,)
            else:
                names = recovery.all_lost()
            if not names:
                raise Failed("no member has lost anything; name one to compare its state")
            found = await recovery.run(names, keys)
        session.output.result(
            {"members": [one.to_json() for one in found]}, "\n".join(map(_text, found))
        )


def _text(found: Recovered) -> str:
    lost = f"had lost {', '.join(found.lost)}" if found.lost else "had lost nothing"
    batch = f", open batch {found.open_batch}" if found.open_batch else ""
    votes = "" if found.mode == "VOTING" else f"\n  does not vote yet: {found.mode}"
    if votes:
        votes += "; it waits for k others that remember, else `fedpeg member resume-at --help`"
    return (
        f"{found.name} {lost}; at height {found.height} its state {found.state_digest[:16]} is "
        f"that of {', '.join(found.agrees_with)}{batch}{votes}"
    )
