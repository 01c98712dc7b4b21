"""Transactions between members: announce, ask, hand over; bounded for each peer.

Pure state: every call returns what to send. The shell owns sockets and the mempool, which alone
holds the bytes of what was accepted.

Source: N15 (TXINV, TXGET, TX), N17, consensus:C97.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from federation.consensus.encoding import FrameKind

INVENTORY_MAX: Final = 64
"""Transaction ids in one TXINV or TXGET (N15)."""
KNOWN_PER_PEER_MAX: Final = 20_000
ASKED_PER_PEER_MAX: Final = 1_000
ASK_PATIENCE_MS: Final = 5_000
"""A peer that does not hand over what it announced is left for another one after this time."""
HELD_MAX: Final = 50_000
REFUSED_MAX: Final = 10_000
WAITING_MAX: Final = 200
WAITING_MAX_BYTES: Final = 4_000_000
"""Transactions kept because an input is not known yet."""


class InvalidInventory(Exception):
    """A TXINV or TXGET that is not exactly count × 32 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TxFrame:
    """One frame for one member."""

    member: int
    kind: FrameKind
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A transaction without its inputs; one of `parents` may bring them."""

    member: int
    data: bytes
    parents: frozenset[bytes]


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
    """What each peer has and was asked for, and which transactions of the mempool are known."""

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        """Txid by wtxid."""
        self._fresh: dict[bytes, None] = {}
        self._known: dict[int, dict[bytes, None]] = {}
        self._asked: dict[bytes, tuple[int, int]] = {}
        """Member and time of the last question, by wtxid; oldest question first."""
        self._refused: dict[bytes, None] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._waiting_bytes = 0

    # -- peers

    def peer_connected(self, member: int) -> list[TxFrame]:
        """Announce everything held to a new peer."""
        self._known[member] = {}
        return self._announce(member, self._held)

    def peer_disconnected(self, member: int, now_ms: int) -> list[TxFrame]:
        """Forget a peer; what it was asked for is asked of others who announced it."""
        self._known.pop(member, None)
        lost = [wtxid for wtxid, (asked, _) in self._asked.items() if asked == member]
        return self._ask_others(lost, now_ms)

    def retry(self, now_ms: int) -> list[TxFrame]:
        """Ask others for what was not handed over in time; call it every second."""
        late = []
        for wtxid, (_, asked_ms) in self._asked.items():
            if now_ms - asked_ms < ASK_PATIENCE_MS:
                break
            late.append(wtxid)
        return self._ask_others(late, now_ms)

    # -- the mempool

    def accepted(self, wtxid: bytes, txid: bytes) -> None:
        """A transaction entered the mempool; `announce` tells the peers."""
        self._held[wtxid] = txid
        _trim(self._held, HELD_MAX)
        self._fresh[wtxid] = None
        self._asked.pop(wtxid, None)
        self._refused.pop(wtxid, None)
        self._stop_waiting(wtxid)

    def announce(self) -> list[TxFrame]:
        """Tell every peer what was accepted since the last time and what it lacks."""
        fresh = [wtxid for wtxid in self._fresh if wtxid in self._held]
        self._fresh.clear()
        return [frame for member in sorted(self._known) for frame in self._announce(member, fresh)]

    def refused(self, wtxid: bytes) -> None:
        """The mempool does not want a transaction: it is not asked for until the chain moves."""
        self._refused[wtxid] = None
        _trim(self._refused, REFUSED_MAX)

    def chain_moved(self, wtxids: Iterable[bytes]) -> None:
        """A block with these transactions is final; what was refused may be welcome now."""
        self._refused.clear()
        for wtxid in wtxids:
            self._held.pop(wtxid, None)
            self._asked.pop(wtxid, None)
            self._stop_waiting(wtxid)

    def keep_only(self, is_held: Callable[[bytes, bytes], bool]) -> None:
        """Forget what was replaced, evicted or expired; `is_held` takes wtxid and txid."""
        gone = [wtxid for wtxid, txid in self._held.items() if not is_held(wtxid, txid)]
        for wtxid in gone:
            del self._held[wtxid]

    # -- frames

    def on_inventory(self, member: int, wtxids: list[bytes], now_ms: int) -> list[TxFrame]:
        """A peer has these: ask for those neither held, asked for, waiting nor refused."""
        known = self._known.setdefault(member, {})
        room = ASKED_PER_PEER_MAX - self._asked_of(member)
        wanted: list[bytes] = []
        for wtxid in wtxids:
            known[wtxid] = None
            if len(wanted) < room and not self._has_seen(wtxid):
                self._asked[wtxid] = (member, now_ms)
                wanted.append(wtxid)
        _trim(known, KNOWN_PER_PEER_MAX)
        return [_get(member, wanted)] if wanted else []

    def on_request(self, member: int, wtxids: list[bytes]) -> list[bytes]:
        """A peer asks; the txids of what is held, to be handed over."""
        known = self._known.setdefault(member, {})
        found = [wtxid for wtxid in wtxids if wtxid in self._held]
        known.update(dict.fromkeys(found))
        _trim(known, KNOWN_PER_PEER_MAX)
        return [self._held[wtxid] for wtxid in found]

    def on_transaction(self, member: int, wtxid: bytes) -> bool:
        """A peer handed over a transaction; False when it was not asked for it."""
        known = self._known.setdefault(member, {})
        known[wtxid] = None
        _trim(known, KNOWN_PER_PEER_MAX)
        if self._asked.get(wtxid, (None, 0))[0] != member:
            return False
        del self._asked[wtxid]
        return wtxid not in self._held

    # -- transactions that came before their inputs

    def wait_for_inputs(
        self, member: int, wtxid: bytes, data: bytes, parents: Iterable[bytes]
    ) -> None:
        """Keep a transaction whose inputs are not known yet; the oldest make room.

        Args:
            parents: txids that it spends from.
        """
        self._stop_waiting(wtxid)
        self._waiting[wtxid] = _Waiting(member=member, data=data, parents=frozenset(parents))
        self._waiting_bytes += len(data)
        while len(self._waiting) > WAITING_MAX or self._waiting_bytes > WAITING_MAX_BYTES:
            self._stop_waiting(next(iter(self._waiting)))

    def take_waiting(self, txids: Collection[bytes]) -> list[tuple[int, bytes]]:
        """Those (member, bytes) that spend from these, oldest first; they are no longer kept."""
        found = {w: e for w, e in self._waiting.items() if not e.parents.isdisjoint(txids)}
        for wtxid in found:
            self._stop_waiting(wtxid)
        return [(entry.member, entry.data) for entry in found.values()]

    # -- inside

    def _has_seen(self, wtxid: bytes) -> bool:
        return (
            wtxid in self._held
            or wtxid in self._asked
            or wtxid in self._waiting
            or wtxid in self._refused
        )

    def _asked_of(self, member: int) -> int:
        return sum(1 for asked, _ in self._asked.values() if asked == member)

    def _ask_others(self, wtxids: list[bytes], now_ms: int) -> list[TxFrame]:
        """One more question about each, to a member that announced it and was not asked last."""
        questions: dict[int, list[bytes]] = {}
        for wtxid in wtxids:
            asked, _ = self._asked.pop(wtxid)
            others = [m for m in sorted(self._known) if m != asked and wtxid in self._known[m]]
            if others:
                later = [m for m in others if m > asked]
                chosen = later[0] if later else others[0]
                self._asked[wtxid] = (chosen, now_ms)
                questions.setdefault(chosen, []).append(wtxid)
        return [
            _get(member, asked_for[i : i + INVENTORY_MAX])
            for member, asked_for in questions.items()
            for i in range(0, len(asked_for), INVENTORY_MAX)
        ]

    def _stop_waiting(self, wtxid: bytes) -> None:
        entry = self._waiting.pop(wtxid, None)
        if entry is not None:
            self._waiting_bytes -= len(entry.data)

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


def _get(member: int, wtxids: list[bytes]) -> TxFrame:
    return TxFrame(member=member, kind=FrameKind.TXGET, body=encode_inventory(wtxids))


def _trim(mapping: dict[bytes, Any], most: int) -> None:
    while len(mapping) > most:
        del mapping[next(iter(mapping))]
