"""This member's part in signing batches: rules R0 to R8, the journal, shares, assembly.

A signature leaves only after the peg journal says so on disk. The journal is a second guard and
evidence; at-most-once rests on the chains, so losing it is allowed.

Source: peg:P31-P34, peg:R0-R8, peg:X1-X7, N24.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peg.batches import BatchVersion, OpenBatch
from peg.fedscript import FedScript
from peg.history import PegHistory
from peg.payments import Payment, batch_payment, return_payment
from peg.reserves import Halt
from peg.returns import ReturnBatch
from peg.signing import PegSig, PegWant, SessionKey, Signable, SigningSession, check_disjoint
from peg.state import PegView
from peg.trial_spend import TrialSpend
from sidechain.crypto.hashes import sha256d
from sidechain.errors import InvariantError
from sidechain.primitives.encoding import Reader, le32
from sidechain.primitives.transaction import OutPoint

JOURNAL_SHARE = 1
TRIAL_H_SEL = 0
"""In the journal: a trial spend; no batch is selected at height 0."""
SESSIONS_KEPT_MAX = 32
EARLY_SHARES_PER_MEMBER = 4
OTHER_OUTPUTS = "R5: other outputs were signed for this anchor (X3, ends by RESUME)"


class BatchSigner(Protocol):
    """The keeper of the member's keys. Met by `federation.signer`."""

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """DER signatures of the peg key, tweaked for deposits, on all inputs in order."""
        ...

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """BIP340 signature of the block key that ends a frame, 64 bytes."""
        ...

    def sign_message(self, tag: str, message: bytes) -> bytes:
        """BIP340 signature of the block key over tagged_hash(tag, message), 64 bytes."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnAlarms:
    """What stops this member's signing beside the chains.

    Attributes:
        is_halted: block agreement is halted on this member, by a second signed block (X1).
        pause_heard: a valid PAUSE was heard that is in no final block yet (peg:7.3).
        second_opinion: what a second validator says against the own chain (X7); empty if nothing.
    """

    is_halted: bool = False
    pause_heard: bool = False
    second_opinion: str = ""


NO_ALARMS = OwnAlarms()


def refusal(
    view: PegView,
    history: PegHistory,
    entry: SignedEntry | None,
    *,
    on_best_chain: bool,
    alarms: OwnAlarms = NO_ALARMS,
) -> str:
    """Why this member must not sign the open batch now (R0, R3, R5 to R8); empty if it may.

    The other rules hold by construction and are checked in `MemberSessions.sign`: the template is
    the own one (R2), its fee comes from the own ladder (R4).

    Args:
        view: at the own final tip.
        entry: what the journal has for this anchor.
        on_best_chain: B(h) is on the own Bitcoin node's best chain now.
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
        reason = _other_outputs(view, history, entry, batch)
        if reason:
            return reason
    queue = history.schedule.queue(batch.h_sel, frozenset(lane.paid))
    if tuple(queue[: len(batch.payouts)]) != batch.payouts:
        return "R6: a payout is not at the head of the queue"
    if Halt.BROKEN in view.halts or Halt.MISMATCH in view.halts:
        return "R8: lane broken or books differ"
    return _payout_refusal(view, alarms) if batch.payouts else ""


def _other_outputs(view: PegView, history: PegHistory, entry: SignedEntry, batch: OpenBatch) -> str:
    """R5: other outputs need a RESET or CANCEL between the two selections, or k operators (X3)."""
    governance = history.governance
    later = batch.h_sel > entry.h_sel
    reset = view.totals.last_reset_height > entry.h_sel
    cancelled = governance.cancelled_between(batch.anchor, entry.h_sel, batch.h_sel)
    if later and (reset or cancelled):
        return ""
    # A RESUME after this selection came about: operators have looked at it.
    return "" if later and governance.resumed_height >= batch.h_sel else OTHER_OUTPUTS


def _payout_refusal(view: PegView, alarms: OwnAlarms) -> str:
    """What stops payouts, but not empty batches."""
    if view.totals.is_paused or alarms.pause_heard:
        return "R7: payouts are paused"
    stops = (Halt.POOL_NEGATIVE, Halt.VANISHED, Halt.INFLATION, Halt.COIN_AGE)
    halts = [halt for halt in stops if halt in view.halts]
    if halts:
        return f"{halts[0].split('_')[0]}: payouts are halted"
    return _alarm(alarms)


