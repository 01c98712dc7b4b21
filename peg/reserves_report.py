"""The reserves report: what k members sign about the peg at one sidechain height.

What is signed is the RFC 8785 JSON of the report, so a reader's JSON library gives the bytes back.
Everything in it follows from the two chains.

Source: peg:11, N26.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peg.batches import FedCoin
from peg.canonical import NotCanonical, canonical_json
from peg.state import PegView
from sidechain.crypto.hashes import merkle_root, sha256, tagged_hash
from sidechain.crypto.keys import schnorr_verify
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, le32, le64

FORMAT: Final = 1
REPORT_EVERY: Final = 144
"""Clock units of an epoch, on regtest too: section 2 has no parameter for it."""
REPORT_TAG: Final = "fedpeg/reserves"
BATCHES_SHOWN: Final = 10
FILE_BYTES_MAX: Final = 100_000
HONEST_LIMIT: Final = (
    "Claims, burns and fees are explicit, so the peg ledger is exact. That what circulates equals"
    " what wallets hold rests on the sidechain's range and surjection proofs: inflation is"
    " invisible until it is burned, and what can be paid out then is bounded by the release limits."
)
"""What no such report can show; stands in every one."""

_NUMBERS: Final = (
    "format",
    "height",
    "committed_height",
    "coins",
    "reserve_sats",
    "claimed_sats",
    "feeburn_sats",
    "circulating_sats",
    "unpaid_sats",
    "pending_fee_sats",
    "suspense_sats",
    "pool_sats",
    "vanished_sats",
    "forced_fee_sats",
)
_HASHES: Final = ("genesis", "parameter_hash", "hash", "committed_hash", "coins_root")
_OTHERS: Final = ("fedpegscripts", "batches", "limit")
_OPTIONAL: Final = ("oldest_blocks_left",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOrigin:
    """Which federation a report is of: 32-byte hashes, and its plain fedpegscripts."""

    genesis: bytes
    parameter_hash: bytes
    fedpegscripts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReportShare:
    """Frame 23: one member's signature on the report of a height."""

    height: int
    member: int
    digest: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Body without the frame's signature."""
        return le32(self.height) + bytes((self.member,)) + self.digest + self.signature


def decode_share(body: bytes) -> ReportShare:
    """Read a frame 23 body; raises InvalidEncoding."""
    reader = Reader(body)
    share = ReportShare(reader.u32(), reader.u8(), reader.read(32), reader.read(64))
    reader.done()
    return share


def make_report(view: PegView, block_hash: bytes, origin: ReportOrigin) -> dict[str, Any]:
    """The report at the height of a view.

    Args:
        block_hash: of the sidechain block at that height.
    """
    book, commitment = view.book, view.totals.commitment
    left = [coin.blocks_left(commitment.height) for coin in view.coins]
    first = max(0, len(view.steps) - BATCHES_SHOWN)
    return {
        "format": FORMAT,
        "genesis": origin.genesis.hex(),
        "parameter_hash": origin.parameter_hash.hex(),
        "height": view.height,
        "hash": block_hash[::-1].hex(),
        "committed_height": commitment.height,
        "committed_hash": commitment.block_hash[::-1].hex(),
        "fedpegscripts": [script.hex() for script in origin.fedpegscripts],
        "coins": len(view.coins),
        "coins_root": coins_root(view.coins).hex(),
        "reserve_sats": book.reserve_sats,
        "claimed_sats": book.claimed_sats,
        "feeburn_sats": book.feeburn_sats,
        "circulating_sats": book.circulating_sats,
        "unpaid_sats": book.unpaid_sats,
        "pending_fee_sats": book.pending_fee_sats,
        "suspense_sats": book.suspense_sats,
        "pool_sats": book.pool_sats,
        "vanished_sats": book.vanished_sats,
        "forced_fee_sats": view.forced_fee_sats,
        "batches": [
            {"index": first + position, "txid": step.txid[::-1].hex()}
            for position, step in enumerate(view.steps[first:])
        ],
        "limit": HONEST_LIMIT,
        **({"oldest_blocks_left": min(left)} if left else {}),
    }


def coins_root(coins: Sequence[FedCoin]) -> bytes:
    """Bitcoin's merkle root over SHA-256(outpoint ‖ LE64 value ‖ LE32 height), by outpoint."""
    leaves = {
        coin.outpoint.serialize(): sha256(
            coin.outpoint.serialize() + le64(coin.value_sats) + le32(coin.height)
        )
        for coin in coins
    }
    return merkle_root([leaves[outpoint] for outpoint in sorted(leaves)])[0]


