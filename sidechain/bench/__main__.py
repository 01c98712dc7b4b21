"""`python -m sidechain.bench`: measure a node, alone or beside another one.

Prints one JSON object; progress goes to stderr. Nothing stays behind: the daemons are ended and
their folders removed, also after Ctrl-C.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidechain.bench.daemon import OWN_COMMAND
from sidechain.bench.load import Load, Shape, make_load
from sidechain.bench.phases import ACCEPT_PHASES, measure
from sidechain.bench.wire import RequestFailed
from sidechain.errors import Invalid, Unavailable

TRANSACTIONS = 50_000
SMALL_BLOCK = 1_000
LARGE_BLOCK = 3_500
"""As many payments as a block has room for, nearly."""
BLOCKS = 4
HIDDEN_BLOCKS = 2
HIDDEN_BLOCK = 150


def shape_of(transactions: int, seed: int) -> Shape:
    """What to make for so many transactions in the mempool."""
    each = max(transactions // len(ACCEPT_PHASES), 1)
    small, large = (max(min(size, transactions), 1) for size in (SMALL_BLOCK, LARGE_BLOCK))
    hidden = max(min(HIDDEN_BLOCK, transactions // 10), 1)
    return Shape(
        accepted=(each,) * len(ACCEPT_PHASES),
        blocks=(small, small, *(large,) * BLOCKS),
        hidden_blocks=(hidden,) * HIDDEN_BLOCKS,
        seed=seed,
    )


def run(
    *,
    command: str,
    against: str | None,
    transactions: int,
    seed: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Make the load, measure one daemon or two with it, and return the report.

    Args:
        against: command of a second daemon, which gets the same load after the first.
        tell: is told of the progress.
    Raises:
        RequestFailed: a daemon does not start, or refuses what is valid.
    """
    tell(f"making the load for {transactions} transactions")
    load: Load = make_load(shape_of(transactions, seed))
    report: dict[str, Any] = {"seed": seed, "load": load.shape()}
    with TemporaryDirectory(prefix="fedpeg-bench-") as folder:
        report["figures"] = measure(command, load, Path(folder) / "own", tell)
        if against is not None:
            report["against"] = against
            other = measure(
                against, load, Path(folder) / "other", lambda text: tell(f"against: {text}")
            )
            report["figures_against"] = other
            report["ratios"] = ratios(report["figures"], other)
    return report


def ratios(own: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times faster the first one is, and how much memory it takes of the second's."""
    pairs = {
        f"accept_{name}": (own["accept_tx_per_s"][name], other["accept_tx_per_s"][name])
        for name in own["accept_tx_per_s"]
    }
    for name, rate in (
        ("connect", lambda each: each["connect"]["tx_per_s_median"]),
        ("hidden_connect", _hidden_rate),
        ("reindex", lambda each: each["reindex"]["tx_per_s"]),
        ("memory", lambda each: each["memory"]["rss_mib"]),
    ):
        pairs[name] = rate(own), rate(other)
    return {name: round(first / second, 2) for name, (first, second) in pairs.items() if second}


def _hidden_rate(figures: dict[str, Any]) -> float:
    rates = [float(row["tx_per_s"]) for row in figures["hidden_connect"]["blocks"]]
    return max(rates, default=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sidechain.bench", description=__doc__)
    parser.add_argument(
        "--transactions",
        type=int,
        default=TRANSACTIONS,
        help=f"in the mempool at the end (default {TRANSACTIONS})",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the load (default 1)")
    parser.add_argument("--daemon", default=OWN_COMMAND, help="command of the node to measure")
    parser.add_argument(
        "--against",
        metavar="COMMAND",
        help="measure another elementsd-compatible daemon with the same load, and print ratios",
    )
    given = parser.parse_args(arguments)
    if given.transactions < len(ACCEPT_PHASES) or not 0 <= given.seed < 1 << 32:
        parser.error(f"at least {len(ACCEPT_PHASES)} transactions, and a seed of 32 bits")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = run(
            command=given.daemon,
            against=given.against,
            transactions=given.transactions,
            seed=given.seed,
            tell=lambda text: print(text, file=sys.stderr, flush=True),
        )
    except (RequestFailed, Invalid, Unavailable, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
