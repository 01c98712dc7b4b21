"""`-reindex`: the chain's state made anew from the blocks it has stored.

The new state is built beside the old one and takes its place when it is whole, so a crash leaves
one of them. Every block of the chain is judged again, all but the depth of its peg-ins, which
was known when it came. Blocks of other branches are left behind.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from sidechain.chain import Chain
from sidechain.errors import Invalid, InvalidBlock, InvalidEncoding, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.storage import schema
from sidechain.storage.leveldb import Database

REPORT_EVERY_BLOCKS = 1_000


class ReindexFailed(Exception):
    """The stored blocks do not make a chain; the old state is as it was."""


def recover_folder(path: Path) -> None:
    """Finish or undo what a crash left: after it the state is at `path` if there is one.

    Raises:
        Unavailable: the disk refuses.
    """
    try:
        if not path.exists() and _old(path).exists():
            _old(path).rename(path)
        for rest in (_new(path), _old(path)):
            if rest.exists():
                shutil.rmtree(rest)
    except OSError as error:
        raise Unavailable(f"{path}: {error}") from error


async def reindex(path: Path, params: ChainParams, report: Callable[[str], None]) -> None:
    """Make the state of a chain anew; nothing to do where there is none.

    Args:
        path: of the chain's database, which nobody has open.
        report: told how far it is.
    Raises:
        ReindexFailed: a stored block is damaged or not valid.
        Unavailable: the disk refuses, or the database is in use.
        InvariantError: the database is damaged beyond reading.
    """
    if _is_there(path):
        await _copy(path, params, report)
        _take_over(path)


def _is_there(path: Path) -> bool:
    return path.exists()


def _take_over(path: Path) -> None:
    """Put the new state in the place of the old one."""
    try:
        path.rename(_old(path))
        _new(path).rename(path)
        shutil.rmtree(_old(path))
    except OSError as error:
        raise Unavailable(f"{path}: {error}") from error


async def _copy(path: Path, params: ChainParams, report: Callable[[str], None]) -> None:
    with Database(path) as stored:
        if stored.get(schema.GENESIS_KEY) != params.genesis_hash:
            raise ReindexFailed("Incorrect or no genesis block found. Wrong datadir for network?")
        chain = Chain.open(_new(path), params)
        try:
            height = 1
            while (raw := stored.get(schema.block_key(height))) is not None:
                _connect(chain, raw, height)
                if height % REPORT_EVERY_BLOCKS == 0:
                    report(f"Reindexing: {height} blocks")
                height += 1
                # Whoever asks is to hear that this goes on.
                await asyncio.sleep(0)
            report(f"Reindexing: done, {height - 1} blocks")
        finally:
            chain.close()


def _connect(chain: Chain, raw: bytes, height: int) -> None:
    try:
        chain.connect(Block.decode(raw, chain.params), facts=None, reuse_checks=False)
    except (InvalidEncoding, InvalidBlock, InvariantError) as error:
        reason = error.reason if isinstance(error, Invalid) else str(error)
        raise ReindexFailed(f"the stored block {height} does not stand: {reason}") from error


def _new(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")
