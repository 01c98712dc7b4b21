"""Bytes of a journal file: header, records, and the judgement on how a file ends.

Pure: bytes in, records and a verdict out. `federation.wal` does the files.

Source: consensus:J1, consensus:J2, consensus:J5.
"""

import zlib
from dataclasses import dataclass
from enum import Enum

FORMAT = 1
HEADER_SIZE_BYTES = 8 + 4 + 32 + 32 + 8 + 4
RECORD_HEADER_SIZE_BYTES = 4 + 1 + 8 + 4
RECORD_BODY_MAX_BYTES = 262_144
RECORD_CRC_SIZE_BYTES = 4
TORN_ZERO_TAIL_BYTES = 512
KIND_BASE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalForm:
    """What tells one kind of journal from another: file magic (8 bytes) and file name prefix."""

    magic: bytes
    prefix: str


CONSENSUS_JOURNAL = JournalForm(magic=b"FCJOURN1", prefix="journal")
PEG_JOURNAL = JournalForm(magic=b"FCPEGJR1", prefix="pegjournal")
COVENANT_JOURNAL = JournalForm(magic=b"FCCOVRG1", prefix="covenants")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as written; `sequence` grows by one each, across files."""

    kind: int
    sequence: int
    body: bytes


class Verdict(Enum):
    """What opening found. EMPTY: no record was ever acknowledged. SOUND and TORN: Intact.

    DOUBTFUL: one record of unknown content is missing and was perhaps acted on; it stays so over
    restarts until `Journal.settle_doubt`.
    """

    EMPTY = "empty"
    SOUND = "sound"
    TORN = "torn"
    DOUBTFUL = "doubtful"


class JournalCorrupt(Exception):
    """The files are damaged, incomplete, or of another key or chain: refuse to start (J6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalScan:
    """What a file holds up to its last whole record.

    `sound_size_bytes` is where the next record goes, `crc` what its header CRC is seeded with.
    """

    records: tuple[Record, ...]
    sound_size_bytes: int
    crc: int
    verdict: Verdict


def journal_identity(form: JournalForm, genesis: bytes, key: bytes) -> bytes:
    """The part of a file header that is equal in all files of one journal.

    Raises:
        ValueError: magic not 8 bytes, genesis or x-only key not 32.
    """
    if len(form.magic) != 8 or len(genesis) != 32 or len(key) != 32:
        raise ValueError("journal magic is 8 bytes, genesis and key are 32")
    return form.magic + FORMAT.to_bytes(4, "little") + genesis + key


def file_header(identity: bytes, number: int) -> bytes:
    """Header of the file with this number (J1); its CRC seeds the first record's."""
    header = identity + number.to_bytes(8, "little")
    return header + zlib.crc32(header).to_bytes(4, "little")


def encode_record(kind: int, sequence: int, body: bytes, crc: int) -> tuple[bytes, int]:
    """A record as bytes, and the CRC that seeds the next one (J2)."""
    head = len(body).to_bytes(4, "little") + bytes((kind,)) + sequence.to_bytes(8, "little")
    head_crc = zlib.crc32(head, crc)
    body_crc = zlib.crc32(body, head_crc)
    data = head + head_crc.to_bytes(4, "little") + body + body_crc.to_bytes(4, "little")
    return data, body_crc


def scan_file(data: bytes, identity: bytes, number: int) -> JournalScan:
    """Read records up to the end or the first that is not whole, and judge that one (J5).

    Never says EMPTY: a file that ends inside its header is TORN with no records.

    Raises:
        JournalCorrupt: damage that no interrupted write explains.
    """
    expected = file_header(identity, number)
    if data[:HEADER_SIZE_BYTES] != expected:
        _judgefile_header(data, expected, number)
        return JournalScan(records=(), sound_size_bytes=0, crc=0, verdict=Verdict.TORN)
    records: list[Record] = []
    position = HEADER_SIZE_BYTES
    crc = int.from_bytes(expected[-4:], "little")
    verdict = Verdict.SOUND
    while position < len(data):
        head = data[position : position + RECORD_HEADER_SIZE_BYTES]
        if len(head) < RECORD_HEADER_SIZE_BYTES:
            verdict = Verdict.TORN
            break
        head_crc = zlib.crc32(head[:13], crc)
        if head_crc.to_bytes(4, "little") != head[13:]:
            if any(data[position:]):
                raise JournalCorrupt(f"file {number}: damaged record header at byte {position}")
            verdict = Verdict.TORN
            break
        size = int.from_bytes(head[:4], "little")
        sequence = int.from_bytes(head[5:13], "little")
        _check_header(number, position, size, sequence, head[4], records)
        start = position + RECORD_HEADER_SIZE_BYTES
        end = start + size + 4
        body = data[start : end - 4]
        body_crc = zlib.crc32(body, head_crc)
        if end > len(data) or body_crc.to_bytes(4, "little") != data[end - 4 : end]:
            verdict = _judge_body(data, start, end, number)
            break
        records.append(Record(kind=head[4], sequence=sequence, body=body))
        position, crc = end, body_crc
    return JournalScan(records=tuple(records), sound_size_bytes=position, crc=crc, verdict=verdict)


def _judgefile_header(data: bytes, expected: bytes, number: int) -> None:
    """Return when the file ends inside its header; raise when the header is another one."""
    if len(data) < HEADER_SIZE_BYTES and expected.startswith(data):
        return
    if not any(data):
        return
    found = data[:HEADER_SIZE_BYTES]
    if (
        len(found) == HEADER_SIZE_BYTES
        and zlib.crc32(found[:-4]).to_bytes(4, "little") == (found[-4:])
    ):
        raise JournalCorrupt(f"file {number} belongs to another key, chain or place")
    raise JournalCorrupt(f"file {number}: damaged file header")


def _check_header(
    number: int, position: int, size: int, sequence: int, kind: int, records: list[Record]
) -> None:
    if size > RECORD_BODY_MAX_BYTES:
        raise JournalCorrupt(f"file {number}: record of {size} bytes at byte {position}")
    if records and sequence != records[-1].sequence + 1:
        raise JournalCorrupt(f"file {number}: sequence gap at byte {position}")
    if not records and number == 1 and sequence != 1:
        raise JournalCorrupt(f"file {number}: first record has sequence {sequence}")
    if not records and number > 1 and kind != KIND_BASE:
        raise JournalCorrupt(f"file {number} does not begin with a BASE record")


def _judge_body(data: bytes, start: int, end: int, number: int) -> Verdict:
    if end > len(data):
        return Verdict.TORN
    if any(data[end:]):
        raise JournalCorrupt(f"file {number}: damaged record body at byte {start}")
    # Nothing but zeros behind it: it is the last one, and what should follow was never written.
    tail = data[start:]
    zeros = len(tail) - len(tail.rstrip(b"\0"))
    if zeros >= TORN_ZERO_TAIL_BYTES or zeros == len(tail):
        return Verdict.TORN
    return Verdict.DOUBTFUL


def check_record(kind: int, body: bytes) -> None:
    """Refuse a record that could not be read back.

    Raises:
        ValueError: kind not a byte, or body above the limit.
    """
    if not 0 <= kind <= 255 or len(body) > RECORD_BODY_MAX_BYTES:
        raise ValueError(f"record kind {kind} with {len(body)} bytes")
