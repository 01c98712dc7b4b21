"""Transactions between members: announce, ask, hand over; bounded for each peer.

Pure state: every call returns the frames to send. The shell owns sockets and the mempool.

Source: N15 (TXINV, TXGET, TX), N17, consensus:C97.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from federation.consensus.encoding import FrameKind

INVENTORY_MAX: Final = 64
"""Transaction ids in one TXINV or TXGET (N15)."""
KNOWN_PER_PEER_MAX: Final = 20_000
ASKED_PER_PEER_MAX: Final = 1_000
HELD_MAX: Final = 20_000
WAITING_MAX: Final = 200
"""Transactions kept because an input is not known yet."""


class InvalidInventory(Exception):
    """A TXINV or TXGET that is not exactly count × 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TxFrame:
    """One frame for one member."""

    member: int
    kind: FrameKind
    body: bytes


def encode_inventory(wtxids: list[bytes]) -> bytes:
    """Body of TXINV or TXGET for 1 to 64 ids of 32 bytes."""
    return bytes((len(wtxids),)) + b"".join(wtxids)


def decode_inventory(body: bytes) -> list[bytes]:
    """Ids of a TXINV or TXGET.

    Raises:
        InvalidInventory: no ids, more than 64, or another length than they need.
    """
    if not body or not 1 <= body[0] <= INVENTORY_MAX or len(body) != 1 + 32 * body[0]:
        raise InvalidInventory("inventory has another length than its count says")
    return [body[i : i + 32] for i in range(1, len(body), 32)]


class TransactionGossip:
    """What each peer has and was asked for, and the bytes of transactions in the mempool."""

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        self._known: dict[int, dict[bytes, None]] = {}
        self._asked: dict[bytes, int] = {}
        self._waiting: dict[bytes, tuple[int, bytes]] = {}

    def peer_connected(self, member: int) -> list[TxFrame]:
        """Announce everything held to a new peer."""
        self._known[member] = {}
        return self._announce(member, self._held)

    def peer_disconnected(self, member: int) -> None:
        """Forget a peer; what it was asked for may be asked of others again."""
        self._known.pop(member, None)
        self._asked = {wtxid: m for wtxid, m in self._asked.items() if m != member}

    def accepted(self, wtxid: bytes, data: bytes) -> list[TxFrame]:
        """A transaction entered the mempool: hold its bytes, announce it to who lacks it."""
        self._held[wtxid] = data
        _trim(self._held, HELD_MAX)
        self._asked.pop(wtxid, None)
        self._waiting.pop(wtxid, None)
        return [
            frame for member in sorted(self._known) for frame in self._announce(member, (wtxid,))
        ]

    def left_mempool(self, wtxids: Iterable[bytes]) -> None:
        """Transactions were mined, replaced or expired."""
        for wtxid in wtxids:
            self._held.pop(wtxid, None)

    def on_inventory(self, member: int, wtxids: list[bytes]) -> list[TxFrame]:
        """A peer has these: ask for those neither held nor asked for yet."""
        known = self._known.setdefault(member, {})
        wanted: list[bytes] = []
        asked_of_peer = sum(1 for m in self._asked.values() if m == member)
        for wtxid in wtxids:
            known[wtxid] = None
            held = wtxid in self._held or wtxid in self._asked or wtxid in self._waiting
            if not held and asked_of_peer + len(wanted) < ASKED_PER_PEER_MAX:
                self._asked[wtxid] = member
                wanted.append(wtxid)
        _trim(known, KNOWN_PER_PEER_MAX)
        if not wanted:
            return []
        return [TxFrame(member=member, kind=FrameKind.TXGET, body=encode_inventory(wanted))]

    def on_request(self, member: int, wtxids: list[bytes]) -> list[TxFrame]:
        """A peer asks: hand over what is held."""
        known = self._known.setdefault(member, {})
        frames = []
        for wtxid in wtxids:
            data = self._held.get(wtxid)
            if data is not None:
                known[wtxid] = None
                frames.append(TxFrame(member=member, kind=FrameKind.TX, body=data))
        return frames

    def on_transaction(self, member: int, wtxid: bytes) -> bool:
        """A peer handed over a transaction; False when it is held already."""
        self._known.setdefault(member, {})[wtxid] = None
        self._asked.pop(wtxid, None)
        return wtxid not in self._held

    def wait_for_inputs(self, member: int, wtxid: bytes, data: bytes) -> None:
        """Keep a transaction whose inputs are not known yet; the oldest make room."""
        self._waiting[wtxid] = (member, data)
        _trim(self._waiting, WAITING_MAX)

    def take_waiting(self) -> list[tuple[int, bytes]]:
        """All (member, bytes) that waited for inputs, oldest first; they are no longer kept."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting

    def _announce(self, member: int, wtxids: Iterable[bytes]) -> list[TxFrame]:
        known = self._known[member]
        news = [wtxid for wtxid in wtxids if wtxid not in known]
        known.update(dict.fromkeys(news))
        _trim(known, KNOWN_PER_PEER_MAX)
        return [
            TxFrame(
                member=member,
                kind=FrameKind.TXINV,
                body=encode_inventory(news[i : i + INVENTORY_MAX]),
            )
            for i in range(0, len(news), INVENTORY_MAX)
        ]


def _trim(mapping: dict[bytes, Any], most: int) -> None:
    while len(mapping) > most:
        del mapping[next(iter(mapping))]
