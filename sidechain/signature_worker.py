"""The process that checks signatures for a node: `python -m sidechain.signature_worker`.

Reads batches from its standard input and writes one byte for each signature, 1 if it holds, to its
standard output, in order. It ends when its input does, so it never outlives the node.

A batch is its size (four bytes, little-endian) and as many records of `RECORD_BYTES`: key (33
bytes, or 32 behind a zero byte for Schnorr), signature (64) and digest (32).
"""

import signal
import sys
from collections.abc import Sequence

from sidechain.crypto.keys import ecdsa_verify_compact, schnorr_verify

KEY_BYTES = 33
SIGNATURE_BYTES = 64
RECORD_BYTES = KEY_BYTES + SIGNATURE_BYTES + 32
HEAD_BYTES = 4


def pack(records: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
    """A batch of key, signature and digest each."""
    pieces = [len(records).to_bytes(HEAD_BYTES, "little")]
    for key, signature, digest in records:
        pieces += (key if len(key) == KEY_BYTES else b"\0" + key, signature, digest)
    return b"".join(pieces)


def answer(records: bytes) -> bytes:
    """One byte for each record."""
    return bytes(
        _holds(records[at : at + RECORD_BYTES]) for at in range(0, len(records), RECORD_BYTES)
    )


def _holds(record: bytes) -> bool:
    key = record[:KEY_BYTES]
    signature = record[KEY_BYTES : KEY_BYTES + SIGNATURE_BYTES]
    digest = record[KEY_BYTES + SIGNATURE_BYTES :]
    if key[0] == 0:
        return schnorr_verify(key[1:], signature, digest)
    return ecdsa_verify_compact(key, signature, digest)


def main() -> None:
    """Answer batches until the input ends."""
    # Ctrl-C reaches all processes of a terminal; this one ends with its node.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        while len(head := source.read(HEAD_BYTES)) == HEAD_BYTES:
            size = int.from_bytes(head, "little") * RECORD_BYTES
            records = source.read(size)
            if len(records) < size:
                return
            sink.write(answer(records))
            sink.flush()
    except BrokenPipeError:
        # The node is gone; what is still buffered has no reader either.
        sys.stdout = None


if __name__ == "__main__":
    main()
