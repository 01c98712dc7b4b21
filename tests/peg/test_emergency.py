"""The emergency tool's core: which coins when, transactions, what is refused (peg:10)."""

from dataclasses import replace

import pytest

from peg.emergency import (
    INPUTS_MAX,
    EmergencyCoin,
    EmergencySpend,
    blocks_to_wait,
    check_spends,
    handover_marker,
    is_share,
    plan_emergency,
    signed_spend,
    spend_digests,
    spend_wait,
    unsigned_spend,
)
from peg.fedscript import FedScript, coin_script, fed_script, key_tweak
from peg.lanes import LaneState, SpendKind, judge_spend
from sidechain.crypto.hashes import sha256, sha256d
from sidechain.crypto.keys import ecdsa_sign, public_key, tweak_add_secret
from sidechain.errors import InvalidEncoding
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import federation, p2wpkh_script, secret

CLAIM = p2wpkh_script("claim")
RATE = 2_000
FEE_MAX = 500_000


def new_federation() -> FedScript:
    return fed_script(
        k=2,
        keys=[public_key(secret(f"new {i}")) for i in range(3)],
        csv=144,
        emergency_keys=[public_key(secret(f"new emergency {i}")) for i in range(3)],
    )


def coin(
    number: int, height: int, claim: bytes | None = None, sats: int = 1_000_000
) -> EmergencyCoin:
    outpoint = OutPoint(sha256(b"coin %d" % number), 0)
    return EmergencyCoin(outpoint=outpoint, value_sats=sats, height=height, claim_script=claim)


def spends(*others: EmergencyCoin, anchor_height: int = 100) -> tuple[EmergencySpend, ...]:
    return plan_emergency(
        federation(),
        new_federation().script,
        lane=0,
        anchor=coin(0, anchor_height),
        others=others,
        rate_sats_per_kvb=RATE,
    ).spends


def share(spend: EmergencySpend, holder: int) -> tuple[bytes, ...]:
    own = secret(f"emergency {holder}")
    signatures = []
    for one, digest in zip(spend.coins, spend_digests(spend, federation()), strict=True):
        tweak = key_tweak(public_key(own), one.claim_script)
        key = own if tweak is None else tweak_add_secret(own, tweak)
        signatures.append(ecdsa_sign(key, digest) + b"\x01")
    return tuple(signatures)


def test_wait_counts_the_coins_own_block_and_the_lock_of_its_own_script() -> None:
    """peg:10, planted bug 22: age = tip - height + 1 against csv of the coin's script."""
    plain = federation()
    assert blocks_to_wait(coin(1, 100), plain, 100) == 287
    assert blocks_to_wait(coin(1, 100), plain, 386) == 1
    assert blocks_to_wait(coin(1, 100), plain, 387) == 0
    assert blocks_to_wait(coin(1, 100, CLAIM), plain, 500) == 0
    other = fed_script(k=plain.k, keys=plain.keys, csv=1_000, emergency_keys=plain.emergency_keys)
    assert blocks_to_wait(coin(1, 100), other, 387) == 712
    (first,) = spends()
    assert unsigned_spend(first, other)[42:46] == (1_000).to_bytes(4, "little")


def test_anchor_goes_first_with_all_that_ripens_no_later() -> None:
    old, young = coin(1, 50, CLAIM), coin(2, 101)
    first, second = spends(young, old)
    assert first.coins == (coin(0, 100), old)
    assert second.coins == (young,)
    program = new_federation().program
    marker = bytes.fromhex("6a284650f000") + bytes(4) + sha256(new_federation().script)
    assert [script for _, script in first.outputs] == [program, marker]
    assert [script for _, script in second.outputs] == [program]
    assert (spend_wait(first, federation(), 387), spend_wait(second, federation(), 387)) == (0, 1)
    raw = unsigned_spend(first, federation())
    assert raw[:4] == (2).to_bytes(4, "little")
    check_spends((first, second), new_federation().script, lane=0, fee_max_sats=FEE_MAX)


def test_many_coins_are_cut_into_transactions_of_sixty_inputs() -> None:
    many = [coin(i, 90) for i in range(1, 150)]
    found = spends(*many)
    assert [len(spend.coins) for spend in found] == [60, 60, 30]
    assert len({c.outpoint for spend in found for c in spend.coins}) == 150
    check_spends(found, new_federation().script, lane=0, fee_max_sats=FEE_MAX)


