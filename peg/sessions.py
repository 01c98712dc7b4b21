"""This member's part in signing batches: rules R0 to R8, the journal, shares, assembly.

A signature leaves only after the peg journal says so on disk. The journal is a second guard and
evidence; at-most-once rests on the chains, so losing it is allowed.

Source: peg:P31-P34, N24.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peg.batches import BatchVersion, OpenBatch
from peg.fedscript import FedScript
from peg.history import PegHistory
from peg.payments import Payment, batch_payment
from peg.reserves import Halt
from peg.signing import PegSig, PegWant, SessionKey, SigningSession, check_disjoint
from peg.state import PegView
from sidechain.crypto.hashes import sha256d
from sidechain.errors import InvariantError
from sidechain.primitives.encoding import Reader, le32
from sidechain.primitives.transaction import OutPoint

JOURNAL_SHARE = 1
SESSIONS_KEPT_MAX = 8
EARLY_SHARES_PER_MEMBER = 4
OTHER_OUTPUTS = "R5: other outputs were signed for this anchor"


class BatchSigner(Protocol):
    """The keeper of the member's keys. Met by `federation.signer`."""

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """DER signatures of the peg key, tweaked for deposits, on all inputs in order."""
        ...

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """BIP340 signature of the block key that ends a frame, 64 bytes."""
        ...


