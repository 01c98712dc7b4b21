"""One turn of signing and sending: the open batch, and the deposits that RETURN records give back.

Source: peg:P31-P36, peg:C9, peg:P39.
"""

from collections.abc import Callable
from typing import Protocol

from peg.approvals import Approvals
from peg.bitcoind import UnspentOutput
from peg.broadcasts import Broadcasts, SignedVersion
from peg.digests import DigestWatch
from peg.fedscript import tweaked
from peg.ledger import PegLedger
from peg.parent_view import BEHIND_ITS_NODE
from peg.ports import PegPorts, PegSetup
from peg.records import ReturnRecord, encode_record
from peg.returns import ReturnBatch, plan_return, read_details
from peg.sessions import MemberSessions, OwnAlarms, refusal, return_refusal
from peg.signing import KIND_PEGSIG, KIND_PEGWANT, PegWant, SigningSession
from peg.state import PegView
from peg.status import hash_hex, outpoint_text
from sidechain.errors import Invalid, PeerFault, Unavailable
from sidechain.primitives.transaction import OutPoint

WAITING_KEPT_MAX = 64


class Send(Protocol):
    """Sends a signed frame to one member, or to all."""

    def __call__(self, kind: int, body: bytes, member: int | None = None) -> None:
        """Send."""
        ...


