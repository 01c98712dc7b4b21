"""Reserves reports: what they say, who signs them, and what is refused (peg:11)."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peg.batches import CoinKind, FedCoin
from peg.canonical import canonical_json
from peg.reserves_desk import KIND_REPORTSIG, OPEN_REPORTS_MAX
from peg.reserves_report import (
    HONEST_LIMIT,
    REPORT_EVERY,
    REPORT_TAG,
    ReportShare,
    check_signatures,
    coins_root,
    decode_share,
    differing_fields,
    read_report_file,
    report_bytes,
    report_digest,
    report_file,
)
from sidechain.crypto.hashes import sha256, sha256d, tagged_hash
from sidechain.crypto.keys import public_key, schnorr_sign
from sidechain.errors import InvalidEncoding, PeerFault, Unavailable
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_service import deposit, found, pay_out
from tests.peg.world import secret

KEYS = [public_key(secret(f"block {member}")) for member in range(4)]


@pytest.fixture
def world(tmp_path: Path) -> PegWorld:
    return PegWorld(tmp_path)


async def ask(world: PegWorld, member: int = 0, height: int | None = None) -> dict[str, Any]:
    """A report on demand: the request begins, then everybody's frames are delivered."""
    with pytest.raises(Unavailable):
        await world.services[member].reserves.make(height, 0)
    await world.settle()
    return await world.services[member].reserves.make(height, 0)


