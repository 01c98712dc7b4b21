"""The index computed the slow way, from blocks alone, and chains to compare it on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidechain.chain import Chain
from sidechain.crypto.hashes import sha256
from sidechain.index.rows import HistoryRow, Place, Spender
from sidechain.index.store import IndexStore
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint
from sidechain.storage.chainstate import ChainState
from tests.factories import unjudged_delta
from tests.vectors import case_bytes, chain_json, internal, recorded_blocks, recorded_params


@dataclass(slots=True)
class SlowIndex:
    """Histories by script hash, newest first, and spenders; by reading every block."""

    histories: dict[bytes, list[HistoryRow]] = field(default_factory=dict)
    spenders: dict[OutPoint, Spender] = field(default_factory=dict)

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> "SlowIndex":
        scripts = {
            OutPoint(tx.txid, vout): output.script
            for block in blocks
            for tx in block.transactions
            for vout, output in enumerate(tx.outputs)
        }
        found = cls()
        for height, block in enumerate(blocks):
            for position, tx in enumerate(block.transactions):
                touched: dict[bytes, tuple[list[int], list[bool]]] = {}
                for vin, txin in enumerate(tx.inputs):
                    if txin.prevout.is_null:
                        continue
                    if txin.is_pegin:
                        script = tx.input_witnesses[vin].pegin[3]
                    elif txin.prevout in scripts:
                        script = scripts[txin.prevout]
                    else:
                        continue  # the genesis block issues on an outpoint that is nowhere
                    if not txin.is_pegin:
                        place = Spender(txid=tx.txid, vin=vin, height=height)
                        found.spenders[txin.prevout] = place
                    touched.setdefault(sha256(script), ([], []))[1].append(txin.is_pegin)
                for vout, output in enumerate(tx.outputs):
                    if not output.is_unspendable:
                        touched.setdefault(sha256(output.script), ([], []))[0].append(vout)
                for script_hash, (funded, pegins) in touched.items():
                    row = HistoryRow(
                        place=Place(height, position),
                        txid=tx.txid,
                        funded=tuple(funded),
                        spent_count=pegins.count(False),
                    )
                    found.histories.setdefault(script_hash, []).insert(0, row)
        return found


def check_equal(store: IndexStore, blocks: Sequence[Block]) -> int:
    """The store holds exactly what these blocks give; how many rows were compared."""
    expected = SlowIndex.of(blocks)
    assert store.tip == (len(blocks) - 1, blocks[-1].hash)
    for script_hash, history in expected.histories.items():
        assert list(store.history(script_hash)) == history
    for outpoint, spender in expected.spenders.items():
        assert store.spender(outpoint) == spender
    rows = sum(len(history) for history in expected.histories.values())
    content = [key[:1] for key, _ in store._database.items(b"")]
    assert (content.count(b"s"), content.count(b"o")) == (rows, len(expected.spenders))
    return rows + len(expected.spenders)


def dump(store: IndexStore) -> dict[bytes, bytes]:
    """Every row."""
    return dict(store._database.items(b""))


class UnjudgedChain:
    """A chain that takes recorded blocks as they are."""

    def __init__(self, path: Path) -> None:
        self.state = ChainState.open(path, recorded_params())
        self.chain = Chain(self.state, recorded_params())

    def connect(self, block: Block) -> None:
        self.state.connect(block, unjudged_delta(block, self.state, recorded_params()))
        self.chain._tell_listeners()

    def disconnect(self) -> None:
        self.state.disconnect()
        self.chain._tell_listeners()

    def blocks(self) -> list[Block]:
        return [self.chain.block(height) for height in range(self.chain.tip_height + 1)]


def reorganised_blocks() -> tuple[list[Block], list[Block]]:
    """The two recorded branches on top of the recorded blocks, in order."""
    base = recorded_blocks()[-1].hash
    branches: dict[bytes, list[Block]] = {}
    for step in chain_json("reorg.json")["steps"]:
        block = Block.decode(case_bytes(step), recorded_params())
        assert block.hash == internal(step["hash"])
        if block.header.prev_hash == base:
            branches[block.hash] = [block]
        else:
            (branch,) = [b for b in branches.values() if b[-1].hash == block.header.prev_hash]
            branch.append(block)
    first, second = branches.values()
    return first, second