def test_coin_below_its_own_fee_is_left_out_and_named() -> None:
    poor = coin(1, 90, sats=700)
    plan = plan_emergency(
        federation(),
        new_federation().script,
        lane=0,
        anchor=coin(0, 100),
        others=[poor],
        rate_sats_per_kvb=RATE,
    )
    assert plan.left_out == (poor,)
    assert plan.spends[0].coins == (coin(0, 100),)
    with pytest.raises(InvalidEncoding, match="do not pay their fee"):
        plan_emergency(
            federation(),
            new_federation().script,
            lane=0,
            anchor=coin(0, 100, sats=700),
            others=[],
            rate_sats_per_kvb=RATE,
        )


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2)])
def test_any_two_of_three_make_the_witness_of_the_emergency_branch(pair: tuple[int, int]) -> None:
    """peg:10: dummy, two signatures in key order, k + 1 empty items, the coin's own script."""
    plain = federation()
    (spend,) = spends(coin(1, 50, CLAIM))
    shares = {holder: share(spend, holder) for holder in reversed(pair)}
    assert all(is_share(spend, plain, holder, given) for holder, given in shares.items())
    raw = signed_spend(spend, plain, shares)
    assert parse_parent_tx(raw).txid == sha256d(unsigned_spend(spend, plain))
    for position, one in enumerate(spend.coins):
        script = coin_script(plain, one.claim_script).script
        items = [b"", *(shares[h][position] for h in pair), *[b""] * 4, script]
        assert (
            bytes((len(items),))
            + b"".join(
                (len(i).to_bytes(1) if len(i) < 253 else b"\xfd" + len(i).to_bytes(2, "little")) + i
                for i in items
            )
            in raw
        )
    with pytest.raises(InvalidEncoding, match="two of the three"):
        signed_spend(spend, plain, {pair[0]: shares[pair[0]]})


def test_share_of_another_holder_amount_or_input_is_none() -> None:
    plain = federation()
    (spend,) = spends(coin(1, 50, CLAIM))
    given = share(spend, 0)
    assert not is_share(spend, plain, 1, given)
    assert not is_share(spend, plain, 0, given[:1])
    assert not is_share(spend, plain, 0, given[::-1])
    richer = replace(spend.coins[1], value_sats=spend.coins[1].value_sats + 1)
    assert not is_share(replace(spend, coins=(spend.coins[0], richer)), plain, 0, given)


def test_plan_that_pays_anything_else_is_refused() -> None:
    """peg:10: every output goes to the FED that the holder knows."""
    first, second = spends(coin(1, 101))
    new = new_federation().script
    value, program = first.outputs[0]
    marker = first.outputs[1]
    thief = (value, p2wpkh_script("thief"))
    other = fed_script(
        k=1,
        keys=[public_key(secret("x"))],
        csv=144,
        emergency_keys=[public_key(secret(f"y {i}")) for i in range(3)],
    )
    wrong: dict[str, tuple[EmergencySpend, ...]] = {
        "pays another script": (replace(first, outputs=(thief, marker)), second),
        "the second pays another": (first, replace(second, outputs=(thief,))),
        "a third output": (replace(first, outputs=(*first.outputs, (600, thief[1]))), second),
        "no marker": (replace(first, outputs=((value, program),)), second),
        "marker of another script": (
            replace(first, outputs=((value, program), (0, handover_marker(0, other.script)))),
            second,
        ),
        "marker of another lane": (
            replace(first, outputs=((value, program), (0, handover_marker(1, new)))),
            second,
        ),
        "marker with money": (replace(first, outputs=((value, program), (5, marker[1]))), second),
        "all to miners": (replace(first, outputs=((600, program), marker)), second),
        "more than there is": (
            replace(first, outputs=((2_000_000, program), marker)),
            second,
        ),
        "a coin twice": (first, replace(second, coins=first.coins)),
        "a deposit first": (replace(first, coins=(coin(0, 100, CLAIM),)), second),
        "too many inputs": (
            replace(first, coins=tuple(coin(i, 1) for i in range(INPUTS_MAX + 1))),
        ),
        "nothing": (),
    }
    for what, plan in wrong.items():
        with pytest.raises(InvalidEncoding):
            check_spends(plan, new, lane=0, fee_max_sats=FEE_MAX)
            pytest.fail(what)
    with pytest.raises(InvalidEncoding, match="does not pay"):
        check_spends((first, second), other.script, lane=0, fee_max_sats=FEE_MAX)


def test_walk_goes_on_after_what_the_tool_makes() -> None:
    """peg:3.6: the members' own walk takes it for a handover that pays nothing."""
    (spend,) = spends(coin(1, 50, CLAIM))
    transaction = parse_parent_tx(unsigned_spend(spend, federation()))
    state = LaneState(lane=0, index=3, anchor=spend.coins[0].outpoint, paid=(b"burn",))
    step = judge_spend(
        transaction,
        state,
        lambda height, paid: [],
        genesis=bytes(32),
        fed_program=federation().program,
        fed_programs=(federation().program, new_federation().program),
        anchor_min_sats=50_000,
        height=9,
    )
    assert (step.kind, step.payouts) == (SpendKind.EMERGENCY, ())
