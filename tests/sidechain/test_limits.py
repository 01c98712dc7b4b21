"""Limits of validation to the unit: what just fits passes, one more does not.

Most of them were found missing by mutation testing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from sidechain.crypto.keys import public_key
from sidechain.errors import Invalid, InvalidBlock, InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import explicit_asset
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn
from sidechain.script.flags import CONSENSUS_FLAGS
from sidechain.script.script import multisig_script, p2wpkh, p2wsh
from sidechain.validation.block_check import (
    WITNESS_COMMITMENT_PREFIX,
    check_block,
    check_header,
    commitment_index,
    contextual_check_block,
    fill_coinbase_witness,
)
from sidechain.validation.coins import PeginKey
from sidechain.validation.connect import connect_block, validate_proposal
from sidechain.validation.headers import median_time_past
from sidechain.validation.pegins import parse_pegin
from sidechain.validation.tx_verify import (
    check_inputs,
    check_scripts,
    check_sequence_locks,
    is_final,
    resolve_inputs,
    sigop_cost,
)
from tests.sidechain.example_chain import (
    DictView,
    ListedHeaders,
    build_block,
    coin,
    example_params,
    output,
    spend,
)
from tests.sidechain.recorded_chain import RecordedFacts, RecordedHeaders, RecordedView
from tests.vectors import recorded_blocks, recorded_params

PARAMS = example_params()
POINTS = [OutPoint(bytes([n]) * 32, n) for n in range(1, 5)]
KEY = public_key(b"\x01" * 32)
BY_TIME = 1 << 22
FAR_FUTURE_S = 10**10


@dataclass(frozen=True, slots=True)
class Paced:
    """Headers at the same distance of time, from 0 on."""

    seconds: int
    tip_height: int

    def header(self, height: int) -> Any:
        assert 0 <= height <= self.tip_height
        return SimpleNamespace(time=height * self.seconds)


def refusal(call: Callable[[], object]) -> Invalid:
    with pytest.raises((InvalidBlock, InvalidTransaction)) as caught:
        call()
    return caught.value


def grown(count: int = 3) -> ListedHeaders:
    chain = ListedHeaders(PARAMS)
    chain.grow(count)
    return chain


def locked(*items: TxIn) -> Transaction:
    return Transaction.build(inputs=items, outputs=[output(PARAMS, 1)])


@pytest.mark.parametrize(
    ("seconds", "made_at", "tip", "passes"),
    [
        (64, 21, 28, True),
        (73, 21, 27, False),
        (74, 21, 27, True),
        (64, 0, 13, True),
        (64, 1, 13, True),
        (64, 2, 13, False),
    ],
)
def test_relative_time_lock_when_of_one_unit_then_512_seconds_from_the_block_before(
    seconds: int, made_at: int, tip: int, passes: bool
) -> None:
    """BIP68: median times of the block before the coin's and of the tip; block 0 is the first."""
    tx = locked(TxIn(POINTS[0], b"", 1 | BY_TIME))
    call = lambda: check_sequence_locks(  # noqa: E731
        tx, [coin(PARAMS, 1, height=made_at)], Paced(seconds, tip), height=tip + 1
    )
    if passes:
        call()
    else:
        assert refusal(call).reason == "bad-txns-nonfinal"


@pytest.mark.parametrize(
    "free", [TxIn(POINTS[0], b"", 9, is_pegin=True), TxIn(POINTS[0], b"", 9 | 1 << 31)]
)
def test_relative_lock_when_an_input_before_has_none_then_still_checked(free: TxIn) -> None:
    tx = locked(free, TxIn(POINTS[1], b"", 9))
    coins = [coin(PARAMS, 1, height=20)] * 2
    reason = refusal(lambda: check_sequence_locks(tx, coins, grown(20), height=21)).reason
    assert reason == "bad-txns-nonfinal"


def test_locktime_when_one_then_not_final_in_block_one() -> None:
    tx = Transaction.build(
        inputs=[TxIn(POINTS[0], b"", 0)], outputs=[output(PARAMS, 1)], locktime=1
    )
    assert not is_final(tx, height=1, time_s=1)
    assert is_final(tx, height=2, time_s=1)


def test_coins_when_a_pegin_is_among_them_then_each_once_and_in_order() -> None:
    view = DictView()
    view.coins = {POINTS[0]: coin(PARAMS, 1), POINTS[2]: coin(PARAMS, 3)}
    claimed = coin(PARAMS, 2)
    claim = SimpleNamespace(coin=claimed, key=lambda prevout: PeginKey(bytes(32), prevout))
    tx = locked(TxIn(POINTS[0]), TxIn(POINTS[1], is_pegin=True), TxIn(POINTS[2]))
    spent, keys = resolve_inputs(tx, view, lambda *_: claim)  # type: ignore[arg-type,return-value]
    assert spent == (view.coins[POINTS[0]], claimed, view.coins[POINTS[2]])
    assert keys == (PeginKey(bytes(32), POINTS[1]),)


