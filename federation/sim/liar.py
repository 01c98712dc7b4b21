"""Byzantine members: one mind, all their keys, and they see every message first.

What each of them does at a time is said by its `Lie` faults; a liar without one is silent. Kinds:

- equivocate: as proposer, different proposals and old ones with other POL rounds, to whom it likes
- faces: some rounds in which each member is helped to decide its own block
- con: some heights in which one member after the other is locked, and nobody helped to decide
- split, selective, chaos, fair: prevotes and precommits that differ by receiver, go to few, name
  blocks nobody knows and come twice, or are as a correct member's would be
- handout: certificates for one member only
- sign: block signatures for every block there is, for some; else they are withheld
- rollcall: answers that under-report, or none
- wrong_proposer: proposals out of turn
- replay: old messages once more, to anybody
- malformed: bytes that are no message
- sync: final blocks that are none, and heights that do not exist
- status: invented STATUS

Source: consensus:1.1, consensus:10.
"""

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from federation.consensus.encoding import NIL
from federation.consensus.messages import Answer, GetBlock, GetFinal, RollCall, Status
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.sim.final import FinalMessage, encode_final
from federation.sim.world import BLOCK_0, GENESIS, FinalBlock, block_hash, make_block
from sidechain.crypto.keys import der_to_compact

if TYPE_CHECKING:
    from federation.sim.cluster import Simulation

VOTING: Final = ("split", "selective", "chaos", "fair")
KINDS: Final = (
    "equivocate", "faces", "con", *VOTING, "handout", "sign", "rollcall", "wrong_proposer",
    "replay", "malformed", "sync", "status",
)  # fmt: skip
REPLAYED_MAX: Final = 200


