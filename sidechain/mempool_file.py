"""Writing the mempool to a file, and taking a file's transactions in again.

Source: elements/interfaces.md 3 (savemempool, importmempool).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled, Unavailable
from sidechain.mempool.persistence import SavedMempool, decode_mempool, encode_mempool
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

FILE_NAME = "mempool.dat"
PAUSE_TRANSACTIONS = 200
"""Transactions taken in before others get their turn."""

FactsFor = Callable[[Transaction], Awaitable[ParentFacts | None]]


@dataclass(slots=True)
class LoadReport:
    """What became of the transactions of a file."""

    accepted: int = 0
    refused: int = 0
    expired: int = 0
    known: int = 0


def save_mempool(chain: Chain, path: Path) -> None:
    """Write the mempool to a file: the old file stays whole until the new one is.

    Raises:
        Unavailable: the disk refuses.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(encode_mempool(chain.mempool))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error


async def load_mempool(
    chain: Chain,
    path: Path,
    *,
    facts_for: FactsFor,
    unix_time_s: Callable[[], int],
    use_current_time: bool = False,
    apply_deltas: bool = True,
    apply_unbroadcast: bool = True,
) -> LoadReport:
    """Judge the transactions of a file anew and take in those that do.

    Args:
        facts_for: learns what a transaction's peg-ins need from the parent chain.
        use_current_time: they count as new; otherwise their times are the file's.
        apply_deltas: whether the file's fee deltas are added to those in force.
        apply_unbroadcast: whether those no peer had asked for are so again.
    Raises:
        Unavailable: the file cannot be read.
        InvalidEncoding: it is damaged.
    """
    saved = decode_mempool(await asyncio.to_thread(_read, path))
    report = LoadReport()
    expiry_s = chain.mempool.limits.expiry_s
    for position, item in enumerate(saved.transactions):
        if apply_deltas and item.delta_sats:
            chain.prioritise(item.tx.txid, item.delta_sats)
        now_s = unix_time_s()
        time_s = now_s if use_current_time else item.time_s
        if time_s <= now_s - expiry_s:
            report.expired += 1
        else:
            await _take_in(chain, item.tx, facts_for, time_s, report)
        if position % PAUSE_TRANSACTIONS == PAUSE_TRANSACTIONS - 1:
            await asyncio.sleep(0)
    _apply(chain, saved, apply_deltas=apply_deltas, apply_unbroadcast=apply_unbroadcast)
    return report


async def load_mempool_if_any(
    chain: Chain, path: Path, *, facts_for: FactsFor, unix_time_s: Callable[[], int]
) -> LoadReport | None:
    """Take in the file of the last run; None where there is none, or none that can be read."""
    try:
        return await load_mempool(chain, path, facts_for=facts_for, unix_time_s=unix_time_s)
    except (InvalidEncoding, Unavailable):
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


async def _take_in(
    chain: Chain, tx: Transaction, facts_for: FactsFor, time_s: int, report: LoadReport
) -> None:
    try:
        is_claim = any(txin.is_pegin for txin in tx.inputs)
        facts = await facts_for(tx) if is_claim else None
        chain.submit_tx(tx, facts, time_s)
    except (InvalidTransaction, Stalled, Unavailable):
        if tx.txid in chain.mempool:
            report.known += 1
        else:
            report.refused += 1
    else:
        report.accepted += 1


def _apply(
    chain: Chain, saved: SavedMempool, *, apply_deltas: bool, apply_unbroadcast: bool
) -> None:
    for txid, delta_sats in saved.deltas if apply_deltas else ():
        chain.prioritise(txid, delta_sats)
    for txid in saved.unbroadcast if apply_unbroadcast else ():
        chain.mempool.mark_own(txid)
