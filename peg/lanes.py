"""The lane: batches by their bytes, and the walk that tells what a chain has paid.

A batch of a lane spends the anchor, and its output 0 is the next anchor, so what confirmed on a
chain forms one path. What a batch pays follows from its marker, its ancestry and the final
sidechain prefix it names; coin choice and fees never enter it.

Source: peg:3.6, peg:P5, peg:10.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from peg.limits import Burn
from sidechain.crypto.hashes import tagged_hash
from sidechain.primitives.encoding import Reader, compact_size, le32, le64, vec
from sidechain.primitives.parent import ParentTx
from sidechain.primitives.transaction import OutPoint

BATCH_VERSION = 3
"""TRUC where nodes enforce it: at most one child, of 1,000 vB; not relied on (P27, P29)."""
BATCH_SEQUENCE = 0xFFFFFFFD
MARKER_BYTES = 42
EMERGENCY_LANE = 0xF0
SWEEP_LANE = 0xF1

_MARKER_PREFIX = b"\x6a\x28FP"

Queue = Callable[[int, Collection[bytes]], Sequence[Burn]]
"""queue(h, paid) of peg:3.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """Output 1 of a batch."""

    lane: int
    count: int
    h_sel: int
    digest: bytes

    def script(self) -> bytes:
        """The 42 bytes of the output script."""
        return _MARKER_PREFIX + bytes((self.lane, self.count)) + le32(self.h_sel) + self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Where a lane stands on one chain.

    Attributes:
        index: i, the number of the next batch.
        anchor: a_i.
        paid: burns paid so far, in payment order.
        broken_by: the transaction that spent the anchor in no known way.
    """

    lane: int
    index: int
    anchor: OutPoint
    paid: tuple[bytes, ...] = ()
    broken_by: bytes | None = None


class SpendKind(Enum):
    """What a transaction that spends the anchor is."""

    BATCH = "batch"
    EMERGENCY = "emergency"
    BREAK = "break"
    REOPENED = "reopened"


@dataclass(frozen=True, slots=True)
class LaneStep:
    """One transaction of the walk and the burns it pays.

    Attributes:
        positions: output of each payout after a break; a batch pays at outputs 2 and up.
        next_anchor: where the lane goes on after a break; else at output 0.
    """

    kind: SpendKind
    transaction: ParentTx
    payouts: tuple[Burn, ...] = ()
    positions: tuple[int, ...] = ()
    next_anchor: OutPoint | None = None

    @property
    def txid(self) -> bytes:
        """Of the transaction."""
        return self.transaction.txid

    @property
    def anchor_after(self) -> OutPoint:
        """The lane's anchor after this step."""
        return self.next_anchor or OutPoint(self.txid, 0)

    def output_of(self, burn_id: bytes) -> int | None:
        """The output that pays a burn; None when this step does not."""
        for position, burn in enumerate(self.payouts):
            if burn.burn_id == burn_id:
                return self.positions[position] if self.positions else position + 2
        return None


def decode_marker(script: bytes) -> Marker | None:
    """Read output 1 of a batch; None for any other script."""
    if len(script) != MARKER_BYTES or not script.startswith(_MARKER_PREFIX):
        return None
    reader = Reader(script, len(_MARKER_PREFIX))
    return Marker(lane=reader.u8(), count=reader.u8(), h_sel=reader.u32(), digest=reader.read(32))


def batch_digest(
    genesis: bytes,
    *,
    lane: int,
    index: int,
    anchor: OutPoint,
    h_sel: int,
    burn_ids: Sequence[bytes],
) -> bytes:
    """The digest a batch carries.

    Args:
        genesis: sidechain genesis hash, 32 bytes.
        index: i.
        burn_ids: what it pays, in queue order.
    """
    head = genesis + bytes((lane,)) + le32(index) + anchor.serialize() + le32(h_sel)
    return tagged_hash("fedpeg/batch", head + bytes((len(burn_ids),)) + b"".join(burn_ids))


def encode_unsigned(inputs: Sequence[OutPoint], outputs: Sequence[tuple[int, bytes]]) -> bytes:
    """A batch without witness: version 3, locktime 0, every nSequence fffffffd.

    Args:
        outputs: (value in satoshis, script).
    """
    parts = [le32(BATCH_VERSION), compact_size(len(inputs))]
    parts += [outpoint.serialize() + b"\0" + le32(BATCH_SEQUENCE) for outpoint in inputs]
    parts.append(compact_size(len(outputs)))
    parts += [le64(value_sats) + vec(script) for value_sats, script in outputs]
    return b"".join(parts) + le32(0)


