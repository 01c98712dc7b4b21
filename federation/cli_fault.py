"""Commands that make a running local federation suffer: fedpeg fault.

Source: issue 4 item 10, N32.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import click

from federation.cli_session import Failed, Seconds, Session, command
from federation.fault_check import CheckReport, check
from federation.fault_disk import Damage
from federation.faults import ActiveFault, Faults, Injection

LINKS_HELP = """LINKS says which: m0 for one member against all others, 'm0,m1|m2,m3' for groups,
'm0>m1' for one way only, all for everything; several are joined."""
DELAY_MS_MAX = 60_000
CLOCK_S_MAX = 10 * 366 * 86_400
RAW_NUMBERS = {"ignore_unknown_options": True}
"""So that -3600 is a number and no option."""

for_option = click.option(
    "--for",
    "for_ms",
    type=Seconds(),
    help="End by itself after so many seconds. [default: lasts until `fedpeg fault heal`]",
)

down_option = click.option(
    "--for",
    "for_ms",
    type=Seconds(),
    help="Leave it down for so many seconds before it starts. [default: starts at once]",
)
anyway_option = click.option(
    "--anyway",
    is_flag=True,
    help="Also when too many members abstain then for blocks to go on.",
)


def register(group: click.Group) -> None:
    """Add the commands to the program."""

    @group.group("fault")
    def fault_group() -> None:
        """Make a running federation suffer, to see that it bears it.

        Links, clocks and disks need members that were started with `fedpeg up --allow-faults`. A
        fault with --for ends by itself, also when this command was killed; `fedpeg fault heal`
        ends them all, `fedpeg fault check` reads every disk afterwards.
        """

    _register_links(fault_group)
    _register_processes(fault_group)
    _register_disks(fault_group)
    _register_all(fault_group)


def _register_links(group: click.Group) -> None:
    def of_links(name: str, summary: str) -> Callable[..., Any]:
        return command(group, name, help=f"{summary}\n\n{LINKS_HELP}")

    @of_links("partition", "Lose all that these links carry, as if a cable were cut.")
    @click.argument("links", nargs=-1, required=True)
    @for_option
    async def partition(session: Session, *, links: tuple[str, ...], for_ms: int | None) -> None:
        injection = _faults(session).partition(*links, for_s=_seconds(for_ms))
        await _begin(session, injection, f"partition {' '.join(links)}", for_ms)

    @of_links("disconnect", "End these links and refuse new ones.")
    @click.argument("links", nargs=-1, required=True)
    @for_option
    async def disconnect(session: Session, *, links: tuple[str, ...], for_ms: int | None) -> None:
        injection = _faults(session).disconnect(*links, for_s=_seconds(for_ms))
        await _begin(session, injection, f"disconnect {' '.join(links)}", for_ms)

    @of_links("delay", "Have what is sent over these links arrive later.")
    @click.argument("links", nargs=-1, required=True)
    @click.option("--ms", "delay_ms", type=click.IntRange(0, DELAY_MS_MAX), required=True)
    @click.option("--jitter", "jitter_ms", type=click.IntRange(0, DELAY_MS_MAX), default=0)
    @for_option
    async def delay(
        session: Session,
        *,
        links: tuple[str, ...],
        delay_ms: int,
        jitter_ms: int,
        for_ms: int | None,
    ) -> None:
        injection = _faults(session).delay(
            *links, delay_ms=delay_ms, jitter_ms=jitter_ms, for_s=_seconds(for_ms)
        )
        what = f"delay of {delay_ms} ± {jitter_ms} ms on {' '.join(links)}"
        await _begin(session, injection, what, for_ms)

    @of_links("drop", "Lose a part of all frames on these links.")
    @click.argument("links", nargs=-1, required=True)
    @click.option("--percent", type=click.IntRange(1, 100), required=True)
    @for_option
    async def drop(
        session: Session, *, links: tuple[str, ...], percent: int, for_ms: int | None
    ) -> None:
        injection = _faults(session).drop(*links, percent=percent, for_s=_seconds(for_ms))
        await _begin(session, injection, f"{percent} % lost on {' '.join(links)}", for_ms)


def _register_processes(group: click.Group) -> None:
    @command(group, "clock", context_settings=RAW_NUMBERS)
    @click.argument("member")
    @click.argument("seconds", type=click.IntRange(-CLOCK_S_MAX, CLOCK_S_MAX))
    @for_option
    async def clock(session: Session, *, member: str, seconds: int, for_ms: int | None) -> None:
        """Move a member's wall clock by so many SECONDS, which may be negative."""
        injection = _faults(session).clock(member, seconds, for_s=_seconds(for_ms))
        await _begin(session, injection, f"clock of {member} off by {seconds} s", for_ms)

    @command(group, "kill")
    @click.argument("member")
    @for_option
    async def kill(session: Session, *, member: str, for_ms: int | None) -> None:
        """Kill a member without warning (SIGKILL); after --for it is started again."""
        injection = _faults(session).kill(member, for_s=_seconds(for_ms))
        await _begin(session, injection, f"{member} killed", for_ms)

    @command(group, "pause")
    @click.argument("member")
    @for_option
    async def pause(session: Session, *, member: str, for_ms: int | None) -> None:
        """Freeze a member (SIGSTOP); after --for it goes on."""
        injection = _faults(session).pause(member, for_s=_seconds(for_ms))
        await _begin(session, injection, f"{member} frozen", for_ms)

    @command(group, "equivocate")
    @click.argument("member")
    @click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Which lies are told to whom.")
    @for_option
    @anyway_option
    async def equivocate(
        session: Session, *, member: str, seed: int | None, for_ms: int | None, anyway: bool
    ) -> None:
        """Have a liar with the member's keys run in its place: two truths for everything.

        Afterwards the member is started as restored: it abstains until the others have shown it
        what was signed in its name. The evidence against it stays.
        """
        injection = _faults(session).equivocate(
            member, for_s=_seconds(for_ms), seed=seed, anyway=anyway
        )
        await _begin(session, injection, f"a liar in place of {member}", for_ms)


