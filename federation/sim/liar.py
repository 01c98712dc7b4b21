"""Byzantine members: one mind, all their keys, and they see every message first.

They equivocate as proposers, vote differently to different members, vote for blocks nobody knows,
withhold and hand out block signatures, pass certificates to whom they like, and lie in roll-calls.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from federation.consensus.encoding import NIL
from federation.consensus.messages import Answer, GetBlock, RollCall
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.sim.world import GENESIS_TIP, block_hash, block_key, make_block

if TYPE_CHECKING:
    from federation.sim.cluster import Simulation

STYLES = ("silent", "split", "split", "selective", "chaos", "fair")


class Liars:
    """Watches the correct members and acts once in every round that begins."""

    def __init__(self, simulation: "Simulation") -> None:
        self.sim = simulation
        self.members = simulation.scenario.liars
        self.targets = [m for m in range(simulation.scenario.n) if m not in self.members]
        self._prepared: set[tuple[int, int]] = set()
        self._acted: set[tuple[int, int]] = set()
        self._signed: set[int] = set()
        self._votes: dict[tuple[int, int, int, bytes], dict[int, Vote]] = defaultdict(dict)
        self._known: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self._offered: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        self._pols: dict[int, dict[tuple[int, bytes], Certificate]] = defaultdict(dict)
        self._cons: dict[int, bool] = {}
        self._locked_one: set[tuple[int, int, bytes]] = set()
        self._faces: dict[tuple[int, int], dict[int, int] | None] = {}
        self._face_blocks: dict[tuple[int, int], list[bytes]] = {}
        if self.members:
            simulation.after(0, self._prepare, 1, 0)

    def observe(self, sender: int, liar: int, message: Any) -> None:
        """A correct member's message reached a liar."""
        match message:
            case Vote():
                self._note(message)
            case Proposal(vote, certificate):
                self._note(vote)
                if certificate is not None:
                    self._note_certificate(certificate)
            case Certificate():
                self._note_certificate(message)
            case BlockMessage():
                self._known[message.height][message.block_hash] = message.data
            case BlockSignature():
                self._sign_blocks(message.height)
            case GetBlock(_, wanted) if wanted in self.sim.blocks:
                data = self.sim.blocks[wanted]
                reply = BlockMessage(height=message.height, block_hash=wanted, data=data)
                if self.sim.rng.random() < 0.5:
                    self.sim.send(liar, sender, reply)
            case RollCall():
                self._answer(sender, liar, message)
            case _:
                pass

    # --- knowledge

    def _note(self, vote: Vote) -> None:
        key = (vote.height, vote.round, int(vote.type), vote.block_hash)
        self._votes[key].setdefault(vote.member, vote)
        if vote.type is VoteType.PROPOSAL:
            self._offer(vote.height, vote.round, vote.block_hash)
        elif vote.type is VoteType.PREVOTE and vote.block_hash != NIL:
            self._try_pol(vote.height, vote.round, vote.block_hash)
        if (vote.height, vote.round) not in self._acted:
            self._acted.add((vote.height, vote.round))
            self._begin(vote.height, vote.round)

    def _note_certificate(self, certificate: Certificate) -> None:
        for vote in certificate.as_votes():
            if vote.member not in self.members:
                self._note(vote)

    def _offer(self, height: int, round_: int, hash_: bytes) -> None:
        if hash_ not in self._offered[height, round_]:
            self._offered[height, round_].append(hash_)

    def _certify(
        self, kind: VoteType, height: int, round_: int, hash_: bytes
    ) -> Certificate | None:
        """A certificate of votes seen and own ones, if they are enough."""
        votes = dict(self._votes[height, round_, int(kind), hash_])
        for member in self.members:
            votes[member] = self._vote(member, kind, height, round_, hash_, -1)
        if len(votes) < self.sim.scenario.k:
            return None
        chosen = sorted(votes.items())[: self.sim.scenario.k]
        return Certificate(
            type=kind,
            height=height,
            round=round_,
            block_hash=hash_,
            votes=tuple((m, v.valid_round, v.signature) for m, v in chosen),
        )

    def _try_pol(self, height: int, round_: int, hash_: bytes) -> None:
        if (round_, hash_) not in self._pols[height]:
            pol = self._certify(VoteType.PREVOTE, height, round_, hash_)
            if pol is not None:
                self._pols[height][round_, hash_] = pol
                if self._is_con(height) and (height, round_, hash_) not in self._locked_one:
                    self._locked_one.add((height, round_, hash_))
                    self._lock_one(pol)

    def _is_con(self, height: int) -> bool:
        """Whether this height is a long con: lock one member at a time, help nobody decide."""
        if height not in self._cons:
            self._cons[height] = self.sim.rng.random() < 0.5
        return self._cons[height]

    def _faces_of(self, height: int, round_: int) -> dict[int, int] | None:
        """In some rounds the liars show each member one of two faces, and keep to it."""
        key = (height, round_)
        if key not in self._faces:
            rng = self.sim.rng
            faces = {target: rng.randrange(2) for target in self.targets}
            self._faces[key] = faces if rng.random() < 0.25 else None
        return self._faces[key]

    def _lock_one(self, pol: Certificate) -> None:
        """Give the missing prevotes to a single member, so that it alone locks."""
        target = self.sim.rng.choice(self.targets)
        for vote in pol.as_votes():
            if vote.member in self.members:
                self.sim.send(vote.member, target, vote)

    def _vote(
        self, member: int, kind: VoteType, height: int, round_: int, hash_: bytes, valid_round: int
    ) -> Vote:
        return self.sim.keys.sign_vote(
            Vote(
                type=kind,
                height=height,
                round=round_,
                valid_round=valid_round,
                block_hash=hash_,
                member=member,
                signature=NO_SIGNATURE,
            )
        )

    # --- acts

    def _begin(self, height: int, round_: int) -> None:
        """A correct member is in this round: lie in it, and prepare the next one."""
        rng = self.sim.rng
        self._prepare(height, round_)
        self._prepare(height, round_ + 1)
        if self._faces_of(height, round_) is not None:
            self._show_faces(height, round_)
            return
        for member in self.members:
            style = "con" if self._is_con(height) else rng.choice(STYLES)
            if style == "con":
                continue
            for kind in (VoteType.PREVOTE, VoteType.PRECOMMIT):
                for _ in range(2 if style == "chaos" else 1):
                    delay_ms = rng.randrange(20, 160)
                    self.sim.after(delay_ms, self._lie, member, kind, height, round_, style)

    def _prepare(self, height: int, round_: int) -> None:
        """Propose in own rounds, before anybody waits for it."""
        member = (height + round_) % self.sim.scenario.n
        if member not in self.members or (height, round_) in self._prepared:
            return
        self._prepared.add((height, round_))
        rng = self.sim.rng
        if self._faces_of(height, round_) is not None:
            self.sim.after(rng.randrange(60), self._propose_faces, member, height, round_)
        elif rng.random() < 0.85:
            self.sim.after(rng.randrange(60), self._propose, member, height, round_)

    def _show_faces(self, height: int, round_: int) -> None:
        """Help each half decide its own block."""
        rng, sim = self.sim.rng, self.sim
        for member in self.members:
            for kind, least in ((VoteType.PREVOTE, 20), (VoteType.PRECOMMIT, 60)):
                sim.after(least + rng.randrange(40), self._vote_faces, member, kind, height, round_)

    def _propose_faces(self, member: int, height: int, round_: int) -> None:
        blocks = [self._fresh_block(member, height) for _ in range(2)]
        self._face_blocks[height, round_] = blocks
        for target, face in (self._faces_of(height, round_) or {}).items():
            vote = self._vote(member, VoteType.PROPOSAL, height, round_, blocks[face], -1)
            self.sim.send(member, target, Proposal(vote, None))
            data = self.sim.blocks[blocks[face]]
            message = BlockMessage(height=height, block_hash=blocks[face], data=data)
            self.sim.send(member, target, message)

    def _vote_faces(self, member: int, kind: VoteType, height: int, round_: int) -> None:
        offered = self._offered[height, round_][:1] or [NIL]
        blocks = self._face_blocks.get((height, round_), [offered[0], NIL])
        for target, face in (self._faces_of(height, round_) or {}).items():
            self.sim.send(
                member, target, self._vote(member, kind, height, round_, blocks[face], -1)
            )

    def _fresh_block(self, member: int, height: int) -> bytes:
        rng = self.sim.rng
        data = make_block(
            height, self._tip(height), proposer=member, salt=rng.randrange(1 << 24) << 1
        )
        self.sim.blocks[block_hash(data)] = data
        self._known[height][block_hash(data)] = data
        return block_hash(data)

    def _lie(self, member: int, kind: VoteType, height: int, round_: int, style: str) -> None:
        rng = self.sim.rng
        if style == "silent":
            return
        choices = [*self._offered[height, round_], *self._known[height]]
        if style == "chaos":
            choices += [NIL, bytes([rng.randrange(256)]) * 32]
        choices = choices or [NIL]
        one = rng.choice(choices)
        for target in self.targets:
            hash_ = one if style in ("fair", "selective") else rng.choice(choices)
            if style == "selective" and rng.random() < 0.6:
                continue
            vote = self._vote(member, kind, height, round_, hash_, -1)
            self.sim.send(member, target, vote)
        self._hand_out(member, height, round_)

    def _hand_out(self, member: int, height: int, round_: int) -> None:
        """Pass on certificates to one member only, and sign blocks early."""
        rng = self.sim.rng
        if rng.random() < 0.5:
            return
        target = rng.choice(self.targets)
        for hash_ in self._offered[height, round_]:
            kind = rng.choice((VoteType.PREVOTE, VoteType.PRECOMMIT))
            certificate = self._certify(kind, height, round_, hash_)
            if certificate is not None:
                self.sim.send(member, target, certificate)

    def _propose(self, member: int, height: int, round_: int) -> None:
        """Two proposals of one round, fresh or with a POL, to whom it pleases."""
        rng, sim = self.sim.rng, self.sim
        offers: list[tuple[bytes, int, Certificate | None]] = []
        for (pol_round, hash_), pol in sorted(self._pols[height].items()):
            if pol_round < round_:
                offers.append((hash_, pol_round, pol))
                offers.append((hash_, -1, None))
        for _ in range(2):
            data = make_block(
                height,
                self._tip(height),
                proposer=member,
                salt=rng.randrange(1 << 24) << 1,
                empty=rng.random() < 0.3,
                valid=rng.random() < 0.85,
            )
            sim.blocks[block_hash(data)] = data
            self._known[height][block_hash(data)] = data
            offers.append((block_hash(data), -1, None))
        has_pols = len(offers) > 2
        if has_pols and rng.random() < 0.7:
            offers = offers[:-2]
        chosen = [rng.choice(offers), rng.choice(offers)]
        if rng.random() < 0.4:
            chosen[1] = chosen[0]
        for target in self.targets:
            if rng.random() < 0.2:
                continue
            hash_, valid_round, cited = rng.choice(chosen)
            vote = self._vote(member, VoteType.PROPOSAL, height, round_, hash_, valid_round)
            self._offer(height, round_, hash_)
            sim.send(member, target, Proposal(vote, cited))
            if rng.random() < 0.8 and hash_ in sim.blocks:
                message = BlockMessage(height=height, block_hash=hash_, data=sim.blocks[hash_])
                sim.send(member, target, message)

    def _sign_blocks(self, height: int) -> None:
        """Somebody decided: sign everything that exists, for some, or nothing at all."""
        if height in self._signed:
            return
        self._signed.add(height)
        rng = self.sim.rng
        self.sim.after(20 + rng.randrange(60), self._prepare, height + 1, 0)
        for member in self.members:
            if rng.random() < 0.4:
                continue
            for hash_ in list(self._known[height]):
                for target in self.targets:
                    if rng.random() < 0.5:
                        signature = self.sim.keys.sign_block(height, hash_, member)
                        self.sim.send(member, target, signature)

    def _answer(self, sender: int, liar: int, request: RollCall) -> None:
        """Under-report, or stay silent."""
        if self.sim.rng.random() < 0.3:
            return
        answer = Answer(
            known=0,
            known_hash=NIL,
            abstaining=False,
            answerer_key=block_key(liar)[1:],
            signature=request.nonce + request.asker_key,
            proof=None,
            seen=None,
        )
        self.sim.send(liar, sender, answer)

    def _tip(self, height: int) -> bytes:
        for node in self.sim.nodes.values():
            if len(node.disk.chain) >= height - 1:
                return node.disk.chain[height - 2].hash if height > 1 else GENESIS_TIP
        return GENESIS_TIP
