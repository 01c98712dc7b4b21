"""Records: the governance messages that coinbases carry, byte for byte.

Every type has a codec so that blocks can be read; which types a voter accepts is decided in
`peg.commitments`. A record is named by SHA-256 of its bytes in approvals (N23).

Source: peg:3.3, N21.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from sidechain.crypto.hashes import tagged_hash
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, le32, le64
from sidechain.primitives.transaction import OutPoint
from sidechain.script.opcodes import OP_RETURN
from sidechain.script.script import push

RECORD_MAGIC = b"FPR\x01"
BURN_ID_BYTES = 36
PAUSE_DEPOSITS = 1

_OPEN, _PAUSE, _RESUME, _CANCEL, _EXCLUDE, _INCLUDE = 1, 2, 3, 4, 5, 6
_RELEASE, _PARAM, _HANDOVER, _RETURN, _REOPEN = 7, 8, 9, 10, 11


@dataclass(frozen=True, slots=True)
class OpenRecord:
    """01: a lane's first anchor."""

    lane: int
    anchor: OutPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRecord:
    """02: one member stops releases; `until` in clock units, signature BIP340 of its block key."""

    member: int
    deposits: bool
    sequence: int
    until: int
    signature: bytes

    def unsigned(self) -> bytes:
        """The body before the signature."""
        flags = PAUSE_DEPOSITS if self.deposits else 0
        return bytes((self.member, flags)) + le32(self.sequence) + le32(self.until)

    def message(self, genesis: bytes) -> bytes:
        """The 32 bytes its member signs."""
        return tagged_hash("fedpeg/pause", genesis + self.unsigned())


@dataclass(frozen=True, slots=True)
class ResumeRecord:
    """03: ends all pauses."""


@dataclass(frozen=True, slots=True)
class CancelRecord:
    """04: give up an open batch."""

    lane: int
    anchor: OutPoint


@dataclass(frozen=True, slots=True)
class ExcludeRecord:
    """05: a burn leaves the queue."""

    burn_id: bytes


@dataclass(frozen=True, slots=True)
class IncludeRecord:
    """06: an excluded burn re-enters the queue."""

    burn_id: bytes


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """07: pay a burn held for its size."""

    burn_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamRecord:
    """08: change a G value from a sidechain height on."""

    parameter: int
    value: int
    active_from: int


@dataclass(frozen=True, slots=True)
class HandoverRecord:
    """09: the lane goes to another federation script, named by its SHA-256."""

    lane: int
    script_hash: bytes


@dataclass(frozen=True, slots=True)
class ReturnRecord:
    """0a: give a late deposit back; the destination script is named by its SHA-256."""

    deposit: OutPoint
    script_hash: bytes


@dataclass(frozen=True, slots=True)
class ReopenRecord:
    """0b: continue a broken lane."""

    lane: int
    breaking_txid: bytes
    anchor: OutPoint


Record: TypeAlias = (
    OpenRecord
    | PauseRecord
    | ResumeRecord
    | CancelRecord
    | ExcludeRecord
    | IncludeRecord
    | ReleaseRecord
    | ParamRecord
    | HandoverRecord
    | ReturnRecord
    | ReopenRecord
)


def encode_record(record: Record) -> bytes:
    """Record bytes: magic, type, body. These are the bytes an operator approves."""
    kind, body = _body(record)
    return RECORD_MAGIC + bytes((kind,)) + body


def record_script(record: Record) -> bytes:
    """The coinbase output script of a record."""
    return bytes((OP_RETURN,)) + push(encode_record(record))


def decode_record(data: bytes) -> Record:
    """Read record bytes.

    Raises:
        InvalidEncoding: unknown type, wrong length, or a field out of range.
    """
    reader = Reader(data)
    if reader.read(4) != RECORD_MAGIC:
        raise InvalidEncoding("record", "wrong magic")
    record = _decode_body(reader.u8(), reader)
    reader.done()
    return record


def _body(record: Record) -> tuple[int, bytes]:
    match record:
        case OpenRecord(lane=lane, anchor=anchor):
            return _OPEN, bytes((lane,)) + anchor.serialize()
        case PauseRecord():
            return _PAUSE, record.unsigned() + record.signature
        case ResumeRecord():
            return _RESUME, b""
        case CancelRecord(lane=lane, anchor=anchor):
            return _CANCEL, bytes((lane,)) + anchor.serialize()
        case ExcludeRecord(burn_id=burn_id):
            return _EXCLUDE, burn_id
        case IncludeRecord(burn_id=burn_id):
            return _INCLUDE, burn_id
        case ReleaseRecord(burn_id=burn_id):
            return _RELEASE, burn_id
        case ParamRecord():
            fields = bytes((record.parameter,)) + le64(record.value) + le32(record.active_from)
            return _PARAM, fields
        case HandoverRecord(lane=lane, script_hash=script_hash):
            return _HANDOVER, bytes((lane,)) + script_hash
        case ReturnRecord(deposit=deposit, script_hash=script_hash):
            return _RETURN, deposit.serialize() + script_hash
        case ReopenRecord(lane=lane, breaking_txid=txid, anchor=anchor):
            return _REOPEN, bytes((lane,)) + txid + anchor.serialize()
        case _:
            assert_never(record)


def _decode_body(kind: int, reader: Reader) -> Record:
    match kind:
        case 1:
            return OpenRecord(reader.u8(), _outpoint(reader))
        case 2:
            return _decode_pause(reader)
        case 3:
            return ResumeRecord()
        case 4:
            return CancelRecord(reader.u8(), _outpoint(reader))
        case 5:
            return ExcludeRecord(reader.read(BURN_ID_BYTES))
        case 6:
            return IncludeRecord(reader.read(BURN_ID_BYTES))
        case 7:
            return ReleaseRecord(reader.read(BURN_ID_BYTES))
        case 8:
            return ParamRecord(parameter=reader.u8(), value=reader.u64(), active_from=reader.u32())
        case 9:
            return HandoverRecord(reader.u8(), reader.read(32))
        case 10:
            return ReturnRecord(_outpoint(reader), reader.read(32))
        case 11:
            return ReopenRecord(reader.u8(), reader.read(32), _outpoint(reader))
        case _:
            raise InvalidEncoding("record", f"unknown type {kind}")


def _decode_pause(reader: Reader) -> PauseRecord:
    member, flags = reader.u8(), reader.u8()
    if flags & ~PAUSE_DEPOSITS:
        raise InvalidEncoding("record", "unknown flag")
    return PauseRecord(
        member=member,
        deposits=bool(flags & PAUSE_DEPOSITS),
        sequence=reader.u32(),
        until=reader.u32(),
        signature=reader.read(64),
    )


def _outpoint(reader: Reader) -> OutPoint:
    return OutPoint(reader.read(32), reader.u32())
