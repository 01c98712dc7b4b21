"""Bitcoin's headers, transactions, blocks and merkle-block proofs, read strictly.

Transactions go through python-bitcoinlib. It reads more than Bitcoin does (non-minimal lengths,
an all-empty witness), so what it read must serialize to the same bytes again.

Source: elements/peg.md 3.
"""

from dataclasses import dataclass, field
from io import BytesIO
from struct import Struct
from struct import error as StructError

from bitcoin.core import CTransaction
from bitcoin.core.serialize import SerializationError

from sidechain.crypto.hashes import merkle_root, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader
from sidechain.primitives.merkle_proof import build_partial_tree, read_partial_tree
from sidechain.primitives.tx_parts import OutPoint

HEADER_SIZE = 80
_HEADER = Struct("<i32s32sIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentHeader:
    """A Bitcoin header. `time` is in seconds since 1970, `bits` the compact target."""

    version: int
    prev_hash: bytes
    merkle_root: bytes
    time: int
    bits: int
    nonce: int
    hash: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", sha256d(self.serialize()))

    @classmethod
    def decode(cls, data: bytes) -> "ParentHeader":
        """Read a header of exactly 80 bytes.

        Raises:
            InvalidEncoding: another length.
        """
        if len(data) != HEADER_SIZE:
            raise InvalidEncoding("parent header is not 80 bytes")
        version, prev_hash, root, time, bits, nonce = _HEADER.unpack(data)
        return cls(
            version=version,
            prev_hash=prev_hash,
            merkle_root=root,
            time=time,
            bits=bits,
            nonce=nonce,
        )

    def serialize(self) -> bytes:
        """The 80 bytes."""
        return _HEADER.pack(
            self.version, self.prev_hash, self.merkle_root, self.time, self.bits, self.nonce
        )

    @property
    def target(self) -> int | None:
        """The number the hash must not exceed; None where `bits` names no usable target."""
        return target_from_bits(self.bits)

    def check_pow(self, limit: int) -> None:
        """Check that the hash meets its own target and the target is not above `limit`.

        Raises:
            InvalidEncoding: it does not.
        Source: elements/peg.md 3.1 check 5.
        """
        target = self.target
        if target is None or target > limit or int.from_bytes(self.hash, "little") > target:
            raise InvalidEncoding("Parent proof of work is invalid or insufficient.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MerkleBlock:
    """A header and the transactions proved to be in its block.

    `matches` holds (position, txid) in block order; the tree leads to the header's merkle root.
    """

    header: ParentHeader
    tx_count: int
    matches: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentTx:
    """A Bitcoin transaction, reduced to what the peg looks at.

    `outputs` holds (value in satoshis, script). `stripped` are the bytes without witness, which
    the txid is taken over; `vsize` is in virtual bytes.
    """

    txid: bytes
    inputs: tuple[OutPoint, ...]
    outputs: tuple[tuple[int, bytes], ...]
    stripped: bytes
    vsize: int


@dataclass(frozen=True, slots=True)
class ParentBlock:
    """A Bitcoin block whose transactions lead to its header's merkle root."""

    header: ParentHeader
    transactions: tuple[ParentTx, ...]


def target_from_bits(bits: int) -> int | None:
    """The target a compact number stands for; None when negative, zero or above 256 bits."""
    exponent, mantissa = bits >> 24, bits & 0x007FFFFF
    target = mantissa << 8 * (exponent - 3) if exponent > 3 else mantissa >> 8 * (3 - exponent)
    negative = bool(bits & 0x00800000) and mantissa != 0
    if negative or not 0 < target < 1 << 256:
        return None
    return target


def parse_merkle_block(proof: bytes) -> MerkleBlock:
    """Read a proof as `gettxoutproof` makes it. The header's work is not checked.

    Raises:
        InvalidEncoding: malformed, trailing bytes, a tree that is not exactly consumed, or one
            that leads to another root than the header's.
    """
    reader = Reader(proof)
    header = ParentHeader.decode(reader.read(HEADER_SIZE))
    tree = read_partial_tree(reader)
    reader.done()
    if tree.root != header.merkle_root:
        raise InvalidEncoding("merkle root differs from the header's")
    return MerkleBlock(header=header, tx_count=tree.tx_count, matches=tree.matches)


def build_merkle_block(block: ParentBlock, txid: bytes) -> bytes:
    """Make the proof that `txid` is in a block, in the form of `gettxoutproof`.

    Raises:
        InvalidEncoding: the transaction is not in the block.
    """
    txids = [tx.txid for tx in block.transactions]
    if txid not in txids:
        raise InvalidEncoding("transaction is not in the block")
    return block.header.serialize() + build_partial_tree(txids, [txids.index(txid)])


def parse_parent_tx(data: bytes) -> ParentTx:
    """Read one Bitcoin transaction, with or without witness.

    Raises:
        InvalidEncoding: malformed, not canonical, or followed by more bytes.
    """
    tx, end = _read_tx(data, 0)
    if end != len(data):
        raise InvalidEncoding("trailing data", f"{len(data) - end} bytes")
    return tx


def parse_parent_block(data: bytes) -> ParentBlock:
    """Read one Bitcoin block and check that its transactions belong to its header.

    Raises:
        InvalidEncoding: malformed, trailing bytes, or a merkle root that differs or is ambiguous.
    """
    reader = Reader(data)
    header = ParentHeader.decode(reader.read(HEADER_SIZE))
    transactions = []
    for _ in range(reader.compact_size()):
        tx, reader.pos = _read_tx(data, reader.pos)
        transactions.append(tx)
    reader.done()
    root, mutated = merkle_root([tx.txid for tx in transactions])
    if mutated or root != header.merkle_root:
        raise InvalidEncoding("parent block does not match its merkle root")
    return ParentBlock(header, tuple(transactions))


def _read_tx(data: bytes, start: int) -> tuple[ParentTx, int]:
    stream = BytesIO(data)
    stream.seek(start)
    try:
        tx = CTransaction.stream_deserialize(stream)
        canonical = tx.serialize()
    except (SerializationError, StructError, ValueError, OverflowError) as error:
        raise InvalidEncoding("parent transaction does not decode", str(error)) from error
    end = stream.tell()
    if canonical != data[start:end]:
        raise InvalidEncoding("parent transaction is not in canonical form")
    if not tx.vin:
        # Bitcoin takes an empty list of inputs for the mark of the form with witnesses.
        raise InvalidEncoding("parent transaction without inputs")
    stripped = canonical if tx.wit.is_null() else tx.serialize({"include_witness": False})
    found = ParentTx(
        txid=sha256d(stripped),
        inputs=tuple([OutPoint(txin.prevout.hash, txin.prevout.n) for txin in tx.vin]),
        outputs=tuple([(txout.nValue, bytes(txout.scriptPubKey)) for txout in tx.vout]),
        stripped=stripped,
        vsize=(3 * len(stripped) + len(canonical) + 3) // 4,
    )
    return found, end
