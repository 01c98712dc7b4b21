"""Hypothesis strategies for hostile bytes."""

from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

hostile = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
"""Settings of every parser test: bounded work, no time limit an example (machines differ)."""


@st.composite
def mutated(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """One of some valid byte strings with a few bytes changed, inserted, removed or cut off."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut", "append"])):
            case "change" if data:
                data[position] = draw(st.integers(0, 255))
            case "insert":
                data[position:position] = draw(st.binary(min_size=1, max_size=9))
            case "remove":
                del data[position : position + draw(st.integers(1, 4))]
            case "cut":
                del data[position:]
            case _:
                data += draw(st.binary(min_size=1, max_size=4))
    return bytes(data)