def test_refusals_when_they_say_more_then_exactly_that() -> None:
    young = coin(PARAMS, 5, height=10, coinbase=True)
    tx = spend(POINTS[1], outputs=[output(PARAMS, 5)])
    fault = refusal(lambda: check_inputs(tx, [young], height=12, params=PARAMS))
    assert fault.detail == "tried to spend coinbase at depth 2"
    signed = spend(
        POINTS[1],
        outputs=[output(PARAMS, 5)],
        input_witnesses=[InputWitness(script=(b"x",))],
    )
    never = coin(PARAMS, 5, script=b"\x00")
    fault = refusal(lambda: check_scripts(signed, [never], CONSENSUS_FLAGS, PARAMS.genesis_hash))
    txid, wtxid = signed.txid[::-1].hex(), signed.wtxid[::-1].hex()
    source = f"{POINTS[1].txid[::-1].hex()}:{POINTS[1].index}"
    assert fault.detail == f"input 0 of {txid} (wtxid {wtxid}), spending {source}"


def test_sigop_cost_when_several_inputs_then_each_counts() -> None:
    """elements/transactions.md 4: a multisig of the input's own script counts as 20."""
    multisig = multisig_script(1, [KEY] * 3)
    tx = Transaction.build(
        inputs=[TxIn(POINTS[0]), TxIn(POINTS[1], multisig), TxIn(POINTS[2])],
        outputs=[output(PARAMS, 1)],
        input_witnesses=[
            InputWitness(),
            InputWitness(),
            InputWitness(script=(multisig,)),
        ],
    )
    scripts = (p2wpkh(KEY), b"\x51", p2wsh(multisig))
    coins = [coin(PARAMS, 1, script=script) for script in scripts]
    assert sigop_cost(tx, coins) == 1 + 4 * 20 + 3


def sized(chain: ListedHeaders, script_bytes: int, witness_bytes: int = 0) -> Block:
    witnesses = [InputWitness(script=(bytes(witness_bytes),))] if witness_bytes else []
    tx = spend(
        POINTS[0],
        outputs=[output(PARAMS, 5, bytes(script_bytes))],
        input_witnesses=witnesses,
    )
    return build_block(chain, [tx], [])


def test_block_size_when_a_quarter_of_the_weight_then_allowed() -> None:
    chain, guess = grown(), 900_000
    guess += 1_000_000 - sized(chain, guess).stripped_size
    largest = sized(chain, guess)
    assert largest.stripped_size == 1_000_000
    check_block(largest, PARAMS)
    over = sized(chain, guess + 1)
    assert refusal(lambda: check_block(over, PARAMS)).reason == "bad-blk-length"


def test_block_weight_when_exactly_the_limit_then_allowed() -> None:
    chain, guess = grown(), 3_900_000
    guess += 4_000_000 - sized(chain, 1, guess).weight_wu
    largest = sized(chain, 1, guess)
    assert largest.weight_wu == 4_000_000
    contextual_check_block(largest, chain, PARAMS)
    over = sized(chain, 1, guess + 1)
    fault = refusal(lambda: contextual_check_block(over, chain, PARAMS))
    assert fault.reason == "bad-blk-weight"


def test_sigops_of_a_block_when_exactly_the_limit_then_allowed_alone_and_connected() -> None:
    chain, view = grown(), DictView()
    view.coins = {
        POINTS[0]: coin(PARAMS, 5),
        POINTS[1]: coin(PARAMS, 5, script=p2wpkh(KEY)),
    }
    many = [spend(POINTS[0], outputs=[output(PARAMS, 5, b"\xac" * n)]) for n in (20_000, 20_001)]
    most = build_block(chain, many[:1], [])
    check_block(most, PARAMS)
    over = build_block(chain, many[1:], [])
    assert refusal(lambda: check_block(over, PARAMS)).reason == "bad-blk-sigops"

    def connect(block: Block) -> object:
        return connect_block(block, view, chain, PARAMS, facts=None, check_scripts=False)

    connect(most)
    # A segwit key spend costs one: 80,001 in all.
    one_more = build_block(chain, [many[0], spend(POINTS[1], outputs=[output(PARAMS, 5)])], [])
    check_block(one_more, PARAMS)
    assert refusal(lambda: connect(one_more)).reason == "bad-blk-sigops"