def report_digest(report: Mapping[str, Any]) -> bytes:
    """What members sign.

    Raises:
        InvalidEncoding: it holds what has no canonical form.
    """
    return tagged_hash(REPORT_TAG, report_bytes(report))


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """The canonical bytes; raises InvalidEncoding as `report_digest`."""
    try:
        return canonical_json(report)
    except NotCanonical as error:
        raise InvalidEncoding("reserves report", str(error)) from error


def report_file(report: Mapping[str, Any], signatures: Mapping[int, bytes]) -> dict[str, Any]:
    """What is kept and given away."""
    signed = [{"member": m, "signature": signatures[m].hex()} for m in sorted(signatures)]
    return {"report": dict(report), "signatures": signed}


def read_report_file(plain: object) -> tuple[dict[str, Any], dict[int, bytes]]:
    """Take a file apart: the report and the signatures by member. Nothing is believed yet.

    Raises:
        InvalidEncoding: a field is missing, unknown or of another kind.
    """
    if not isinstance(plain, dict) or set(plain) != {"report", "signatures"}:
        raise InvalidEncoding("reserves report", "expected the fields report and signatures")
    report = plain["report"]
    _check_fields(report)
    if not isinstance(plain["signatures"], list):
        raise InvalidEncoding("reserves report", "signatures is not a list")
    signatures: dict[int, bytes] = {}
    for each in plain["signatures"]:
        if not isinstance(each, dict) or set(each) != {"member", "signature"}:
            raise InvalidEncoding("reserves report", "a signature is not member and signature")
        member = each["member"]
        if not _is_number(member) or member in signatures:
            raise InvalidEncoding("reserves report", "a member is no number or signs twice")
        signatures[member] = _hex("signature", each["signature"], 64)
    if list(signatures) != sorted(signatures):
        raise InvalidEncoding("reserves report", "signatures are not in the order of members")
    return report, signatures


def check_signatures(
    report: Mapping[str, Any], signatures: Mapping[int, bytes], *, keys: Sequence[bytes], k: int
) -> None:
    """Refuse a report without the signatures of k members, or with one that is not theirs.

    Args:
        keys: the members' block keys, 33 bytes each, in member order.
    Raises:
        InvalidEncoding: says which signature.
    """
    digest = report_digest(report)
    for member, signature in signatures.items():
        if not 0 <= member < len(keys):
            raise InvalidEncoding("signatures", f"there is no member {member} in this federation")
        if not schnorr_verify(keys[member][1:], signature, digest):
            raise InvalidEncoding("signatures", f"that of member {member} is not over this report")
    if len(signatures) < k:
        raise InvalidEncoding("signatures", f"{len(signatures)} members signed, {k} are needed")


def differing_fields(told: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Fields in which a report is not what the chains say, each with both values."""
    return [
        f"{name}: the report says {_shown(told.get(name))}, "
        f"the chains say {_shown(found.get(name))}"
        for name in sorted({*told, *found})
        if told.get(name) != found.get(name)
    ]


def _check_fields(report: object) -> None:
    if not isinstance(report, dict):
        raise InvalidEncoding("reserves report", "report is not an object")
    needed = {*_NUMBERS, *_HASHES, *_OTHERS}
    odd = (needed - set(report)) | (set(report) - needed - set(_OPTIONAL))
    if odd:
        raise InvalidEncoding("reserves report", f"missing or unknown: {', '.join(sorted(odd))}")
    for name in (*_NUMBERS, *(each for each in _OPTIONAL if each in report)):
        if not _is_number(report[name]):
            raise InvalidEncoding("reserves report", f"{name} is not a whole number")
    for name in _HASHES:
        _hex(name, report[name], 32)
    if report["format"] != FORMAT:
        raise InvalidEncoding("reserves report", f"format {report['format']} is not {FORMAT}")
    if report["limit"] != HONEST_LIMIT:
        raise InvalidEncoding("reserves report", "limit is not the text that every report carries")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _hex(name: str, value: object, size: int) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size or data.hex() != value:
        raise InvalidEncoding("reserves report", f"{name} is not {size} bytes in hex")
    return data


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
