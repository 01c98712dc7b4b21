"""The pieces of a receipt: a transaction in a signed sidechain block, and a batch on Bitcoin.

Transactions are given without witness, so a txid covers every byte. Bitcoin's headers lead from the
block of the payment up to one that k members committed to, so k signatures cover them too.

Source: peg:3.6, peg:12, N26.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from federation.header_signatures import read_header, verified_signatures
from federation.stranger import NotProved, Stranger
from peg.commitments import CoinbasePeg, Commitment, read_coinbase
from peg.lanes import batch_digest, decode_marker, encode_unsigned
from peg.records import OpenRecord
from peg.reserves_report import check_signatures, read_report_file
from peg.state import LANE
from sidechain.errors import Invalid, InvalidEncoding
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader, compact_size, le32, vec
from sidechain.primitives.merkle_proof import build_partial_tree, read_partial_tree
from sidechain.primitives.parent import (
    HEADER_SIZE,
    ParentHeader,
    ParentTx,
    parse_merkle_block,
    parse_parent_tx,
)
from sidechain.primitives.transaction import OutPoint, Transaction

PATH_MAX: Final = 200
"""Batches that a receipt shows from OPEN on; of a longer lane it needs a signed report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InBlock:
    """A transaction that is in a sidechain block which k members signed."""

    header: BlockHeader
    transaction: Transaction
    position: int
    signers: tuple[str, ...]

    def peg(self, stranger: Stranger) -> CoinbasePeg:
        """What the peg says in it, where it is the block's coinbase.

        Raises:
            NotProved: it is none, or cannot be read.
        """
        if self.position != 0:
            raise NotProved(f"a transaction of block {self.header.height} is not its coinbase")
        try:
            return read_coinbase(self.transaction, stranger.params.pegged_asset)
        except Invalid as error:
            raise NotProved(f"the coinbase of block {self.header.height}: {error}") from error


def show_in_block(block: Block, txid: bytes) -> dict[str, Any]:
    """The proof that a block has a transaction.

    Raises:
        InvalidEncoding: it has not.
    """
    txids = [transaction.txid for transaction in block.transactions]
    if txid not in txids:
        raise InvalidEncoding("receipt", "the block does not have the transaction")
    position = txids.index(txid)
    return {
        "header": block.header.serialize().hex(),
        "branch": build_partial_tree(txids, [position]).hex(),
        "transaction": block.transactions[position].serialize(include_witness=False).hex(),
    }


def check_in_block(plain: object, what: str, stranger: Stranger) -> InBlock:
    """Check what `show_in_block` made.

    Args:
        what: names the proof in reasons.
    Raises:
        NotProved: why it proves nothing.
    """
    fields = take(plain, what, ("header", "branch", "transaction"))
    try:
        header = read_header(hex_of(fields, "header", what), stranger.params)
        if header.current.signblockscript != stranger.signblockscript:
            raise NotProved(f"{what}.header is of a block under another signblockscript")
        signatures = verified_signatures(header, stranger.members, stranger.params)
        reader = Reader(hex_of(fields, "branch", what))
        tree = read_partial_tree(reader)
        reader.done()
        transaction = Transaction.decode(hex_of(fields, "transaction", what))
    except Invalid as error:
        raise NotProved(f"{what}: {error}") from error
    if header.serialize().hex() != fields["header"]:
        raise NotProved(f"{what}.header is not in its one form")
    if tree.root != header.merkle_root:
        raise NotProved(f"{what}.branch does not lead to the block's merkle root")
    if transaction.has_witness or [txid for _, txid in tree.matches] != [transaction.txid]:
        raise NotProved(f"{what}.transaction is not the one that the branch proves")
    branch = bytes.fromhex(fields["branch"])
    if normal_branch(branch, tree.matches[0][0]) != branch:
        raise NotProved(f"{what}.branch is not in its one form")
    names = [member.name for member in stranger.federation.members]
    return InBlock(
        header=header,
        transaction=transaction,
        position=tree.matches[0][0],
        signers=tuple(names[signature.member] for signature in signatures),
    )


