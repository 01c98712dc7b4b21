"""What a member's claims for offline users need of the process: their file, and the own mempool.

The file is a journal of its own. Nothing rests on it: what it loses peers or users tell again, so
damage is said once and the file begun anew.

Source: peg:4 ("Registration"), N24 (form of the file).
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from federation.peers import EventLog
from federation.wal import COVENANT_JOURNAL, Journal, JournalCorrupt, Verdict, archive
from peg.covenant_ports import KEPT, CovenantPorts, fold_records
from peg.covenants import encode_registration
from sidechain.chain import Chain
from sidechain.errors import InvalidTransaction, Stalled, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.dynafed import fedpegscript_may_change, valid_fedpegscripts
from sidechain.validation.pegins import ParentFacts

SPARE_RECORDS = 1_000
"""A file with so many records more than registrations is written anew at the next start."""

Records = tuple[tuple[int, bytes], ...]
"""Kind and body of each record, oldest first."""


class CovenantFile:
    """The registrations on disk: what was found, and the journal that takes new ones."""

    def __init__(self, journal: Journal, records: Records) -> None:
        """Use `open_covenants`."""
        self.records = records
        self._journal = journal

    def append(self, kind: int, body: bytes) -> int:
        """Write a record durably. Raises JournalFailed."""
        return self._journal.append(kind, body)


@contextlib.contextmanager
def open_covenants(
    folder: Path, params: ChainParams, vote_key: bytes, log: EventLog
) -> Iterator[CovenantFile]:
    """Open a member's registrations; a file that is mostly history is written anew.

    Raises:
        JournalLocked, JournalFailed: as `Journal.open`.
    """
    genesis, pegged_asset = params.genesis_hash, params.pegged_asset
    try:
        journal = Journal.open(folder, genesis=genesis, key=vote_key, form=COVENANT_JOURNAL)
        records = _read_all(journal)
    except JournalCorrupt as error:
        log.warning("covenants_damaged", reason=str(error))
        archive(folder, COVENANT_JOURNAL)
        journal = Journal.open(folder, genesis=genesis, key=vote_key, form=COVENANT_JOURNAL)
        records = ()
    try:
        yield CovenantFile(journal, _compacted(journal, records, pegged_asset))
    finally:
        journal.close()


def _compacted(journal: Journal, records: Records, pegged_asset: bytes) -> Records:
    """The records of a journal, written anew where most of them are history."""
    if journal.verdict is Verdict.DOUBTFUL:
        journal.settle_doubt()  # one registration less: somebody tells it again
    kept = fold_records(records, pegged_asset)
    if len(records) > len(kept) + SPARE_RECORDS:
        records = tuple(
            (KEPT, bytes((found.sender,)) + encode_registration(found.terms))
            for found in kept.values()
        )
        journal.rotate(b"")
        for position, (kind, body) in enumerate(records, start=1):
            journal.append(kind, body, sync=position == len(records))
        # Only now: a crash before leaves both files, and reading both gives the same.
        journal.drop_older(journal.numbers[-1])
    return records


def _read_all(journal: Journal) -> Records:
    found = []
    try:
        for number in journal.numbers[:-1]:
            found += [(record.kind, record.body) for record in journal.read_older(number)]
    except JournalCorrupt:
        journal.close()
        raise
    return (*found, *((record.kind, record.body) for record in journal.records))


class MemberMempool:
    """The own mempool, as claims for others see it. Meets `peg.covenant_ports.OwnMempool`."""

    def __init__(
        self,
        chain: Chain,
        *,
        facts_for: Callable[[Transaction], Awaitable[ParentFacts | None]],
        on_accepted: Callable[[Transaction], Awaitable[None]],
        unix_time_s: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._facts_for = facts_for
        self._on_accepted = on_accepted
        self._unix_time_s = unix_time_s

    def rate_sats_per_kvb(self) -> int:
        """What a transaction must pay to be taken now."""
        floor = self._chain.mempool.floor_sats_per_kvb(self._unix_time_s())
        return max(floor, self._chain.params.min_relay_fee_sats_per_kvb)

    def spender(self, outpoint: OutPoint) -> bytes | None:
        """The id of a transaction in it that spends an outpoint, a deposit too."""
        return self._chain.mempool.spender(outpoint)

    async def submit(self, transaction: Transaction) -> str:
        """Judge a transaction and relay it; why it was refused, empty when it was not."""
        try:
            facts = await self._facts_for(transaction)
            # Nothing is awaited between the judgement and the mempool's change.
            self._chain.submit_tx(transaction, facts, self._unix_time_s())
        except (InvalidTransaction, Stalled, Unavailable) as error:
            return str(error)
        self._chain.mempool.mark_own(transaction.txid)
        await self._on_accepted(transaction)
        return ""


def covenant_ports(
    chain: Chain,
    file: CovenantFile,
    *,
    facts_for: Callable[[Transaction], Awaitable[ParentFacts | None]],
    on_accepted: Callable[[Transaction], Awaitable[None]],
    unix_time_s: Callable[[], int],
) -> CovenantPorts:
    """What the peg is given to claim for others."""
    mempool = MemberMempool(
        chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=unix_time_s
    )
    return CovenantPorts(
        store=file,
        records=file.records,
        mempool=mempool,
        valid_scripts=lambda: valid_fedpegscripts(chain, chain.tip_height, chain.params, True),
        may_change_script=lambda: fedpegscript_may_change(chain, chain.tip_height, chain.params),
    )
