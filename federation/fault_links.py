"""Which ways between members a fault is about, written as people write them.

`m0` is one member against all others, `m0,m1|m2,m3` groups that do not reach each other, `m0>m1`
one way only, `all` every way. Members may also be named by their index.

Source: consensus:10.1 scenario 8.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

Way = tuple[int, int]
"""From the member with the first index to the one with the second."""

ALL: Final = "all"


class InvalidLinks(ValueError):
    """Text that names no ways between members; says why."""


def parse_ways(texts: Iterable[str], names: Sequence[str]) -> frozenset[Way]:
    """All the ways that these texts name together.

    Args:
        names: the members' names, by index.
    Raises:
        InvalidLinks: a member is unknown or named twice, a group is empty, or nothing is named.
    """
    ways: set[Way] = set()
    for text in texts:
        ways |= _one_text(text.replace(" ", ""), names)
    if not ways:
        raise InvalidLinks("no link is named")
    return frozenset(ways)


def between(groups: Sequence[Sequence[str]], names: Sequence[str]) -> frozenset[Way]:
    """Both ways between members of different groups; one group alone is against all others.

    Raises:
        InvalidLinks: as `parse_ways`.
    """
    found = [_group(group, names) for group in groups]
    members = [member for group in found for member in group]
    twice = sorted(member for member in set(members) if members.count(member) > 1)
    if twice:
        raise InvalidLinks(f"{names[twice[0]]} is named twice")
    if len(found) == 1:
        found.append([i for i in range(len(names)) if i not in found[0]])
        if not found[1]:
            raise InvalidLinks("one group of all members has no others to be cut from")
    return frozenset(
        (one, other)
        for group in found
        for rest in found
        if rest is not group
        for one in group
        for other in rest
    )


def one_way(sources: Sequence[str], targets: Sequence[str], names: Sequence[str]) -> frozenset[Way]:
    """The ways from each source to each target.

    Raises:
        InvalidLinks: as `parse_ways`.
    """
    froms, tos = _group(sources, names), _group(targets, names)
    both = sorted(set(froms) & set(tos))
    if both:
        raise InvalidLinks(f"{names[both[0]]} has no link to itself")
    return frozenset((one, other) for one in froms for other in tos)


def by_member(ways: Iterable[Way]) -> Mapping[int, tuple[frozenset[int], frozenset[int]]]:
    """For each member that has a part in these ways: whom it reaches, and who reaches it."""
    found: dict[int, tuple[set[int], set[int]]] = {}
    for source, target in sorted(ways):
        found.setdefault(source, (set(), set()))[0].add(target)
        found.setdefault(target, (set(), set()))[1].add(source)
    return {member: (frozenset(out), frozenset(into)) for member, (out, into) in found.items()}


def _one_text(text: str, names: Sequence[str]) -> frozenset[Way]:
    if text == ALL:
        return frozenset((i, j) for i in range(len(names)) for j in range(len(names)) if i != j)
    if ">" in text:
        if "|" in text or text.count(">") > 1:
            raise InvalidLinks(f"{text!r}: one > between two groups, and no | beside it")
        sources, targets = text.split(">")
        return one_way(sources.split(","), targets.split(","), names)
    return between([group.split(",") for group in text.split("|")], names)


def _group(words: Sequence[str], names: Sequence[str]) -> list[int]:
    found: list[int] = []
    for word in words:
        if not word:
            raise InvalidLinks("a group names no member; write m0,m1|m2,m3 or m0>m1")
        known = [i for i, name in enumerate(names) if word in (name, str(i))]
        if not known:
            raise InvalidLinks(f"no member {word!r}: there are {', '.join(names)}")
        if known[0] in found:
            raise InvalidLinks(f"{word} is named twice")
        found.append(known[0])
    if not found:
        raise InvalidLinks("a group names no member")
    return found
