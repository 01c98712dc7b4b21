"""Approvals, OPEN and claims as one member judges and proposes them (N9, N17, N23, P1)."""

from pathlib import Path

import pytest

from peg.approvals import Approvals
from peg.records import OpenRecord, ResumeRecord, encode_record, record_script
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_service import ANCHOR_SATS, deposit, found
from tests.peg.world import PARAMETER_HASH, p2wpkh_script


@pytest.fixture
def world(tmp_path: Path) -> PegWorld:
    return PegWorld(tmp_path)


def test_approval_is_a_file_named_by_its_hash(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path / "approved")
    record = encode_record(OpenRecord(0, OutPoint(b"\x01" * 32, 0)))
    assert not approvals.has(record)
    assert approvals.records() == ()
    name = approvals.approve(record)
    assert name == sha256(record).hex()
    assert (tmp_path / "approved" / name).read_bytes() == record
    assert approvals.has(record)
    assert Approvals(tmp_path / "approved").records() == (OpenRecord(0, OutPoint(b"\x01" * 32, 0)),)


def test_approval_of_other_bytes_is_refused_and_foreign_files_count_nothing(
    tmp_path: Path,
) -> None:
    approvals = Approvals(tmp_path)
    with pytest.raises(InvalidEncoding):
        approvals.approve(b"not a record")
    record = encode_record(ResumeRecord())
    (tmp_path / "note.txt").write_bytes(b"hello")
    (tmp_path / sha256(b"other").hex()).write_bytes(record)
    (tmp_path / sha256(record).hex()).write_bytes(b"x" * 1_000)
    assert approvals.records() == ()
    assert not approvals.has(record)


def test_block_hash_can_be_approved_for_a_reset(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    approvals.approve(b"\x07" * 32)
    assert approvals.has(b"\x07" * 32)
    assert approvals.records() == ()


async def test_open_waits_for_depth_and_for_each_operator(world: PegWorld) -> None:
    raw = world.bitcoin.pay(world.script.program, ANCHOR_SATS)
    anchor = OutPoint(parse_parent_tx(raw).txid, 0)
    await world.mine([raw], count=5)
    record = encode_record(OpenRecord(0, anchor))
    world.services[0].approve_record(record)
    await world.settle()
    assert not any(script == record_script(OpenRecord(0, anchor)) for script in plan(world))
    await world.mine()
    scripts = plan(world)
    assert scripts[-1] == record_script(OpenRecord(0, anchor))
    block = world.side.block(scripts)
    own = await world.services[0].check_eventual_and_policy(block)
    other = await world.services[1].check_eventual_and_policy(block)
    assert own == (True, True, "")
    assert other[:2] == (True, False)
    world.services[1].approve_record(record)
    assert (await world.services[1].check_eventual_and_policy(block))[:2] == (True, True)


async def test_open_of_a_spent_or_foreign_output_is_not_yet(world: PegWorld) -> None:
    raw = world.bitcoin.pay(p2wpkh_script("stranger"), ANCHOR_SATS)
    await world.mine([raw], count=7)
    service = world.services[0]
    for outpoint in (OutPoint(parse_parent_tx(raw).txid, 0), OutPoint(b"\x09" * 32, 0)):
        record = OpenRecord(0, outpoint)
        service.approve_record(encode_record(record))
        block = world.side.block([*plan(world), record_script(record)])
        eventual, _, reason = await service.check_eventual_and_policy(block)
        assert not eventual and reason.startswith("P1")


async def test_block_1_carries_the_parameters_and_waits_for_bitcoin(world: PegWorld) -> None:
    service = world.services[0]
    assert service.plan_coinbase(1, minimal=False) is None
    assert service.is_due()
    await world.mine(count=3)
    scripts = plan(world)
    assert scripts[1].endswith(PARAMETER_HASH)
    with pytest.raises(InvalidBlock, match="V8"):
        service.check_objective(world.side.block(scripts[:1]))
    service.check_objective(world.side.block(scripts))


async def test_unhealthy_node_repeats_and_is_not_due(world: PegWorld) -> None:
    await found(world)
    while world.side.height < world.params.dynamic_epoch_length:
        await world.extend()
    service = world.services[0]
    assert not service.is_due()
    await world.mine()
    assert service.is_due()
    world.healthy = False
    assert not service.is_due()
    block = world.propose()
    assert service.is_minimal(block)


async def test_claim_in_a_block_with_a_repeated_commitment_is_looked_at(world: PegWorld) -> None:
    await found(world)
    claim = await deposit(world)
    await world.extend()
    world.healthy = False
    block = world.propose([claim], minimal=True)
    eventual, _, reason = await world.services[0].check_eventual_and_policy(block)
    assert not eventual and "does not answer" in reason


async def test_claim_twice_in_a_block_and_below_the_minimum_is_objectively_invalid(
    world: PegWorld,
) -> None:
    await found(world)
    claim = await deposit(world)
    with pytest.raises(InvalidBlock, match="double-pegin"):
        world.services[0].check_objective(world.propose([claim, claim]))
    small = await deposit(world, 19_999)
    with pytest.raises(InvalidBlock, match="C4"):
        world.services[0].check_objective(world.propose([small]))


async def test_parent_facts_name_every_block_of_a_claim(world: PegWorld) -> None:
    await found(world)
    claim = await deposit(world)
    facts = await world.services[0].parent_facts_for(claim)
    (known,) = facts.known.items()
    assert known[1] == (6, 2)
    assert facts.block_facts(b"\x00" * 32) is None
    world.healthy = False
    assert not (await world.services[0].parent_facts_for(claim)).known


async def test_old_claim_is_refused_by_everybody(world: PegWorld) -> None:
    """C6: a deposit that emergency holders may soon spend never becomes coins."""
    await found(world)
    claim = await deposit(world)
    limit = world.parameters.csv - world.parameters.sweep_window
    world.bitcoin.mine(count=limit - 3)
    await world.tell()
    for _ in range(2):
        await world.extend()
    service = world.services[0]
    committed = world.commitment()
    assert committed is not None
    assert not service.claim_is_ripe(claim)
    eventual, _, reason = await service.check_eventual_and_policy(world.propose([claim]))
    assert not eventual and "C6" in reason


def plan(world: PegWorld) -> list[bytes]:
    scripts = world.services[0].plan_coinbase(world.side.height + 1, minimal=False)
    if scripts is None:
        raise AssertionError("nothing to propose")
    return scripts
