"""What the simulated federation is made of: keys, blocks, disks and the scenario of a seed.

Signatures are keyed hashes: nobody forges one without `Keys`. Blocks are short byte strings with
their validity written in them.
"""

import random
import struct
from dataclasses import dataclass, field
from hashlib import blake2b, sha256

from federation.consensus.events import ConsensusTimes
from federation.consensus.records import JournalRecord, decode_record, encode_record
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote
from federation.members import MemberSet

GENESIS = sha256(b"simulated genesis").digest()
GENESIS_TIP = sha256(b"simulated block 0").digest()

TIMES = ConsensusTimes(
    block_interval_ms=240,
    min_interval_ms=20,
    timeout_base_ms=120,
    timeout_step_ms=20,
    timeout_cap_ms=1_000,
    gossip_interval_ms=40,
)
HEALED_DELAY_MS = 12  # T0 ≥ 3Δ + 2 · gossip_interval (C33)

_BLOCK = struct.Struct("<I32sBBIB")


def params_root(height: int) -> bytes:
    """D_h; constant, as the set is."""
    return GENESIS[::-1]


def block_key(member: int) -> bytes:
    """A member's public key; nothing is derived from it."""
    return b"\x02" + sha256(b"key %d" % member).digest()


def member_set(n: int, k: int) -> MemberSet:
    """Members 0 to n − 1."""
    return MemberSet.of(tuple(block_key(i) for i in range(n)), k)


def make_block(
    height: int, parent: bytes, *, proposer: int, salt: int, empty: bool = False, valid: bool = True
) -> bytes:
    """Bytes of a block; `salt` makes it one of many."""
    return _BLOCK.pack(height, parent, proposer, empty, salt, valid)


def block_hash(data: bytes) -> bytes:
    """Name of a block."""
    return sha256(data).digest()


def is_valid_child(data: bytes, height: int, parent: bytes) -> bool:
    """The objective verdict O."""
    block_height, block_parent, _, _, _, valid = _BLOCK.unpack(data)
    return bool(valid) and (block_height, block_parent) == (height, parent)


def is_empty(data: bytes) -> bool:
    """Whether the block carries no work (N17)."""
    return bool(_BLOCK.unpack(data)[3])


class Keys:
    """Signs and verifies for everyone; the simulator decides who may call `sign`."""

    def __init__(self, members: MemberSet) -> None:
        self.members = members
        self._secrets = [sha256(b"secret %d" % i).digest() for i in range(members.n)]

    def sign(self, member: int, payload: bytes) -> bytes:
        """64 bytes that only `member` can make."""
        return blake2b(payload, key=self._secrets[member]).digest()

    def sign_vote(self, vote: Vote) -> Vote:
        """The vote with its member's signature."""
        signature = self.sign(vote.member, vote.signed_payload(GENESIS, params_root(vote.height)))
        return Vote(
            type=vote.type,
            height=vote.height,
            round=vote.round,
            valid_round=vote.valid_round,
            block_hash=vote.block_hash,
            member=vote.member,
            signature=signature,
        )

    def sign_block(self, height: int, hash_: bytes, member: int) -> BlockSignature:
        """A BLOCKSIG."""
        return BlockSignature(
            height=height,
            block_hash=hash_,
            member=member,
            signature=self.sign(member, b"block" + hash_),
        )

    def is_signed(self, message: Vote | Proposal | Certificate | BlockSignature) -> bool:
        """What the shell verifies before the core sees a message."""
        match message:
            case Vote():
                payload = message.signed_payload(GENESIS, params_root(message.height))
                return message.signature == self.sign(message.member, payload)
            case Proposal(vote, certificate):
                return self.is_signed(vote) and (certificate is None or self.is_signed(certificate))
            case Certificate():
                return message.is_complete(self.members.k) and all(
                    self.is_signed(vote) for vote in message.as_votes()
                )
            case BlockSignature():
                expected = self.sign(message.member, b"block" + message.block_hash)
                return message.signature == expected


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """A connected block with the signatures it came with."""

    hash: bytes
    data: bytes
    signatures: tuple[BlockSignature, ...]


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    journal: list[tuple[int, bytes]] = field(default_factory=list)
    blocks: dict[bytes, bytes] = field(default_factory=dict)
    chain: list[FinalBlock] = field(default_factory=list)
    was_wiped: bool = False

    def append(self, record: JournalRecord) -> None:
        """Write a record in its byte form."""
        kind, body = encode_record(record)
        self.journal.append((kind, body))

    def records(self) -> list[JournalRecord]:
        """The journal, decoded."""
        return [decode_record(kind, body) for kind, body in self.journal]

    @property
    def tip_hash(self) -> bytes:
        """Hash of the last final block."""
        return self.chain[-1].hash if self.chain else GENESIS_TIP


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens in a run; drawn from its seed."""

    n: int
    k: int
    liars: tuple[int, ...] = ()
    chaos_ms: int = 4_000
    loss_permille: int = 0
    duplicate_permille: int = 0
    starve_permille: int = 0
    delay_max_ms: int = 30
    crash_every_ms: int = 0
    partition_every_ms: int = 0
    wipes: bool = False
    opinions: bool = False
    slow_verdicts: bool = False
    power_cut: bool = False
    work_permille: int = 500
    heights_after: int = 4


CONFIGURATIONS = (
    (4, 3, 1), (4, 3, 1), (4, 3, 0), (4, 3, 1), (5, 4, 1),
    (4, 3, 1), (3, 3, 0), (4, 3, 1), (7, 5, 1), (4, 3, 0),
)  # fmt: skip


def scenario_of(seed: int) -> Scenario:
    """The scenario of a seed; independent of the run's own draws."""
    rng = random.Random(f"scenario {seed}")
    n, k, lying = CONFIGURATIONS[seed % len(CONFIGURATIONS)]
    harsh = rng.random()
    return Scenario(
        n=n,
        k=k,
        liars=tuple(sorted(rng.sample(range(n), lying))),
        chaos_ms=rng.choice((1_000, 2_000, 3_000)),
        loss_permille=int(rng.choice((0, 50, 150, 300)) * harsh),
        duplicate_permille=rng.choice((0, 0, 50, 200)),
        starve_permille=rng.choice((0, 0, 950)),
        delay_max_ms=rng.choice((10, 30, 80, 250)),
        crash_every_ms=rng.choice((0, 250, 600, 1_500)),
        partition_every_ms=rng.choice((0, 0, 300, 900)),
        wipes=not lying and n > k and rng.random() < 0.5,
        opinions=rng.random() < 0.3,
        slow_verdicts=rng.random() < 0.3,
        power_cut=rng.random() < 0.2,
        work_permille=rng.choice((0, 300, 1_000)),
    )
