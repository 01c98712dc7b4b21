"""What the signer must never forget, as one small file.

Canonical JSON on one line, its SHA-256 on the next. Replaced as a whole, durably, before a
signature leaves.

Source: consensus:R5.
"""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.files import FileLayer, replace_file

FORMAT = 1
SIGNED_KEPT_MAX = 256
NO_POSITION = (0, -1, 0)


class GuardDamaged(Exception):
    """The guard file is not what this signer wrote, or is of another key or chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """State of the guard.

    `signed` are the vote digests of the current height, newest last: these may be signed again.
    `lock` is (height, round, block hash) of the last PRECOMMIT of a block. `counter` grows by one
    with every new signature. `abstains`: no vote at all until a height to vote from is set (R6).
    """

    genesis: bytes
    vote_key: bytes
    counter: int = 0
    position: tuple[int, int, int] = NO_POSITION
    signed: tuple[bytes, ...] = ()
    lock: tuple[int, int, bytes] | None = None
    block_signature: tuple[int, bytes] | None = None
    vote_from: int = 0
    halted: bool = False
    abstains: bool = False

    def with_vote(
        self, position: tuple[int, int, int], digest: bytes, lock: tuple[int, int, bytes] | None
    ) -> "Guard":
        """The state after a new vote was allowed."""
        same_height = position[0] == self.position[0]
        kept = self.signed[-(SIGNED_KEPT_MAX - 1) :] if same_height else ()
        return replace(
            self,
            counter=self.counter + 1,
            position=position,
            signed=(*kept, digest),
            lock=lock,
        )


def save_guard(layer: FileLayer, path: Path, guard: Guard) -> None:
    """Replace the guard file; durable on return.

    Raises:
        OSError: the disk refused; the old state or the new one is in the file.
    """
    body = canonical_json(_to_json(guard))
    replace_file(layer, path, body + b"\n" + sha256(body).hexdigest().encode() + b"\n")


def load_guard(
    path: Path, genesis: bytes, vote_key: bytes, layer: FileLayer | None = None
) -> Guard:
    """Read the guard file.

    Raises:
        GuardDamaged: not the bytes that were written, or of another chain or key.
        OSError: it cannot be read, or others can read it.
    """
    body, _, tail = (layer or FileLayer()).read_private(path).partition(b"\n")
    if tail != sha256(body).hexdigest().encode() + b"\n":
        raise GuardDamaged(f"{path} is damaged")
    try:
        guard = _from_json(strict_loads(body.decode("ascii")))
    except (NotCanonical, ValueError, KeyError, TypeError) as error:
        raise GuardDamaged(f"{path} is damaged: {error}") from error
    if (guard.genesis, guard.vote_key) != (genesis, vote_key):
        raise GuardDamaged(f"{path} belongs to another key or chain")
    return guard


def _to_json(guard: Guard) -> dict[str, Any]:
    lock, block = guard.lock, guard.block_signature
    return {
        "format": FORMAT,
        "genesis": guard.genesis.hex(),
        "vote_key": guard.vote_key.hex(),
        "counter": guard.counter,
        "position": list(guard.position),
        "signed": [digest.hex() for digest in guard.signed],
        "lock": [] if lock is None else [lock[0], lock[1], lock[2].hex()],
        "block_signature": [] if block is None else [block[0], block[1].hex()],
        "vote_from": guard.vote_from,
        "halted": int(guard.halted),
        "abstains": int(guard.abstains),
    }


def _from_json(plain: dict[str, Any]) -> Guard:
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']} is not known")
    height, round_number, kind = plain["position"]
    lock, block = plain["lock"], plain["block_signature"]
    return Guard(
        genesis=bytes.fromhex(plain["genesis"]),
        vote_key=bytes.fromhex(plain["vote_key"]),
        counter=plain["counter"],
        position=(height, round_number, kind),
        signed=tuple(bytes.fromhex(digest) for digest in plain["signed"]),
        lock=(lock[0], lock[1], bytes.fromhex(lock[2])) if lock else None,
        block_signature=(block[0], bytes.fromhex(block[1])) if block else None,
        vote_from=plain["vote_from"],
        halted=plain["halted"] == 1,
        # Files of the first version have no such field.
        abstains=plain.get("abstains", 0) == 1,
    )