def test_rules_with_a_height_when_reached_then_in_force_and_one_below_not() -> None:
    """elements/blocks.md 5: height 4 here."""
    chain = grown()
    header_time = build_block(chain, [], []).header.time
    late = Transaction.build(
        inputs=[TxIn(POINTS[0], b"", 0)],
        outputs=[output(PARAMS, 5)],
        locktime=header_time - 1,
    )
    plain = build_block(chain, [], [])
    coinbase = plain.transactions[0]
    unnamed = Transaction.build(
        inputs=[TxIn(coinbase.inputs[0].prevout, b"\0\0")],
        outputs=coinbase.outputs,
        input_witnesses=coinbase.input_witnesses,
    )
    cases: list[tuple[Block, str, str | None, str | None]] = [
        (build_block(chain, [late], []), "csv_height", "bad-txns-nonfinal", None),
        (Block(plain.header, (unnamed,)), "bip34_height", "bad-cb-height", None),
        (plain, "segwit_height", None, "unexpected-witness"),
    ]
    for block, rule, in_force, before in cases:
        for height, expected in ((4, in_force), (5, before)):
            params = replace(PARAMS, **{rule: height})  # type: ignore[arg-type]
            call = lambda b=block, p=params: contextual_check_block(b, chain, p)  # noqa: E731
            if expected is None:
                call()
            else:
                assert refusal(call).reason == expected


def test_commitment_when_another_output_is_long_or_begins_like_it_then_not_it() -> None:
    scripts = (
        WITNESS_COMMITMENT_PREFIX + bytes(32),
        b"\x6a" + bytes(60),
        WITNESS_COMMITMENT_PREFIX + bytes(31),
    )
    outputs = [output(PARAMS, 0, script) for script in scripts]
    assert commitment_index(spend(POINTS[0], outputs=outputs)) == 0
    assert commitment_index(spend(POINTS[0], outputs=outputs[1:])) is None


def test_coinbase_witness_when_only_that_is_missing_then_filled() -> None:
    """elements/interfaces.md 2 (`submitblock`)."""
    chain = grown()
    full = build_block(chain, [], [])
    coinbase = full.transactions[0]
    bare = Transaction.build(inputs=coinbase.inputs, outputs=coinbase.outputs)
    assert fill_coinbase_witness(Block(full.header, (bare,))) == full
    # What stands first may be no coinbase at all: it is filled in, and judged later.
    several = Transaction.build(
        inputs=[*coinbase.inputs, TxIn(POINTS[0])], outputs=coinbase.outputs
    )
    filled = fill_coinbase_witness(Block(full.header, (several,))).transactions[0]
    assert filled.txid == several.txid
    assert [witness.script for witness in filled.input_witnesses] == [(bytes(32),), ()]
    other = Transaction.build(
        inputs=coinbase.inputs,
        outputs=coinbase.outputs,
        input_witnesses=[InputWitness(script=(b"\1" * 32,))],
    )
    uncommitted = Transaction.build(inputs=coinbase.inputs, outputs=[output(PARAMS, 0, b"\x6a")])
    idle = Transaction.build(inputs=[], outputs=coinbase.outputs)
    for transactions in ((), (other,), (uncommitted,), (idle,)):
        block = Block(full.header, transactions)
        assert fill_coinbase_witness(block) is block


@dataclass(frozen=True, slots=True)
class Times:
    """A chain of which only the times of its blocks are asked."""

    times_s: tuple[int, ...]

    @property
    def tip_height(self) -> int:
        return len(self.times_s) - 1

    def header(self, height: int) -> BlockHeader:
        return BlockHeader(
            version=4,
            prev_hash=bytes(32),
            merkle_root=bytes(32),
            time=self.times_s[height],
            height=height,
        )


def test_median_time_when_blocks_are_many_then_of_the_last_eleven() -> None:
    rising = [100 * height for height in range(13)]
    for place, expected in ((0, 700), (1, 700), (2, 800)):
        late = Times((*rising[:place], 10_000, *rising[place + 1 :]))
        assert median_time_past(late, 12) == expected, place


def test_header_when_its_signature_is_asked_for_then_looked_at() -> None:
    chain = grown()
    header = build_block(chain, [], []).header
    check_header(header, chain, PARAMS, FAR_FUTURE_S, check_signature=False)
    call = lambda: check_header(  # noqa: E731
        header, chain, PARAMS, FAR_FUTURE_S, check_signature=True
    )
    assert refusal(call).reason == "block-proof-invalid"


