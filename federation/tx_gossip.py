"""Transactions between members: announce, ask, hand over; bounded for each peer.

Pure state: every call returns what to send. The shell owns sockets and the mempool, which alone
holds the bytes of what was accepted.

Source: N15 (TXINV, TXGET, TX), N17, consensus:C97.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from federation.consensus.encoding import FrameKind

INVENTORY_MAX: Final = 64
"""Transaction ids in one TXINV or TXGET (N15)."""
KNOWN_PER_PEER_MAX: Final = 20_000
ASKED_PER_PEER_MAX: Final = 1_000
"""What one peer is to be asked for, or was asked for and has not handed over."""
ASK_PATIENCE_MS: Final = 3_000
"""A peer that does not hand over what it announced is left for another one after this time."""
HELD_MAX: Final = 50_000
REFUSED_MAX: Final = 10_000
FINAL_MAX: Final = 20_000
"""Transactions of blocks that are not asked for when a peer announces them late."""
WAITING_MAX: Final = 200
WAITING_MAX_BYTES: Final = 4_000_000
"""Transactions kept because an input is not known yet."""


class Arrival(Enum):
    """What a transaction is that a peer handed over."""

    NEW = auto()
    KNOWN = auto()
    """Nothing to do: it is held, waits, was refused, or a block has it."""
    UNASKED = auto()
    """It had neither announced it nor been asked for it."""


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
    """What each peer has and was asked for, and which transactions of the mempool are known.

    A transaction that came in here is told to all peers at once, and small ones are handed over
    with the announcement, so that the next proposers and those who judge have them before a
    block does. What came from a peer is told on later (`announce_relayed`): its first member
    tells everyone itself, and by then most of it is final.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        """Txid by wtxid."""
        self._own: dict[bytes, None] = {}
        self._relayed: dict[bytes, None] = {}
        """What the peers have not been told of, by where it came from."""
        self._known: dict[int, dict[bytes, None]] = {}
        self._wanted: dict[bytes, int] = {}
        """Who announced it first, of what is to be asked for."""
        self._asked: dict[bytes, tuple[int, int]] = {}
        """Member and time of the last question, by wtxid; oldest question first."""
        self._open: Counter[int] = Counter()
        """How many each member is in `_wanted` and `_asked` for."""
        self._refused: dict[bytes, None] = {}
        self._final: dict[bytes, None] = {}
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
        for wtxid in [wtxid for wtxid, first in self._wanted.items() if first == member]:
            self._forget_wanted(wtxid)
            self._note_asked(wtxid, member, now_ms)
            lost.append(wtxid)
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

    def accepted(self, wtxid: bytes, txid: bytes, *, own: bool) -> None:
        """A transaction entered the mempool; `announce_own`, `announce_relayed` tell the peers.

        Args:
            own: whether it came in here, not from a peer.
        """
        self._held[wtxid] = txid
        _trim(self._held, HELD_MAX)
        if own:
            self._relayed.pop(wtxid, None)
            self._own[wtxid] = None
        elif wtxid not in self._own:
            self._relayed[wtxid] = None
        self._forget_asked(wtxid)
        self._forget_wanted(wtxid)
        self._refused.pop(wtxid, None)
        self._stop_waiting(wtxid)

    def announce_own(self) -> list[TxFrame]:
        """Tell every peer what came in here since the last time and what it lacks."""
        return self._announce_to_all(self._own)

    def announce_relayed(self) -> list[TxFrame]:
        """Tell every peer what came from others since the last time and what it lacks."""
        return self._announce_to_all(self._relayed)

    def refused(self, wtxid: bytes) -> None:
        """The mempool does not want a transaction: it is not asked for until the chain moves."""
        self._refused[wtxid] = None
        _trim(self._refused, REFUSED_MAX)

    def chain_moved(self, wtxids: Iterable[bytes]) -> None:
        """A block with these transactions is final; what was refused may be welcome now."""
        self._refused.clear()
        for wtxid in wtxids:
            self._held.pop(wtxid, None)
            self._forget_asked(wtxid)
            self._forget_wanted(wtxid)
            self._stop_waiting(wtxid)
            self._final[wtxid] = None
            for known in self._known.values():
                known.pop(wtxid, None)
        _trim(self._final, FINAL_MAX)

    def keep_only(self, is_held: Callable[[bytes, bytes], bool]) -> None:
        """Forget what was replaced, evicted or expired; `is_held` takes wtxid and txid."""
        gone = [wtxid for wtxid, txid in self._held.items() if not is_held(wtxid, txid)]
        for wtxid in gone:
            del self._held[wtxid]

    # -- frames

    def on_inventory(self, member: int, wtxids: list[bytes]) -> bool:
        """A peer has these: what is neither held, asked for, waiting, refused nor final is wanted.

        Returns:
            Whether `ask` has something to ask now.
        """
        known = self._known.setdefault(member, {})
        for wtxid in wtxids:
            known[wtxid] = None
            if self._open[member] < ASKED_PER_PEER_MAX and not self._has_seen(wtxid):
                self._wanted[wtxid] = member
                self._open[member] += 1
        _trim(known, KNOWN_PER_PEER_MAX)
        return bool(self._wanted)

    def ask(self, now_ms: int) -> list[TxFrame]:
        """Ask those who announced it first for what is wanted and has not come by itself."""
        questions: dict[int, list[bytes]] = {}
        for wtxid, member in list(self._wanted.items()):
            self._forget_wanted(wtxid)
            self._note_asked(wtxid, member, now_ms)
            questions.setdefault(member, []).append(wtxid)
        return _questions(questions)

    def on_request(self, member: int, wtxids: list[bytes]) -> list[bytes]:
        """A peer asks; the txids of what is held, to be handed over."""
        known = self._known.setdefault(member, {})
        found = [wtxid for wtxid in wtxids if wtxid in self._held]
        known.update(dict.fromkeys(found))
        _trim(known, KNOWN_PER_PEER_MAX)
        return [self._held[wtxid] for wtxid in found]

    def txids_of(self, wtxids: Iterable[bytes]) -> list[bytes]:
        """The txids of what is held of these."""
        return [self._held[wtxid] for wtxid in wtxids if wtxid in self._held]

    def on_transaction(self, member: int, wtxid: bytes) -> Arrival:
        """A peer handed over a transaction that it was asked for or had announced, or neither.

        One that comes late, when another peer was asked in its place, is not held against it.
        """
        known = self._known.setdefault(member, {})
        is_announced = wtxid in known or self._asked.get(wtxid, (None, 0))[0] == member
        if is_announced:
            self._forget_asked(wtxid)
            self._forget_wanted(wtxid)
        if self._has_settled(wtxid):
            return Arrival.KNOWN
        known[wtxid] = None
        _trim(known, KNOWN_PER_PEER_MAX)
        return Arrival.NEW if is_announced else Arrival.UNASKED

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
        return wtxid in self._asked or wtxid in self._wanted or self._has_settled(wtxid)

    def _has_settled(self, wtxid: bytes) -> bool:
        return (
            wtxid in self._held
            or wtxid in self._final
            or wtxid in self._refused
            or wtxid in self._waiting
        )

    def _ask_others(self, wtxids: list[bytes], now_ms: int) -> list[TxFrame]:
        """One more question about each, to a member that announced it and was not asked last."""
        questions: dict[int, list[bytes]] = {}
        for wtxid in wtxids:
            asked, _ = self._asked[wtxid]
            self._forget_asked(wtxid)
            others = [m for m in sorted(self._known) if m != asked and wtxid in self._known[m]]
            if others:
                later = [m for m in others if m > asked]
                chosen = later[0] if later else others[0]
                self._note_asked(wtxid, chosen, now_ms)
                questions.setdefault(chosen, []).append(wtxid)
        return _questions(questions)

    def _note_asked(self, wtxid: bytes, member: int, now_ms: int) -> None:
        self._asked[wtxid] = (member, now_ms)
        self._open[member] += 1

    def _forget_asked(self, wtxid: bytes) -> None:
        entry = self._asked.pop(wtxid, None)
        if entry is not None:
            self._open[entry[0]] -= 1

    def _forget_wanted(self, wtxid: bytes) -> None:
        member = self._wanted.pop(wtxid, None)
        if member is not None:
            self._open[member] -= 1

    def _stop_waiting(self, wtxid: bytes) -> None:
        entry = self._waiting.pop(wtxid, None)
        if entry is not None:
            self._waiting_bytes -= len(entry.data)

    def _announce_to_all(self, fresh: dict[bytes, None]) -> list[TxFrame]:
        news = [wtxid for wtxid in fresh if wtxid in self._held]
        fresh.clear()
        return [frame for member in sorted(self._known) for frame in self._announce(member, news)]

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


def _questions(wanted: dict[int, list[bytes]]) -> list[TxFrame]:
    """TXGET for each member, about so many."""
    return [
        TxFrame(
            member=member,
            kind=FrameKind.TXGET,
            body=encode_inventory(wtxids[i : i + INVENTORY_MAX]),
        )
        for member, wtxids in wanted.items()
        for i in range(0, len(wtxids), INVENTORY_MAX)
    ]


def _trim(mapping: dict[bytes, Any], most: int) -> None:
    while len(mapping) > most:
        del mapping[next(iter(mapping))]
