"""Batch bytes, well-formedness and the walk's judgement (peg:3.6)."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from peg.lanes import (
    EMERGENCY_LANE,
    LaneState,
    LaneStep,
    Marker,
    SpendKind,
    advance,
    batch_digest,
    decode_marker,
    encode_unsigned,
    judge_spend,
)
from peg.limits import Burn, BurnCode
from sidechain.crypto.hashes import sha256
from sidechain.primitives.encoding import le32
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import federation, p2wpkh_script

GENESIS = b"\x99" * 32
FED = federation().program
ANCHOR = OutPoint(b"\x01" * 32, 3)
EXTRA = OutPoint(b"\x02" * 32, 0)
LANE = LaneState(lane=0, index=5, anchor=ANCHOR, paid=(b"\x00" * 36,))
BURNS = [
    Burn(
        burn_id=bytes([number]) * 36,
        height=1,
        clock=1,
        script=p2wpkh_script("same"),
        amount_sats=32_500,
        fee_sats=2_500,
        code=BurnCode.OK,
    )
    for number in range(3)
]


def queue(height: int, paid: Collection[bytes]) -> Sequence[Burn]:
    return [burn for burn in BURNS if burn.burn_id not in paid] if height >= 7 else []


def digest(burns: Sequence[Burn], **changes: Any) -> bytes:
    fields: dict[str, Any] = {"lane": 0, "index": 5, "anchor": ANCHOR, "h_sel": 7, **changes}
    return batch_digest(GENESIS, burn_ids=[burn.burn_id for burn in burns], **fields)


def batch(burns: Sequence[Burn], **changes: Any) -> bytes:
    marker = changes.pop("marker", None) or Marker(
        lane=0, count=len(burns), h_sel=changes.pop("h_sel", 7), digest=digest(burns)
    )
    outputs = [(60_000, FED), (0, marker.script())]
    outputs += [(burn.payout_sats, burn.script) for burn in burns]
    outputs = changes.pop("outputs", lambda made: made)(outputs)
    return encode_unsigned(changes.pop("inputs", [ANCHOR, EXTRA]), outputs)


def judge(raw: bytes, state: LaneState = LANE, height: int = 9) -> LaneStep:
    return judge_spend(
        parse_parent_tx(raw),
        state,
        queue,
        genesis=GENESIS,
        fed_program=FED,
        fed_programs=frozenset({FED}),
        anchor_min_sats=50_000,
        height=height,
    )


def test_marker_is_42_bytes_and_reads_back() -> None:
    marker = Marker(lane=0, count=2, h_sel=300, digest=bytes(range(32)))
    wanted = "6a28" + "4650" + "00" + "02" + "2c010000" + bytes(range(32)).hex()
    assert marker.script().hex() == wanted
    assert len(marker.script()) == 42
    assert decode_marker(marker.script()) == marker
    for other in (marker.script()[:-1], marker.script() + b"\0", b"\x6a\x28FQ" + bytes(38)):
        assert decode_marker(other) is None


def test_unsigned_bytes_are_those_of_the_protocol() -> None:
    raw = encode_unsigned([ANCHOR], [(5, b"\x51")])
    wanted = "03000000" + "01" + "01" * 32 + "03000000" + "00" + "fdffffff"
    wanted += "01" + "0500000000000000" + "0151" + "00000000"
    assert raw.hex() == wanted


def test_digest_binds_every_argument() -> None:
    ids = [burn.burn_id for burn in BURNS[:2]]
    tag = sha256(b"fedpeg/batch")
    body = GENESIS + b"\0" + le32(5) + ANCHOR.serialize() + le32(7) + b"\x02" + b"".join(ids)
    assert digest(BURNS[:2]) == sha256(tag + tag + body)
    others = [
        digest(BURNS[:1]),
        digest(list(reversed(BURNS[:2]))),
        digest(BURNS[:2], lane=1),
        digest(BURNS[:2], index=6),
        digest(BURNS[:2], anchor=EXTRA),
        digest(BURNS[:2], h_sel=8),
    ]
    assert len({digest(BURNS[:2]), *others}) == 7


def test_batch_pays_the_head_of_the_queue_that_its_ancestry_left() -> None:
    """Identical burns need no special care: ids, not outputs, tell them apart."""
    step = judge(batch(BURNS[1:3]))
    assert (step.kind, step.payouts) == (SpendKind.BATCH, tuple(BURNS[1:3]))
    moved = advance(LANE, step)
    assert (moved.index, moved.anchor.index) == (6, 0)
    assert moved.paid == (BURNS[0].burn_id, BURNS[1].burn_id, BURNS[2].burn_id)


def test_empty_batch_is_well_formed() -> None:
    assert judge(batch([])).kind is SpendKind.BATCH


def test_coin_choice_and_fee_do_not_enter() -> None:
    assert judge(batch(BURNS[1:2], inputs=[ANCHOR])).kind is SpendKind.BATCH
    cheaper = batch(BURNS[1:2], outputs=lambda made: [(50_000, FED), *made[1:]])
    assert judge(cheaper).kind is SpendKind.BATCH


@pytest.mark.parametrize(
    "raw",
    [
        batch(BURNS[1:3], inputs=[EXTRA, ANCHOR]),
        batch(BURNS[0:1]),
        batch(BURNS[2:3]),
        batch([BURNS[2], BURNS[1]]),
        batch(BURNS[1:3], h_sel=6),
        batch(BURNS[1:3], h_sel=10),
        batch(BURNS[1:3], outputs=lambda made: [(49_999, FED), *made[1:]]),
        batch(BURNS[1:3], outputs=lambda made: [(60_000, b"\x51"), *made[1:]]),
        batch(BURNS[1:3], outputs=lambda made: [made[0], (1, made[1][1]), *made[2:]]),
        batch(BURNS[1:3], outputs=lambda made: [*made, (1, b"\x51")]),
        batch(BURNS[1:3], outputs=lambda made: made[:-1]),
        batch(BURNS[1:3], outputs=lambda made: [*made[:-1], (30_001, made[-1][1])]),
        batch(BURNS[1:3], outputs=lambda made: [*made[:-1], (30_000, b"\x51")]),
        batch(BURNS[1:3], outputs=lambda made: made[:1]),
        batch([], marker=Marker(lane=1, count=0, h_sel=7, digest=digest([], lane=1))),
        batch([], marker=Marker(lane=0, count=0, h_sel=7, digest=bytes(32))),
        batch([]).replace(b"\x03\0\0\0", b"\x02\0\0\0", 1),
        batch([]).replace(b"\xfd\xff\xff\xff", b"\xfe\xff\xff\xff", 1),
        batch([])[:-4] + b"\x01\0\0\0",
    ],
)
def test_anything_else_breaks_the_lane(raw: bytes) -> None:
    step = judge(raw)
    assert step.kind is SpendKind.BREAK
    assert advance(LANE, step).broken_by == step.txid


def test_h_sel_at_the_height_judged_is_allowed() -> None:
    marker = Marker(lane=0, count=0, h_sel=9, digest=digest([], h_sel=9))
    assert judge(batch([], marker=marker), height=9).kind is SpendKind.BATCH
    assert judge(batch([], marker=marker), height=8).kind is SpendKind.BREAK


def test_emergency_handover_to_a_known_federation_keeps_the_paid_set() -> None:
    marker = Marker(lane=EMERGENCY_LANE, count=0, h_sel=0, digest=FED[2:])
    raw = encode_unsigned([ANCHOR], [(10, FED), (0, marker.script())])
    step = judge(raw)
    assert (step.kind, step.payouts) == (SpendKind.EMERGENCY, ())
    moved = advance(LANE, step)
    assert (moved.index, moved.paid, moved.broken_by) == (6, LANE.paid, None)


@pytest.mark.parametrize(
    "marker",
    [
        Marker(lane=EMERGENCY_LANE, count=1, h_sel=0, digest=FED[2:]),
        Marker(lane=EMERGENCY_LANE, count=0, h_sel=1, digest=FED[2:]),
        Marker(lane=EMERGENCY_LANE, count=0, h_sel=0, digest=bytes(32)),
    ],
)
def test_other_emergency_forms_break_the_lane(marker: Marker) -> None:
    raw = encode_unsigned([ANCHOR], [(10, FED), (0, marker.script())])
    assert judge(raw).kind is SpendKind.BREAK


def test_emergency_to_an_unknown_script_breaks_the_lane() -> None:
    stranger = b"\x00\x20" + bytes(32)
    marker = Marker(lane=EMERGENCY_LANE, count=0, h_sel=0, digest=bytes(32))
    raw = encode_unsigned([ANCHOR], [(10, stranger), (0, marker.script())])
    assert judge(raw).kind is SpendKind.BREAK


def test_broken_lane_keeps_its_place() -> None:
    step = judge(encode_unsigned([ANCHOR], [(10, b"\x51")]))
    broken = advance(LANE, step)
    assert broken == replace(LANE, broken_by=step.txid)
