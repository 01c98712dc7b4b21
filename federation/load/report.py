"""What a load found: how long payments took to be final, and what got stuck and why.

A payment that never became final counts as one that took for ever: it moves the percentiles, or
a system that drops what is late would look quick.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PERCENTS: Final = {"p50": 50, "p90": 90, "p99": 99}
NEVER: Final = math.inf
EXAMPLES_SHOWN: Final = 10
GROWTH_MAX: Final = 1.5
GROWTH_SLACK_MS: Final = 200
"""How much longer the last payments of a load may take than earlier ones when it is sustained."""


@dataclass(slots=True)
class Outcome:
    """One payment's way; milliseconds from the start of the load.

    Attributes:
        member: index in the list of members.
        due_ms: when it was to be sent, whatever else went on.
        sent_ms: when it was.
        accepted_ms: when the member's answer was here.
        height: of the block that has it.
        refusal: why it was not taken in, "" when it was or there is no answer.
    """

    txid: bytes
    member: int
    due_ms: float
    sent_ms: float = NEVER
    accepted_ms: float = NEVER
    final_ms: float = NEVER
    height: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUse:
    """What a process has used: time of a core, memory."""

    pid: int
    cpu_ms: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSeen:
    """A block that became final while the load ran."""

    height: int
    final_ms: float
    transactions: int
    size_bytes: int
    round: int | None = None


@dataclass(slots=True, kw_only=True)
class Found:
    """Everything a load found."""

    rate: float
    seconds: float
    names: Sequence[str]
    outcomes: list[Outcome]
    blocks: list[BlockSeen] = field(default_factory=list)
    before: Mapping[str, ProcessUse] = field(default_factory=dict)
    after: Mapping[str, ProcessUse] = field(default_factory=dict)
    whereabouts: Mapping[bytes, str] = field(default_factory=dict)
    """Where payments are that were taken in and are not final."""
    differing: Sequence[str] = ()
    """Members whose chain is not that of the others."""

    @property
    def final(self) -> int:
        """Payments that are final."""
        return sum(1 for each in self.outcomes if each.final_ms < NEVER)

    @property
    def stuck(self) -> int:
        """Payments that are not."""
        return len(self.outcomes) - self.final

    def percentile(self, percent: int) -> float:
        """Milliseconds to finality that so many percent did not exceed."""
        return _percentile(sorted(_latencies(self.outcomes)), percent)

    @property
    def falls_behind(self) -> bool:
        """Whether payments took longer and longer: the last quarter against the second."""
        latencies = _latencies(self.outcomes)
        quarter = len(latencies) // 4
        before = sorted(latencies[quarter : 2 * quarter])
        last = sorted(latencies[len(latencies) - quarter :])
        allowed_ms = GROWTH_MAX * _percentile(before, 50) + GROWTH_SLACK_MS
        return bool(quarter) and _percentile(last, 50) > allowed_ms

    @property
    def achieved_per_s(self) -> float:
        """Payments final a second, from the first that was due to the last that became final."""
        last_ms = max((e.final_ms for e in self.outcomes if e.final_ms < NEVER), default=0.0)
        return 1_000 * self.final / last_ms if last_ms > 0 else 0.0


def as_json(found: Found) -> dict[str, Any]:
    """The report for programs; what never happened is null."""
    outcomes = found.outcomes
    return {
        "rate": found.rate,
        "seconds": found.seconds,
        "achieved_per_s": round(found.achieved_per_s, 1),
        "payments": len(outcomes),
        "final": found.final,
        "stuck": stuck_json(found),
        "final_ms": spread(_latencies(outcomes)),
        "accepted_ms": spread([e.accepted_ms - e.due_ms for e in outcomes]),
        "sent_late_ms": spread([e.sent_ms - e.due_ms for e in outcomes]),
        "members": {
            name: _member_json(found, index, name) for index, name in enumerate(found.names)
        },
        "blocks": _blocks_json(found),
        "processes": _processes_json(found),
        "chains_agree": not found.differing,
        "differing": list(found.differing),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Percentiles by nearest rank and the extremes; null for never."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {"min": ordered[0]}
    found |= {name: _percentile(ordered, percent) for name, percent in PERCENTS.items()}
    found |= {"max": ordered[-1]}
    return {name: None if math.isinf(v) else round(v, 1) for name, v in found.items()}


def stuck_json(found: Found) -> list[dict[str, Any]]:
    """Why payments are not final, the most frequent reason first."""
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for each in found.outcomes:
        if each.final_ms < NEVER:
            continue
        reason = _why(found, each)
        reasons[reason] += 1
        examples.setdefault(reason, each.txid[::-1].hex())
    return [
        {"reason": reason, "payments": count, "example": examples[reason]}
        for reason, count in reasons.most_common()
    ]


def as_text(found: Found) -> str:
    """The report for people."""
    shown = as_json(found)
    lines = [
        f"asked for      {found.rate:g} payments/s for {found.seconds:g} s",
        f"achieved       {shown['achieved_per_s']:g} payments/s final, "
        f"{found.final} of {len(found.outcomes)}",
        f"to finality    {_spread_text(shown['final_ms'])}",
        f"to acceptance  {_spread_text(shown['accepted_ms'])}",
        f"sent late      {_spread_text(shown['sent_late_ms'])}",
    ]
    blocks = shown["blocks"]
    if blocks["count"]:
        lines.append(
            f"blocks         {blocks['count']}, transactions p50 {blocks['transactions']['p50']:g} "
            f"max {blocks['transactions']['max']:g}, ms between p50 {blocks['apart_ms']['p50']:g} "
            f"max {blocks['apart_ms']['max']:g}, {blocks['after_round_0']} after round 0"
        )
    for name, use in shown["processes"].items():
        lines.append(
            f"{name:<15}{use['cpu_percent']:g} % of a core, {use['cpu_ms_per_payment']:g} ms a "
            f"payment, memory {use['rss_before_mb']:g} to {use['rss_after_mb']:g} MB"
        )
    for each in shown["stuck"][:EXAMPLES_SHOWN]:
        lines.append(
            f"stuck          {each['payments']}: {each['reason']} (such as {each['example']})"
        )
    if not shown["stuck"]:
        lines.append("stuck          nothing")
    if found.differing:
        lines.append(f"CHAINS DIFFER  {', '.join(found.differing)}")
    return "\n".join(lines)


def _latencies(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.final_ms - each.due_ms for each in outcomes]


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else NEVER


def _why(found: Found, outcome: Outcome) -> str:
    if outcome.refusal:
        return outcome.refusal
    if math.isinf(outcome.sent_ms):
        return "not sent"
    return found.whereabouts.get(outcome.txid, "not looked for")


def _member_json(found: Found, index: int, name: str) -> dict[str, Any]:
    own = [each for each in found.outcomes if each.member == index]
    return {
        "payments": len(own),
        "final": sum(1 for each in own if each.final_ms < NEVER),
        "final_ms": spread(_latencies(own)),
    }


def _blocks_json(found: Found) -> dict[str, Any]:
    blocks = found.blocks
    times = [block.final_ms for block in blocks]
    rounds = [block.round for block in blocks if block.round is not None]
    return {
        "count": len(blocks),
        "first": blocks[0].height if blocks else None,
        "last": blocks[-1].height if blocks else None,
        "transactions": spread([float(block.transactions) for block in blocks]),
        "bytes": spread([float(block.size_bytes) for block in blocks]),
        "apart_ms": spread([b - a for a, b in zip(times, times[1:], strict=False)]),
        "after_round_0": sum(1 for number in rounds if number > 0),
    }


def _processes_json(found: Found) -> dict[str, Any]:
    shown = {}
    payments, blocks = max(1, found.final), max(1, len(found.blocks))
    for name, after in found.after.items():
        before = found.before.get(name)
        if before is None:
            continue
        cpu_ms = after.cpu_ms - (before.cpu_ms if before.pid == after.pid else 0)
        shown[name] = {
            "cpu_ms": cpu_ms,
            "cpu_percent": round(cpu_ms / (10 * found.seconds), 1) if found.seconds else 0.0,
            "cpu_ms_per_payment": round(cpu_ms / payments, 3),
            "cpu_ms_per_block": round(cpu_ms / blocks, 1),
            "rss_before_mb": round(before.rss_bytes / 1_000_000, 1),
            "rss_after_mb": round(after.rss_bytes / 1_000_000, 1),
        }
    return shown


def _spread_text(values: Mapping[str, float | None]) -> str:
    if not values:
        return "nothing"
    shown = [
        f"{name} {'never' if value is None else f'{value:.0f} ms'}"
        for name, value in values.items()
    ]
    return "  ".join(shown)
