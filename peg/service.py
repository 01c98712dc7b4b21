"""The peg of one member: follows both chains, helps to propose and judge, signs, sends, answers.

The node feeds it final blocks, parent changes and peg frames, and runs `run` as one task; that task
alone asks Bitcoin, moves the state and signs. Everything the node calls besides returns at once or
is awaited by the caller.

Source: peg:4, peg:5, N7-N9, N15, N17, N23, N24.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from peg.approvals import Approvals
from peg.bitcoind import BitcoindError
from peg.broadcasts import Broadcasts
from peg.burn_relay import BurnRelay
from peg.claim_checks import ClaimChecks
from peg.covenant_claims import CovenantClaims
from peg.digests import DigestWatch
from peg.ledger import PegLedger
from peg.ports import PegPorts, PegSetup
from peg.receipts import PayoutWatch
from peg.record_desk import RecordDesk
from peg.record_texts import record_json
from peg.records import PauseRecord, decode_record
from peg.reports import PegReports
from peg.reserves_desk import KIND_REPORTSIG, ReservesDesk
from peg.sessions import MemberSessions, decode_entry
from peg.signing import (
    KIND_COVREG,
    KIND_PEGSIG,
    KIND_PEGSTATE,
    PegState,
    decode_pegsig,
    decode_pegstate,
    decode_pegwant,
    open_frame,
)
from peg.signing_turn import SigningTurn
from peg.state import LANE, PegView
from peg.trial_spend import TrialSpend, assemble_trial_spend, build_trial_spend
from peg.voting import FrozenParentFacts, OwnNode, PegVoting
from sidechain.errors import InvalidEncoding, PeerFault, Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction

__all__ = ["PegPorts", "PegService", "PegSetup"]

TICK_MS = 1_000
LOOK_AGAIN_MS = 300
SHOWN_OTHERWISE = frozenset({"peg halts", "peg is paused"})
"""Conditions that a summary has fields for."""


class PegService:
    """One member's peg; see the module for who may call what."""

    def __init__(self, setup: PegSetup, ports: PegPorts) -> None:
        """Build the parts; nothing is read or sent yet."""
        self._setup = setup
        self._ports = ports
        self._approvals = Approvals(setup.approvals_folder, lambda: self.ledger.history.height)
        self.ledger = PegLedger(
            setup.chain, setup.parameters, setup.script, source=ports.client, parent=ports.view
        )
        self._broadcasts = Broadcasts(ports.client)
        self.burns = ports.burns or BurnRelay(
            chain=setup.chain,
            parameters=setup.parameters,
            fed_programs=self.ledger.fed_programs,
        )
        self._node = OwnNode(
            client=ports.client,
            view=ports.view,
            is_healthy=ports.is_healthy,
            look_again=self._look_again,
        )
        self.voting = PegVoting(
            chain=setup.chain,
            script=setup.script,
            parameter_hash=setup.parameter_hash,
            voters=setup.voter_keys,
            node=self._node,
            ledger=self.ledger,
            approvals=self._approvals,
            has_trial=lambda outpoint: self._sessions.has_trial(outpoint),
        )
        self._claims = ClaimChecks(self.voting, ports.view)
        self.desk = self._make_desk()
        self._sessions = MemberSessions(
            member=setup.member,
            script=setup.script,
            signer=ports.signer,
            journal=ports.journal,
            entries=[decode_entry(body) for body in ports.journal_bodies],
        )
        self.reports = PegReports(
            is_syncing=ports.is_catching_up,
            may_change_script=self._may_change_script,
            valid_programs=self._valid_programs,
            chain=setup.chain,
            script=setup.script,
            ledger=self.ledger,
            parent=ports.view,
            broadcasts=self._broadcasts,
        )
        self._wake = asyncio.Event()
        self.covenants = self._make_covenants()
        self._digests = DigestWatch(setup.parameters.byzantine_tolerated)
        self._signing = self._make_signing()
        self._news = asyncio.Event()
        self._parent_moved = True
        self._was_healthy = False
        self._announced = 0
        self._payouts = PayoutWatch()
        self._said: OrderedDict[str, str] = OrderedDict()
        self.reserves = ReservesDesk(
            setup=setup,
            signer=ports.signer,
            history=self.ledger.history,
            send=self._send,
            say=self._say,
        )

    def _make_desk(self) -> RecordDesk:
        return RecordDesk(
            setup=self._setup,
            signer=self._ports.signer,
            log=self._ports.log,
            history=self.ledger.history,
            approvals=self._approvals,
            votes=self.voting.records,
            pauses=self.voting.pauses,
            context=self.voting.context,
            broadcast=self._send,
        )

    def _make_signing(self) -> SigningTurn:
        return SigningTurn(
            setup=self._setup,
            ports=self._ports,
            ledger=self.ledger,
            approvals=self._approvals,
            sessions=self._sessions,
            broadcasts=self._broadcasts,
            digests=self._digests,
            pause_heard=lambda: self.desk.is_pause_heard,
            send=self._send,
            say=self._say,
        )

    def _may_change_script(self) -> bool:
        covenants = self._ports.covenants
        return covenants is not None and covenants.may_change_script()

    def _valid_programs(self) -> list[bytes]:
        covenants = self._ports.covenants
        return [] if covenants is None else [pair.program for pair in covenants.valid_scripts()]

    def _make_covenants(self) -> CovenantClaims | None:
        if self._ports.covenants is None:
            return None
        return CovenantClaims(
            chain=self._setup.chain,
            member=self._setup.member,
            ledger=self.ledger,
            parent=self._ports.view,
            client=self._ports.client,
            ports=self._ports.covenants,
            send=lambda body, member: self._send(KIND_COVREG, body, member),
            on_news=self._wake.set,
            log_info=self._ports.log.info,
        )

    # ---- fed by the node ----

    def load(self, blocks: Iterable[Block]) -> None:
        """Fold the final blocks on disk, from block 1, before `run` starts."""
        for block in blocks:
            self.ledger.apply(block)
        self.desk.load()
        self.burns.parameters = self.ledger.history.parameters

    def on_final_block(self, block: Block) -> None:
        """Fold a block that became final; call once per block, in order, right after connect."""
        self.ledger.apply(block)
        self.burns.parameters = self.ledger.history.parameters
        self.desk.on_final(self.ledger.history.records_at(self.ledger.history.height))
        if not self._ports.is_catching_up():
            self._wake.set()

    def on_parent_change(self) -> None:
        """The watcher's view moved."""
        self._parent_moved = True
        self._news.set()
        self._wake.set()

    def on_frame(self, kind: int, member: int, frame: bytes) -> None:
        """Take a frame of kind 18 to 23 from an authenticated member.

        Args:
            frame: body with its 64-byte signature.
        Raises:
            PeerFault: malformed, wrongly signed, or a batch signature that does not verify.
        """
        key = self._setup.block_keys[member][1:]
        body = open_frame(self._setup.chain.genesis_hash, kind, frame, member=member, block_key=key)
        try:
            match kind:
                case 18:
                    if self.desk.on_frame(body):
                        self._wake.set()
                        self._ports.on_work()
                case 19:
                    if self.covenants is not None:
                        self.covenants.hear(member, body)  # looked at in the next turn
                case 20:
                    self._sessions.receive(member, decode_pegsig(body), frame)
                    self._wake.set()
                case 21:
                    share = self._sessions.wants(decode_pegwant(body))
                    if share is not None:
                        self._send(KIND_PEGSIG, share.encode(), member)
                case 22:
                    state = decode_pegstate(body)
                    self._digests.hear(member, state.height, state.digest)
                    self._say_differing()
                case _ if kind == KIND_REPORTSIG:
                    self.reserves.on_frame(member, body)
                case _:
                    pass
        except InvalidEncoding as error:
            raise PeerFault(member, frame, f"peg frame {kind}: {error}") from error

    def on_link(self, member: int, connected: bool) -> None:
        """A link to a member came up or went down."""
        if self.covenants is not None:
            self.covenants.on_link(member, connected)
            self._wake.set()

    def approve_record(self, data: bytes, details: Mapping[str, Any] | None = None) -> str:
        """Remember the operator's approval of a record, or of a RESET to a block hash.

        Args:
            details: what a RETURN record only hashes.
        Raises:
            InvalidEncoding: neither a record nor 32 bytes, or a record without any effect.
        """
        approval = self.desk.approve(data, details)
        self._parent_moved = True
        self._wake.set()
        return approval.name

    def describe_record(self, data: bytes) -> dict[str, Any]:
        """A record as JSON with what it would do now; approves nothing.

        Raises:
            InvalidEncoding: not a record.
        """
        record = decode_record(data)
        return {
            **record_json(record, self.ledger.history.parameters),
            "no_effect": self.voting.records.idle_reason(record) or None,
            "pays": self.reports.paid_by_break(record),
        }

    def pause(self, *, deposits: bool, blocks: int | None) -> PauseRecord:
        """Pause the peg in this member's name (peg:7.3); raises InvalidEncoding when it may not."""
        record = self.desk.pause(deposits=deposits, blocks=blocks)
        self._wake.set()
        return record

    # ---- proposing and judging (PegPort of federation.production) ----

    def plan_coinbase(self, height: int, *, minimal: bool) -> list[bytes] | None:
        """Coinbase scripts for an own proposal; None while block 1 cannot be planned."""
        try:
            return self.voting.plan_coinbase(height, minimal=minimal)
        except Unavailable:
            return None

    def is_due(self) -> bool:
        """Whether a newer commitment or a record could go into the next block (N17, N35)."""
        return self.voting.is_commitment_due(self.ledger.history.height + 1)

    def carries_work(self, block: Block) -> bool:
        """Whether a block holds a record or a newer commitment than the last final one (N17)."""
        return self.voting.carries_work(block)

    def is_minimal(self, block: Block) -> bool:
        """Whether it is the minimal block of N9."""
        return self.voting.is_minimal(block)

    def claim_is_ripe(self, tx: Transaction) -> bool:
        """Whether the claims of a transaction can go into a block now (C2, C4, C6, C7).

        Nor may it hold a burn that values in force since it was relayed make worthless (3.4).

        A claim seen for the first time is not ripe until `run` has asked Bitcoin about it.
        """
        ripe = self._claims.is_ripe(tx, self.ledger.history.height + 1)
        if self._claims.has_questions:
            self._wake.set()
        return ripe and self.burns.is_payable(tx)

    def check_objective(self, block: Block) -> None:
        """The peg's objective rules; raises InvalidBlock."""
        self.voting.check_objective(block)

    async def check_eventual_and_policy(self, block: Block) -> tuple[bool, bool, str]:
        """The peg's other rules now: (eventual, policy, reason)."""
        verdict = await self.voting.check_eventual_and_policy(block)
        return verdict.eventual, verdict.policy, verdict.reason

    async def parent_facts_for(self, subject: Transaction | Block) -> FrozenParentFacts:
        """Frozen answers for the depth checks of sidechain.validation.pegins."""
        transactions = subject.transactions if isinstance(subject, Block) else (subject,)
        return await self.voting.parent_facts(transactions)

    # ---- answering ----

    def info(self) -> dict[str, Any]:
        """Reply of `getpeginfo`: limits, committed block, lane, deposits, and what stands still."""
        lasting = {event: reason for event, reason in self._said.items() if reason}
        return {**self.reports.info(), **self.desk.info(), "alarms": lasting}

    def summary(self) -> dict[str, Any]:
        """What an operator has to know at a glance: pauses, halts, alarms, approvals."""
        view, told = self.ledger.view, self.desk.info()
        return {
            "pause": told["pause"],
            "approvals": len(told["approvals"]),
            "halts": [] if view is None else [str(halt) for halt in view.halts],
            "idle": None if view is None or view.idle is None else str(view.idle),
            "alarms": {
                event: reason
                for event, reason in self._said.items()
                if reason and event not in SHOWN_OTHERWISE
            },
            "warnings": self.reports.warnings(),
        }

    # ---- the task ----

    async def run(self) -> None:
        """Follow, sign and send until cancelled; InvariantError and disk failures come out."""
        while True:
            await self.run_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_MS / 1000):
                    await self._wake.wait()

    async def run_once(self) -> None:
        """One turn of `run`. A node that does not answer is noted and asked at the next turn."""
        self._wake.clear()
        if self.covenants is not None:
            self.covenants.gossip()
        moved = self._take_news()
        try:
            if moved:
                await self.voting.refresh()
            if await self._claims.ask() or moved:
                self._ports.on_work()
            await self.ledger.advance(self._on_view)
            if await self.voting.records.look_again():
                self._ports.on_work()
            self._announce()
            await self._signing.batch()
            await self._signing.returns()
            if moved:
                await self._signing.rebroadcast()
            await self._serve_covenants()
            self._say("peg waits", "")
        except (Unavailable, BitcoindError) as error:
            self._parent_moved = self._parent_moved or moved
            self._say("peg waits", str(error))

    async def sign_trial_spend(self, outpoint: OutPoint) -> tuple[bytes, bytes]:
        """Sign the trial spend (P2) of a FED output paid for that purpose.

        Returns:
            The unsigned transaction and this member's signature (DER with hash type).
        Raises:
            Unavailable: the output is unknown, spent, or the node does not answer.
            InvalidEncoding: not a FED output, too small, an approved anchor, or the lane is open.
        """
        trial = await self._trial(outpoint)
        return trial.unsigned, self._sessions.sign_trial(outpoint, trial)

    async def try_trial_spend(
        self, outpoint: OutPoint, signatures: Mapping[int, bytes]
    ) -> tuple[bool, str]:
        """Offer the signed trial spend to the own node, which only tests it (P2).

        Args:
            signatures: DER with hash type, by member; k that verify are needed.
        Returns:
            Whether the node would take it, and its reason if not.
        Raises:
            As `sign_trial_spend`; InvalidEncoding too when fewer than k signatures verify.
        """
        trial = await self._trial(outpoint)
        raw = assemble_trial_spend(trial, signatures, self._setup.script)
        verdict = await self._ports.client.test_mempool_accept(raw)
        return verdict.allowed, verdict.reason

    async def _trial(self, outpoint: OutPoint) -> TrialSpend:
        output = await self._ports.client.tx_out(outpoint, True)
        if output is None:
            raise Unavailable("output is unknown or spent")
        if output.script != self._setup.script.program:
            raise InvalidEncoding("trial spend", "output does not pay FED")
        if self._opened() is not None:
            # From here on any FED output may be an anchor to come, or an input of a batch.
            raise InvalidEncoding("trial spend", "only before OPEN")
        if outpoint in {record.anchor for record in self._approvals.open_records()}:
            raise InvalidEncoding("trial spend", "never of an anchor")
        return build_trial_spend(
            outpoint, output.value_sats, self._setup.parameters, self._setup.script
        )

    # ---- parts of a turn ----

    def _take_news(self) -> bool:
        """Whether Bitcoin moved since the last turn, or its node is back.

        A node that was away may have lost its mempool, and with it the batches sent to it (P34).
        """
        healthy = self._ports.is_healthy()
        moved = self._parent_moved or (healthy and not self._was_healthy)
        self._parent_moved, self._was_healthy = False, healthy
        return moved

    async def _serve_covenants(self) -> None:
        if self.covenants is not None and await self.covenants.advance():
            self._wake.set()

    def _on_view(self, view: PegView) -> None:
        self._digests.compute(view.height, view.digest)
        self._say_differing()
        self._say("peg halts", ", ".join(view.halts))
        pause = view.totals.pause
        self._say("peg is paused", f"until clock {pause.until}" if view.totals.is_paused else "")
        wrong = self._payouts.wrong(view.steps)
        self._say("peg paid otherwise than its receipts", "" if wrong is None else wrong.hex())
        self.reserves.on_view(view)

    def _announce(self) -> None:
        """PEGSTATE once per height, only for the newest."""
        view = self.ledger.view
        if view is None or view.height <= self._announced:
            return
        self._announced = view.height
        self.desk.tell()
        self.reserves.tell()
        self._send(KIND_PEGSTATE, PegState(view.height, view.digest).encode())

    # ---- small parts ----

    async def _look_again(self) -> None:
        self._news.clear()
        self._ports.poke()
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_MS / 1000):
                await self._news.wait()

    def _send(self, kind: int, body: bytes, member: int | None = None) -> None:
        """Sign and send a frame; one that cannot be signed now is left out, peers ask again."""
        try:
            frame = body + self._ports.signer.sign_peg_frame(kind, body)
        except Unavailable as error:
            self._say("peg frame not signed", str(error))
            return
        self._say("peg frame not signed", "")
        if member is None:
            self._ports.link.broadcast(kind, frame)
        else:
            self._ports.link.send(member, kind, frame)

    def _opened(self) -> OutPoint | None:
        return self.ledger.history.opened_at(LANE, self.ledger.history.height)

    def _say(self, event: str, reason: str) -> None:
        """Log a lasting condition when it begins, changes or ends."""
        if self._said.get(event, "") != reason:
            self._said[event] = reason
            if reason:
                self._ports.log.warning(event, reason=reason)
            else:
                self._ports.log.info(f"{event} no more")

    def _say_differing(self) -> None:
        members = ", ".join(f"m{member}" for member in self._digests.differing)
        self._say("peg state differs", members)