def test_proposal_when_any_part_is_wrong_then_refused_in_elementsds_order() -> None:
    chain, view = grown(), DictView()

    def judged(block: Block) -> str:
        call = lambda: validate_proposal(  # noqa: E731
            block, view, chain, PARAMS, now_s=FAR_FUTURE_S, facts=None
        )
        return refusal(call).reason

    good = build_block(chain, [], [])
    validate_proposal(good, view, chain, PARAMS, now_s=FAR_FUTURE_S, facts=None)
    old = replace(good.header, height=9)
    rootless = replace(good.header, merkle_root=bytes(32))
    assert judged(Block(old, good.transactions)) == "bad-header-height"
    assert judged(Block(rootless, good.transactions)) == "bad-txnmrklroot"
    assert judged(Block(replace(rootless, height=9), good.transactions)) == "bad-header-height"
    late = Transaction.build(
        inputs=[TxIn(POINTS[0], b"", 0)], outputs=[output(PARAMS, 5)], locktime=9
    )
    assert judged(build_block(chain, [late], [])) == "bad-txns-nonfinal"
    missing = spend(POINTS[0], outputs=[output(PARAMS, 5)])
    assert judged(build_block(chain, [missing], [])) == "bad-txns-inputs-missingorspent"


def test_fees_of_a_block_when_all_money_then_allowed_and_taken_or_left() -> None:
    """elements/blocks.md 5.2: an asset without fees may be named for nothing."""
    chain, view = grown(), DictView()
    view.coins = {POINTS[0]: coin(PARAMS, MAX_MONEY_SATS)}
    tx = spend(POINTS[0], outputs=[output(PARAMS, MAX_MONEY_SATS, b"")])
    other = replace(output(PARAMS, 0, b"\x6a"), asset=explicit_asset(b"\x07" * 32))
    for taken in ([], [output(PARAMS, MAX_MONEY_SATS)], [other]):
        block = build_block(chain, [tx], taken)
        delta = connect_block(block, view, chain, PARAMS, facts=None)
        assert delta.fees == ((PARAMS.pegged_asset, MAX_MONEY_SATS),)


@pytest.mark.parametrize("csv_height", [4, 5])
def test_relative_lock_when_its_rule_starts_then_from_that_block_on(csv_height: int) -> None:
    chain, view = grown(), DictView()
    view.coins = {POINTS[0]: coin(PARAMS, 5, height=1)}
    tx = Transaction.build(inputs=[TxIn(POINTS[0], b"", 9)], outputs=[output(PARAMS, 5)])
    params = replace(PARAMS, csv_height=csv_height)
    call = lambda: connect_block(  # noqa: E731
        build_block(chain, [tx], []), view, chain, params, facts=None, check_scripts=False
    )
    if csv_height == 4:
        assert refusal(call).reason == "bad-txns-nonfinal"
    else:
        call()


@pytest.mark.parametrize("pegin_first", [True, False])
def test_pegin_when_beside_other_inputs_then_judged_and_the_others_spent(
    pegin_first: bool,
) -> None:
    height, block = next(
        (height, block)
        for height, block in enumerate(recorded_blocks())
        if any(item.is_pegin for tx in block.transactions for item in tx.inputs)
    )
    claim = next(tx for tx in block.transactions if tx.inputs[0].is_pegin)
    params = recorded_params()
    chain, view = RecordedHeaders(height - 1), DictView()
    view.coins = {POINTS[0]: coin(params, 5)}
    pairs = [
        (claim.inputs[0], claim.input_witnesses[0]),
        (TxIn(POINTS[0]), InputWitness()),
    ]
    ordered = pairs if pegin_first else pairs[::-1]
    amount_sats = parse_pegin(claim.input_witnesses[0].pegin).value_sats
    tx = Transaction.build(
        inputs=[item for item, _ in ordered],
        outputs=[output(params, amount_sats + 5)],
        input_witnesses=[witness for _, witness in ordered],
    )
    coinbase = block.transactions[0]
    bare = Transaction.build(
        inputs=coinbase.inputs,
        outputs=[item for item in coinbase.outputs if item.value_sats == 0],
        input_witnesses=coinbase.input_witnesses,
    )
    changed = Block(block.header, (bare, tx))
    delta = connect_block(changed, view, chain, params, facts=None, check_scripts=False)
    assert [point for point, _ in delta.spent] == [POINTS[0]]
    assert len(delta.pegins) == 1


def test_proposal_when_a_pegin_is_too_shallow_then_invalid_and_not_stalled() -> None:
    """elements/peg.md 7: nobody is to sign such a block."""
    height, block = next(
        (height, block)
        for height, block in enumerate(recorded_blocks())
        if any(item.is_pegin for tx in block.transactions for item in tx.inputs)
    )
    facts = RecordedFacts(0)
    call = lambda: validate_proposal(  # noqa: E731
        block,
        RecordedView(height - 1),
        RecordedHeaders(height - 1),
        recorded_params(),
        now_s=FAR_FUTURE_S,
        facts=facts,
    )
    fault = refusal(call)
    assert (fault.reason, "Needs more confirmations." in fault.detail) == (
        "bad-pegin-witness",
        True,
    )