class PegJournal(Protocol):
    """Durable records of what was signed. Met by `federation.wal`."""

    def append(self, kind: int, body: bytes) -> object:
        """Write one record; durable on return. A failure must end the process."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEntry:
    """One journal record: what was signed for an anchor."""

    anchor: OutPoint
    h_sel: int
    version: int
    txid: bytes
    digest: bytes

    def encode(self) -> bytes:
        """108 bytes."""
        head = self.anchor.serialize() + le32(self.h_sel) + le32(self.version)
        return head + self.txid + self.digest


def decode_entry(body: bytes) -> SignedEntry:
    """Read a journal record; raises InvalidEncoding."""
    reader = Reader(body)
    entry = SignedEntry(
        anchor=OutPoint(reader.read(32), reader.u32()),
        h_sel=reader.u32(),
        version=reader.u32(),
        txid=reader.read(32),
        digest=reader.read(32),
    )
    reader.done()
    return entry


def refusal(
    view: PegView,
    history: PegHistory,
    entry: SignedEntry | None,
    *,
    on_best_chain: bool,
    is_halted: bool = False,
) -> str:
    """Why this member must not sign the open batch now (R0, R3, R5 to R8); empty if it may.

    The other rules hold by construction and are checked in `MemberSessions.sign`: the template is
    the own one (R2), its fee comes from the own ladder (R4).

    Args:
        view: at the own final tip.
        entry: what the journal has for this anchor.
        on_best_chain: B(h) is on the own Bitcoin node's best chain now.
        is_halted: block agreement is halted on this member, by a second signed block (X1).
    """
    batch, lane = view.open_batch, view.lane
    if batch is None or lane is None:
        return "nothing is open"
    if view.height != history.height or not on_best_chain:
        return "R0: the committed block is not on the own best chain at the own final tip"
    coins = {coin.outpoint for coin in view.coins}
    if any(coin.outpoint not in coins for coin in batch.inputs):
        return "R3: an input is not a coin"
    if entry is not None and entry.digest != batch.marker.digest:
        reset = view.totals.last_reset_height
        if not (batch.h_sel > entry.h_sel and reset > entry.h_sel):
            return OTHER_OUTPUTS
    queue = history.schedule.queue(batch.h_sel, frozenset(lane.paid))
    if tuple(queue[: len(batch.payouts)]) != batch.payouts:
        return "R6: a payout is not at the head of the queue"
    # R7 would refuse payouts during a pause here; this stage has no PAUSE records.
    if Halt.BROKEN in view.halts or Halt.MISMATCH in view.halts:
        return "R8: lane broken or books differ"
    stops = (Halt.POOL_NEGATIVE, Halt.VANISHED, Halt.INFLATION)
    if batch.payouts and any(halt in view.halts for halt in stops):
        return "X4: payouts are halted"
    if batch.payouts and is_halted:
        return "X1: blocks are halted, so payouts are too"
    return ""


class MemberSessions:
    """All signing sessions of one member. One owner: the service's task."""

    def __init__(
        self,
        *,
        member: int,
        script: FedScript,
        signer: BatchSigner,
        journal: PegJournal,
        entries: Sequence[SignedEntry],
    ) -> None:
        """Start with what the journal holds.

        Args:
            member: own index.
            script: the federation's plain fedpegscript.
            entries: journal records, oldest first.
        """
        self._member = member
        self._script = script
        self._signer = signer
        self._journal = journal
        self._entries = {entry.anchor: entry for entry in entries}
        self._sessions: OrderedDict[SessionKey, SigningSession] = OrderedDict()
        self._shares: dict[SessionKey, PegSig] = {}
        self._early: dict[int, deque[tuple[PegSig, bytes]]] = {}

    def entry(self, anchor: OutPoint) -> SignedEntry | None:
        """What the journal has for an anchor."""
        return self._entries.get(anchor)

    def own_share(self, key: SessionKey) -> PegSig | None:
        """The share this member sent in a session."""
        return self._shares.get(key)

    def open(self, batch: OpenBatch, version: BatchVersion) -> SigningSession:
        """The session of a version; made when it is new."""
        key = SessionKey(anchor=batch.anchor, h_sel=batch.h_sel, version=version.version)
        session = self._sessions.get(key)
        if session is None or session.version.txid != version.txid:
            session = SigningSession(batch, version, self._script)
            self._sessions[key] = session
            while len(self._sessions) > SESSIONS_KEPT_MAX:
                dropped, _ = self._sessions.popitem(last=False)
                self._shares.pop(dropped, None)
        return session

    def sign(self, session: SigningSession, view: PegView) -> PegSig:
        """Sign all inputs of a session's transaction, journal first.

        The caller asked `refusal` before, without suspending in between.

        Raises:
            InvariantError: the template is not what it must be (R1, R2).
        """
        batch, version = session.batch, session.version
        lane = view.lane
        if lane is None or batch.anchor != lane.anchor:
            raise InvariantError("R1: input 0 is not the walked anchor")
        check_disjoint(batch, lane.paid)
        if sha256d(batch.unsigned(version.fee_sats)) != version.txid:
            raise InvariantError("R2: template changed under its txid")
        entry = SignedEntry(
            anchor=batch.anchor,
            h_sel=batch.h_sel,
            version=version.version,
            txid=version.txid,
            digest=batch.marker.digest,
        )
        if self._entries.get(batch.anchor) != entry:
            self._journal.append(JOURNAL_SHARE, entry.encode())
            self._entries[batch.anchor] = entry
        signed = self._signer.sign_payment(batch_payment(batch, version.fee_sats))
        signatures = tuple(signature + b"\x01" for signature in signed)
        share = PegSig(
            lane=batch.lane,
            index=batch.index,
            session=session.key,
            txid=version.txid,
            state_digest=view.digest,
            signatures=signatures,
        )
        self._shares[session.key] = share
        session.add(self._member, share, b"")
        return share

    def receive(self, member: int, share: PegSig, frame: bytes) -> SigningSession | None:
        """Take another member's share; kept aside when its session is not known yet.

        Returns:
            The session it belongs to, if the share was new there.
        Raises:
            PeerFault: a signature does not verify on the transaction it names.
        """
        session = self._sessions.get(share.session)
        if session is None or session.version.txid != share.txid:
            early = self._early.setdefault(member, deque(maxlen=EARLY_SHARES_PER_MEMBER))
            if all(known != share for known, _ in early):
                early.append((share, frame))
            return None
        return session if session.add(member, share, frame) else None

    def take_early(self, session: SigningSession) -> list[tuple[int, PegSig, bytes]]:
        """Shares that came before their session, removed from where they waited."""
        found: list[tuple[int, PegSig, bytes]] = []
        for member, early in self._early.items():
            for share, frame in list(early):
                if share.session == session.key and share.txid == session.version.txid:
                    early.remove((share, frame))
                    found.append((member, share, frame))
        return found

    def wants(self, want: PegWant) -> PegSig | None:
        """The own share, if the asker lacks it and this member has it."""
        if want.have >> self._member & 1:
            return None
        return self._shares.get(want.session)