def _register_disks(group: click.Group) -> None:
    @command(group, "wipe")
    @click.argument("member")
    @down_option
    @anyway_option
    async def wipe(session: Session, *, member: str, for_ms: int | None, anyway: bool) -> None:
        """Delete all that a member has but its keys, and start it.

        It abstains until the others have shown it what it may have signed.
        """
        await _faults(session).wipe(member, down_s=_seconds(for_ms) or 0, anyway=anyway)
        _done(session, {"wiped": member}, f"{member} has lost its disk{_down(for_ms)}", None)

    @command(group, "snapshot")
    @click.argument("member")
    async def snapshot(session: Session, *, member: str) -> None:
        """Keep a copy of a member's disk, for `fedpeg fault restore`."""
        name = await _faults(session).snapshot(member)
        _done(session, {"snapshot": name}, f"snapshot {name}", None)

    @command(group, "restore")
    @click.argument("member")
    @click.option("--snapshot", help="Which one. [default: the newest]")
    @down_option
    @anyway_option
    async def restore(
        session: Session, *, member: str, snapshot: str | None, for_ms: int | None, anyway: bool
    ) -> None:
        """Put an old copy in the place of a member's disk, and tell the member nothing of it."""
        down_s = _seconds(for_ms) or 0
        name = await _faults(session).restore(member, snapshot, down_s=down_s, anyway=anyway)
        text = f"{member} has disk {name}{_down(for_ms)}"
        _done(session, {"restored": member, "snapshot": name}, text, None)

    @command(group, "corrupt-journal", context_settings=RAW_NUMBERS)
    @click.argument("member")
    @click.option(
        "--how",
        type=click.Choice([how.value for how in Damage]),
        default=Damage.FLIP.value,
        show_default=True,
    )
    @click.option("--at", "at_byte", type=int, help="Which byte; below 0 from the end.")
    @click.option("--seed", type=int, default=0, help="Chooses what is not said.")
    @anyway_option
    async def corrupt_journal(
        session: Session, *, member: str, how: str, at_byte: int | None, seed: int, anyway: bool
    ) -> None:
        """Damage a member's journal and start it as if nothing had happened.

        It has to refuse, or to abstain, or to show that nothing was lost (J6). One that refuses
        stays down; `fedpeg fault heal` starts it as restored.
        """
        done, refusal = await _faults(session).damage_journal(
            member, Damage(how), at_byte=at_byte, seed=seed, anyway=anyway
        )
        facts = {
            "member": member,
            "file": done.file,
            "how": done.how.value,
            "at_byte": done.at_byte,
            "size_bytes": done.size_bytes,
            "refused": refusal or None,
        }
        text = f"{done.how.value} of {done.size_bytes} bytes at {done.at_byte} of {done.file}"
        said = f"{member} refuses to start: {refusal}" if refusal else f"{member} runs"
        _done(session, facts, f"{text}\n{said}", None)


