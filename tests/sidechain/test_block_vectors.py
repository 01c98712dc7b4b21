"""Every recorded block, and every recorded refusal of a block."""

from collections import Counter
from typing import Any

import pytest

from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint
from sidechain.validation.block_check import (
    check_block,
    check_header,
    contextual_check_block,
)
from sidechain.validation.coins import Coin
from sidechain.validation.connect import BlockDelta, genesis_delta, validate_block
from tests.sidechain.recorded_chain import (
    RecordedFacts,
    RecordedHeaders,
    RecordedView,
    parent_height_at,
)
from tests.vectors import case_bytes, chain_json, recorded_blocks, recorded_params


def test_recorded_headers_and_bodies_obey_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    params = recorded_params()
    blocks = recorded_blocks()
    for height, block in enumerate(blocks):
        check_block(block, params)
        if height == 0:
            # Nothing precedes it, and its hash is a parameter.
            assert block.hash == params.genesis_hash
            continue
        chain = RecordedHeaders(height - 1)
        now_s = block.header.time + 30
        check_header(block.header, chain, params, now_s, check_signature=True)
        contextual_check_block(block, chain, params)
    with capsys.disabled():
        print(f"\nblocks.json: headers and bodies of {len(blocks)} blocks pass, genesis included")


def test_recorded_blocks_connect(capsys: pytest.CaptureFixture[str]) -> None:
    connected = 0
    for height, block in enumerate(recorded_blocks()):
        if height == 0:
            continue
        delta = _validate(block, height - 1, parent_height_at(height))
        _assert_delta_is_what_was_recorded(delta, height)
        connected += 1
    with capsys.disabled():
        print(f"\nblocks.json: {connected} blocks connect")
    assert connected


def _validate(
    block: Block, tip: int, parent_height: int, node_time_s: int | None = None
) -> BlockDelta:
    return validate_block(
        block,
        RecordedView(tip),
        RecordedHeaders(tip),
        recorded_params(),
        now_s=block.header.time + 30 if node_time_s is None else node_time_s,
        facts=RecordedFacts(parent_height),
    )


def _assert_delta_is_what_was_recorded(delta: BlockDelta, height: int) -> None:
    before, after = RecordedView(height - 1), RecordedView(height)
    gone = before.outpoints() - after.outpoints()
    new = after.outpoints() - before.outpoints()
    assert {outpoint for outpoint, _ in delta.spent} == gone
    assert {outpoint for outpoint, _ in delta.created} == new
    assert all(after.coin(outpoint) == coin for outpoint, coin in delta.created)
    assert all(before.coin(outpoint) == coin for outpoint, coin in delta.spent)
    assert all(after.pegin_claimed(k) and not before.pegin_claimed(k) for k in delta.pegins)
    assert delta.height == height
    assert _total(delta.fees) == _recorded_fees(recorded_blocks()[height])


def _total(fees: tuple[tuple[bytes, int], ...]) -> dict[bytes, int]:
    return {asset: amount_sats for asset, amount_sats in fees if amount_sats}


def _recorded_fees(block: Block) -> dict[bytes, int]:
    fees: Counter[bytes] = Counter()
    for tx in block.transactions:
        for output in tx.outputs:
            if output.is_fee:
                assert output.asset_id is not None
                assert output.value_sats is not None
                fees[output.asset_id] += output.value_sats
    return dict(fees)


def test_genesis_leaves_its_spendable_outputs() -> None:
    genesis = recorded_blocks()[0]
    delta = genesis_delta(genesis, recorded_params())
    expected: dict[OutPoint, Coin] = {}
    if recorded_params().connect_genesis_outputs:
        view = RecordedView(0)
        expected = {o: c for o in view.outpoints() if (c := view.coin(o)) is not None}
    assert dict(delta.created) == expected
    assert (delta.hash, delta.height, delta.spent) == (recorded_params().genesis_hash, 0, ())


def test_recorded_invalid_blocks_get_the_recorded_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    agreed = 0
    refused_otherwise: list[tuple[str, str, str]] = []
    skipped: list[str] = []
    wrong: list[tuple[str, str, str]] = []
    for entry in chain_json("invalid_blocks.json"):
        if entry["submitblock"] == "duplicate":
            # The tip itself: no rule is broken, the chain answers without judging.
            skipped.append(entry["label"])
            continue
        found, expected = _judge(entry), _expected(entry)
        if found == expected:
            agreed += 1
        elif found == "undecodable" and expected == "block-proof-invalid":
            # A header form no encoder writes: refused while decoding.
            refused_otherwise.append((entry["label"], found, expected))
        else:
            wrong.append((entry["label"], found, expected))
    with capsys.disabled():
        print(f"\ninvalid_blocks.json: {agreed} reasons agree, skipped {skipped}")
        print(f"  refused for another reason: {refused_otherwise}")
    assert not wrong
    assert agreed


def _judge(entry: dict[str, Any]) -> str:
    tip = entry["tip_height"]
    try:
        block = Block.decode(case_bytes(entry), recorded_params())
        _validate(block, tip, parent_height_at(tip), entry["node_time"])
    except InvalidEncoding:
        return "undecodable"
    except InvalidBlock as fault:
        return fault.reason
    return "valid"


def _expected(entry: dict[str, Any]) -> str:
    answer = entry["submitblock"]
    return answer if isinstance(answer, str) else "undecodable"
