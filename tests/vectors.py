"""Where the recorded chain lies and how tests read it.

`$FEDPEG_VECTORS` names a folder that holds `chain/` and `elements/`; without it they are read
from `../shared/vectors` beside the repository. Any chain of the same form will do: no test knows
a value of a particular one. Tests that need a folder that is not there are skipped and say so.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sidechain.daemon.chain_options import params_from_options
from sidechain.params import ChainParams
from sidechain.primitives.block import Block

_REPOSITORY = Path(__file__).resolve().parent.parent


def _vectors_root() -> Path:
    named = os.environ.get("FEDPEG_VECTORS")
    return Path(named) if named else _REPOSITORY.parent / "shared" / "vectors"


def _read(path: Path) -> Any:
    if not path.exists():
        pytest.skip(f"no {path}; set FEDPEG_VECTORS to the folder of vectors")
    return json.loads(path.read_text())


def chain_vectors() -> Path:
    """Folder of the recorded chain."""
    return _vectors_root() / "chain"


def elements_vectors() -> Path:
    """Folder of the reference project's own unit test data."""
    return _vectors_root() / "elements"


@cache
def chain_json(name: str) -> Any:
    """Content of one file of the recorded chain. Shared: do not change it."""
    return _read(chain_vectors() / name)


@cache
def elements_json(name: str) -> Any:
    """Content of one file of the reference project. Shared: do not change it."""
    return _read(elements_vectors() / name)


@cache
def recorded_params() -> ChainParams:
    """Parameters of the recorded chain, from the options it was made with."""
    return params_from_options(chain_json("params.json")["elementsd_options"])


@cache
def recorded_blocks() -> tuple[Block, ...]:
    """All blocks of the recorded chain by height, decoded."""
    params = recorded_params()
    return tuple(Block.decode(case_bytes(entry), params) for entry in chain_json("blocks.json"))


def display(internal: bytes) -> str:
    """A hash as people read it: reversed hex."""
    return internal[::-1].hex()


def internal(shown: str) -> bytes:
    """A hash as it is hashed, from what people read."""
    return bytes.fromhex(shown)[::-1]


def case_bytes(entry: dict[str, Any], key: str = "hex") -> bytes:
    """Bytes of a vector entry that has `hex`, or `hex_parts` as [hex, repeat count] pairs."""
    if entry.get(key) is not None:
        return bytes.fromhex(entry[key])
    return b"".join(bytes.fromhex(part) * count for part, count in entry[key + "_parts"])