def _alarm(alarms: OwnAlarms) -> str:
    """What stops payouts and RETURN alike: it is not known which chain is the right one."""
    if alarms.is_halted:
        return "X1: blocks are halted, so payouts are too"
    if alarms.second_opinion:
        return f"X7: the second validator disagrees: {alarms.second_opinion}"
    return ""


def return_refusal(
    batch: ReturnBatch,
    view: PegView,
    history: PegHistory,
    entry: SignedEntry | None,
    *,
    on_best_chain: bool,
    deposit_height: int,
    alarms: OwnAlarms = NO_ALARMS,
) -> str:
    """Why this member must not give a deposit back now; empty if it may (C9, X1, X7).

    Args:
        view: at the own final tip.
        deposit_height: of the unspent deposit on the own best chain.
    """
    if view.height != history.height or not on_best_chain:
        return "R0: the committed block is not on the own best chain at the own final tip"
    if Halt.BROKEN in view.halts or Halt.MISMATCH in view.halts:
        return "R8: lane broken or books differ"
    if history.claimed(batch.anchor) is not None:
        return "C9: deposit is claimed"
    parameters = view.totals.parameters
    least = batch.coin.csv - parameters.sweep_window + parameters.reset_depth
    if view.totals.commitment.height - deposit_height <= least:
        return f"C9: deposit is not older than {least} blocks at the committed block"
    if entry is not None and entry.digest != batch.digest:
        return OTHER_OUTPUTS
    return _alarm(alarms)


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

    def has_trial(self, outpoint: OutPoint) -> bool:
        """Whether the journal says that a trial spend of an output was signed (P2)."""
        entry = self._entries.get(outpoint)
        return entry is not None and entry.h_sel == TRIAL_H_SEL

    def sign_trial(self, outpoint: OutPoint, trial: TrialSpend) -> bytes:
        """Sign a trial spend, journal first (P32): its output may never be an anchor.

        Returns:
            DER with hash type.
        """
        entry = SignedEntry(
            anchor=outpoint,
            h_sel=TRIAL_H_SEL,
            version=0,
            txid=sha256d(trial.unsigned),
            digest=trial.digest,
        )
        (signature,) = self._journalled(entry, trial.payment)
        return signature + b"\x01"

    def open(self, batch: Signable, version: BatchVersion) -> SigningSession:
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
        batch, version, lane = session.batch, session.version, view.lane
        if not isinstance(batch, OpenBatch):
            raise InvariantError("R2: not the session of a batch")
        if lane is None or batch.anchor != lane.anchor:
            raise InvariantError("R1: input 0 is not the walked anchor")
        check_disjoint(batch, lane.paid)
        if sha256d(batch.unsigned(version.fee_sats)) != version.txid:
            raise InvariantError("R2: template changed under its txid")
        payment = batch_payment(batch, version.fee_sats)
        place = (batch.lane, batch.index)
        return self._share(session, view, batch.marker.digest, payment, place)

    def sign_return(self, session: SigningSession, batch: ReturnBatch, view: PegView) -> PegSig:
        """Sign a deposit's way back, journal first; the caller asked `return_refusal` before.

        Raises:
            InvariantError: the template is not what it must be (R2).
        """
        if sha256d(batch.unsigned(session.version.fee_sats)) != session.version.txid:
            raise InvariantError("R2: template changed under its txid")
        payment = return_payment(batch.inputs, batch.outputs(session.version.fee_sats))
        return self._share(session, view, batch.digest, payment, (batch.lane, batch.index))

    def _share(
        self,
        session: SigningSession,
        view: PegView,
        digest: bytes,
        payment: Payment,
        place: tuple[int, int],
    ) -> PegSig:
        """Journal, then sign, then keep the share (P32)."""
        entry = SignedEntry(
            anchor=session.key.anchor,
            h_sel=session.key.h_sel,
            version=session.key.version,
            txid=session.version.txid,
            digest=digest,
        )
        signed = self._journalled(entry, payment)
        share = PegSig(
            lane=place[0],
            index=place[1],
            session=session.key,
            txid=session.version.txid,
            state_digest=view.digest,
            signatures=tuple(signature + b"\x01" for signature in signed),
        )
        self._shares[session.key] = share
        session.add(self._member, share, b"")
        return share

    def _journalled(self, entry: SignedEntry, payment: Payment) -> tuple[bytes, ...]:
        if self._entries.get(entry.anchor) != entry:
            self._journal.append(JOURNAL_SHARE, entry.encode())
            self._entries[entry.anchor] = entry
        return self._signer.sign_payment(payment)

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
