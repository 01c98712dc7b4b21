"""Claims of deposits: C1 to C8 by class, with their borders."""

from dataclasses import replace
from typing import Any

import pytest

from peg.claims import (
    Claim,
    ClaimFacts,
    check_claim,
    check_distinct,
    judge_claim,
    place_reason,
    read_claims,
    required_depth,
)
from peg.commitments import Commitment
from peg.parameters import LOCAL, PRODUCTION
from sidechain.errors import InvalidBlock, InvalidTransaction
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction
from tests.peg.world import Bitcoin, Sidechain, federation, p2wpkh_script, sidechain_params

TXID = b"\x11" * 32
CLAIM = Claim(
    outpoint=OutPoint(TXID, 0),
    value_sats=20_000,
    script=b"\x00\x20" + bytes(32),
    claim_script=b"\x00\x14" + bytes(20),
    block_hash=b"\x22" * 32,
    tx_count=2,
    position=1,
    stripped_bytes=100,
)
FED = frozenset({federation().program})


def commitment(height: int) -> Commitment:
    return Commitment(
        reset=False, height=height, block_hash=b"\x33" * 32, feerate_sats_per_kvb=1_000
    )


def place(claim: Claim = CLAIM, *, deposit: int | None, committed: int, depth: int) -> str:
    reason = place_reason(claim, deposit, depth, commitment(committed), LOCAL, csv=288)
    return reason[:2]


def test_c4_minimum_border() -> None:
    check_claim(CLAIM, LOCAL, fed_programs=FED)
    with pytest.raises(InvalidBlock, match="C4"):
        check_claim(replace(CLAIM, value_sats=19_999), LOCAL, fed_programs=FED)


def test_c5_twice_in_a_block_is_invalid() -> None:
    other = replace(CLAIM, outpoint=OutPoint(TXID, 1))
    check_distinct([CLAIM, other])
    with pytest.raises(InvalidBlock, match="double-pegin"):
        check_distinct([CLAIM, other, replace(CLAIM, claim_script=b"")])


def test_c8_own_change_is_never_a_deposit() -> None:
    """Planted bug 10."""
    with pytest.raises(InvalidBlock, match="C8"):
        check_claim(replace(CLAIM, script=federation().program), LOCAL, fed_programs=FED)


def test_nested_deposit_form_is_refused() -> None:
    with pytest.raises(InvalidBlock, match="N4"):
        nested = b"\xa9\x14" + bytes(20) + b"\x87"
        check_claim(replace(CLAIM, script=nested), LOCAL, fed_programs=FED)


@pytest.mark.parametrize(("depth", "rule"), [(5, "C1"), (6, "")])
def test_c1_depth_border(depth: int, rule: str) -> None:
    assert place(deposit=100, committed=104, depth=depth) == rule


def test_c1_deposit_off_the_best_chain_waits() -> None:
    assert place(deposit=None, committed=104, depth=0) == "C1"


@pytest.mark.parametrize(("committed", "rule"), [(99, "C2"), (103, "C2"), (104, "")])
def test_c2_place_under_the_committed_block(committed: int, rule: str) -> None:
    """c(h) - dep_height + D_c >= D_p: so every voter's own node shows the depth."""
    assert place(deposit=100, committed=committed, depth=50) == rule


@pytest.mark.parametrize(("committed", "rule"), [(100 + 288 - 72, ""), (100 + 288 - 71, "C6")])
def test_c6_age_border(committed: int, rule: str) -> None:
    """Planted bug 13: without this rule emergency holders could mint from nothing."""
    assert place(deposit=100, committed=committed, depth=400) == rule


@pytest.mark.parametrize(
    ("committed", "depth", "rule"), [(198, 100, ""), (197, 100, "C2"), (198, 99, "C1")]
)
def test_coinbase_deposit_needs_100(committed: int, depth: int, rule: str) -> None:
    coinbase = replace(CLAIM, position=0)
    assert place(coinbase, deposit=100, committed=committed, depth=depth) == rule


def test_depth_of_production_is_never_below_100() -> None:
    assert required_depth(CLAIM, PRODUCTION) == 100
    assert required_depth(replace(CLAIM, position=0), LOCAL) == 100
    assert required_depth(CLAIM, LOCAL) == 6


@pytest.mark.parametrize(
    ("claim", "facts", "verdict"),
    [
        ({}, {}, (True, True)),
        ({}, {"txids": (b"\x01" * 32, b"\x02" * 32)}, (False, True)),
        ({"tx_count": 3}, {}, (False, True)),
        ({"stripped_bytes": 64}, {}, (False, True)),
        ({}, {"unspent": False}, (True, False)),
    ],
)
def test_c3_is_eventual_and_c7_is_policy(
    claim: dict[str, Any], facts: dict[str, Any], verdict: tuple[bool, bool]
) -> None:
    known = replace(ClaimFacts(txids=(b"\x01" * 32, TXID), unspent=True), **facts)
    found = judge_claim(replace(CLAIM, **claim), known)
    assert (found.eventual, found.policy) == verdict


def test_claim_is_read_from_a_transaction() -> None:
    script = federation()
    bitcoin, side = Bitcoin(), Sidechain(sidechain_params(script), script)
    to = p2wpkh_script("alice")
    raw = bitcoin.pay(side.deposit_script(to), 50_000)
    block_hash = bitcoin.mine([raw])
    transaction = side.claim(bitcoin, raw, block_hash, to)
    (claim,) = read_claims([side.burn(to, 30_000), transaction])
    assert claim.outpoint == OutPoint(parse_parent_tx(raw).txid, 0)
    assert (claim.value_sats, claim.claim_script) == (50_000, to)
    assert (claim.block_hash, claim.tx_count, claim.position) == (block_hash, 2, 1)
    assert claim.script == side.deposit_script(to)


def test_claim_without_a_witness_is_refused() -> None:
    script = federation()
    bitcoin, side = Bitcoin(), Sidechain(sidechain_params(script), script)
    to = p2wpkh_script("alice")
    raw = bitcoin.pay(side.deposit_script(to), 50_000)
    transaction = side.claim(bitcoin, raw, bitcoin.mine([raw]), to)
    bare = Transaction.build(
        version=2,
        inputs=transaction.inputs,
        outputs=transaction.outputs,
        locktime=0,
        input_witnesses=[InputWitness()],
    )
    with pytest.raises(InvalidTransaction):
        read_claims([bare])
