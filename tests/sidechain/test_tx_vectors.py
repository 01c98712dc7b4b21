"""Every recorded transaction that this stage can judge, and every recorded refusal."""

from collections.abc import Sequence
from typing import Any

import pytest

from sidechain.errors import Invalid, InvalidBlock, InvalidEncoding, InvalidTransaction, Stalled
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import compact_size
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS
from sidechain.script.interpreter import run_input, verify_input
from sidechain.script.script import ScriptKind, classify
from sidechain.script.sighash import SighashCache
from sidechain.validation.coins import Coin
from sidechain.validation.connect import validate_block
from sidechain.validation.dynafed import ExtendedChain, median_time_past, valid_fedpegscripts
from sidechain.validation.pegins import check_pegin
from sidechain.validation.tx_check import check_transaction
from sidechain.validation.tx_verify import (
    check_final,
    check_inputs,
    check_scripts,
    check_sequence_locks,
    resolve_inputs,
)
from tests.sidechain.recorded_chain import (
    RecordedFacts,
    RecordedHeaders,
    RecordedView,
    parent_height_at,
)
from tests.vectors import case_bytes, chain_json, internal, recorded_blocks, recorded_params

PLAIN_KINDS = {
    ScriptKind.PUBKEY,
    ScriptKind.PUBKEYHASH,
    ScriptKind.SCRIPTHASH,
    ScriptKind.WITNESS_V0_KEYHASH,
    ScriptKind.WITNESS_V0_SCRIPTHASH,
}


def _spent_coins(entry: dict[str, Any]) -> tuple[Coin, ...]:
    outputs = [TxOut.decode(bytes.fromhex(item)) for item in entry["spent"]]
    return tuple(Coin.of(output, height=0, coinbase=False) for output in outputs)


def _judge_alone(tx: Transaction, spent: Sequence[Coin]) -> None:
    """Everything that needs the transaction and what it spends, and no chain."""
    check_transaction(tx)
    check_inputs(tx, spent, height=0, params=recorded_params())
    check_scripts(tx, spent, CONSENSUS_FLAGS, recorded_params().genesis_hash)


def test_recorded_valid_transactions_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    plain = other = 0
    for entry in chain_json("txs_valid.json"):
        tx = Transaction.decode(case_bytes(entry))
        spent = _spent_coins(entry)
        _judge_alone(tx, spent)
        cache = SighashCache(tx, spent, recorded_params().genesis_hash)
        for index, coin in enumerate(spent):
            run_input(tx, index, coin.output, CONSENSUS_FLAGS, cache)
        _judge_in_its_place(tx, entry["block_height"])
        if {classify(coin.script) for coin in spent} <= PLAIN_KINDS:
            plain += 1
        else:
            other += 1
    with capsys.disabled():
        print(f"\ntxs_valid.json: {plain + other} valid ({plain} plain, {other} other scripts)")
    assert plain


def _judge_in_its_place(tx: Transaction, height: int) -> None:
    """Coins, peg-ins with depth, and times, as of the block the transaction is in."""
    block = recorded_blocks()[height]
    chain = RecordedHeaders(height - 1)
    extended = ExtendedChain(chain, block.header)
    params = recorded_params()
    pairs = valid_fedpegscripts(extended, height, params, next_block=False)
    facts = RecordedFacts(parent_height_at(height))

    class ViewInBlock(RecordedView):
        def coin(self, outpoint: Any) -> Coin | None:
            if any(other.txid == outpoint.txid for other in block.transactions):
                output = next(o for o in block.transactions if o.txid == outpoint.txid)
                return Coin.of(output.outputs[outpoint.index], height=height, coinbase=False)
            return super().coin(outpoint)

    def judge(spender: Transaction, index: int) -> Any:
        items = spender.input_witnesses[index].pegin
        return check_pegin(items, spender.inputs[index].prevout, params, pairs, facts)

    coins, keys = resolve_inputs(tx, ViewInBlock(height - 1), judge)
    assert len(keys) == sum(item.is_pegin for item in tx.inputs)
    check_final(tx, height=height, time_s=median_time_past(chain, height - 1))
    check_sequence_locks(tx, coins, chain, height=height)


def test_recorded_valid_transactions_cover_every_plain_form() -> None:
    kinds = set()
    for entry in chain_json("txs_valid.json"):
        kinds |= {classify(coin.script) for coin in _spent_coins(entry)}
    assert kinds >= PLAIN_KINDS


