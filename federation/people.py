"""Everybody a member has links or dealings with, by the index of the links; it only grows.

Source: N1, N15, consensus:C83, consensus:C84.
"""

from collections.abc import Callable, Sequence

from federation.member_change import MemberChange
from federation.member_entry import MemberEntry
from federation.peer_identity import PeerMember


class People:
    """Founding members and who may join. The two lists of keys grow with `learn`.

    Args:
        entries: by index, from 0 on without gaps.
    """

    def __init__(self, entries: Sequence[MemberEntry]) -> None:
        self.entries = list(entries)
        self.block_keys = [entry.block_key for entry in entries]
        """33 bytes each."""
        self.vote_keys = [entry.block_key[1:] for entry in entries]
        """x-only, 32 bytes each."""

    def peers(self) -> list[PeerMember]:
        """All of them as links see them."""
        return [_peer(entry) for entry in self.entries]

    def learn(self, change: MemberChange) -> list[PeerMember]:
        """Take in who joins by a change; those who are new."""
        more = sorted(change.members, key=lambda entry: entry.index)
        new = [entry for entry in more if entry.index >= len(self.entries)]
        self.entries += new
        self.block_keys += [entry.block_key for entry in new]
        self.vote_keys += [entry.block_key[1:] for entry in new]
        return [_peer(entry) for entry in new]

    def dial_joining(
        self, change: MemberChange, own_index: int, dial: Callable[[PeerMember], None]
    ) -> None:
        """Take in who joins by a change; the lower index dials (N15)."""
        for peer in self.learn(change):
            if peer.index > own_index:
                dial(peer)


def _peer(entry: MemberEntry) -> PeerMember:
    return PeerMember(
        index=entry.index,
        host=entry.host,
        port=entry.port,
        certificate_pem=entry.certificate_pem,
        block_key=entry.block_key,
    )