def normal_branch(branch: bytes, position: int) -> bytes:
    """A branch with the only flags that one for this position needs; padding is no part of it.

    Raises:
        InvalidEncoding: cut off, or the position is none of its block.
    """
    reader = Reader(branch)
    tx_count = reader.u32()
    hashes = [reader.read(32) for _ in range(reader.compact_size())]
    model = Reader(build_partial_tree([bytes(32)] * tx_count, [position]))
    model.u32()
    for _ in range(model.compact_size()):
        model.read(32)
    head = le32(tx_count) + compact_size(len(hashes)) + b"".join(hashes)
    return head + vec(model.vec())


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A Bitcoin block, and one on it or above that k members committed to.

    `headers` are those of both and of all between, lowest first.
    """

    headers: tuple[ParentHeader, ...]
    commitment: Commitment
    committed_in: int

    @property
    def block_hash(self) -> bytes:
        """Of the lowest block."""
        return self.headers[0].hash

    @property
    def height(self) -> int:
        """Of the lowest block, as the commitment says."""
        return self.commitment.height - len(self.headers) + 1

    @property
    def depth(self) -> int:
        """Confirmations of the lowest block at the committed one."""
        return len(self.headers)


def check_committed(
    fields: Mapping[str, Any], lowest: ParentHeader, what: str, stranger: Stranger
) -> Committed:
    """Check that k members committed to a block or to one above it, in headers and commitment.

    Raises:
        NotProved: why it does not follow.
    """
    headers = (lowest, *read_headers(hex_of(fields, "headers", what)))
    check_headers(headers, stranger)
    found = check_in_block(fields["commitment"], f"{what}.commitment", stranger)
    commitment = found.peg(stranger).commitment
    if commitment.block_hash != headers[-1].hash or commitment.height < len(headers) - 1:
        raise NotProved(f"{what}.headers do not end in the block that members committed to")
    return Committed(headers=headers, commitment=commitment, committed_in=found.header.height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """A payment that a receipt proves.

    `checkpoint` is the height of the report that stands for the lane's older batches, if one does.
    """

    txid: bytes
    vout: int
    payout_sats: int
    index: int
    h_sel: int
    place: Committed
    checkpoint: int | None


PAYMENT_FIELDS: Final = ("transaction", "index", "burns", "path", "proof", "headers", "commitment")


def check_payment(
    plain: object, burn_id: bytes, payout: tuple[int, bytes], burned_at: int, stranger: Stranger
) -> Paid:
    """Check that a batch of the lane pays a burn, in a Bitcoin block that members committed to.

    Args:
        payout: the most that can be paid, and the script.
        burned_at: sidechain height of the burn.
    Raises:
        NotProved: why it does not follow.
    """
    fields = take(plain, "payment", PAYMENT_FIELDS, ("open", "checkpoint"))
    try:
        transaction = parse_parent_tx(hex_of(fields, "transaction", "payment"))
        path = [parse_parent_tx(data) for data in hex_list(fields, "path", "payment")]
        proof = parse_merkle_block(hex_of(fields, "proof", "payment"))
    except Invalid as error:
        raise NotProved(f"payment: {error}") from error
    shown = (*fields["path"], fields["transaction"])
    if [each.stripped.hex() for each in (*path, transaction)] != list(shown):
        raise NotProved("payment: a transaction carries a witness, which its id does not cover")
    burns = _burn_ids(fields["burns"])
    index = whole(fields, "index", "payment")
    vout, h_sel = _check_batch(transaction, index, burns, burn_id, stranger)
    if h_sel < burned_at:
        raise NotProved(f"payment: selected at block {h_sel}, before the burn")
    value_sats, script = transaction.outputs[vout]
    if script != payout[1] or not 0 < value_sats <= payout[0]:
        raise NotProved(f"payment: output {vout} does not pay what was burned")
    checkpoint = _check_path(fields, path, transaction, index, stranger)
    if [txid for _, txid in proof.matches] != [transaction.txid]:
        raise NotProved("payment.proof is of another transaction")
    branch = bytes.fromhex(fields["proof"])[HEADER_SIZE:]
    if normal_branch(branch, proof.matches[0][0]) != branch:
        raise NotProved("payment.proof is not in its one form")
    return Paid(
        txid=transaction.txid,
        vout=vout,
        payout_sats=value_sats,
        index=index,
        h_sel=h_sel,
        place=check_committed(fields, proof.header, "payment", stranger),
        checkpoint=checkpoint,
    )


def _check_batch(
    transaction: ParentTx, index: int, burns: Sequence[bytes], burn_id: bytes, stranger: Stranger
) -> tuple[int, int]:
    """The output that pays a burn, and h_sel, of a batch in its one form with its digest."""
    outputs = transaction.outputs
    marker = decode_marker(outputs[1][1]) if len(outputs) > 1 else None
    if marker is None or marker.lane != LANE or outputs[1][0] != 0:
        raise NotProved("payment: the transaction is no batch of the federation")
    if encode_unsigned(transaction.inputs, outputs) != transaction.stripped:
        raise NotProved("payment: the transaction has not the form of a batch")
    if marker.count != len(burns) or len(outputs) != len(burns) + 2:
        raise NotProved("payment.burns are not as many as the batch pays")
    digest = batch_digest(
        stranger.params.genesis_hash,
        lane=LANE,
        index=index,
        anchor=transaction.inputs[0],
        h_sel=marker.h_sel,
        burn_ids=burns,
    )
    if digest != marker.digest:
        raise NotProved("payment: index and burns are not what the batch's digest commits to")
    if burns.count(burn_id) != 1:
        raise NotProved("payment: the batch does not pay this burn")
    return burns.index(burn_id) + 2, marker.h_sel


def _check_path(
    fields: Mapping[str, Any],
    path: Sequence[ParentTx],
    transaction: ParentTx,
    index: int,
    stranger: Stranger,
) -> int | None:
    """The way of the anchor, from OPEN or from a report of k members; height of that report."""
    if ("open" in fields) == ("checkpoint" in fields):
        raise NotProved("payment: expected either open or checkpoint")
    first = index - len(path)
    height: int | None = None
    if "open" in fields:
        opened = check_in_block(fields["open"], "payment.open", stranger)
        anchors = [
            record.anchor
            for record in opened.peg(stranger).records
            if isinstance(record, OpenRecord) and record.lane == LANE
        ]
        if len(anchors) != 1 or first != 0:
            raise NotProved("payment.open does not open the lane at its first batch")
        anchor = anchors[0]
    else:
        height, txid = _checkpoint(fields["checkpoint"], first - 1, stranger)
        anchor = OutPoint(txid, 0)
    for step in (*path, transaction):
        if step.inputs[0] != anchor:
            raise NotProved("payment.path: a transaction does not spend the anchor before it")
        anchor = OutPoint(step.txid, 0)
    return height


def _checkpoint(plain: object, index: int, stranger: Stranger) -> tuple[int, bytes]:
    """Height of a report that k members signed, and the txid that it says batch `index` has."""
    try:
        report, signatures = read_report_file(plain)
        stranger.check_origin(report)
        keys = [member.block_key for member in stranger.federation.members]
        check_signatures(report, signatures, keys=keys, k=stranger.federation.k)
        for each in report["batches"]:
            if each["index"] == index:
                return report["height"], bytes.fromhex(each["txid"])[::-1]
    except (Invalid, KeyError, TypeError, ValueError) as error:
        raise NotProved(f"payment.checkpoint: {error}") from error
    raise NotProved(f"payment.checkpoint does not name batch {index}")


def read_headers(data: bytes) -> tuple[ParentHeader, ...]:
    """Bitcoin headers that fill the bytes.

    Raises:
        NotProved: the length is no multiple of 80.
    """
    if len(data) % HEADER_SIZE:
        raise NotProved("headers are not 80 bytes each")
    steps = range(0, len(data), HEADER_SIZE)
    return tuple(ParentHeader.decode(data[at : at + HEADER_SIZE]) for at in steps)


def check_headers(headers: Sequence[ParentHeader], stranger: Stranger) -> None:
    """Refuse headers that are not linked, or without the work that they claim.

    Raises:
        NotProved: which one.
    """
    for position, header in enumerate(headers):
        try:
            header.check_pow(stranger.params.parent_pow_limit)
        except InvalidEncoding as error:
            raise NotProved(f"Bitcoin header {position}: {error}") from error
        if position and header.prev_hash != headers[position - 1].hash:
            raise NotProved(f"Bitcoin header {position} does not follow the one before it")


def work_of(headers: Sequence[ParentHeader]) -> int:
    """Expected number of hashes that went into headers."""
    return sum((1 << 256) // ((header.target or 0) + 1) for header in headers)


def _burn_ids(plain: object) -> list[bytes]:
    if not isinstance(plain, list):
        raise NotProved("payment.burns is not a list")
    return [outpoint_of(each, "payment.burns").serialize() for each in plain]


# ---- fields of a file that somebody gave ----


def take(
    plain: object, what: str, names: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """An object with exactly these fields.

    Raises:
        NotProved: it is none; says what is missing or unknown.
    """
    if not isinstance(plain, dict):
        raise NotProved(f"{what} is not an object")
    odd = (set(names) - set(plain)) | (set(plain) - set(names) - set(optional))
    if odd:
        raise NotProved(f"{what}: missing or unknown: {', '.join(sorted(odd))}")
    return plain


def hex_of(fields: Mapping[str, Any], name: str, what: str) -> bytes:
    """Bytes of a field in lower-case hex; raises NotProved."""
    return _unhex(fields[name], f"{what}.{name}")


def hex_list(fields: Mapping[str, Any], name: str, what: str) -> list[bytes]:
    """Bytes of a list of fields in lower-case hex; raises NotProved."""
    if not isinstance(fields[name], list):
        raise NotProved(f"{what}.{name} is not a list")
    return [_unhex(each, f"{what}.{name}") for each in fields[name]]


def whole(fields: Mapping[str, Any], name: str, what: str) -> int:
    """A field that is a whole number from 0 to 2^32 - 1; raises NotProved."""
    value = fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise NotProved(f"{what}.{name} is not a whole number")
    return value


def outpoint_of(value: object, what: str) -> OutPoint:
    """An output as txid:vout in its one form; raises NotProved."""
    text = value if isinstance(value, str) else ""
    txid_hex, _, vout = text.partition(":")
    try:
        found = OutPoint(bytes.fromhex(txid_hex)[::-1], int(vout))
    except ValueError:
        raise NotProved(f"{what} is not txid:vout") from None
    one_form = f"{found.txid[::-1].hex()}:{found.index}"
    if len(found.txid) != 32 or found.index > 0xFFFFFFFF or text != one_form:
        raise NotProved(f"{what} is not txid:vout")
    return found


def _unhex(value: object, what: str) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or data.hex() != value:
        raise NotProved(f"{what} is not lower-case hex")
    return data
