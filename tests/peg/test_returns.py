"""RETURN (C9): deposits too old to be claimed go back to who proves control of the claim script."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.sim.peg.member import Signer
from peg.bitcoind import UnspentOutput
from peg.claims import read_claims
from peg.parameters import LOCAL, RETURN_FEE_MAX_SATS
from peg.parent_view import BEHIND_ITS_NODE
from peg.payments import Payment, check_payment, return_payment
from peg.records import ReturnRecord, encode_record
from peg.returns import ReturnDetails, plan_return, read_details, return_message
from peg.signing import KIND_PEGSTATE
from peg.status import outpoint_text
from sidechain.crypto.hashes import hash160, sha256
from sidechain.crypto.keys import ecdsa_sign, public_key, schnorr_sign
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.primitives.parent import ParentTx, parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_service import found
from tests.peg.world import federation, p2wpkh_script, secret

KEY = secret("late depositor")
CLAIM = b"\x00\x14" + hash160(public_key(KEY))
BACK = p2wpkh_script("where the coins go")
GENESIS = b"\x05" * 32
FED = federation().program
DEPOSIT = OutPoint(b"\x0b" * 32, 1)
LATE = LOCAL.csv - LOCAL.sweep_window + LOCAL.reset_depth


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


def given(deposit: OutPoint, genesis: bytes, **changes: Any) -> dict[str, str]:
    """Details with the depositor's proof, as an operator passes them on."""
    message = return_message(genesis, deposit, BACK)
    details = ReturnDetails(
        claim_script=CLAIM,
        return_script=BACK,
        proof=public_key(KEY) + ecdsa_sign(KEY, message),
    )
    return replace(details, **changes).to_json()


async def late_deposit(world: PegWorld, age: int) -> tuple[bytes, OutPoint]:
    """A deposit nobody claimed that has this age at the committed block."""
    raw = world.bitcoin.pay(world.side.deposit_script(CLAIM), 40_000_000)
    world.bitcoin.mine([raw], count=age + 2)
    await world.tell()
    await world.extend()
    return raw, OutPoint(parse_parent_tx(raw).txid, 0)


def place_of(world: PegWorld, deposit: OutPoint) -> bytes:
    """The block that holds a deposit."""
    chain = world.bitcoin.chain()
    held = [m for m in chain if any(tx.txid == deposit.txid for tx in m.transactions)]
    return held[0].info.hash


def returning(world: PegWorld, deposit: OutPoint) -> list[ParentTx]:
    """What in the mempool spends a deposit."""
    waiting = (parse_parent_tx(raw) for raw in world.bitcoin.mempool.values())
    return [tx for tx in waiting if deposit in tx.inputs]


async def test_late_deposit_returns_to_the_depositor(world: PegWorld) -> None:
    """C9, P39: k members who know what the record hashes sign; the fee comes from the deposit."""
    await found(world)
    raw, deposit = await late_deposit(world, LATE + 1)
    record = ReturnRecord(deposit, sha256(BACK))
    details = given(deposit, world.params.genesis_hash)
    for member in (0, 1, 2):
        world.services[member].approve_record(encode_record(record), details)
    await world.settle()
    world.online -= {3}
    await world.extend()
    (sent,) = returning(world, deposit)
    assert sent.inputs == (deposit,)
    ((value, script),) = sent.outputs
    assert script == BACK and 0 < 40_000_000 - value < 1_000
    block_hash = place_of(world, deposit)
    claim = world.side.claim(world.bitcoin, raw, block_hash, CLAIM)
    assert not world.services[0].claim_is_ripe(claim)
    (only,) = read_claims([claim])
    commitment = world.services[0].voting.plan_commitment(world.side.height + 1)
    assert "C9" in world.services[0].voting.claim_place_reason(only, commitment)
    first = sent.txid
    for _ in range(3):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    assert first not in world.bitcoin.mempool, "the ladder replaced it"
    await world.restart(0)
    await world.restart(1, wipe=True)
    await world.settle()
    await world.mine(count=2)
    await world.extend()
    paid = [out for tx in world.bitcoin.transactions() for out in tx.outputs if out[1] == BACK]
    assert len(paid) == 1
    assert world.services[0].ledger.view is not None
    assert world.services[0].ledger.view.book.difference_sats == 0


async def test_deposit_that_is_not_late_is_not_returned(world: PegWorld) -> None:
    await found(world)
    _, deposit = await late_deposit(world, LATE)
    record = ReturnRecord(deposit, sha256(BACK))
    for service in world.services:
        service.approve_record(encode_record(record), given(deposit, world.params.genesis_hash))
    await world.settle()
    (waiting,) = world.services[0].desk.approvals()
    assert waiting["waits_for"].startswith("C9: deposit is not older")
    await world.extend()
    assert not returning(world, deposit)
    await world.mine(count=2)
    await world.extend()
    await world.extend()
    assert returning(world, deposit), "a little later it is"