def test_recorded_invalid_transactions_are_refused_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those whose fault shows without a chain; the others are left to the block test below."""
    refused = undecodable = 0
    need_context: list[str] = []
    for entry in chain_json("invalid_txs.json"):
        if entry["consensus"] is False or entry.get("spent") is None:
            continue
        try:
            tx = Transaction.decode(case_bytes(entry))
        except InvalidEncoding:
            undecodable += 1
            continue
        if len(entry["spent"]) != len(tx.inputs) or not all(entry["spent"]):
            need_context.append(entry["label"])
            continue
        try:
            _judge_alone(tx, _spent_coins(entry))
        except InvalidTransaction:
            refused += 1
            continue
        need_context.append(entry["label"])
    with capsys.disabled():
        print(f"\ninvalid_txs.json alone: {refused} refused, {undecodable} do not decode")
        print(f"  need a chain: {len(need_context)}: {' '.join(need_context)}")
    assert refused


def _block_bytes(entry: dict[str, Any]) -> bytes:
    case = entry["block"]
    before = b"".join(bytes.fromhex(item) for item in entry.get("with_txs", []))
    head = bytes.fromhex(case["header"]) + compact_size(case["ntx"])
    return head + bytes.fromhex(case["coinbase"]) + before + case_bytes(entry)


def _parent_height(entry: dict[str, Any]) -> int:
    recorded = entry.get("parent_height")
    return parent_height_at(entry["tip_height"]) if recorded is None else int(recorded)


def _judge_in_block(entry: dict[str, Any]) -> str:
    """What validation says of the block a case was tried in: a reject code, or a verdict."""
    tip = entry["tip_height"]
    raw = _block_bytes(entry)
    try:
        block = Block.decode(raw, recorded_params())
        assert block.hash == internal(entry["block"]["hash"])
        validate_block(
            block,
            RecordedView(tip),
            RecordedHeaders(tip),
            recorded_params(),
            now_s=block.header.time + 30,
            facts=RecordedFacts(_parent_height(entry)),
        )
    except InvalidEncoding:
        return "undecodable"
    except Stalled:
        return "stalled"
    except InvalidBlock as fault:
        return fault.reason
    return "valid"


def _expected(entry: dict[str, Any]) -> str:
    case = entry["block"]
    if case["verdict"] != "invalid":
        return str(case["verdict"])
    answer = case["submitblock"]
    return answer if isinstance(answer, str) else "undecodable"


def test_recorded_invalid_transactions_in_a_block_get_the_recorded_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    agreed = 0
    wrong: list[tuple[str, str, str]] = []
    untried: list[str] = []
    for entry in chain_json("invalid_txs.json"):
        if entry["block"] is None:
            untried.append(entry["label"])
            with pytest.raises(Invalid):
                check_transaction(Transaction.decode(case_bytes(entry)))
            continue
        found, expected = _judge_in_block(entry), _expected(entry)
        if found == expected:
            agreed += 1
        else:
            wrong.append((entry["label"], found, expected))
    with capsys.disabled():
        print(f"\ninvalid_txs.json in a block: {agreed} verdicts and reasons agree")
        print(f"  never tried in a block, refused by decoding or alone: {len(untried)}")
    assert not wrong
    assert agreed


def test_scripts_of_all_recorded_inputs_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Input by input, by the direct path and by the interpreter."""
    genesis_hash = recorded_params().genesis_hash
    accepted = taproot = 0
    for entry in chain_json("txs_valid.json"):
        tx, spent = Transaction.decode(case_bytes(entry)), _spent_coins(entry)
        cache = SighashCache(tx, spent, genesis_hash)
        for index, coin in enumerate(spent):
            run_input(tx, index, coin.output, CONSENSUS_FLAGS, cache)
            verify_input(tx, index, coin.output, CONSENSUS_FLAGS, cache)
            taproot += classify(coin.script) is ScriptKind.WITNESS_V1_TAPROOT
            accepted += 1
    refused = policy = 0
    for entry in chain_json("invalid_txs.json"):
        answer = str((entry["block"] or {}).get("submitblock"))
        in_pool = str((entry["mempool"] or {}).get("reject-details"))
        if "script-verify-flag" not in answer + in_pool:
            continue
        tx, spent = Transaction.decode(case_bytes(entry)), _spent_coins(entry)
        if "script-verify-flag" in answer:
            with pytest.raises(InvalidTransaction) as caught:
                check_scripts(tx, spent, CONSENSUS_FLAGS, genesis_hash)
            assert caught.value.reason == answer, entry["label"]
            refused += 1
        if "script-verify-flag" in in_pool:
            with pytest.raises(InvalidTransaction) as caught:
                check_scripts(tx, spent, STANDARD_FLAGS, genesis_hash)
            assert str(caught.value) == in_pool, entry["label"]
            policy += 1
    with capsys.disabled():
        print(f"\nscripts: {accepted} inputs accepted ({taproot} taproot),", end=" ")
        print(f"{refused} refused with the recorded text, {policy} for the mempool with details")
    assert accepted
    assert refused
    assert policy
