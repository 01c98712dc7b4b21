"""A liar with a member's keys: the true program, whose every word is said twice and differently.

It runs a whole member on a copy of its folder; its network sends the true votes, proposals and
block signatures to some of the others, contradictions to some, and both to the rest. The agreement
and the signer are untouched: contradictions are signed here, beside them.

Source: N32, consensus:10.1 scenarios 2 and 10, consensus:C56.
"""

import asyncio
import fcntl
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

import click

from federation.consensus.encoding import NIL, FrameKind, InvalidMessage
from federation.consensus.messages import decode_message, encode_message
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
)
from federation.files import read_secret
from federation.link import Link
from federation.log import open_log, terminal_of_process
from federation.member_faults import check_regtest
from federation.member_folder import MemberFolder
from federation.node import open_node
from federation.peers import PeerNetwork
from federation.secret_key import SecretKey
from federation.start import NodeSeams, StartOptions
from sidechain import runtime
from sidechain.api.registry import Registry
from sidechain.chain import Chain
from sidechain.crypto.keys import der_to_compact
from sidechain.errors import Invalid
from sidechain.primitives.block import Block

LIES_KEPT_MAX: Final = 1_000
Said = Vote | Proposal | BlockMessage | BlockSignature | Certificate


class Share(Enum):
    """What one of the others is told."""

    TRUTH = "truth"
    LIE = "lie"
    BOTH = "both"


class Liar:
    """Makes and signs the contradictions of one member."""

    def __init__(self, member: int, key: SecretKey, chain: Chain, dice: random.Random) -> None:
        self.member = member
        self._key = key
        self._chain = chain
        self._dice = dice
        self._lies: dict[tuple[int, ...], Vote | BlockSignature] = {}
        self._blocks: dict[bytes, Block] = {}
        self._shares: dict[tuple[int, int, int], Share] = {}

    def share(self, height: int, round_number: int, peer: int) -> Share:
        """What a peer is told in a round; the same for all that is said in it."""
        name = (height, round_number, peer)
        if name not in self._shares:
            _make_room(self._shares)
            self._shares[name] = self._dice.choice(tuple(Share))
        return self._shares[name]

    def has_said(self, vote: Vote) -> bool:
        """Whether a vote is one of the lies."""
        lie = self._lies.get(_place(vote))
        return isinstance(lie, Vote) and lie.block_hash == vote.block_hash

    def contradict(self, said: Vote | BlockSignature) -> Vote | BlockSignature:
        """The lie to a statement; one for each place, whatever is said there."""
        place = _place(said)
        if place not in self._lies:
            _make_room(self._lies)
            self._lies[place] = self._sign(said)
        return self._lies[place]

    def other_block(self, said: BlockMessage) -> Block | None:
        """Another valid block beside an own proposal: the same one a second later."""
        try:
            block = Block.decode(said.data, self._chain.params)
        except Invalid:
            return None
        header = replace(block.header, time=block.header.time + 1)
        self._blocks[said.block_hash] = replace(block, header=header)
        return self._blocks[said.block_hash]

    def propose(self, vote: Vote, block_hash: bytes) -> Proposal:
        """A first proposal of another block at a place."""
        lie = self._signed(replace(vote, block_hash=block_hash, valid_round=-1))
        self._lies[_place(vote)] = lie
        return Proposal(lie, None)

    def _sign(self, said: Vote | BlockSignature) -> Vote | BlockSignature:
        if isinstance(said, BlockSignature):
            other = self._dice.randbytes(32)
            signature = der_to_compact(self._key.sign_ecdsa(other))
            return replace(said, block_hash=other, signature=signature)
        is_nil = said.block_hash == NIL
        other = self._dice.randbytes(32) if is_nil else NIL
        return self._signed(replace(said, block_hash=other, valid_round=-1))

    def _signed(self, vote: Vote) -> Vote:
        root = self._chain.full_current().root()
        digest = vote.digest(self._chain.params.genesis_hash, root)
        return replace(vote, signature=self._key.sign_schnorr(digest))


