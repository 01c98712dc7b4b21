"""Dynamic federation parameters as headers carry them, and their roots.

Source: elements/blocks.md 2 and 2.2.
"""

from dataclasses import dataclass

from sidechain.crypto.hashes import ZERO_HASH, fast_merkle_root, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, le32, vec, vectors

NULL_KIND = 0
COMPACT_KIND = 1
FULL_KIND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamEntry:
    """One entry of federation parameters: null, compact or full.

    A compact entry leaves the last three fields empty and names them by `elided_root`; a full
    one has no elided root. `witness_limit` is the largest serialized signblock witness, in bytes.
    """

    kind: int = NULL_KIND
    signblockscript: bytes = b""
    witness_limit: int = 0
    elided_root: bytes = ZERO_HASH
    fedpeg_program: bytes = b""
    fedpegscript: bytes = b""
    extension_space: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, reader: Reader) -> "ParamEntry":
        """Read one entry.

        Raises:
            InvalidEncoding: unknown kind or cut off.
        """
        kind = reader.u8()
        if kind == NULL_KIND:
            return NULL_ENTRY
        if kind not in (COMPACT_KIND, FULL_KIND):
            raise InvalidEncoding("Invalid serialize type for dynafed parameters")
        signblockscript = reader.vec()
        witness_limit = reader.u32()
        if kind == COMPACT_KIND:
            return cls(
                kind=kind,
                signblockscript=signblockscript,
                witness_limit=witness_limit,
                elided_root=reader.read(32),
            )
        return cls(
            kind=kind,
            signblockscript=signblockscript,
            witness_limit=witness_limit,
            fedpeg_program=reader.vec(),
            fedpegscript=reader.vec(),
            extension_space=reader.vectors(),
        )

    @property
    def is_null(self) -> bool:
        """Whether the entry says nothing."""
        return self.kind == NULL_KIND

    def serialize(self) -> bytes:
        """The entry as a header carries it."""
        if self.kind == NULL_KIND:
            return b"\0"
        head = bytes([self.kind]) + vec(self.signblockscript) + le32(self.witness_limit)
        if self.kind == COMPACT_KIND:
            return head + self.elided_root
        tail = vec(self.fedpeg_program) + vec(self.fedpegscript)
        return head + tail + vectors(self.extension_space)

    def extra_root(self) -> bytes:
        """Root of what a compact entry leaves out; zero for a null entry."""
        if self.kind == NULL_KIND:
            return ZERO_HASH
        if self.kind == COMPACT_KIND:
            return self.elided_root
        fields = (vec(self.fedpeg_program), vec(self.fedpegscript), vectors(self.extension_space))
        return fast_merkle_root([sha256d(part) for part in fields])

    def root(self) -> bytes:
        """What votes for this entry are counted by; zero for a null entry.

        A full entry and its compact form have the same root.
        """
        if self.kind == NULL_KIND:
            return ZERO_HASH
        fields = (vec(self.signblockscript), le32(self.witness_limit))
        compact_root = fast_merkle_root([sha256d(part) for part in fields])
        return fast_merkle_root([compact_root, self.extra_root()])

    def compact(self) -> "ParamEntry":
        """The compact form of a full entry; other entries are returned unchanged."""
        if self.kind != FULL_KIND:
            return self
        return ParamEntry(
            kind=COMPACT_KIND,
            signblockscript=self.signblockscript,
            witness_limit=self.witness_limit,
            elided_root=self.extra_root(),
        )


NULL_ENTRY = ParamEntry()


def params_root(current: ParamEntry, proposed: ParamEntry) -> bytes:
    """Root of both entries of a header; zero when both are null."""
    if current.is_null and proposed.is_null:
        return ZERO_HASH
    return fast_merkle_root([current.root(), proposed.root()])