class Liars:
    """Watches the correct members and acts once in every round that begins."""

    def __init__(self, simulation: "Simulation") -> None:
        self.sim = simulation
        self.rng = random.Random(f"{simulation.seed} liars")
        self.members = simulation.scenario.liars
        self.targets = [m for m in simulation.plan.everyone if m not in self.members]
        self._kinds: dict[int, list[str]] = {m: [] for m in self.members}
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
        self._heard: list[Any] = []
        if self.members:
            simulation.after(0, self._prepare, 1, 0)

    def allow(self, member: int, kind: str) -> None:
        """From now on a liar behaves like this, too."""
        if kind in KINDS and member in self._kinds:
            self._kinds[member].append(kind)

    def forbid(self, member: int, kind: str) -> None:
        """It no longer does."""
        if kind in self._kinds.get(member, []):
            self._kinds[member].remove(kind)

    def _does(self, member: int, kind: str) -> bool:
        return kind in self._kinds[member]

    def _all_do(self, kind: str) -> bool:
        return any(kind in kinds for kinds in self._kinds.values())

    def _send(self, member: int, target: int, message: Any) -> None:
        self.sim.send(member, target, message, f"liar m{member}")

    def observe(self, sender: int, liar: int, message: Any) -> None:
        """A correct member's message reached a liar."""
        if len(self._heard) < REPLAYED_MAX:
            self._heard.append(message)
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
            case GetBlock(_, wanted) if wanted in self.sim.checker.blocks:
                data = self.sim.checker.blocks[wanted]
                reply = BlockMessage(height=message.height, block_hash=wanted, data=data)
                if self.rng.random() < 0.5:
                    self._send(liar, sender, reply)
            case RollCall() if self._does(liar, "rollcall"):
                self._answer(sender, liar, message)
            case GetFinal(from_height, _) if self._does(liar, "sync"):
                self._lie_about_final(liar, sender, from_height)
            case Status() if self._does(liar, "status"):
                self._invent_status(liar, sender, message)
            case _:
                pass

    # --- knowledge

    def _indexes(self, height: int) -> list[tuple[int, int]]:
        """(member, index in M_h) of the liars that are in the set."""
        found = [(m, self.sim.plan.index(height, m)) for m in self.members]
        return [(m, index) for m, index in found if index is not None]

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
        own = [index for _, index in self._indexes(certificate.height)]
        for vote in certificate.as_votes():
            if vote.member not in own:
                self._note(vote)

    def _offer(self, height: int, round_: int, hash_: bytes) -> None:
        if hash_ not in self._offered[height, round_]:
            self._offered[height, round_].append(hash_)

    def _certify(
        self, kind: VoteType, height: int, round_: int, hash_: bytes
    ) -> Certificate | None:
        """A certificate of votes seen and own ones, if they are enough."""
        votes = dict(self._votes[height, round_, int(kind), hash_])
        for member, index in self._indexes(height):
            votes[index] = self._vote(member, kind, height, round_, hash_, -1)
        k = self.sim.plan.at(height).k
        if len(votes) < k:
            return None
        chosen = sorted(votes.items())[:k]
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
            self._cons[height] = self.rng.random() < 0.5
        return self._cons[height] and self._all_do("con")

    def _faces_of(self, height: int, round_: int) -> dict[int, int] | None:
        """In some rounds the liars show each member one of two faces, and keep to it."""
        key = (height, round_)
        if key not in self._faces:
            rng = self.rng
            faces = {target: rng.randrange(2) for target in self.targets}
            self._faces[key] = faces if rng.random() < 0.25 and self._all_do("faces") else None
        return self._faces[key]

    def _lock_one(self, pol: Certificate) -> None:
        """Give the missing prevotes to a single member, so that it alone locks."""
        target = self.rng.choice(self.targets)
        own = {index: member for member, index in self._indexes(pol.height)}
        for vote in pol.as_votes():
            if vote.member in own:
                self._send(own[vote.member], target, vote)

    def _vote(
        self, member: int, kind: VoteType, height: int, round_: int, hash_: bytes, valid_round: int
    ) -> Vote:
        """A signed vote; of index 0 where the liar is no member, which nobody counts."""
        index = self.sim.plan.index(height, member)
        vote = Vote(
            type=kind,
            height=height,
            round=round_,
            valid_round=valid_round,
            block_hash=hash_,
            member=index or 0,
            signature=NO_SIGNATURE,
        )
        digest = vote.digest(GENESIS, self.sim.plan.root(height))
        return replace(vote, signature=self.sim.keys(member).sign_schnorr(digest))

    def _block_signature(self, member: int, height: int, hash_: bytes) -> BlockSignature:
        return BlockSignature(
            height=height,
            block_hash=hash_,
            member=self.sim.plan.index(height, member) or 0,
            signature=der_to_compact(self.sim.keys(member).sign_ecdsa(hash_)),
        )

    # --- acts

    def _begin(self, height: int, round_: int) -> None:
        """A correct member is in this round: lie in it, and prepare the next one."""
        self._prepare(height, round_)
        self._prepare(height, round_ + 1)
        self._pester(height, round_)
        if self._faces_of(height, round_) is not None:
            self._show_faces(height, round_)
            return
        if self._is_con(height):
            return
        for member, _ in self._indexes(height):
            style = self._style(member)
            for kind in (VoteType.PREVOTE, VoteType.PRECOMMIT):
                for _ in range(2 if style == "chaos" else 1):
                    delay_ms = self.rng.randrange(5, 160)
                    self.sim.after(delay_ms, self._lie, member, kind, height, round_, style)

    def _style(self, member: int) -> str:
        styles = [kind for kind in VOTING if self._does(member, kind)]
        return "fair" if styles == ["fair"] else self.rng.choice([*styles, "silent"])

    def _pester(self, height: int, round_: int) -> None:
        """Things that a correct member has to throw away."""
        rng = self.rng
        for member in self.members:
            if self._does(member, "wrong_proposer") and rng.random() < 0.5:
                self.sim.after(rng.randrange(40), self._propose, member, height, round_)
            if self._does(member, "malformed") and rng.random() < 0.5:
                noise = bytes(rng.randrange(256) for _ in range(rng.choice((3, 40, 110, 150))))
                self._send(member, rng.choice(self.targets), noise)
            if self._does(member, "replay") and self._heard:
                for _ in range(3):
                    self._send(member, rng.choice(self.targets), rng.choice(self._heard))
            if self._does(member, "sync") and rng.random() < 0.3:
                self._lie_about_final(member, rng.choice(self.targets), height)

    def _prepare(self, height: int, round_: int) -> None:
        """Propose in own rounds, before anybody waits for it."""
        member = self.sim.plan.proposer(height, round_)
        if member not in self.members or (height, round_) in self._prepared:
            return
        self._prepared.add((height, round_))
        rng = self.rng
        if self._faces_of(height, round_) is not None:
            self.sim.after(rng.randrange(60), self._propose_faces, member, height, round_)
        elif self._does(member, "equivocate") and rng.random() < 0.85:
            self.sim.after(rng.randrange(60), self._propose, member, height, round_)

    def _show_faces(self, height: int, round_: int) -> None:
        """Help each half decide its own block."""
        rng, sim = self.rng, self.sim
        for member, _ in self._indexes(height):
            for kind, least in ((VoteType.PREVOTE, 20), (VoteType.PRECOMMIT, 60)):
                sim.after(least + rng.randrange(40), self._vote_faces, member, kind, height, round_)

    def _propose_faces(self, member: int, height: int, round_: int) -> None:
        blocks = [self._fresh_block(member, height) for _ in range(2)]
        self._face_blocks[height, round_] = blocks
        for target, face in (self._faces_of(height, round_) or {}).items():
            vote = self._vote(member, VoteType.PROPOSAL, height, round_, blocks[face], -1)
            self._send(member, target, Proposal(vote, None))
            self._send_block(member, target, height, blocks[face])

    def _vote_faces(self, member: int, kind: VoteType, height: int, round_: int) -> None:
        offered = self._offered[height, round_][:1] or [NIL]
        blocks = self._face_blocks.get((height, round_), [offered[0], NIL])
        for target, face in (self._faces_of(height, round_) or {}).items():
            self._send(member, target, self._vote(member, kind, height, round_, blocks[face], -1))

    def _send_block(self, member: int, target: int, height: int, hash_: bytes) -> None:
        data = self.sim.checker.blocks.get(hash_)
        if data is not None:
            self._send(member, target, BlockMessage(height=height, block_hash=hash_, data=data))

    def _fresh_block(
        self, member: int, height: int, *, empty: bool = False, valid: bool = True
    ) -> bytes:
        parent = self._parent(height)
        data = make_block(
            height,
            parent.hash,
            proposer=member,
            salt=self.rng.randrange(1 << 24) << 1,
            empty=empty,
            valid=valid,
            time_ms=self.sim.now_ms,
            commitment=self.sim.liar_commitment(parent),
        )
        hash_ = block_hash(data)
        self.sim.checker.blocks[hash_] = self._known[height][hash_] = data
        return hash_

    def _lie(self, member: int, kind: VoteType, height: int, round_: int, style: str) -> None:
        rng = self.rng
        if style != "silent":
            choices = [*self._offered[height, round_], *self._known[height]]
            if style == "chaos":
                choices += [NIL, bytes([rng.randrange(256)]) * 32]
            choices = choices or [NIL]
            one = rng.choice(choices)
            for target in self.targets:
                hash_ = one if style in ("fair", "selective") else rng.choice(choices)
                if style == "selective" and rng.random() < 0.6:
                    continue
                self._send(member, target, self._vote(member, kind, height, round_, hash_, -1))
        if self._does(member, "handout"):
            self._hand_out(member, height, round_)

    def _hand_out(self, member: int, height: int, round_: int) -> None:
        """Pass on certificates to one member only."""
        rng = self.rng
        if rng.random() < 0.5:
            return
        target = rng.choice(self.targets)
        for hash_ in self._offered[height, round_]:
            kind = rng.choice((VoteType.PREVOTE, VoteType.PRECOMMIT))
            certificate = self._certify(kind, height, round_, hash_)
            if certificate is not None:
                self._send(member, target, certificate)

    def _propose(self, member: int, height: int, round_: int) -> None:
        """Two proposals of one round, fresh or with a POL, to whom it pleases."""
        rng = self.rng
        offers: list[tuple[bytes, int, Certificate | None]] = []
        for (pol_round, hash_), pol in sorted(self._pols[height].items()):
            if pol_round < round_:
                offers.append((hash_, pol_round, pol))
                offers.append((hash_, -1, None))
        if not offers or rng.random() < 0.3:
            for _ in range(2):
                empty, valid = rng.random() < 0.3, rng.random() < 0.85
                hash_ = self._fresh_block(member, height, empty=empty, valid=valid)
                offers.append((hash_, -1, None))
        chosen = [rng.choice(offers), rng.choice(offers)]
        if rng.random() < 0.4:
            chosen[1] = chosen[0]
        for target in self.targets:
            if rng.random() < 0.2:
                continue
            hash_, valid_round, cited = rng.choice(chosen)
            vote = self._vote(member, VoteType.PROPOSAL, height, round_, hash_, valid_round)
            self._offer(height, round_, hash_)
            self._send(member, target, self._miscited(member, Proposal(vote, cited)))
            if rng.random() < 0.8:
                self._send_block(member, target, height, hash_)

    def _miscited(self, member: int, proposal: Proposal) -> Proposal:
        """Now and then the POL is missing, or of another round or block than the one cited."""
        vote, pol, rng = proposal.vote, proposal.certificate, self.rng
        if vote.round == 0 or rng.random() < 0.6:
            return proposal
        first = 0 if pol is None else pol.round
        cited = rng.randrange(first, vote.round)
        others = [found for _, found in sorted(self._pols[vote.height].items())]
        shown = rng.choice([pol, pol, None, *others[:2]])
        hash_ = vote.block_hash
        again = self._vote(member, VoteType.PROPOSAL, vote.height, vote.round, hash_, cited)
        return Proposal(again, shown)

    def _sign_blocks(self, height: int) -> None:
        """Somebody decided: sign everything that exists, for some, or nothing at all."""
        if height in self._signed:
            return
        self._signed.add(height)
        rng = self.rng
        self.sim.after(20 + rng.randrange(60), self._prepare, height + 1, 0)
        for member, _ in self._indexes(height):
            if not self._does(member, "sign") or rng.random() < 0.3:
                continue
            for hash_ in list(self._known[height]):
                for target in self.targets:
                    if rng.random() < 0.5:
                        self._send(member, target, self._block_signature(member, height, hash_))

    def _answer(self, sender: int, liar: int, request: RollCall) -> None:
        """Under-report, or stay silent."""
        if self.rng.random() < 0.2:
            return
        key = self.sim.keys(liar)
        answer = Answer(
            known=0,
            known_hash=NIL,
            abstaining=self.rng.random() < 0.2,
            answerer_key=key.public_key[1:],
            signature=NO_SIGNATURE,
            proof=None,
            seen=None,
        )
        digest = answer.digest(GENESIS, request.asker_key, request.nonce)
        self._send(liar, sender, replace(answer, signature=key.sign_schnorr(digest)))

    def _lie_about_final(self, liar: int, target: int, height: int) -> None:
        """A final block with too few signatures, one of them twice, or of another block."""
        rng, k = self.rng, self.sim.plan.at(height).k
        hash_ = self._fresh_block(liar, height, valid=rng.random() < 0.7)
        found = [self._block_signature(m, height, hash_) for m, _ in self._indexes(height)]
        known = self._final(height)
        if known is not None:
            found += [replace(s, block_hash=hash_) for s in known.signatures][: k - 1]
        if found and rng.random() < 0.5:
            found += [found[0]] * k
        data = self.sim.checker.blocks[hash_]
        if known is not None and rng.random() < 0.5:  # the right block, not enough signed
            hash_, data, found = known.hash, known.data, list(known.signatures[: k - 1])
        block = FinalBlock(hash_, data, tuple(found))
        self._send(liar, target, FinalMessage(height, encode_final(block)))

    def _invent_status(self, liar: int, sender: int, status: Status) -> None:
        ahead = self.rng.choice((0, 0, 1, 1_000))
        positions = tuple((self.rng.randrange(9), 3) for _ in status.positions)
        valid_round = self.rng.choice((-1, status.round))
        made = replace(
            status, height=status.height + ahead, positions=positions, valid_round=valid_round
        )
        self._send(liar, sender, made)

    def _final(self, height: int) -> FinalBlock | None:
        for node in self.sim.nodes.values():
            if len(node.disk.chain) >= height:
                return node.disk.chain[height - 1]
        return None

    def _parent(self, height: int) -> FinalBlock:
        return (self._final(height - 1) if height > 1 else None) or BLOCK_0
