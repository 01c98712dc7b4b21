"""Elements block headers and blocks: exact decoding, encoding, hash and weight.

A header has one of two forms. The legacy form proves itself by challenge and solution; the
dynamic-federation form carries parameter entries and a signblock witness, and is marked by the
highest bit of its version, which is never part of `version` here.

Source: elements/blocks.md 2 and 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sidechain.crypto.hashes import fast_merkle_root, merkle_root, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.dynafed import (
    COMPACT_KIND,
    FULL_KIND,
    NULL_ENTRY,
    NULL_KIND,
    ParamEntry,
    params_root,
)
from sidechain.primitives.encoding import Reader, compact_size, le32, vec, vectors
from sidechain.primitives.transaction import Transaction

__all__ = [
    "COMPACT_KIND",
    "DYNAFED_FLAG",
    "FULL_KIND",
    "NULL_ENTRY",
    "NULL_KIND",
    "Block",
    "BlockHeader",
    "ParamEntry",
    "params_root",
]

DYNAFED_FLAG = 0x80000000


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """One header. `hash` is computed at construction and leaves out all signatures.

    `challenge` and `solution` belong to the legacy form, `current`, `proposed` and
    `signblock_witness` to the other. `time` is in seconds since 1970. `height_in_legacy_form`
    is the chain's choice whether a legacy header shows its height (its `height` is 0 if not).
    """

    version: int
    prev_hash: bytes
    merkle_root: bytes
    time: int
    height: int
    challenge: bytes = b""
    solution: bytes = b""
    current: ParamEntry = NULL_ENTRY
    proposed: ParamEntry = NULL_ENTRY
    signblock_witness: tuple[bytes, ...] = ()
    height_in_legacy_form: bool = True
    hash: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", sha256d(self.signed_bytes()))

    @classmethod
    def read(cls, reader: Reader, params: ChainParams) -> "BlockHeader":
        """Read one header.

        Raises:
            InvalidEncoding: cut off, or an unknown entry kind. The dynamic form without entries,
                which no encoder writes, reads as a legacy header without proof, as in Elements.
        """
        version = reader.u32()
        prev_hash = reader.read(32)
        root = reader.read(32)
        time = reader.u32()
        if version & DYNAFED_FLAG:
            return cls(
                version=version & ~DYNAFED_FLAG,
                prev_hash=prev_hash,
                merkle_root=root,
                time=time,
                height=reader.u32(),
                current=ParamEntry.read(reader),
                proposed=ParamEntry.read(reader),
                signblock_witness=reader.vectors(),
                height_in_legacy_form=params.block_height_in_header,
            )
        if not params.signed_blocks:
            raise InvalidEncoding("only chains with signed blocks are supported")
        return cls(
            version=version,
            prev_hash=prev_hash,
            merkle_root=root,
            time=time,
            height=reader.u32() if params.block_height_in_header else 0,
            challenge=reader.vec(),
            solution=reader.vec(),
            height_in_legacy_form=params.block_height_in_header,
        )

    @property
    def is_dynafed(self) -> bool:
        """Whether this is the form with federation parameters."""
        return self.current.kind != NULL_KIND or self.proposed.kind != NULL_KIND

    def signed_bytes(self) -> bytes:
        """What the block hash is taken over: everything but solution and signblock witness."""
        dynafed = self.is_dynafed
        version = self.version | DYNAFED_FLAG if dynafed else self.version
        head = le32(version) + self.prev_hash + self.merkle_root + le32(self.time)
        if dynafed:
            entries = self.current.serialize() + self.proposed.serialize()
            return head + le32(self.height) + entries
        height = le32(self.height) if self.height_in_legacy_form else b""
        return head + height + vec(self.challenge)

    def serialize(self) -> bytes:
        """The header with its signatures, which are part of every serialization."""
        if self.is_dynafed:
            return self.signed_bytes() + vectors(self.signblock_witness)
        return self.signed_bytes() + vec(self.solution)


@dataclass(frozen=True, slots=True)
class Block:
    """A header and its transactions, the coinbase first."""

    header: BlockHeader
    transactions: tuple[Transaction, ...]

    @classmethod
    def decode(cls, data: bytes, params: ChainParams) -> "Block":
        """Read one block that fills `data`.

        Raises:
            InvalidEncoding: header or a transaction does not decode, or bytes are left over.
        """
        reader = Reader(data)
        block = cls.read(reader, params)
        reader.done()
        return block

    @classmethod
    def read(cls, reader: Reader, params: ChainParams) -> "Block":
        """Read one block; `decode` without the rule about what is behind it.

        Raises:
            InvalidEncoding: header or a transaction does not decode.
        """
        header = BlockHeader.read(reader, params)
        count = reader.compact_size()
        transactions = tuple([Transaction.read(reader) for _ in range(count)])
        return cls(header, transactions)

    @property
    def hash(self) -> bytes:
        """The header's hash, internal order."""
        return self.header.hash

    def serialize(self) -> bytes:
        """The block's bytes."""
        parts = [self.header.serialize(), compact_size(len(self.transactions))]
        return b"".join(parts + [tx.raw for tx in self.transactions])

    @property
    def total_size(self) -> int:
        """Size in bytes with everything."""
        return self._frame_size() + sum(tx.total_size for tx in self.transactions)

    @property
    def stripped_size(self) -> int:
        """Size in bytes without transaction witnesses; the header keeps its signatures."""
        return self._frame_size() + sum(tx.base_size for tx in self.transactions)

    @property
    def weight_wu(self) -> int:
        """Weight units: three times the stripped size plus the total size."""
        transactions = sum(tx.weight_wu for tx in self.transactions)
        return 4 * self._frame_size() + transactions

    def transaction_root(self) -> tuple[bytes, bool]:
        """Merkle root over the txids, and whether the list is ambiguous (CVE-2012-2459)."""
        return merkle_root([tx.txid for tx in self.transactions])

    def witness_root(self) -> bytes:
        """Root over all witness-only hashes, which the coinbase commits to."""
        return fast_merkle_root([tx.witness_only_hash() for tx in self.transactions])

    def with_signblock_witness(self, items: Sequence[bytes]) -> "Block":
        """The same block, same hash, under other signatures."""
        return Block(replace(self.header, signblock_witness=tuple(items)), self.transactions)

    def _frame_size(self) -> int:
        return len(self.header.serialize()) + len(compact_size(len(self.transactions)))