class SigningTurn:
    """What the service's task does with own keys. One owner: that task."""

    def __init__(
        self,
        *,
        setup: PegSetup,
        ports: PegPorts,
        ledger: PegLedger,
        approvals: Approvals,
        sessions: MemberSessions,
        broadcasts: Broadcasts,
        digests: DigestWatch,
        pause_heard: Callable[[], bool],
        send: Send,
        say: Callable[[str, str], None],
    ) -> None:
        """Nothing is signed yet.

        Args:
            pause_heard: whether a PAUSE is on its way into a block (R7).
            say: shows a lasting condition and its reason, empty when it ends.
        """
        self._setup = setup
        self._ports = ports
        self._ledger = ledger
        self._approvals = approvals
        self._sessions = sessions
        self._broadcasts = broadcasts
        self._digests = digests
        self._pause_heard = pause_heard
        self._send = send
        self._say = say
        self._waiting_since: dict[OutPoint, tuple[int, int]] = {}
        self._deposits_at = b""
        self._deposits: dict[OutPoint, UnspentOutput | None] = {}

    # ---- the open batch ----

    async def batch(self) -> None:
        """Sign the highest version of the open batch, and send it when k members have."""
        view = self._ledger.view
        batch = view.open_batch if view is not None else None
        if view is None or batch is None or not batch.versions:
            return
        session = self._sessions.open(batch, batch.versions[-1])
        self._take_early(session)
        self._sign(view, session)
        await self._finish(view, session)

    def _sign(self, view: PegView, session: SigningSession) -> None:
        """R0 to R8, then the journal, then the share; nothing suspends in between."""
        if not self._setup.holds_peg_key or session.share(self._setup.member) is not None:
            return
        reason = (
            refusal(
                view,
                self._ledger.history,
                self._sessions.entry(session.batch.anchor),
                on_best_chain=self._is_on_best_chain(view),
                alarms=self._alarms(),
            )
            or self._differing()
        )
        self._say("peg does not sign", reason)
        if reason:
            return
        share = self._sessions.sign(session, view)
        self._ports.log.info(
            "peg batch signed",
            index=share.index,
            version=session.version.version,
            txid=hash_hex(session.version.txid),
        )
        self._send(KIND_PEGSIG, share.encode())

    # ---- deposits that are given back ----

    async def returns(self) -> None:
        """Sign and send what final RETURN records name and this operator approved (C9).

        Raises:
            Unavailable, BitcoindError: the own node did not answer.
        """
        view = self._ledger.view
        if view is None or not self._ledger.is_current:
            return
        for record, height in list(self._ledger.history.governance.returns.values()):
            await self._return(view, record, height)

    async def _return(self, view: PegView, record: ReturnRecord, height: int) -> None:
        event = f"return of {outpoint_text(record.deposit)}"
        state = self._broadcasts.state(record.deposit)
        if state is not None and state.confirmations:
            return
        plain = self._approvals.details_of(encode_record(record))
        if not plain:
            return  # what the record hashes is known to those who approved it
        output = await self._deposit(record.deposit)
        try:
            script = self._setup.script
            genesis = self._setup.chain.genesis_hash
            details = read_details(record, plain, genesis, script.program)
            program = tweaked(script, details.claim_script).program
        except Invalid as error:
            self._say(event, str(error))
            return
        if output is None or output.script != program:
            self._say(event, "" if output is None else "deposit is of another claim script")
            return
        parent = self._ports.view
        deposit_height = parent.height_at_depth(output.confirmations, output.best_block_hash)
        if deposit_height is None:
            self._say(event, BEHIND_ITS_NODE)
            return
        history = self._ledger.history
        totals = [history.totals(at) for at in range(height, history.height + 1)]
        batch = plan_return(record, details, output.value_sats, self._setup.script, totals)
        if not batch.versions:
            self._say(event, "fee is above what the deposit can pay")
            return
        session = self._sessions.open(batch, batch.versions[-1])
        self._take_early(session)
        self._sign_return(view, batch, session, event, deposit_height)
        await self._finish(view, session)

    async def _deposit(self, deposit: OutPoint) -> UnspentOutput | None:
        """A deposit that is to be given back, asked for once at each tip of the own best chain."""
        if self._ports.view.is_empty:
            return None
        tip = self._ports.view.tip_hash
        if self._deposits_at != tip:
            self._deposits_at, self._deposits = tip, {}
        if deposit not in self._deposits:
            found = await self._ports.client.tx_out(deposit, False)
            if self._ports.view.tip_hash != tip:
                return None  # the answer may be of either chain
            if found is not None and found.best_block_hash != tip:
                return found  # of another tip: looked at again in the next turn
            self._deposits[deposit] = found
        return self._deposits[deposit]

    def _sign_return(
        self,
        view: PegView,
        batch: ReturnBatch,
        session: SigningSession,
        event: str,
        deposit_height: int,
    ) -> None:
        if not self._setup.holds_peg_key or session.share(self._setup.member) is not None:
            return
        reason = (
            return_refusal(
                batch,
                view,
                self._ledger.history,
                self._sessions.entry(batch.anchor),
                on_best_chain=self._is_on_best_chain(view),
                deposit_height=deposit_height,
                alarms=self._alarms(),
            )
            or self._differing()
        )
        self._say(event, reason)
        if reason:
            return
        try:
            share = self._sessions.sign_return(session, batch, view)
        except Unavailable as error:
            # What the keeper of the keys refuses concerns this deposit alone.
            self._say(event, f"not signed: {error}")
            return
        self._ports.log.info("peg return signed", txid=hash_hex(session.version.txid))
        self._send(KIND_PEGSIG, share.encode())

    # ---- both ----

    def _alarms(self) -> OwnAlarms:
        resumed_height = self._ledger.history.governance.resumed_height
        return OwnAlarms(
            is_halted=self._ports.is_halted(),
            pause_heard=self._pause_heard(),
            second_opinion=self._ports.second_opinion(resumed_height),
        )

    def _differing(self) -> str:
        too_many = self._digests.too_many_differ
        return "P33: more than f_s members have another state" if too_many else ""

    async def rebroadcast(self) -> None:
        """P34: at every Bitcoin block, until what spends the anchor is D_p deep."""
        for anchor in self._broadcasts.anchors():
            if self._spend_depth(anchor) >= self._setup.parameters.pegin_depth:
                self._broadcasts.drop(anchor)
        await self._broadcasts.send_all()
        for anchor in self._broadcasts.anchors():
            self._say_refusal(anchor)

    def _take_early(self, session: SigningSession) -> None:
        for member, share, frame in self._sessions.take_early(session):
            try:
                session.add(member, share, frame)
            except PeerFault as fault:
                self._ports.log.error("peg share is wrong", member=member, reason=fault.message)

    async def _finish(self, view: PegView, session: SigningSession) -> None:
        """Send what is complete; else PEGWANT after a turn or over a new block."""
        anchor = session.batch.anchor
        raw = session.assemble()
        if raw is None:
            key = (session.version.version, view.height)
            waiting = self._waiting_since.get(anchor)
            if waiting is not None and waiting[0] == key[0]:
                self._send(KIND_PEGWANT, PegWant(session.key, session.have).encode())
            if len(self._waiting_since) > WAITING_KEPT_MAX:
                self._waiting_since.clear()
            self._waiting_since[anchor] = key
            return
        signed = SignedVersion(
            version=session.version.version,
            fee_sats=session.version.fee_sats,
            txid=session.version.txid,
            raw=raw,
        )
        if self._broadcasts.add(anchor, signed):
            self._ports.log.info("peg batch assembled", txid=hash_hex(signed.txid))
            await self._broadcasts.send(anchor)
            self._say_refusal(anchor)

    def _is_on_best_chain(self, view: PegView) -> bool:
        return self._ports.is_healthy() and self._ports.view.is_active(
            view.totals.commitment.block_hash
        )

    def _spend_depth(self, anchor: OutPoint) -> int:
        path = self._ledger.path
        spend = path.spend(anchor) if path is not None else None
        block_hash = path.hash_at(spend.height) if path is not None and spend is not None else None
        if block_hash is not None:
            return self._ports.view.depth(block_hash)
        state = self._broadcasts.state(anchor)
        is_return = anchor in self._ledger.history.governance.returns
        return state.confirmations if is_return and state is not None else 0

    def _say_refusal(self, anchor: OutPoint) -> None:
        state = self._broadcasts.state(anchor)
        self._say("peg batch refused by Bitcoin", state.refusal if state is not None else "")