async def test_age_of_a_deposit_is_not_computed_while_the_node_is_ahead_of_the_own_view(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C9: the node's confirmations from a later tip would make the deposit look older."""
    await found(world)
    _, deposit = await late_deposit(world, LATE + 1)
    record = ReturnRecord(deposit, sha256(BACK))
    for service in world.services:
        service.approve_record(encode_record(record), given(deposit, world.params.genesis_hash))
    await world.settle()
    service, tx_out = world.services[0], world.bitcoin.tx_out

    async def ahead(outpoint: OutPoint, include_mempool: bool = True) -> UnspentOutput | None:
        output = await tx_out(outpoint, include_mempool)
        return output and replace(
            output, confirmations=output.confirmations + 5, best_block_hash=b"\x07" * 32
        )

    with monkeypatch.context() as patch:
        patch.setattr(world.bitcoin, "tx_out", ahead)
        reason = await service.voting.records.facts_reason(record, world.commitment())
        assert reason == BEHIND_ITS_NODE
        world.final(world.propose())
        await world.settle()
        assert BEHIND_ITS_NODE in service.info()["alarms"][f"return of {outpoint_text(deposit)}"]
        assert not returning(world, deposit)
    await world.settle()
    assert returning(world, deposit), "asked again at the same tip"


async def test_claimed_deposit_is_not_returned(world: PegWorld) -> None:
    await found(world)
    raw, deposit = await late_deposit(world, 10)
    block_hash = place_of(world, deposit)
    await world.extend([world.side.claim(world.bitcoin, raw, block_hash, CLAIM)])
    record = ReturnRecord(deposit, sha256(BACK))
    with pytest.raises(InvalidEncoding, match="deposit is claimed"):
        world.services[0].approve_record(
            encode_record(record), given(deposit, world.params.genesis_hash)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"proof": b""},
        {"proof": public_key(KEY) + ecdsa_sign(KEY, bytes(32))},
        {"proof": public_key(secret("x")) + ecdsa_sign(secret("x"), bytes(32))},
        {"return_script": p2wpkh_script("thief")},
        {"claim_script": b"\x51"},
    ],
)
def test_details_that_prove_nothing_are_refused(changes: dict[str, bytes]) -> None:
    record = ReturnRecord(DEPOSIT, sha256(BACK))
    read_details(record, given(DEPOSIT, GENESIS), GENESIS, FED)
    with pytest.raises(InvalidEncoding, match="RETURN"):
        read_details(record, given(DEPOSIT, GENESIS, **changes), GENESIS, FED)


@pytest.mark.parametrize("plain", [{}, {"claim_script": 5}, {"claim_script": "zz"}])
def test_details_that_cannot_be_read_are_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(InvalidEncoding, match="needs claim_script"):
        read_details(ReturnRecord(DEPOSIT, sha256(BACK)), plain, GENESIS, FED)


def test_return_script_without_a_standard_form_is_refused() -> None:
    odd = b"\x6a"
    details = given(DEPOSIT, GENESIS, return_script=odd)
    with pytest.raises(InvalidEncoding, match="standard"):
        read_details(ReturnRecord(DEPOSIT, sha256(odd)), details, GENESIS, FED)


def test_return_script_of_the_federation_is_refused_when_read() -> None:
    """P39: the keeper of the keys refuses it, so no operator's approval may ask for it."""
    proof = public_key(KEY) + ecdsa_sign(KEY, return_message(GENESIS, DEPOSIT, FED))
    details = given(DEPOSIT, GENESIS, return_script=FED, proof=proof)
    with pytest.raises(InvalidEncoding, match="federation's own"):
        read_details(ReturnRecord(DEPOSIT, sha256(FED)), details, GENESIS, FED)


async def test_fee_of_a_return_stays_below_what_the_keeper_of_the_keys_signs(
    world: PegWorld,
) -> None:
    """P39: a PARAM may raise fee_cap above it."""
    await found(world)
    now = world.services[0].ledger.history.totals(1)
    parameters = replace(now.parameters, fee_cap_sats=2 * RETURN_FEE_MAX_SATS)
    totals = [
        replace(
            now,
            clock=now.clock + step * parameters.ladder_step,
            parameters=parameters,
            rate_sats_per_kvb=2_000_000 << step,
        )
        for step in range(6)
    ]
    record = ReturnRecord(DEPOSIT, sha256(BACK))
    details = read_details(record, given(DEPOSIT, GENESIS), GENESIS, FED)
    batch = plan_return(record, details, 40_000_000, federation(), totals)
    assert batch.versions and batch.versions[-1].fee_sats > RETURN_FEE_MAX_SATS // 4
    for version in batch.versions:
        payment = return_payment(batch.inputs, batch.outputs(version.fee_sats))
        check_payment(payment, federation(), GENESIS)


