"""When a deposit may be claimed, to the block, and records as bytes."""

from dataclasses import replace

import pytest

from federation.wallet.pegs import (
    Deposit,
    DepositAddress,
    Pegin,
    PegInfo,
    Pegout,
    decode_address,
    decode_pegin,
    decode_pegout,
    encode_address,
    encode_pegin,
    encode_pegout,
    judge_deposit,
)
from sidechain.primitives.transaction import OutPoint

INFO = PegInfo(
    committed_height=1_000,
    committed_hash=b"\xcc" * 32,
    pegin_depth=6,
    commit_depth=2,
    csv=288,
    w_sweep=72,
    peg_out_fee_sats=2_500,
    min_pegin_sats=20_000,
    min_pegout_sats=20_000,
    payout_cap_sats=100_000_000,
    deposits_open=True,
    reason="",
)
DEPOSIT = Deposit(
    outpoint=OutPoint(b"\x01" * 32, 7),
    value_sats=20_000,
    tx=b"\x02" * 80,
    height=990,
    block_hash=b"\xbb" * 32,
    proof=b"\x03" * 90,
)
TARGET = DepositAddress(
    wallet="bob and alice",
    address="bcrt1q",
    claim_index=3,
    claim_script=b"\0\x14" + b"\x05" * 20,
    deposit_script=b"\0\x20" + b"\x06" * 32,
)


@pytest.mark.parametrize(
    ("height", "is_coinbase", "is_ripe", "is_lost"),
    [
        (1_001, False, False, False),
        (997, False, False, False),
        (996, False, True, False),
        (784, False, True, False),
        (783, False, False, True),
        (903, True, False, False),
        (902, True, True, False),
    ],
)
def test_deposit_when_at_a_boundary_of_depth_and_age_then_judged_as_voters_do(
    height: int, is_coinbase: bool, is_ripe: bool, is_lost: bool
) -> None:
    deposit = replace(DEPOSIT, height=height, is_coinbase=is_coinbase)
    verdict = judge_deposit(deposit, INFO, committed_is_active=True)
    assert (verdict.is_ripe, verdict.is_lost) == (is_ripe, is_lost)
    assert bool(verdict.reason) is not is_ripe


@pytest.mark.parametrize(
    ("deposit", "is_active", "is_lost"),
    [
        (replace(DEPOSIT, height=None), True, False),
        (replace(DEPOSIT, value_sats=19_999), True, True),
        (replace(DEPOSIT, tx=bytes(64)), True, True),
        (DEPOSIT, False, False),
    ],
)
def test_deposit_when_a_rule_fails_then_not_ripe_and_says_why(
    deposit: Deposit, is_active: bool, is_lost: bool
) -> None:
    verdict = judge_deposit(deposit, INFO, committed_is_active=is_active)
    assert not verdict.is_ripe and verdict.reason and verdict.is_lost == is_lost


@pytest.mark.parametrize("deposit", [None, DEPOSIT, replace(DEPOSIT, height=None, proof=b"")])
@pytest.mark.parametrize("final_height", [None, 0, 12])
def test_pegin_when_encoded_then_decodes_to_the_same(
    deposit: Deposit | None, final_height: int | None
) -> None:
    pegin = Pegin(
        number=9,
        target=TARGET,
        amount_sats=123,
        is_own=True,
        funding_tx=b"\x11",
        deposit=deposit,
        claim_txid=b"\x12" * 32,
        final_height=final_height,
        is_reported=True,
    )
    assert decode_pegin(encode_pegin(pegin)) == pegin
    assert decode_address(encode_address(TARGET)) == TARGET


def test_pegout_when_encoded_then_decodes_to_the_same() -> None:
    pegout = Pegout(
        number=2,
        wallet="bob",
        address="bcrt1q",
        amount_sats=5,
        burn=OutPoint(b"\x07" * 32, 0),
        fee_sats=40,
        failure="because",
    )
    assert decode_pegout(encode_pegout(pegout)) == pegout


def test_peg_info_when_nothing_is_committed_yet_then_no_deposit_is_ripe() -> None:
    reply = {
        "committed_height": None,
        "committed_hash": None,
        "pegin_depth": 6,
        "commit_depth": 2,
        "csv": 288,
        "w_sweep": 72,
        "peg_out_fee_sats": 2_500,
        "min_pegin_sats": 20_000,
        "min_pegout_sats": 20_000,
        "payout_cap_sats": 100_000_000,
        "deposits_open": False,
        "reason": None,
    }
    info = PegInfo.from_json(reply)
    assert (info.committed_height, info.reason) == (-1, "")
    assert not judge_deposit(DEPOSIT, info, committed_is_active=True).is_ripe
    for name in ("csv", "deposits_open"):
        with pytest.raises(KeyError):
            PegInfo.from_json({key: value for key, value in reply.items() if key != name})