async def sound(world: PegWorld) -> dict[str, Any]:
    """A report after a deposit and a payout."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    await world.mine(count=3)
    await world.extend()
    return await ask(world)


async def test_report_on_demand_has_k_signatures_and_says_what_the_book_says(
    world: PegWorld,
) -> None:
    plain = await sound(world)
    report, signatures = read_report_file(plain)
    check_signatures(report, signatures, keys=KEYS, k=3)
    view = world.services[2].ledger.view
    assert view is not None and report["height"] == view.height
    assert report["hash"] == world.side.blocks[-1].hash[::-1].hex()
    assert report["limit"] == HONEST_LIMIT and report["coins"] == len(view.coins)
    assert report["coins_root"] == coins_root(view.coins).hex()
    book = view.book
    owed = sum(report[f"{name}_sats"] for name in ("circulating", "unpaid", "pending_fee"))
    assert owed + report["suspense_sats"] + report["pool_sats"] == report["reserve_sats"]
    assert report["reserve_sats"] == book.reserve_sats and report["pool_sats"] == book.pool_sats
    assert report["batches"] == [{"index": 0, "txid": view.steps[0].txid[::-1].hex()}]
    assert report["fedpegscripts"] == [world.script.script.hex()]
    assert report["oldest_blocks_left"] == min(
        coin.blocks_left(view.totals.commitment.height) for coin in view.coins
    )


async def test_report_when_another_member_is_asked_then_the_same_bytes_are_signed(
    world: PegWorld,
) -> None:
    first = await sound(world)
    second = await world.services[1].reserves.make(None, 0)
    assert canonical_json(first["report"]) == canonical_json(second["report"])
    assert report_digest(first["report"]) == tagged_hash(
        REPORT_TAG, canonical_json(first["report"])
    )


async def test_report_of_an_epoch_is_made_by_itself_once_and_kept_over_a_restart(
    world: PegWorld,
) -> None:
    await found(world)
    assert all(service.reserves.heights() == [] for service in world.services)
    await world.mine(count=REPORT_EVERY)
    await world.extend()
    height = world.side.height
    await world.extend()
    await world.mine()
    await world.extend()
    for service in world.services:
        assert service.reserves.heights() == [height]
    again = await world.restart(2)
    kept = again.reserves.kept(height)
    assert kept is not None and len(kept["signatures"]) == 4
    assert [each["height"] for each in again.reserves.summaries()] == [height]


async def test_report_of_an_epoch_when_too_few_are_online_then_signed_when_they_are_back(
    world: PegWorld,
) -> None:
    await found(world)
    await world.mine(count=REPORT_EVERY)
    block = world.propose()
    world.online = {0, 1}
    world.final(block)
    await world.settle()
    height = world.side.height
    assert world.services[0].reserves.heights() == []
    await world.restart(2)
    await world.extend()
    assert world.services[0].reserves.heights() == [height]
    assert world.services[2].reserves.heights() == [height]


async def test_report_on_demand_is_kept_by_who_asked_alone(world: PegWorld) -> None:
    height = (await sound(world))["report"]["height"]
    assert [service.reserves.heights() for service in world.services] == [[height], [], [], []]
    assert await world.services[0].reserves.make(height, 0)


async def test_eighteen_reports_kept_by_one_member_all_get_k_signatures_and_no_flood(
    world: PegWorld,
) -> None:
    """More than are open at once: none is lost at its birth, and old ones do not echo."""
    await found(world)
    while world.side.height < OPEN_REPORTS_MAX + 2:
        await world.extend()
    heights = range(world.side.height - OPEN_REPORTS_MAX - 1, world.side.height + 1)
    for height in heights:
        assert len((await ask(world, 0, height))["signatures"]) >= 3
    assert world.services[0].reserves.heights() == list(heights)
    for height in heights:
        report = (await world.services[0].reserves.make(height, 0))["report"]
        signature = world.signers[1].sign_message(REPORT_TAG, report_bytes(report))
        body = ReportShare(height, 1, report_digest(report), signature).encode()
        frame = body + world.signers[1].sign_peg_frame(KIND_REPORTSIG, body)
        world.services[2].on_frame(KIND_REPORTSIG, 1, frame)
        assert [sent[1] for sent in world.frames] in ([], [1])
        world.frames.clear()


async def test_report_of_a_height_that_is_gone_or_to_come_is_refused(world: PegWorld) -> None:
    reserves = world.services[0].reserves
    with pytest.raises(Unavailable):
        await reserves.make(None, 0)
    await found(world)
    for height in (world.side.height + 1, 4_000_000):
        with pytest.raises(InvalidEncoding, match="cannot be reported on"):
            await reserves.make(height, 0)


async def test_report_when_k_do_not_answer_then_says_how_many_have(world: PegWorld) -> None:
    await found(world)
    world.online = {0, 1}
    with pytest.raises(Unavailable):
        await world.services[0].reserves.make(None, 0)
    await world.settle()
    with pytest.raises(Unavailable, match="2 of 3 members have signed"):
        await world.services[0].reserves.make(None, 0)
    assert world.services[0].reserves.heights() == []


async def test_member_with_other_books_does_not_sign_and_is_named(world: PegWorld) -> None:
    await found(world)
    height = world.side.height
    reserves = world.services[0].reserves
    digest = b"\x07" * 32
    share = ReportShare(height, 3, digest, schnorr_sign(secret("block 3"), digest))
    reserves.on_frame(3, share.encode())
    assert world.services[0].info()["alarms"] == {
        "reserves report of m3 differs": f"at block {height}"
    }
    with pytest.raises(Unavailable, match="1 of 3"):
        await reserves.make(height, 0)


async def test_member_whose_two_books_differ_signs_no_report(world: PegWorld) -> None:
    """X4: its own computation is not to be relied on."""
    await found(world)
    service = world.services[0]
    view = service.ledger.view
    assert view is not None
    service.reserves.on_view(
        replace(view, book=replace(view.book, donated_sats=1), totals=view.totals)
    )
    with pytest.raises(InvalidEncoding):
        await service.reserves.make(None, 0)
    assert not service.reserves.heights()


async def test_frame_23_that_is_not_the_senders_own_is_a_fault(world: PegWorld) -> None:
    reserves = world.services[0].reserves
    digest = b"\x07" * 32
    good = ReportShare(5, 1, digest, schnorr_sign(secret("block 1"), digest))
    assert decode_share(good.encode()) == good and KIND_REPORTSIG == 23
    reserves.on_frame(1, good.encode())  # of a height to come: kept
    for member, share in (
        (2, good),
        (1, replace(good, height=6, signature=bytes(64))),
        (1, replace(good, digest=bytes(32))),
    ):
        with pytest.raises(PeerFault):
            reserves.on_frame(member, share.encode())
    for body in (good.encode()[:-1], good.encode() + b"\0", b""):
        with pytest.raises(InvalidEncoding):
            reserves.on_frame(1, body)


async def test_signature_of_who_joined_later_and_holds_no_coin_key_does_not_count(
    world: PegWorld,
) -> None:
    await found(world)
    reserves, height = world.services[0].reserves, world.side.height
    with pytest.raises(Unavailable):
        await reserves.make(height, 0)
    digest = report_digest((await ask(world, 1, height))["report"])
    share = ReportShare(height, 4, digest, schnorr_sign(secret("block 4"), digest))
    reserves.on_frame(4, share.encode())
    made = await reserves.make(height, 0)
    assert {each["member"] for each in made["signatures"]} <= {0, 1, 2, 3}


async def test_kept_report_when_damaged_then_not_shown(world: PegWorld, tmp_path: Path) -> None:
    height = (await sound(world))["report"]["height"]
    path = tmp_path / "m0" / "reports" / f"{height}.json"
    path.write_bytes(path.read_bytes().replace(b'"coins":', b'"coins":1'))
    again = await world.restart(0)
    assert again.reserves.kept(height) is None and again.reserves.summaries() == []
    assert "reserves report damaged" in again.info()["alarms"]


async def test_every_field_when_changed_then_no_signature_holds(world: PegWorld) -> None:
    plain = await sound(world)
    for name, value in plain["report"].items():
        changed = deepcopy(plain)
        if isinstance(value, int):
            changed["report"][name] = value + 1
        elif isinstance(value, str):
            changed["report"][name] = ("0" if value[0] != "0" else "1") + value[1:]
        else:
            changed["report"][name] = [*value, *value]
        assert differing_fields(changed["report"], plain["report"])[0].startswith(f"{name}: ")
        with pytest.raises(InvalidEncoding):
            report, signatures = read_report_file(changed)
            check_signatures(report, signatures, keys=KEYS, k=3)
        del changed["report"][name]
        with pytest.raises(InvalidEncoding):
            report, signatures = read_report_file(changed)
            check_signatures(report, signatures, keys=KEYS, k=3)


async def test_signatures_of_fewer_than_k_or_of_others_are_refused(world: PegWorld) -> None:
    report, signatures = read_report_file(await sound(world))
    fewer = {member: signatures[member] for member in list(signatures)[:2]}
    with pytest.raises(InvalidEncoding, match="2 members signed, 3 are needed"):
        check_signatures(report, fewer, keys=KEYS, k=3)
    digest = report_digest(report)
    stranger = schnorr_sign(secret("somebody"), digest)
    with pytest.raises(InvalidEncoding, match="member 3 is not over this report"):
        check_signatures(report, {**fewer, 3: stranger}, keys=KEYS, k=3)
    with pytest.raises(InvalidEncoding, match="no member 4"):
        check_signatures(report, {**signatures, 4: stranger}, keys=KEYS, k=3)
    other_tag = schnorr_sign(secret("block 3"), tagged_hash("fedpeg/msg", report_bytes(report)))
    with pytest.raises(InvalidEncoding, match="not over this report"):
        check_signatures(report, {**fewer, 3: other_tag}, keys=KEYS, k=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("signatures"),
        lambda plain: plain.update(more=1),
        lambda plain: plain.update(signatures={}),
        lambda plain: plain["signatures"].reverse(),
        lambda plain: plain["signatures"].append(plain["signatures"][0]),
        lambda plain: plain["signatures"][0].update(signature="00"),
        lambda plain: plain["signatures"][0].update(member=True),
        lambda plain: plain["report"].update(format=2),
        lambda plain: plain["report"].update(limit="None."),
        lambda plain: plain["report"].update(height="5"),
        lambda plain: plain["report"].update(hash=5),
        lambda plain: plain["report"].update(more=1),
    ],
)
async def test_file_of_another_form_is_refused(world: PegWorld, change: Any) -> None:
    plain = await sound(world)
    assert report_file(*read_report_file(plain)) == plain
    change(plain)
    with pytest.raises(InvalidEncoding):
        read_report_file(plain)


def test_coins_root_is_bitcoins_merkle_root_by_outpoint() -> None:
    coins = [
        FedCoin(
            outpoint=OutPoint(bytes((n,)) * 32, 1),
            value_sats=n,
            height=n + 7,
            kind=CoinKind.DONATION,
            claim_script=None,
            csv=288,
        )
        for n in (3, 1, 2)
    ]
    leaf = [
        sha256(
            bytes((n,)) * 32 + b"\1\0\0\0" + n.to_bytes(8, "little") + (n + 7).to_bytes(4, "little")
        )
        for n in (1, 2, 3)
    ]
    pair = [sha256d(leaf[0] + leaf[1]), sha256d(leaf[2] + leaf[2])]
    assert coins_root(coins) == sha256d(pair[0] + pair[1])
    assert coins_root([]) == bytes(32)