def with_witnesses(unsigned: bytes, witnesses: Sequence[Sequence[bytes]]) -> bytes:
    """The signed transaction: witnesses put into an unsigned one."""
    body = b"".join(
        compact_size(len(items)) + b"".join(vec(item) for item in items) for items in witnesses
    )
    return unsigned[:4] + b"\x00\x01" + unsigned[4:-4] + body + unsigned[-4:]


def worst_vsize(input_witness_bytes: Sequence[int], output_bytes: int, output_count: int) -> int:
    """Virtual size with the largest witnesses: ceil((4 base + witness + 2) / 4). Source: N20."""
    inputs = len(input_witness_bytes)
    counts = len(compact_size(inputs)) + len(compact_size(output_count))
    base = 4 + counts + 41 * inputs + output_bytes + 4
    return -(-(4 * base + sum(input_witness_bytes) + 2) // 4)


def judge_spend(
    transaction: ParentTx,
    state: LaneState,
    queue: Queue,
    *,
    genesis: bytes,
    fed_program: bytes,
    fed_programs: Collection[bytes],
    anchor_min_sats: int,
    height: int,
) -> LaneStep:
    """What a transaction that spends the lane's anchor is, and what it pays.

    Args:
        queue: queue(h, paid) of the final sidechain.
        fed_program: FED, which output 0 must pay.
        fed_programs: every FED known, for an emergency handover.
        height: h; a batch cannot name a later block.
    """
    burns = _batch_payouts(transaction, state, queue, genesis, height)
    if burns is not None:
        value_sats, script = transaction.outputs[0]
        if script == fed_program and value_sats >= anchor_min_sats:
            return LaneStep(SpendKind.BATCH, transaction, burns)
    if _is_emergency(transaction, state, fed_programs):
        return LaneStep(SpendKind.EMERGENCY, transaction)
    return LaneStep(SpendKind.BREAK, transaction)


def advance(state: LaneState, step: LaneStep) -> LaneState:
    """The lane after one more transaction of the walk."""
    if step.kind is SpendKind.BREAK:
        return replace(state, broken_by=step.txid)
    return LaneState(
        lane=state.lane,
        index=state.index + 1,
        anchor=step.anchor_after,
        paid=state.paid + tuple(burn.burn_id for burn in step.payouts),
    )


def paid_by_break(
    transaction: ParentTx, burns: Sequence[Burn], paid: Collection[bytes]
) -> list[tuple[int, Burn]]:
    """What a transaction that broke a lane paid, by money alone (P5).

    Args:
        burns: OK burns in burn order.
        paid: ids that the lane paid before it.
    Returns:
        Output position and burn: for each output in order the first unpaid equal burn.
    """
    unpaid: dict[tuple[int, bytes], list[Burn]] = {}
    for burn in reversed(burns):
        if burn.burn_id not in paid:
            unpaid.setdefault((burn.payout_sats, burn.script), []).append(burn)
    return [
        (position, unpaid[output].pop())
        for position, output in enumerate(transaction.outputs)
        if unpaid.get(output)
    ]


def _batch_payouts(
    transaction: ParentTx, state: LaneState, queue: Queue, genesis: bytes, height: int
) -> tuple[Burn, ...] | None:
    """The burns a well-formed batch pays; None when it is not one."""
    if len(transaction.outputs) < 2 or transaction.inputs[0] != state.anchor:
        return None
    if encode_unsigned(transaction.inputs, transaction.outputs) != transaction.stripped:
        return None
    marker_value, marker_script = transaction.outputs[1]
    marker = decode_marker(marker_script)
    if marker is None or marker_value != 0 or marker.lane != state.lane:
        return None
    if marker.h_sel > height or len(transaction.outputs) != marker.count + 2:
        return None
    burns = tuple(queue(marker.h_sel, state.paid)[: marker.count])
    digest = batch_digest(
        genesis,
        lane=state.lane,
        index=state.index,
        anchor=state.anchor,
        h_sel=marker.h_sel,
        burn_ids=[burn.burn_id for burn in burns],
    )
    payouts = tuple((burn.payout_sats, burn.script) for burn in burns)
    if digest != marker.digest or payouts != transaction.outputs[2:]:
        return None
    return burns


def _is_emergency(transaction: ParentTx, state: LaneState, fed_programs: Collection[bytes]) -> bool:
    """Whether emergency holders moved the anchor to a known federation. Source: peg:10."""
    if len(transaction.outputs) < 2 or transaction.inputs[0] != state.anchor:
        return False
    marker = decode_marker(transaction.outputs[1][1])
    if marker is None or (marker.lane, marker.count) != (EMERGENCY_LANE, state.lane):
        return False
    program = transaction.outputs[0][1]
    return marker.h_sel == 0 and program in fed_programs and program[2:] == marker.digest
