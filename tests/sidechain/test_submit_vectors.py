"""The recorded chain through `submit_block`: every block, every refusal, and the reorganisation."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import Reader, compact_size
from tests.sidechain.recorded_chain import RecordedFacts, parent_height_at
from tests.sidechain.test_chainstate import coin_set_hash
from tests.vectors import (
    case_bytes,
    chain_json,
    display,
    internal,
    recorded_blocks,
    recorded_params,
)

UNDECODABLE = "Block decode failed"


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    opened = Chain.open(tmp_path / "chain", recorded_params())
    yield opened
    opened.close()


def submit(chain: Chain, raw: bytes, facts: RecordedFacts, now_s: int) -> str | None:
    """What `submitblock` answers."""
    try:
        block = Block.read(Reader(raw), chain.params)
    except InvalidEncoding:
        return UNDECODABLE
    return chain.submit_block(block, facts=facts, now_s=now_s)


def propose(chain: Chain, raw: bytes, facts: RecordedFacts, now_s: int) -> str | None:
    """What `testproposedblock` answers."""
    try:
        block = Block.read(Reader(raw), chain.params)
        chain.test_proposal(block, facts=facts, now_s=now_s)
    except InvalidEncoding:
        return UNDECODABLE
    except InvalidBlock as fault:
        return fault.reason
    return None


def grow(chain: Chain, height: int) -> None:
    """Submit the recorded block at a height."""
    block = recorded_blocks()[height]
    facts = RecordedFacts(parent_height_at(height))
    answer = chain.submit_block(block, facts=facts, now_s=block.header.time + 30)
    assert (answer, chain.tip_hash) == (None, block.hash), height


def answer_of(verdict: Any) -> str | None:
    """A recorded answer: a word, a reject code, or the text of an error."""
    if isinstance(verdict, dict):
        error = verdict.get("error", verdict)
        return str(error["message"])
    return verdict if verdict is None else str(verdict)


def test_chain_when_every_recorded_block_is_submitted_then_same_coins(chain: Chain) -> None:
    expected = {entry["height"]: entry for entry in chain_json("utxo.json")}
    for height in range(1, len(recorded_blocks())):
        grow(chain, height)
        if height in expected:
            found = coin_set_hash(chain._state)
            assert found == expected[height]["hash_serialized_3"]["hash_serialized_3"]
    assert chain.submit_block(recorded_blocks()[3], facts=None, now_s=0) == "duplicate"
    assert chain.submit_block(recorded_blocks()[0], facts=None, now_s=0) == "duplicate"


def test_blocks_when_recorded_as_invalid_then_recorded_answer_and_tip_stays(chain: Chain) -> None:
    entries = defaultdict(list)
    for entry in chain_json("invalid_blocks.json"):
        entries[entry["tip_height"]].append(entry)
    wrong = []
    for height, block in enumerate(recorded_blocks()):
        if height:
            grow(chain, height)
        facts = RecordedFacts(parent_height_at(height))
        for entry in entries[height]:
            found = submit(chain, case_bytes(entry), facts, entry["node_time"])
            if found != answer_of(entry["submitblock"]):
                wrong.append((entry["label"], found, entry["submitblock"]))
            assert chain.tip_hash == block.hash
    assert not wrong
    print(f"invalid blocks: {sum(map(len, entries.values()))} answers agree")


@pytest.mark.slow
def test_blocks_when_a_recorded_transaction_is_invalid_then_recorded_answers(
    chain: Chain,
) -> None:
    entries = defaultdict(list)
    for entry in chain_json("invalid_txs.json"):
        if entry["block"]:
            entries[entry["tip_height"]].append(entry)
    wrong, seen = [], Counter[str]()
    for height in range(len(recorded_blocks())):
        if height:
            grow(chain, height)
        for entry in entries[height]:
            found = judge_both(chain, entry)
            recorded = entry["block"]
            expected = [answer_of(recorded["testproposedblock"])]
            if "submitblock" in recorded:
                expected.append(answer_of(recorded["submitblock"]))
            if found[: len(expected)] != expected:
                wrong.append((entry["label"], found, expected))
            seen[recorded["verdict"]] += 1
    assert not wrong
    print(f"blocks with one recorded transaction: {dict(seen)}")


def judge_both(chain: Chain, entry: dict[str, Any]) -> list[str | None]:
    """Answers to the proposal, and where it is not valid to the block; the tip is as before."""
    tip = chain.tip_hash
    recorded = entry["block"]
    facts = RecordedFacts(entry["parent_height"])
    parts = [bytes.fromhex(recorded["header"]), compact_size(recorded["ntx"])]
    parts.append(bytes.fromhex(recorded["coinbase"]))
    parts += [bytes.fromhex(tx) for tx in entry.get("with_txs", [])]
    parts.append(case_bytes(entry))
    raw = b"".join(parts)
    now_s = chain.header(chain.tip_height).time + 10_000
    answers = [propose(chain, raw, facts, now_s)]
    if answers[0] is not None:
        answers.append(submit(chain, raw, facts, now_s))
        if answers[1] == "inconclusive":
            # It stays a candidate: out of the way with it.
            chain.invalidate_block(internal(recorded["hash"]), facts=facts, now_s=now_s)
    assert chain.tip_hash == tip
    return answers


@pytest.mark.slow
def test_branches_when_recorded_reorganisation_then_same_tips_and_coins(chain: Chain) -> None:
    recorded = chain_json("reorg.json")
    for height in range(1, recorded["base_height"] + 1):
        grow(chain, height)
    facts = RecordedFacts(recorded["parent_height"])
    for step in recorded["steps"]:
        raw = bytes.fromhex(step["hex"])
        now_s = Block.decode(raw, chain.params).header.time + 30
        assert submit(chain, raw, facts, now_s) == step["submitblock"], step["note"]
        assert display(chain.tip_hash) == step["tip_after"]
        assert chain.tip_height == step["txoutset"]["height"]
        assert coin_set_hash(chain._state) == step["txoutset"]["hash_serialized_3"]
