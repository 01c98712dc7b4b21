"""Templates and mempool verdicts against what elementsd did on the recorded chain."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled
from sidechain.policy.template import build_template
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.transaction import Transaction
from sidechain.storage.chainstate import ChainState
from tests.factories import unjudged_delta
from tests.vectors import chain_json, internal, recorded_blocks, recorded_params


class Headers:
    """The recorded chain up to a height."""

    def __init__(self, tip_height: int) -> None:
        self.tip_height = tip_height

    def header(self, height: int) -> BlockHeader:
        return recorded_blocks()[height].header


def test_template_when_recorded_block_is_ordinary_then_same_hash() -> None:
    compared = 0
    for entry, block in zip(chain_json("blocks.json"), recorded_blocks(), strict=True):
        unusual = any(label.startswith("block: ") for label in entry["labels"])
        if unusual or block.header.height == 0:
            continue
        paid = block.transactions[0].outputs[0]
        template = build_template(
            Headers(block.header.height - 1),
            replace(recorded_params(), mandatory_coinbase=paid.script if paid.value_sats else b""),
            time_s=block.header.time,
            coinbase_scripts=(),
            transactions=block.transactions[1:],
            proposed=block.header.proposed,
        )
        assert template.hash == block.hash, entry["labels"]
        assert template.transactions == block.transactions
        compared += 1
    print(f"templates equal to recorded blocks: {compared}")
    assert compared


class RecordedFacts:
    """The parent chain as it stood at one parent height."""

    def __init__(self, parent_height: int) -> None:
        self.parent_height = parent_height
        self.known = {internal(h["hash"]): h for h in chain_json("parent.json")["headers"]}

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        header = self.known.get(block_hash)
        if header is None or header["height"] > self.parent_height:
            return None
        return self.parent_height - header["height"] + 1, header["ntx"]


def test_mempool_verdicts_when_recorded_transactions_then_as_elementsd(tmp_path: Path) -> None:
    params, blocks = recorded_params(), recorded_blocks()
    parents = [entry["parent_height"] for entry in chain_json("blocks.json")]
    tries: dict[int, list[tuple[str, bytes, dict[str, Any], int]]] = {}
    for entry in chain_json("txs_valid.json"):
        at = entry["mempool_tip_height"]
        raw, verdict = bytes.fromhex(entry["hex"]), entry["mempool"]
        parent = parents[entry["block_height"]]
        tries.setdefault(at, []).append((entry["label"], raw, verdict, parent))
    for entry in chain_json("invalid_txs.json"):
        verdict = entry["mempool"]
        if verdict and "allowed" in verdict and "hex" in entry:
            raw = bytes.fromhex(entry["hex"])
            case = (entry["label"], raw, verdict, entry["parent_height"])
            tries.setdefault(entry["tip_height"], []).append(case)
    seen: Counter[str] = Counter()
    state = ChainState.open(tmp_path / "chain", params)
    for block in blocks:
        if block.header.height:
            state.connect(block, unjudged_delta(block, state, params))
        chain = Chain(state, params)
        for label, raw, verdict, parent in tries.get(state.tip_height, ()):
            got = mempool_reason(chain, raw, RecordedFacts(parent), block.header.time + 30)
            expected = verdict.get("reject-details", verdict.get("reject-reason", ""))
            assert got == expected, label
            seen["refused alike" if expected else "accepted alike"] += 1
    state.close()
    print(dict(seen))
    assert seen["accepted alike"] and seen["refused alike"]


def mempool_reason(chain: Chain, raw: bytes, facts: RecordedFacts, now_s: int) -> str:
    """The reject details as testmempoolaccept shows them, empty when accepted."""
    try:
        chain.test_tx(Transaction.decode(raw), facts, now_s)
    except Stalled as stalled:
        return f"bad-pegin-witness, {stalled.reason}"
    except InvalidEncoding as error:
        return f"undecodable: {error}"
    except InvalidTransaction as error:
        missing = error.reason == "bad-txns-inputs-missingorspent"
        return "missing-inputs" if missing else str(error)
    return ""
