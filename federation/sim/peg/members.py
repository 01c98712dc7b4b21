"""Several members' peg services on both chains, with liars among them.

The services are the very code of a member. Each has its own Bitcoin node, which may be late or
down, its own journal, approvals and links. A block is final when k members voted for it; liars vote
for everything.

Source: peg:4, peg:5, peg:9, peg:14.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from federation.sim.checker import Violation
from federation.sim.peg.alone import Alone
from federation.sim.peg.bitcoin import p2wpkh_script
from federation.sim.peg.lies import lying_block
from federation.sim.peg.member import Journal, Log, OwnBitcoin, Signer, Wire
from federation.sim.peg.sidechain import PARAMETER_HASH, secret
from federation.sim.peg.votes import VoteChecker, Voter
from peg.claims import read_claims
from peg.commitments import Commitment, read_coinbase
from peg.records import Record, encode_record
from peg.service import PegPorts, PegService, PegSetup
from peg.signing import FRAME_SIGNATURE_BYTES, KIND_PEGSIG, decode_pegsig
from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidBlock, InvalidEncoding, PeerFault
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction

TURNS_MAX: Final = 12
USERS: Final = 5
LIE_PERMILLE: Final = 700
"""How often a liar's own block is one that nobody should vote for."""


class Members(Alone):
    """The members of a federation; the ledger of the base class only watches.

    Args:
        folder: for approvals; empty.
        liars: Byzantine members.
    """

    def __init__(self, folder: Path, liars: Sequence[int], **parts: Any) -> None:
        """Nobody has heard of anything yet."""
        super().__init__(**parts)
        self._folder, self.liars = folder, frozenset(liars)
        self.members = range(self._parameters.n)
        self._frames: list[tuple[int, int, int, bytes]] = []
        self._shares: dict[bytes, set[int]] = {}
        self._wipes = 0
        self._away: dict[int, int] = {}
        self.nodes = [OwnBitcoin(self._bitcoin) for _ in self.members]
        self.journals = [Journal() for _ in self.members]
        self.logs = [Log() for _ in self.members]
        self.wires = [self._wire(member) for member in self.members]
        self.votes = VoteChecker(
            self._bitcoin, self._parameters, self._script.program, self._params.pegged_asset
        )
        self.services = [self._service(member) for member in self.members]

    def _wire(self, member: int) -> Wire:
        others = tuple(other for other in self.members if other != member)
        signer = Signer(member, self._params.genesis_hash, self._script)
        return Wire(signer, self._carry, others)

    def _service(self, member: int) -> PegService:
        journal, signer = self.journals[member], self.wires[member].signer
        signer.journal = None if member in self.liars else journal
        setup = PegSetup(
            chain=self._params,
            parameters=self._parameters,
            script=self._script,
            parameter_hash=PARAMETER_HASH,
            member=member,
            block_keys=tuple(public_key(secret(f"block {i}")) for i in self.members),
            approvals_folder=self._folder / f"m{member}-{self._wipes}" / "approved",
            reports_folder=self._folder / f"m{member}-{self._wipes}" / "reports",
        )
        node = self.nodes[member]
        ports = PegPorts(
            client=node,
            view=node.view,
            is_healthy=lambda: node.is_healthy,
            poke=lambda: self.services[member].on_parent_change(),
            signer=signer,
            link=self.wires[member],
            journal=journal,
            journal_bodies=tuple(journal.bodies),
            log=self.logs[member],
        )
        return PegService(setup, ports)

    @property
    def honest(self) -> list[int]:
        """Members that are there and do what the rules say."""
        return [m for m in self.members if m not in self.liars and m not in self._away]

    # ---- what happens to members ----

    async def approve(self, record: Record) -> None:
        """All honest operators approve a record."""
        self.votes.approved.add(encode_record(record))
        for member in self.honest:
            try:
                self.services[member].approve_record(encode_record(record))
            except InvalidEncoding:
                continue  # it would have no effect by what this member knows
        await self._settle()

    async def pause(self, member: int, blocks: int) -> None:
        """A member pauses, if it may."""
        if member in self._away:
            return
        try:
            self.services[member].pause(deposits=False, blocks=blocks)
        except InvalidEncoding:
            return
        await self._settle()

    async def moved(self) -> None:
        """Bitcoin moved; members that are in step notice."""
        for member in self.members:
            self.nodes[member].moved()
            if member in self._away:
                self._away[member] -= 1
                if self._away[member] <= 0:
                    self._come_back(member)
            self.services[member].on_parent_change()
        await self._settle()

    def _come_back(self, member: int) -> None:
        del self._away[member]
        service = self.services[member]
        for block in self._side.blocks[service.ledger.history.height :]:
            service.on_final_block(block)

    async def trouble(self, member: int, kind: str, moves: int) -> None:
        """A member's Bitcoin is late or down, or the member is away, for some of its moves."""
        node = self.nodes[member]
        match kind:
            case "late":
                node.late = moves
            case "down":
                node.down = moves
            case _:
                self._away[member] = moves

    async def lie(self, kind: str) -> None:
        """What liars do with their frames from now on."""
        for member in self.liars:
            self.wires[member].lie = kind

    async def calm(self) -> None:
        """Everybody is there again, and every node in step; liars stay liars."""
        for member in self.members:
            self.nodes[member].late = self.nodes[member].down = 0
            if member in self._away:
                self._come_back(member)
        self._bitcoin.evict()
        await self.moved()

    async def wipe(self, member: int) -> None:
        """A member starts again with nothing but both chains (I12)."""
        await super().wipe(member)
        if member in self._away:
            return
        self._wipes += 1
        self.journals[member] = Journal()
        self.services[member] = self._service(member)
        self.services[member].load(self._side.blocks)
        await self._settle()

    def confirmable(self) -> list[bytes]:
        """What k members have signed, if liars sign all."""
        least = self._parameters.k - len(self.liars)
        versions = self._checker.versions
        signed = [txid for txid, honest in self._shares.items() if len(honest) >= least]
        return [versions[txid] for txid in signed if txid in versions]

    def calmly_confirmable(self) -> list[bytes]:
        """What waits in the mempool, so that somebody has to have sent it (P34)."""
        return [
            self._checker.versions.get(txid, raw) for txid, raw in self._bitcoin.mempool.items()
        ]

    # ---- blocks ----

    async def block(self, transactions: Sequence[Transaction], rng: random.Random) -> Block | None:
        """A proposal of somebody who is there, and if it is refused the next one's."""
        there = [member for member in self.members if member not in self._away]
        proposer = rng.choice(there)
        if proposer in self.liars and rng.randrange(1_000) < LIE_PERMILLE:
            false = self._lying_block(proposer, rng)
            if false is not None and await self._is_voted(false):
                return await self._finish(false)
        for candidate in [proposer, *[m for m in there if m != proposer and m not in self.liars]]:
            block = self._proposal(candidate, transactions)
            if block is not None and await self._is_voted(block):
                return await self._finish(block)
        return None

    def _proposal(self, proposer: int, transactions: Sequence[Transaction]) -> Block | None:
        service = self.services[proposer]
        scripts = service.plan_coinbase(self._side.height + 1, minimal=False)
        if scripts is None:
            return None
        planned = service.voting.plan_commitment(self._side.height + 1)
        fitting = [tx for tx in transactions if self._fits(service, tx, planned)]
        return self._side.block(scripts, fitting)

    def _fits(self, service: PegService, tx: Transaction, planned: Commitment) -> bool:
        return not any(service.voting.claim_place_reason(c, planned) for c in read_claims([tx]))

    def _lying_block(self, proposer: int, rng: random.Random) -> Block | None:
        return lying_block(
            rng,
            bitcoin=self._bitcoin,
            side=self._side,
            history=self.ledger.history,
            view=self.ledger.view,
            signer=self.wires[proposer].signer,
            honest=self.services[proposer].plan_coinbase(self._side.height + 1, minimal=True),
            scripts=[p2wpkh_script(f"user {user}") for user in range(USERS)],
        )

    async def _is_voted(self, block: Block) -> bool:
        """Whether k members vote for it; each honest vote is checked (I7, I8)."""
        yes = len([member for member in self.liars if member not in self._away])
        previous = self.ledger.history.previous_commitment
        if not self.votes.is_claimable(block, self._side):
            return False  # Elements' own check (peg:C1), which has no code of the peg
        for member in self.honest:
            service, node = self.services[member], self.nodes[member]
            try:
                service.check_objective(block)
                eventual, policy, _ = await service.check_eventual_and_policy(block)
            except InvalidBlock:
                continue
            if eventual and policy:
                yes += 1
                voter = Voter(member=member, view=node.view, tip=node.tip)
                self.votes.check(block, previous, voter, self._checker.told)
        return yes >= self._parameters.k

    async def _finish(self, block: Block) -> Block:
        """A block is final: everybody folds it, and works."""
        coinbase = read_coinbase(block.transactions[0], self._params.pegged_asset)
        clock = max(self.ledger.history.clock, coinbase.commitment.height)
        self._checker.resets += coinbase.commitment.reset
        self._checker.told.take(list(coinbase.records), clock)
        self.votes.final(block)
        self._side.add(block)
        self.ledger.apply(block)
        await self.ledger.advance()
        for member in self.members:
            if member not in self._away:
                self.services[member].on_final_block(block)
        await self._settle()
        return block

    # ---- frames ----

    def _carry(self, sender: int, receiver: int, kind: int, frame: bytes) -> None:
        if sender in self._away:
            return
        if kind == KIND_PEGSIG and sender not in self.liars:
            share = decode_pegsig(frame[:-FRAME_SIGNATURE_BYTES])
            self._shares.setdefault(share.txid, set()).add(sender)
        if receiver not in self._away:
            self._frames.append((sender, receiver, kind, frame))

    async def _settle(self) -> None:
        """Every member works and frames arrive until nothing more happens."""
        for _ in range(TURNS_MAX):
            for member in self.members:
                if member not in self._away:
                    await self.services[member].run_once()
            if not self._deliver():
                break
        self._check_states()

    def _deliver(self) -> bool:
        frames, self._frames = self._frames, []
        for sender, receiver, kind, frame in frames:
            try:
                self.services[receiver].on_frame(kind, sender, frame)
            except PeerFault as fault:
                if sender not in self.liars:
                    raise Violation("P33", f"m{sender} is blamed: {fault.message}") from fault
        return bool(frames)

    def _check_states(self) -> None:
        """I12 between members: equal heights, equal digests and templates."""
        view = self.ledger.view
        for member in self.honest:
            own = self.services[member].ledger.view
            if own is not None and view is not None and own.height == view.height:
                self._checker.check_same(own, view)
