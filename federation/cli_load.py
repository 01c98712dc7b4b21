"""The command `load`: payments at a steady rate on a running federation."""

from collections.abc import Callable
from typing import Any

import click

from federation.cli_session import Failed, Seconds, Session, command
from federation.load.drive import PAYMENTS_MAX, Load, Plan, find_max
from federation.load.report import Found, as_json, as_text

RATE_MAX = 10_000


def register(group: click.Group) -> None:
    """Add the command to the program."""

    @command(group, "load")
    @_with_options
    async def load(
        session: Session,
        *,
        rate: float,
        duration_ms: int,
        wallets: int,
        members: tuple[str, ...],
        drain_ms: int,
        find_max: bool,
        limit_ms: int,
    ) -> None:
        """Drive payments on the federation and tell how long each took to be final.

        Payments are signed in advance and sent to all members in turn, each at its time: a
        federation that falls behind does not slow them, and their times count from when they were
        due. Final means that the member it was sent to has it in a signed block. What did not
        become final is told with the reason, and the exit code is 1 then.

        The money comes from the wallet "load", which pegs in when it holds too little, and stays
        with keys that are forgotten.
        """
        if not duration_ms:
            raise click.UsageError("--for 0 sends nothing")
        plan = Plan(
            rate=rate,
            seconds=duration_ms / 1_000,
            wallets=wallets,
            drain_s=drain_ms / 1_000,
            members=tuple(dict.fromkeys(members)),
        )
        if find_max:
            await _search(session, plan, limit_ms)
        else:
            await _once(session, plan)


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `load`."""
    options = (
        click.option(
            "--tps",
            "rate",
            type=click.FloatRange(0.1, RATE_MAX),
            default=100,
            show_default=True,
            help="Payments a second; with --find-max the first rate tried.",
        ),
        _seconds(
            "--for", "duration_ms", "30", "Seconds to send for; with --find-max at each rate."
        ),
        click.option(
            "--wallets",
            type=click.IntRange(1, 1_000),
            default=10,
            show_default=True,
            help="Wallets that pay one another.",
        ),
        click.option(
            "--member",
            "members",
            multiple=True,
            help="Send to this member alone; may be repeated.",
        ),
        _seconds("--drain", "drain_ms", "15", "Seconds that the last payments have to be final."),
        click.option("--find-max", is_flag=True, help="Search the highest rate that is sustained."),
        _seconds(
            "--limit",
            "limit_ms",
            "1",
            "With --find-max: seconds to finality that 99 of 100 payments must keep.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _seconds(name: str, variable: str, default: str, text: str) -> Callable[..., Any]:
    return click.option(
        name, variable, type=Seconds(), default=default, show_default=True, help=text
    )


async def _once(session: Session, plan: Plan) -> None:
    found = await Load(session.federation, session.output.progress).run(plan)
    session.output.result(as_json(found), as_text(found))
    if found.differing:
        raise Failed(f"the chains of members differ: {', '.join(found.differing)}")
    if found.stuck:
        raise Failed(f"{found.stuck} of {len(found.outcomes)} payments did not become final")


async def _search(session: Session, plan: Plan, limit_ms: int) -> None:
    load = Load(session.federation, session.output.progress)
    steps: list[dict[str, Any]] = []

    async def run(rate: float) -> Found:
        return await load.run(
            Plan(
                rate=rate,
                seconds=plan.seconds,
                wallets=plan.wallets,
                drain_s=plan.drain_s,
                members=plan.members,
            )
        )

    def tell(found: Found, holds: bool) -> None:
        steps.append({"holds": holds, **as_json(found)})
        session.output.progress("step", _step_text(found, holds))

    highest = min(RATE_MAX, PAYMENTS_MAX / plan.seconds)
    rate = await find_max(run, plan.rate, highest, limit_ms, tell)
    text = f"sustained {rate:g} payments/s with 99 of 100 final in {limit_ms / 1_000:g} s"
    if rate >= highest:
        text += ", the highest that was tried"
    session.output.result(
        {"sustained_per_s": rate, "limit_ms": limit_ms, "steps": steps},
        text if rate else "not one of the rates was sustained",
    )


def _step_text(found: Found, holds: bool) -> str:
    p50, p99 = found.percentile(50), found.percentile(99)
    word = "holds" if holds else "does not hold"
    if found.falls_behind:
        word += " (falls behind)"
    return (
        f"{found.rate:g}/s {word}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {found.stuck} stuck, "
        f"{found.achieved_per_s:.0f}/s achieved"
    )
