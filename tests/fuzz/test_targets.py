"""Every target of the fuzzer on what it starts from, with all its bounds; no fuzzer is needed."""

import random

import pytest

from sidechain.crypto.hashes import sha256d
from sidechain.crypto.zkp import asset_generator
from tests.fuzz.seeds import found_inputs, seeds
from tests.fuzz.targets import TARGETS, examine
from tests.fuzz.work import Bounds, CountedBytes, Work, check_memory, counted, peak_bytes

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


def test_work_when_done_then_counted() -> None:
    with counted() as work:
        sha256d(b"x")
        asset_generator(bytes(32))
        data = CountedBytes.of(bytes(10), work)
        assert data[2:9] == bytes(7)
        assert data[3] == 0
    assert (work.hashes, work.copied_bytes) == (2, 7)
    assert work.curve_operations >= 1
    with pytest.raises(AssertionError, match="3 hashes for 1 bytes, 2 are allowed"):
        Bounds(calls=1, hashes=2, curve_operations=0, free=0).check(Work(hashes=3), 1)


def test_memory_when_used_then_measured() -> None:
    assert peak_bytes(lambda: bytes(3 << 20)) >= 3 << 20
    with pytest.raises(AssertionError, match="bytes of memory"):
        check_memory(lambda: bytes(3 << 20), 1_000)
    check_memory(lambda: bytes(1 << 19), 1_000)