async def test_return_that_cannot_be_signed_is_said_and_stops_nothing_else(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C9: the keeper of the keys refuses one deposit; the other one goes back nevertheless."""
    await found(world)
    _, one = await late_deposit(world, 2)
    _, other = await late_deposit(world, LATE + 1)
    deposits = sorted((one, other), key=lambda deposit: deposit.txid)
    sign = Signer.sign_payment

    def refusing(signer: Signer, payment: Payment) -> tuple[bytes, ...]:
        if payment.inputs[0].outpoint == deposits[0]:
            raise Unavailable("not this one")
        return sign(signer, payment)

    monkeypatch.setattr(Signer, "sign_payment", refusing)
    for deposit in deposits:
        record = encode_record(ReturnRecord(deposit, sha256(BACK)))
        for service in world.services:
            service.approve_record(record, given(deposit, world.params.genesis_hash))
    await world.settle()
    await world.extend()
    assert returning(world, deposits[1]) and not returning(world, deposits[0])
    alarms = world.services[0].info()["alarms"]
    assert "peg waits" not in alarms
    assert "not this one" in alarms[f"return of {outpoint_text(deposits[0])}"]


@pytest.mark.parametrize("alarm", ["X1", "X7", "P33"])
async def test_return_is_not_signed_while_it_is_unknown_which_chain_is_right(
    world: PegWorld, alarm: str
) -> None:
    """P33, X1 and X7 stop a deposit's way back as they stop payouts."""
    await found(world)
    _, deposit = await late_deposit(world, LATE + 1)
    record = encode_record(ReturnRecord(deposit, sha256(BACK)))
    for service in world.services:
        service.approve_record(record, given(deposit, world.params.genesis_hash))
    await world.settle()
    if alarm == "X1":
        world.halted |= {0, 1, 2, 3}
    if alarm == "X7":
        world.second_opinions |= dict.fromkeys(range(4), "block 9 is not valid")
    if alarm == "P33":
        world.online = {0}
        world.final(world.propose())
        body = world.side.height.to_bytes(4, "little") + bytes(32)
        for liar in (1, 2):
            frame = body + world.signers[liar].sign_peg_frame(KIND_PEGSTATE, body)
            world.services[0].on_frame(KIND_PEGSTATE, liar, frame)
        await world.settle()
    else:
        await world.extend()
    assert deposit in world.services[0].ledger.history.governance.returns
    assert not world.logs[0].has("peg return signed")
    assert alarm in world.services[0].info()["alarms"][f"return of {outpoint_text(deposit)}"]


def test_taproot_claim_script_proves_with_its_output_key() -> None:
    program = public_key(KEY)[1:]
    proof = schnorr_sign(KEY, return_message(GENESIS, DEPOSIT, BACK))
    details = given(DEPOSIT, GENESIS, claim_script=b"\x51\x20" + program, proof=proof)
    assert read_details(ReturnRecord(DEPOSIT, sha256(BACK)), details, GENESIS, FED).proof == proof


async def test_keeper_of_the_keys_signs_no_other_spend_of_a_deposit(world: PegWorld) -> None:
    """P39: one deposit, one standard output, a bounded fee, and nothing beside."""
    await found(world)
    script = federation()
    totals = [world.services[0].ledger.history.totals(1)]
    record = ReturnRecord(DEPOSIT, sha256(BACK))
    details = read_details(record, given(DEPOSIT, GENESIS), GENESIS, FED)
    batch = plan_return(record, details, 40_000_000, script, totals)
    fee = batch.versions[0].fee_sats
    good = return_payment(batch.inputs, batch.outputs(fee))
    check_payment(good, script, GENESIS)
    for outputs in (
        ((40_000_000, BACK),),
        ((30_000_000, BACK),),
        ((39_000_000, b"\x6a"),),
        ((39_000_000, script.program),),
        ((39_000_000, BACK), (1_000, BACK)),
        (),
    ):
        with pytest.raises(InvalidEncoding):
            check_payment(replace(good, outputs=outputs), script, GENESIS)
    with pytest.raises(InvalidEncoding):
        check_payment(replace(good, burn_ids=(bytes(36),)), script, GENESIS)
