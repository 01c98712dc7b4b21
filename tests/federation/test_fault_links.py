"""Ways between members, as written on a command line or in a test."""

import pytest

from federation.fault_links import InvalidLinks, between, by_member, one_way, parse_ways

NAMES = ("m0", "m1", "m2", "m3")


@pytest.mark.parametrize(
    ("texts", "ways"),
    [
        (["m0>m1"], {(0, 1)}),
        (["0>1", "m1>m0"], {(0, 1), (1, 0)}),
        (["m0,m1>m3"], {(0, 3), (1, 3)}),
        (["m0 | m1"], {(0, 1), (1, 0)}),
        (["m3"], {(3, 0), (3, 1), (3, 2), (0, 3), (1, 3), (2, 3)}),
        (["m0|m1|m2"], {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}),
    ],
)
def test_ways_when_written_then_read(texts: list[str], ways: set[tuple[int, int]]) -> None:
    assert parse_ways(texts, NAMES) == ways


def test_ways_when_all_then_every_pair() -> None:
    assert len(parse_ways(["all"], NAMES)) == 12


def test_ways_when_of_groups_then_as_in_the_text() -> None:
    assert between([["m0", "m1"], ["m2", "m3"]], NAMES) == parse_ways(["m0,m1|m2,m3"], NAMES)
    assert one_way(["m0"], ["m1"], NAMES) == parse_ways(["m0>m1"], NAMES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("m9", "no member 'm9': there are m0, m1, m2, m3"),
        ("", "names no member"),
        ("m0|", "names no member"),
        ("m0,m0|m1", "m0 is named twice"),
        ("m0,m1|m1", "m1 is named twice"),
        ("m0>m0", "m0 has no link to itself"),
        ("m0>m1>m2", "one > between two groups"),
        ("m0>m1|m2", "one > between two groups"),
        ("m0,m1,m2,m3", "no others"),
    ],
)
def test_ways_when_they_name_nothing_then_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidLinks, match=reason):
        parse_ways([text], NAMES)
    with pytest.raises(InvalidLinks):
        parse_ways([], NAMES)


def test_ways_when_split_by_member_then_each_knows_both_its_directions() -> None:
    split = by_member(parse_ways(["m0>m1", "m2|m1"], NAMES))
    assert split == {0: ({1}, set()), 1: ({2}, {0, 2}), 2: ({1}, {1})}
