"""The member set of one height and the numbers that follow from it.

A set is the signblockscript in force for a height, in script order. The chain alone decides it; the
shell computes it for each height and passes it in.

Source: consensus:1.1, consensus:C10, consensus:C80, N1, N3.
"""

from dataclasses import dataclass
from typing import Self

MEMBERS_MAX = 20
BLOCK_KEY_SIZE_BYTES = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One key of the signblockscript: `index` in script order, `block_key` 33 bytes compressed."""

    index: int
    block_key: bytes

    @property
    def vote_key(self) -> bytes:
        """The x-only form, 32 bytes: what votes and roll-call answers are signed with."""
        return self.block_key[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSet:
    """Who proposes, votes and signs at one height, and how many of them it takes.

    Args:
        members: in script order, `members[i].index == i`.
        k: signatures that make a block, and votes that make a quorum.
    """

    members: tuple[Member, ...]
    k: int

    @classmethod
    def of(cls, block_keys: tuple[bytes, ...], k: int) -> Self:
        """A set from the keys of a signblockscript.

        Raises:
            ValueError: no key, more than 20, a key of another length or twice, k outside 1…n.
        """
        if not 1 <= len(block_keys) <= MEMBERS_MAX:
            raise ValueError(f"a member set has 1 to {MEMBERS_MAX} keys")
        if any(len(key) != BLOCK_KEY_SIZE_BYTES for key in block_keys):
            raise ValueError("a block key has 33 bytes")
        if len({key[1:] for key in block_keys}) != len(block_keys):
            raise ValueError("a block key appears twice")
        if not 1 <= k <= len(block_keys):
            raise ValueError("k is between 1 and n")
        members = tuple(Member(index=i, block_key=key) for i, key in enumerate(block_keys))
        return cls(members=members, k=k)

    @property
    def n(self) -> int:
        """How many members there are."""
        return len(self.members)

    @property
    def f_s(self) -> int:
        """Byzantine members that safety bears: 2k − n − 1. Below 1, one liar can fork (C1)."""
        return 2 * self.k - self.n - 1

    @property
    def f_l(self) -> int:
        """Members that may be down or silent while blocks go on: n − k."""
        return self.n - self.k

    @property
    def s(self) -> int:
        """Members whose positions move another one to a later round (C32); at least 1."""
        return max(min(self.f_s, self.f_l), 0) + 1

    def proposer(self, height: int, round_number: int) -> int:
        """Index of the member whose turn it is (C10)."""
        return (height + round_number) % self.n

    def index_of(self, vote_key: bytes) -> int | None:
        """Index of an x-only key of 32 bytes, None when it is no member's."""
        for member in self.members:
            if member.vote_key == vote_key:
                return member.index
        return None


def witness_limit_bytes(n: int, k: int) -> int:
    """W: the largest signblock witness of a k-of-n script, in bytes. Source: consensus:V1."""
    script_size = 3 + 34 * n
    return 1 + 1 + 73 * k + (1 if script_size < 253 else 3) + script_size


def default_k(n: int) -> int:
    """Threshold of a new federation of n members: ⌊2n/3⌋ + 1 (N3)."""
    return 2 * n // 3 + 1


def check_byzantine_safety(members: MemberSet, *, allow_none: bool) -> str | None:
    """Refuse a set in which one liar can fork the chain (C1).

    Args:
        allow_none: the operator gave `--allow-no-byzantine-safety`.
    Returns:
        A warning to show at every start, or None when at least one liar is borne.
    Raises:
        ValueError: f_s < 1 and not allowed.
    """
    if members.f_s >= 1:
        return None
    text = (
        f"{members.k} of {members.n} members bear no Byzantine member: "
        "one lying member can fork the chain"
    )
    if not allow_none:
        raise ValueError(text)
    return text
