"""Every target of the fuzzer on what it starts from, with all its bounds; no fuzzer is needed."""

import random

import pytest

from tests.fuzz.seeds import found_inputs, seeds
from tests.fuzz.targets import TARGETS, examine

SEEDS_EACH = 12
CHANGED_EACH = 15


@pytest.mark.parametrize("name", TARGETS)
def test_target_when_given_inputs_found_before_then_its_properties_hold(name: str) -> None:
    for data in found_inputs(name):
        examine(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_target_when_given_what_is_recorded_then_its_properties_hold(name: str) -> None:
    known = seeds(name)
    for data in random.Random(name).sample(known, min(SEEDS_EACH, len(known))):
        examine(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_target_when_recorded_bytes_are_changed_then_its_properties_hold(name: str) -> None:
    chance = random.Random(name)
    known = seeds(name) or [b"\0" * 40]
    for _ in range(CHANGED_EACH):
        data = bytearray(chance.choice(known))
        for _ in range(chance.randint(1, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        examine(TARGETS[name], bytes(data[: chance.randint(0, len(data))]))
        examine(TARGETS[name], bytes(data))