def _register_all(group: click.Group) -> None:
    @command(group, "list")
    async def list_faults(session: Session) -> None:
        """Show the faults in force."""
        found = await _faults(session).active()
        lines = [_line(fault) for fault in found] or ["no faults"]
        session.output.result([_plain(fault) for fault in found], "\n".join(lines))

    @command(group, "heal")
    @click.argument("fault", required=False)
    async def heal(session: Session, *, fault: str | None) -> None:
        """End one FAULT, named as in `fedpeg fault list`, or all of them.

        Without a name all members run afterwards, also those that were stopped otherwise.
        """
        done = await _faults(session).heal(fault)
        session.output.result({"healed": done}, "\n".join(done) or "nothing was wrong")

    @command(group, "check")
    @click.option("--keep-stopped", is_flag=True, help="Leave the members down afterwards.")
    async def check_disks(session: Session, *, keep_stopped: bool) -> None:
        """Stop the members, read every disk, and say whether all promises were kept.

        One block a height, each with k valid signatures; no two votes of one key at a place and
        none against the own lock, over all journals, also those that a fault took away; equal peg
        books and coins. The members that ran are started again. Exit code 1 for a violation.
        """
        federation = session.federation
        federation.require_state()
        with federation.folder.locked():
            ran = [m.name for m in federation.require_state().members]
            ran = [name for name in ran if federation.stop_member(name, kill=False)]
            session.output.progress("check", "reading the disks of all members")
            try:
                report = await asyncio.to_thread(check, federation.folder.path)
            finally:
                if ran and not keep_stopped:
                    await federation.start_members(ran)
        session.output.result(report.to_json(), _report_text(report))
        if not report.is_sound:
            raise Failed(f"{len(report.violations)} promises were broken")


def _report_text(report: CheckReport) -> str:
    tips = ", ".join(f"{name} {height}" for name, height in report.tips.items())
    lines = [
        f"heights       {tips}",
        f"votes         {report.votes} in the members' own journals",
        f"certificates  {report.certificates}, signatures verified",
        f"block sigs    {report.block_signatures}",
    ]
    if report.lost_journals:
        lines.append(f"lost          {report.lost_journals} journals that a fault took away")
    if report.liars:
        lines.append(f"liars         {', '.join(report.liars)}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"BROKEN: {violation}" for violation in report.violations]
    return "\n".join([*lines, *["all promises were kept"] * report.is_sound])


def _faults(session: Session) -> Faults:
    session.federation.require_running()
    return Faults(session.federation)


def _seconds(for_ms: int | None) -> float | None:
    return None if not for_ms else for_ms / 1_000


async def _begin(session: Session, injection: Injection, what: str, for_ms: int | None) -> None:
    await injection.begin()
    facts = {
        "id": injection.id,
        "fault": what,
        "for_ms": for_ms or None,
        "unreached": injection.unreached,
    }
    text = f"{injection.id}: {what}"
    if injection.unreached:
        text += f"\nnot told, as they do not answer: {', '.join(injection.unreached)}"
    _done(session, facts, text, for_ms)


def _done(session: Session, facts: dict[str, Any], text: str, for_ms: int | None) -> None:
    lasts = f"\nends by itself after {for_ms / 1_000:g} s" if for_ms else ""
    session.output.result(facts, text + lasts)


def _down(for_ms: int | None) -> str:
    return f"\nit starts in {for_ms / 1_000:g} s" if for_ms else ""


def _plain(fault: ActiveFault) -> dict[str, Any]:
    return {
        "id": fault.id,
        "kind": fault.kind,
        "members": fault.members,
        "detail": fault.detail,
        "remaining_ms": fault.remaining_ms,
    }


def _line(fault: ActiveFault) -> str:
    left = "" if fault.remaining_ms is None else f"  {fault.remaining_ms / 1_000:.1f} s left"
    return f"{fault.id:<12} {','.join(fault.members):<6} {fault.kind:<11} {fault.detail}{left}"