class LyingNetwork(PeerNetwork):
    """A network that tells each of the others something else.

    What comes back of the own lies is kept from the member that runs on it: it would stop, as one
    whose key is used elsewhere (C75).
    """

    def __init__(self, make_liar: Callable[[Chain], Liar], **parts: Any) -> None:
        super().__init__(**parts)
        self._make_liar = make_liar
        self._liar: Liar | None = None
        self._proposal: Vote | None = None

    def begin(self, chain: Chain) -> None:
        """Lie from now on."""
        self._liar = self._make_liar(chain)

    def send(self, member: int, kind: int, body: bytes) -> bool:
        """As the plain network, with a lie beside the truth or in its place."""
        sent = True
        for frame in self._frames(member, kind, body):
            sent = super().send(member, *frame) and sent
        return sent

    def broadcast(self, kind: int, body: bytes) -> None:
        """As the plain network, to each member something else."""
        for member in sorted(self.connected):
            self.send(member, kind, body)

    def _frames(self, member: int, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        liar, said = self._liar, _read(kind, body)
        if liar is None or said is None:
            return [(kind, body)]
        match said:
            case Vote() | BlockSignature() if said.member == liar.member:
                round_number = said.round if isinstance(said, Vote) else 0
                lies: list[Any] = [liar.contradict(said)]
            case Proposal(vote, None) if vote.member == liar.member:
                self._proposal, round_number = vote, vote.round
                # One that is new goes out with its block, so that both can be doubled.
                return [] if vote.valid_round == -1 else [(kind, body)]
            case BlockMessage() if self._proposal and said.block_hash == self._proposal.block_hash:
                return self._two_proposals(liar, member, said, self._proposal)
            case _:
                return [(kind, body)]
        return _of(liar.share(said.height, round_number, member), [(kind, body)], lies)

    def _two_proposals(
        self, liar: Liar, member: int, said: BlockMessage, vote: Vote
    ) -> list[tuple[int, bytes]]:
        truth = [encode_message(Proposal(vote, None)), encode_message(said)]
        block = liar.other_block(said)
        if block is None:
            return [(int(kind), body) for kind, body in truth]
        other = replace(said, block_hash=block.hash, data=block.serialize())
        lies = [liar.propose(vote, block.hash), other]
        plain = [(int(kind), body) for kind, body in truth]
        return _of(liar.share(vote.height, vote.round, member), plain, lies)

    def _deliver(self, link: Link, kind: int, body: bytes) -> None:
        if self._liar is not None and self._is_own(self._liar, kind, body):
            return
        super()._deliver(link, kind, body)

    def _is_own(self, liar: Liar, kind: int, body: bytes) -> bool:
        if kind == FrameKind.EVIDENCE:
            return True
        said = _read(kind, body)
        match said:
            case Proposal(vote, _):
                return vote.member == liar.member
            case Vote() | BlockSignature():
                return said.member == liar.member
            case Certificate():
                own = [v for v in said.as_votes() if v.member == liar.member]
                return any(liar.has_said(vote) for vote in own)
            case _:
                return False


def _of(share: Share, truth: list[tuple[int, bytes]], lies: list[Any]) -> list[tuple[int, bytes]]:
    told = [(int(kind), body) for kind, body in map(encode_message, lies)]
    match share:
        case Share.TRUTH:
            return truth
        case Share.LIE:
            return told
        case _:
            return truth + told


def _read(kind: int, body: bytes) -> Said | None:
    """A message that can be lied about, None for all others."""
    try:
        said = decode_message(kind, body)
    except InvalidMessage:
        return None
    if isinstance(said, Vote | Proposal | BlockMessage | BlockSignature | Certificate):
        return said
    return None


def _place(said: Vote | BlockSignature) -> tuple[int, ...]:
    if isinstance(said, BlockSignature):
        return (said.height,)
    return (said.height, said.round, int(said.type))


def _make_room(kept: dict[Any, Any]) -> None:
    while len(kept) >= LIES_KEPT_MAX:
        del kept[next(iter(kept))]


@click.command(help="Run a liar with a member's keys until SIGTERM.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--federation", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--member-folder", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--seed", type=int, required=True)
def main(folder: Path, federation: Path, member_folder: Path, seed: int) -> None:
    """Lie in a member's place; the true member cannot be started meanwhile (C43)."""
    lock = os.open(MemberFolder(member_folder).journal, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    log = open_log(member_folder.name, path=folder / "log.jsonl", terminal=terminal_of_process())
    try:
        run(folder, federation, seed, log.logger)
    finally:
        log.close()
        os.close(lock)


def run(folder: Path, federation: Path, seed: int, log: Any) -> None:
    """Run the liar; a file `ready` in its folder says that it began."""

    def make_network(**parts: Any) -> PeerNetwork:
        member = parts["identity"].index

        def make_liar(chain: Chain) -> Liar:
            text = read_secret(MemberFolder(folder).block_key).decode("ascii")
            key = SecretKey(bytes.fromhex(text.strip()))
            return Liar(member, key, chain, random.Random(seed))

        return LyingNetwork(make_liar, **parts)

    def register(_: Registry, network: PeerNetwork, chain: Chain) -> None:
        if isinstance(network, LyingNetwork):
            network.begin(chain)

    seams = NodeSeams(network=make_network, register=register, check=check_regtest)
    with open_node(folder, federation, StartOptions(), log, seams) as node:

        async def serve() -> None:
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            (folder / "ready").touch()
            await node.run(stop)

        runtime.run(serve())


if __name__ == "__main__":
    main()
