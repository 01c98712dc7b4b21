"""The recorded chain: every byte of it reads, writes and hashes as elementsd says."""

from collections import Counter

import pytest

from sidechain.errors import InvalidEncoding
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction, TxOut
from tests.vectors import case_bytes, chain_json, display, recorded_blocks, recorded_params


def _decode_failed(answer: object) -> bool:
    return isinstance(answer, dict) and (answer.get("error") or answer).get("code") == -22


def test_every_block_has_its_bytes_and_hash() -> None:
    for entry, block in zip(chain_json("blocks.json"), recorded_blocks(), strict=True):
        assert block.serialize().hex() == entry["hex"]
        assert display(block.hash) == entry["hash"]


def test_every_block_transaction_agrees_with_the_block_json() -> None:
    decoded = 0
    for entry, block in zip(chain_json("blocks.json"), recorded_blocks(), strict=True):
        for shown, tx in zip(entry["json"]["tx"], block.transactions, strict=True):
            if isinstance(shown, str):
                assert display(tx.txid) == shown
                continue
            decoded += 1
            _check_ids(tx, shown)
    assert decoded


def test_every_listed_transaction_has_its_ids_and_sizes() -> None:
    for entry in chain_json("txs_valid.json"):
        tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        assert tx.serialize().hex() == entry["hex"]
        _check_ids(tx, entry)
        _check_ids(tx, entry["decoded"])
        block = recorded_blocks()[entry["block_height"]]
        assert tx in block.transactions
        for index, shown in enumerate(entry["decoded"]["vout"]):
            assert tx.outputs[index].script.hex() == shown["scriptPubKey"]["hex"]
            assert tx.outputs[index].is_fee == (shown["scriptPubKey"]["type"] == "fee")


def _check_ids(tx: Transaction, shown: dict[str, object]) -> None:
    assert display(tx.txid) == shown["txid"]
    assert display(tx.wtxid) == shown["wtxid"]
    assert display(tx.witness_only_hash()) == shown["withash"]
    assert tx.weight_wu == shown["weight"]
    assert tx.vsize == shown["vsize"]
    if "discountvsize" in shown:
        assert tx.discount_vsize == shown["discountvsize"]
    if "discountweight" in shown:
        assert tx.discount_weight_wu() == shown["discountweight"]


def test_every_spent_output_reads_and_writes_exactly() -> None:
    for entry in [*chain_json("txs_valid.json"), *chain_json("invalid_txs.json")]:
        for raw in entry.get("spent") or []:
            if raw:
                assert TxOut.decode(bytes.fromhex(raw)).serialize().hex() == raw


def test_every_invalid_transaction_decodes_exactly_when_it_does_in_elementsd() -> None:
    verdicts: Counter[str] = Counter()
    for entry in chain_json("invalid_txs.json"):
        raw = case_bytes(entry)
        if _decode_failed((entry["mempool"] or {}).get("error")):
            verdicts["refused"] += 1
            with pytest.raises(InvalidEncoding):
                Transaction.decode(raw)
            continue
        verdicts["decoded"] += 1
        assert Transaction.decode(raw).serialize() == raw
    assert verdicts["refused"]
    assert verdicts["decoded"]


def test_every_invalid_block_decodes_or_is_refused_as_in_elementsd() -> None:
    params = recorded_params()
    for entry in chain_json("invalid_blocks.json"):
        raw = case_bytes(entry)
        try:
            block = Block.decode(raw, params)
        except InvalidEncoding as error:
            # Only what elementsd cannot read either, or reads as a header without a proof.
            assert _decode_failed(entry["submitblock"]) or error.reason == entry["submitblock"]
            continue
        assert not _decode_failed(entry["submitblock"])
        assert block.serialize() == raw
        assert entry["hash"] in (None, display(block.hash))


def test_every_reorganization_block_has_its_bytes() -> None:
    for step in chain_json("reorg.json")["steps"]:
        raw = bytes.fromhex(step["hex"])
        assert Block.decode(raw, recorded_params()).serialize() == raw
