"""State digests of all members, compared at equal heights.

Source: peg:P33.
"""

from collections import OrderedDict

HEIGHTS_KEPT = 512


class DigestWatch:
    """Own digests by height and the others' newest. One owner: the service."""

    def __init__(self, byzantine_tolerated: int) -> None:
        """Start empty.

        Args:
            byzantine_tolerated: f_s; one liar alone must not stop anybody.
        """
        self._tolerated = max(byzantine_tolerated, 0)
        self._own: OrderedDict[int, bytes] = OrderedDict()
        self._theirs: dict[int, tuple[int, bytes]] = {}
        self._differing: set[int] = set()

    @property
    def differing(self) -> tuple[int, ...]:
        """Members whose newest comparable digest is not the own one."""
        return tuple(sorted(self._differing))

    @property
    def too_many_differ(self) -> bool:
        """Whether more than f_s others differ: own peg signing stops."""
        return len(self._differing) > self._tolerated

    def compute(self, height: int, digest: bytes) -> None:
        """Remember the own digest of a height and compare what others said of it."""
        self._own[height] = digest
        while len(self._own) > HEIGHTS_KEPT:
            self._own.popitem(last=False)
        for member, (theirs, said) in self._theirs.items():
            if theirs == height:
                self._compare(member, digest, said)

    def hear(self, member: int, height: int, digest: bytes) -> None:
        """Remember a member's digest and compare it; one of a lower height is passed over."""
        known = self._theirs.get(member)
        if known is not None and known[0] > height:
            return
        self._theirs[member] = (height, digest)
        own = self._own.get(height)
        if own is not None:
            self._compare(member, own, digest)

    def _compare(self, member: int, own: bytes, said: bytes) -> None:
        if own == said:
            self._differing.discard(member)
        else:
            self._differing.add(member)
