"""What a simulated federation is made of: its sets, its blocks and its times.

Blocks are short byte strings with their validity written in them.

Source: consensus:C10, consensus:C80, consensus:C81, consensus:V2, consensus:V9.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final

from federation.consensus.events import ConsensusTimes
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote
from federation.members import MemberSet
from federation.sim.keys import FastSignatures, block_key, fast_ecdsa, fast_schnorr, key_of

__all__ = [
    "BLOCK_0",
    "GENESIS",
    "GENESIS_TIP",
    "HEALED_DELAY_MS",
    "TIMES",
    "BlockFields",
    "Epoch",
    "FinalBlock",
    "Keys",
    "MemberPlan",
    "block_fields",
    "block_hash",
    "block_key",
    "is_empty",
    "is_valid_child",
    "make_block",
    "member_set",
    "params_root",
]

GENESIS: Final = sha256(b"simulated genesis").digest()
GENESIS_TIP: Final = sha256(b"simulated block 0").digest()
FUTURE_LIMIT_MS: Final = 400  # V9, as much shorter than in production as all other times

TIMES: Final = ConsensusTimes(
    block_interval_ms=240,
    min_interval_ms=20,
    timeout_base_ms=120,
    timeout_step_ms=20,
    timeout_cap_ms=1_000,
    gossip_interval_ms=40,
)
HEALED_DELAY_MS: Final = 12  # T0 ≥ 3Δ + 2 · gossip_interval (C33)

_BLOCK: Final = struct.Struct("<I32sBBIBI")


def params_root(height: int) -> bytes:
    """D_h of a federation whose set never changes."""
    return GENESIS[::-1]


def member_set(n: int, k: int) -> MemberSet:
    """Members 0 to n − 1 with fast keys."""
    return MemberSet.of(tuple(block_key(i) for i in range(n)), k)


@dataclass(frozen=True, slots=True)
class Epoch:
    """From this height on these members (by number in the simulation) and this k are in force."""

    from_height: int
    members: tuple[int, ...]
    k: int


class MemberPlan:
    """Which set is in force at each height. Known to nobody before its height (C81).

    Args:
        epochs: ascending; the first from height 1.
    """

    def __init__(self, epochs: Sequence[Epoch], *, real_keys: bool = False) -> None:
        self.epochs = tuple(epochs)
        self.everyone = tuple(sorted({m for epoch in epochs for m in epoch.members}))
        self._sets = [
            MemberSet.of(tuple(key_of(m, real=real_keys).public_key for m in e.members), e.k)
            for e in epochs
        ]
        self._roots = [sha256(b"root %d" % i).digest() for i in range(len(epochs))]

    def _number(self, height: int) -> int:
        for number in range(len(self.epochs) - 1, 0, -1):
            if height >= self.epochs[number].from_height:
                return number
        return 0

    def at(self, height: int) -> MemberSet:
        """M_h."""
        return self._sets[self._number(height)]

    def root(self, height: int) -> bytes:
        """D_h."""
        return self._roots[self._number(height)]

    def members(self, height: int) -> tuple[int, ...]:
        """Who is in M_h, by index in it."""
        return self.epochs[self._number(height)].members

    def index(self, height: int, member: int) -> int | None:
        """A member's index in M_h."""
        members = self.members(height)
        return members.index(member) if member in members else None

    def proposer(self, height: int, round_number: int) -> int:
        """Whose turn it is (C10)."""
        members = self.members(height)
        return members[(height + round_number) % len(members)]


# --- blocks


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """A connected block with the signatures it came with."""

    hash: bytes
    data: bytes
    signatures: tuple[BlockSignature, ...]


BLOCK_0: Final = FinalBlock(GENESIS_TIP, b"", ())


@dataclass(frozen=True, slots=True)
class BlockFields:
    """What a block says."""

    height: int
    parent: bytes
    proposer: int
    is_empty: bool
    is_valid: bool
    time_ms: int
    commitment: bytes


def make_block(
    height: int,
    parent: bytes,
    *,
    proposer: int,
    salt: int,
    empty: bool = False,
    valid: bool = True,
    time_ms: int = 0,
    commitment: bytes = b"",
) -> bytes:
    """Bytes of a block; `salt` makes it one of many."""
    head = _BLOCK.pack(height, parent, proposer, empty, salt & 0xFFFFFFFF, valid, time_ms)
    return head + commitment


@lru_cache(maxsize=4_096)
def block_hash(data: bytes) -> bytes:
    """Name of a block."""
    return sha256(data).digest()


@lru_cache(maxsize=4_096)
def block_fields(data: bytes) -> BlockFields:
    """What a block says."""
    height, parent, proposer, empty, _, valid, time_ms = _BLOCK.unpack_from(data)
    commitment = data[_BLOCK.size :]
    return BlockFields(height, parent, proposer, bool(empty), bool(valid), time_ms, commitment)


def is_valid_child(data: bytes, height: int, parent: bytes, parent_time_ms: int = -1) -> bool:
    """The objective verdict O."""
    block = block_fields(data)
    is_child = (block.height, block.parent) == (height, parent)
    return block.is_valid and is_child and block.time_ms > parent_time_ms


def is_empty(data: bytes) -> bool:
    """Whether the block carries no work (N17)."""
    return block_fields(data).is_empty


class Keys:
    """Signs and verifies for every member of one set that never changes."""

    def __init__(self, members: MemberSet) -> None:
        self.members = members
        self._scheme = FastSignatures()

    def _key(self, member: int) -> bytes:
        return self.members.members[member].vote_key

    def sign_vote(self, vote: Vote) -> Vote:
        """The vote with its member's signature."""
        digest = vote.digest(GENESIS, params_root(vote.height))
        return Vote(
            type=vote.type,
            height=vote.height,
            round=vote.round,
            valid_round=vote.valid_round,
            block_hash=vote.block_hash,
            member=vote.member,
            signature=fast_schnorr(self._key(vote.member), digest),
        )

    def sign_block(self, height: int, hash_: bytes, member: int) -> BlockSignature:
        """A BLOCKSIG."""
        return BlockSignature(
            height=height,
            block_hash=hash_,
            member=member,
            signature=fast_ecdsa(self._key(member), hash_),
        )

    def is_signed(self, message: Vote | Proposal | Certificate | BlockSignature) -> bool:
        """What the shell verifies before the core sees a message."""
        match message:
            case Vote():
                digest = message.digest(GENESIS, params_root(message.height))
                return self._scheme.is_schnorr(self._key(message.member), message.signature, digest)
            case Proposal(vote, certificate):
                return self.is_signed(vote) and (certificate is None or self.is_signed(certificate))
            case Certificate():
                return message.is_complete(self.members.k) and all(
                    self.is_signed(vote) for vote in message.as_votes()
                )
            case BlockSignature():
                key = self.members.members[message.member].block_key
                return self._scheme.is_ecdsa(key, message.signature, message.block_hash)
