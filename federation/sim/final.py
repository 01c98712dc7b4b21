"""Final blocks on the wire of the simulation: FINAL frames, and headers as proofs of roll-calls.

Source: consensus:2.2, consensus:C38, consensus:C54.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from federation.consensus.encoding import InvalidMessage
from federation.consensus.votes import BlockSignature
from federation.sim.world import FinalBlock, MemberPlan, block_fields, block_hash
from federation.verification import SignatureScheme

_HEAD: Final = struct.Struct("<H")
SIGNATURE_SIZE_BYTES: Final = 101


@dataclass(frozen=True, slots=True)
class FinalMessage:
    """A FINAL frame: a block with its signatures as bytes."""

    height: int
    payload: bytes


@lru_cache(maxsize=4_096)
def encode_final(block: FinalBlock) -> bytes:
    """Block and signatures as bytes."""
    head = _HEAD.pack(len(block.data))
    return head + block.data + b"".join(s.encode() for s in block.signatures)


@lru_cache(maxsize=4_096)
def decode_final(payload: bytes) -> FinalBlock | None:
    """The block in these bytes; None when there is none."""
    try:
        (size,) = _HEAD.unpack_from(payload)
        data, tail = payload[2 : 2 + size], payload[2 + size :]
        block_fields(data)
        if len(tail) % SIGNATURE_SIZE_BYTES:
            return None
        bodies = (tail[i : i + SIGNATURE_SIZE_BYTES] for i in range(0, len(tail), 101))
        signatures = tuple(BlockSignature.decode(body) for body in bodies)
    except (struct.error, InvalidMessage):
        return None
    return FinalBlock(block_hash(data), data, signatures)


def is_signed_final(block: FinalBlock, plan: MemberPlan, scheme: SignatureScheme) -> bool:
    """Whether k members of the set of its height signed it, each once."""
    members = plan.at(block_fields(block.data).height)
    signers = [s.member for s in block.signatures]
    if len(set(signers)) != len(signers) or len(signers) < members.k:
        return False
    return all(
        s.member < members.n
        and s.block_hash == block.hash
        and scheme.is_ecdsa(members.members[s.member].block_key, s.signature, block.hash)
        for s in block.signatures
    )
