"""Connecting blocks to coins."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidBlock, Stalled
from sidechain.primitives.block import Block
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.genesis import genesis_block
from sidechain.primitives.transaction import OutPoint, OutputWitness, Transaction, TxOut
from sidechain.script.flags import CONSENSUS_FLAGS, Flags
from sidechain.script.script import p2wpkh
from sidechain.validation.connect import (
    block_script_flags,
    block_subsidy_sats,
    connect_block,
    genesis_delta,
    validate_block,
)
from tests.factories import secret
from tests.sidechain.example_chain import (
    BLOCK_SECRETS,
    DictView,
    ListedHeaders,
    build_block,
    coin,
    example_params,
    output,
    sign_block,
    spend,
)
from tests.sidechain.pak_keys import PAK_MEMBERS, pegout_script
from tests.sidechain.recorded_chain import RecordedHeaders, RecordedView
from tests.vectors import recorded_blocks, recorded_params

PARAMS = example_params()
POINTS = [OutPoint(bytes([n]) * 32, n) for n in range(1, 5)]
OTHER = explicit_asset(b"\x07" * 32)


def _reason(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidBlock) as caught:
        call()
    return caught.value.reason


def _setup(**changes: object) -> tuple[ListedHeaders, DictView]:
    chain = ListedHeaders(example_params(**changes))
    chain.grow(3)
    view = DictView()
    view.coins = {point: coin(PARAMS, 100) for point in POINTS}
    return chain, view


def _connect(block: Block, chain: ListedHeaders, view: DictView) -> object:
    return connect_block(block, view, chain, chain.params, facts=None)


def _fee(amount_sats: int, asset: bytes | None = None) -> TxOut:
    fee = output(PARAMS, amount_sats, b"")
    return fee if asset is None else replace(fee, asset=asset)


def test_whole_validation_of_a_signed_block() -> None:
    chain, view = _setup()
    tx = spend(POINTS[0], outputs=[output(PARAMS, 90), _fee(10)])
    block = sign_block(build_block(chain, [tx], [output(PARAMS, 10)]), BLOCK_SECRETS[1:])
    now_s = block.header.time
    delta = validate_block(block, view, chain, PARAMS, now_s=now_s, facts=None)
    assert delta.height == 4
    assert (delta.hash, delta.prev_hash) == (block.hash, chain.headers[3].hash)
    assert delta.spent == ((POINTS[0], view.coins[POINTS[0]]),)
    coinbase_point, payment_point = OutPoint(block.transactions[0].txid, 0), OutPoint(tx.txid, 0)
    created = dict(delta.created)
    assert list(created) == [coinbase_point, payment_point]
    assert created[coinbase_point] == coin(PARAMS, 10, height=4, coinbase=True)
    assert created[payment_point] == coin(PARAMS, 90, height=4)
    assert delta.fees == ((PARAMS.pegged_asset, 10),)
    assert delta.pegins == ()


def test_unsigned_proposal_is_judged_on_request() -> None:
    chain, view = _setup()
    block = build_block(chain, [], [])
    now_s = block.header.time
    validate_block(block, view, chain, PARAMS, now_s=now_s, facts=None, check_signature=False)
    call = lambda: validate_block(block, view, chain, PARAMS, now_s=now_s, facts=None)  # noqa: E731
    assert _reason(call) == "block-proof-invalid"


def test_coin_made_and_spent_inside_the_block_leaves_no_trace() -> None:
    chain, view = _setup()
    first = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    second = spend(OutPoint(first.txid, 0), outputs=[output(PARAMS, 100)])
    delta = _connect(build_block(chain, [first, second], []), chain, view)
    assert [point for point, _ in delta.spent] == [POINTS[0]]  # type: ignore[attr-defined]
    created = [point for point, _ in delta.created]  # type: ignore[attr-defined]
    assert created == [OutPoint(second.txid, 0)]


def test_order_and_double_spends_matter() -> None:
    chain, view = _setup()
    first = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    second = spend(OutPoint(first.txid, 0), outputs=[output(PARAMS, 100)])
    rival = spend(POINTS[0], outputs=[output(PARAMS, 99), _fee(1)])
    for transactions in ([second, first], [first, rival], [first, second, first]):
        block = build_block(chain, transactions, [])
        reason = _reason(lambda block=block: _connect(block, chain, view))
        assert reason == "bad-txns-inputs-missingorspent"


def test_fault_names_its_transaction() -> None:
    chain, view = _setup()
    good = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    bad = spend(POINTS[1], outputs=[output(PARAMS, 101)])
    with pytest.raises(InvalidBlock) as caught:
        _connect(build_block(chain, [good, bad], []), chain, view)
    assert caught.value.reason == "bad-txns-in-ne-out"
    assert caught.value.detail == "value in != value out, transaction 2"


def test_transaction_that_still_has_coins_is_not_repeated() -> None:
    chain, view = _setup()
    tx = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    view.coins[OutPoint(tx.txid, 0)] = coin(PARAMS, 100)
    # The first one took what the second spends, and the id is the fault that is named.
    del view.coins[POINTS[0]]
    other = spend(POINTS[1], outputs=[output(PARAMS, 1_000)])
    block = build_block(chain, [other, tx], [])
    assert _reason(lambda: _connect(block, chain, view)) == "bad-txns-BIP30"
    late = build_block(chain, [tx], [output(PARAMS, 1_000)])
    assert _reason(lambda: _connect(late, chain, view)) == "bad-txns-BIP30"


def test_coinbase_that_still_has_coins_is_not_repeated() -> None:
    chain, view = _setup()
    block = build_block(chain, [], [])
    view.coins[OutPoint(block.transactions[0].txid, 0)] = coin(PARAMS, 100)
    assert _reason(lambda: _connect(block, chain, view)) == "bad-txns-BIP30"


def test_transaction_is_not_repeated_where_coinbases_may_repeat() -> None:
    chain, view = _setup(bip34_height=2)
    tx = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    view.coins[OutPoint(tx.txid, 0)] = coin(PARAMS, 100)
    block = build_block(chain, [tx], [])
    assert _reason(lambda: _connect(block, chain, view)) == "bad-txns-BIP30"


def test_coinbase_takes_at_most_the_fees_of_each_asset() -> None:
    chain, view = _setup()
    view.coins[POINTS[3]] = coin(PARAMS, 50, asset=OTHER)
    transactions = [
        spend(POINTS[0], outputs=[output(PARAMS, 90), _fee(10)]),
        spend(POINTS[3], outputs=[_fee(50, OTHER)]),
    ]
    other = replace(output(PARAMS, 50), asset=OTHER)
    fits = [
        [output(PARAMS, 10), other],
        [output(PARAMS, 4), output(PARAMS, 6)],
        [output(PARAMS, 0, b"\x6a")],
        [],
    ]
    hidden = replace(output(PARAMS, 1), value=b"\x08" + bytes(32))
    too_much = [
        [output(PARAMS, 11)],
        [replace(other, value=explicit_value(51))],
        [output(PARAMS, 0)],
        [replace(other, asset=explicit_asset(b"\x09" * 32))],
        [hidden],
    ]
    for outputs in fits:
        _connect(build_block(chain, transactions, outputs), chain, view)
    for outputs in too_much:
        block = build_block(chain, transactions, outputs)
        assert _reason(lambda block=block: _connect(block, chain, view)) == "bad-cb-amount"


def test_coinbase_outputs_carry_no_proofs() -> None:
    chain, view = _setup()
    block = build_block(chain, [], [])
    old = block.transactions[0]
    coinbase = Transaction.build(
        inputs=old.inputs,
        outputs=old.outputs,
        input_witnesses=old.input_witnesses,
        output_witnesses=[OutputWitness(range_proof=b"p")],
    )
    changed = Block(block.header, (coinbase,))
    assert _reason(lambda: _connect(changed, chain, view)) == "bad-cb-amount"


def test_mandatory_coinbase_script_holds_for_values_of_the_pegged_asset() -> None:
    chain, view = _setup(mandatory_coinbase=b"\x52")
    asset = chain.params.pegged_asset
    view.coins = {POINTS[0]: coin(chain.params, 10)}
    tx = spend(POINTS[0], outputs=[output(chain.params, 10, b"")])
    right = [output(chain.params, 10, b"\x52"), output(chain.params, 0, b"\x6a")]
    assert right[0].asset_id == asset
    _connect(build_block(chain, [tx], right), chain, view)
    wrong = build_block(chain, [tx], [output(chain.params, 10)])
    assert _reason(lambda: _connect(wrong, chain, view)) == "bad-coinbase-txos"


def test_subsidy_halves_and_may_be_taken() -> None:
    chain, view = _setup(block_subsidy_sats=1000)
    _connect(build_block(chain, [], [output(chain.params, 1000)]), chain, view)
    block = build_block(chain, [], [output(chain.params, 1001)])
    assert _reason(lambda: _connect(block, chain, view)) == "bad-cb-amount"
    heights = {0: 1000, 149: 1000, 150: 500, 300: 250, 150 * 64: 0}
    for height, subsidy_sats in heights.items():
        assert block_subsidy_sats(height, chain.params) == subsidy_sats


@pytest.mark.parametrize("strict", [False, True])
def test_pegouts_when_an_authorisation_is_demanded_then_a_block_without_is_refused(
    strict: bool,
) -> None:
    chain, view = _setup(enforce_pak=strict, pak=tuple(member.entry for member in PAK_MEMBERS))
    key = secret("destination")
    destination = p2wpkh(public_key(key))
    proof = PAK_MEMBERS[2].proof(PAK_MEMBERS, key)
    pushes = {
        "allowed": (public_key(key), proof),
        "forged": (public_key(key), proof[:-1] + b"\0"),
        "bare": (),
    }
    for name, behind in pushes.items():
        script = pegout_script(PARAMS, destination, *behind)
        tx = spend(POINTS[0], outputs=[output(PARAMS, 100, script)])
        # What is wrong later in the block is not looked at before.
        rest = spend(POINTS[1], outputs=[output(PARAMS, 101 if strict else 100)])
        block = build_block(chain, [tx] if name == "allowed" else [rest, tx], [])
        if strict and name != "allowed":
            assert _reason(lambda block=block: _connect(block, chain, view)) == "bad-pak-tx"
        else:
            _connect(block, chain, view)


def test_scripts_can_be_left_out_but_amounts_cannot() -> None:
    chain, view = _setup()
    view.coins[POINTS[0]] = coin(PARAMS, 100, script=b"\x00")
    block = build_block(chain, [spend(POINTS[0], outputs=[output(PARAMS, 100)])], [])
    assert _reason(lambda: _connect(block, chain, view)).startswith("mandatory-script")
    connect_block(block, view, chain, PARAMS, facts=None, check_scripts=False)
    wrong = build_block(chain, [spend(POINTS[0], outputs=[output(PARAMS, 101)])], [])
    call = lambda: connect_block(  # noqa: E731
        wrong, view, chain, PARAMS, facts=None, check_scripts=False
    )
    assert _reason(call) == "bad-txns-in-ne-out"


def test_sigop_cost_of_a_block_is_limited() -> None:
    chain, view = _setup()
    script = b"\xae" * 999
    tx = spend(POINTS[0], outputs=[output(PARAMS, 100, script)])
    _connect(build_block(chain, [tx], []), chain, view)
    over = spend(POINTS[0], outputs=[output(PARAMS, 100, script + b"\xae\xae")])
    block = build_block(chain, [over], [])
    assert _reason(lambda: _connect(block, chain, view)) == "bad-blk-sigops"


def _recorded_pegin_block() -> int:
    """Height of a recorded block that connects here and claims something."""
    for height, block in enumerate(recorded_blocks()):
        if any(item.is_pegin for tx in block.transactions for item in tx.inputs):
            return height
    raise AssertionError("the recorded chain has no peg-in")


class _NoFacts:
    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        return None


def test_shallow_pegin_stalls_a_block_and_only_while_depth_is_asked() -> None:
    height = _recorded_pegin_block()
    block = recorded_blocks()[height]
    view, chain = RecordedView(height - 1), RecordedHeaders(height - 1)
    delta = connect_block(block, view, chain, recorded_params(), facts=None)
    assert delta.pegins
    with pytest.raises(Stalled):
        connect_block(block, view, chain, recorded_params(), facts=_NoFacts())


def test_claimed_deposit_is_not_claimed_again() -> None:
    height = _recorded_pegin_block()
    block = recorded_blocks()[height]

    class Claimed(RecordedView):
        def pegin_claimed(self, key: object) -> bool:
            return True

    chain = RecordedHeaders(height - 1)
    call = lambda: connect_block(  # noqa: E731
        block, Claimed(height - 1), chain, recorded_params(), facts=None
    )
    assert _reason(call) == "bad-txns-double-pegin"


def test_genesis_coins_can_be_spent_at_once() -> None:
    params = example_params(initial_free_coins_sats=5000, initial_reissuance_tokens=2)
    delta = genesis_delta(genesis_block(params), params)
    values = [found.output.value_sats for _, found in delta.created]
    assert values == [5000, 2]
    assert all(found.height == 0 and not found.coinbase for _, found in delta.created)
    unconnected = example_params(initial_free_coins_sats=5000, connect_genesis_outputs=False)
    assert genesis_delta(genesis_block(unconnected), unconnected).created == ()


def test_relative_locks_are_enforced_from_their_height_on() -> None:
    params = example_params(csv_height=10)
    chain = ListedHeaders(params)
    assert block_script_flags(chain, 10, params) == CONSENSUS_FLAGS
    assert not block_script_flags(chain, 9, params) & Flags.CHECKSEQUENCEVERIFY
