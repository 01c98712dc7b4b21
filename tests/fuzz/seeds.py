"""Where a target starts: what is recorded, and what was found before."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

from sidechain.primitives.block import Block
from sidechain.primitives.compact_block import CompactBlock
from sidechain.primitives.encoding import compact_size, le32, vec, vectors
from sidechain.wallet.descriptor import account_descriptor
from sidechain.wallet.keys import PrivateAccount
from tests.sidechain.test_wallet_pset import TEXT as WALLET_PSET
from tests.vectors import (
    case_bytes,
    chain_json,
    chain_vectors,
    elements_json,
    elements_vectors,
    recorded_blocks,
)

FOUND = Path(__file__).with_name("found")
SEED_BYTES_MAX = 20_000
_RPC = (
    b'{"method":"say","params":[1,{"a":[true,null,"\\u00e9"]}],"id":1}',
    b'[{"jsonrpc":"2.0","method":"say","params":{"first":1.5e3},"id":"x"},{"method":"say"}]',
    b'{"jsonrpc":"2.0","method":"say","params":{"args":[1],"second":2}}',
)
_HTTP = (
    b"POST /wallet HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nAuthorization: Basic eA==",
    b"GET /rest?x=1 HTTP/1.0\r\nConnection: keep-alive, x\r\nTransfer-Encoding: chunked",
)


def found_inputs(target: str) -> list[bytes]:
    """Inputs that once broke a property, one a line in hex; the rest of the line says how."""
    file = FOUND / f"{target}.txt"
    if not file.exists():
        return []
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    return [bytes.fromhex(line) for line in lines if line]


def seeds(target: str) -> list[bytes]:
    """Inputs a target knows, none of them long."""
    made = [*found_inputs(target), *_OWN[target]()]
    return [seed for seed in dict.fromkeys(made) if len(seed) <= SEED_BYTES_MAX]


def _chain(name: str) -> list[dict[str, object]]:
    return list(chain_json(name)) if chain_vectors().exists() else []


def _transactions() -> Iterator[bytes]:
    for name in ("txs_valid.json", "invalid_txs.json"):
        yield from (case_bytes(entry) for entry in _chain(name))


def _blocks() -> Iterator[bytes]:
    for name in ("blocks.json", "invalid_blocks.json"):
        yield from (case_bytes(entry) for entry in _chain(name))


def _decoded() -> tuple[Block, ...]:
    return recorded_blocks() if chain_vectors().exists() else ()


def _compact() -> Iterator[bytes]:
    return (CompactBlock.of(block, 7).serialize() for block in _decoded())


def _pegins() -> Iterator[tuple[bytes, bytes]]:
    for block in _decoded():
        for tx in block.transactions:
            for item, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
                if item.is_pegin:
                    place = item.prevout.txid + le32(item.prevout.index)
                    yield place, vectors(witness.pegin)


def _parents() -> Iterator[bytes]:
    for block in _decoded():
        for tx in block.transactions:
            for witness in tx.input_witnesses:
                yield from witness.pegin[4:6]


def _spends() -> Iterator[bytes]:
    if not elements_vectors().exists():
        return
    known = {}
    for block in _decoded():
        for tx in block.transactions:
            for item, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
                spent = known.get(item.prevout)
                if spent is not None:
                    yield vec(spent) + vec(item.script_sig) + vectors(witness.script)
            known.update(
                ((tx.txid, index), output.script) for index, output in enumerate(tx.outputs)
            )


def _scripts() -> Iterator[bytes]:
    for block in _decoded():
        for tx in block.transactions:
            yield from (output.script for output in tx.outputs)
            for witness in tx.input_witnesses:
                yield from witness.script[-2:]


def _addresses() -> Iterator[bytes]:
    if chain_vectors().exists():
        for entry in chain_json("addresses.json")["valid"]:
            yield entry["address"].encode()
    if elements_vectors().exists():
        yield from (entry[0].encode() for entry in elements_json("key_io_valid.json"))


def _descriptors() -> Iterator[bytes]:
    account = PrivateAccount.from_seed(bytes(range(32))).public
    yield account_descriptor(account).encode()
    yield account_descriptor(account, blinded=False).encode()


def _psets() -> Iterator[bytes]:
    yield b64decode(WALLET_PSET)
    # magic and a global map with version 2 and no inputs or outputs
    yield b"pset\xff\x01\x02\x04" + le32(2) + b"\x01\x04\x01\x00\x01\x05\x01\x00\x01\xfb\x04"
    yield b"pset\xff" + compact_size(1) + b"\xfb\x04" + le32(2) + b"\0"


_OWN = {
    "transaction": _transactions,
    "block": _blocks,
    "compact_block": _compact,
    "parent": _parents,
    "pegin": lambda: (place + items for place, items in _pegins()),
    "script": _scripts,
    "run_script": _spends,
    "address": _addresses,
    "descriptor": _descriptors,
    "pset": _psets,
    "rpc": lambda: _RPC,
    "http": lambda: _HTTP,
}
