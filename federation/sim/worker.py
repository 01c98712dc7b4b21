"""A process that runs seeds: ranges on standard input, one JSON line a seed on standard output.

It ends with its input, so it never outlives whoever started it.

Source: consensus:10.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from federation.sim.drawing import Mix
from federation.sim.runner import run_once


def main() -> None:
    """Serve ranges until the input ends."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        mix = Mix(**order["mix"])
        for seed in range(order["first"], order["end"]):
            outcome = run_once(mix.scenario(seed), seed)
            print(json.dumps(asdict(outcome)), flush=True)
            if not outcome.is_good:
                break
        print(json.dumps({"done": order["first"]}), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
