"""Own certificates for those who ask, and how long journal files are kept for them.

The newest certificates are held in memory; older ones are looked for in the one journal file that
can hold them, in a thread, one search at a time. A member that asks too often is not answered.

Source: consensus:C57, consensus:J7, N25.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from federation.consensus.encoding import InvalidMessage
from federation.consensus.messages import GetCertificate
from federation.consensus.records import Base, BlockSigRecord, VoteRecord, decode_record
from federation.consensus.votes import Certificate, VoteType
from federation.journal_format import KIND_BASE
from federation.peers import EventLog
from federation.rate_limits import RequestBudget
from federation.wal import Journal, JournalCorrupt

HELD_MAX: Final = 4_000
"""Certificates in memory: more than a thousand heights of one POL and one COMMIT each."""
KEPT_HEIGHTS: Final = 1_000
KEPT_S: Final = 48 * 3_600
REQUESTS_PER_S: Final = 2
REQUESTS_BURST: Final = 20

_Key = tuple[int, int, int, bytes]


class CertificateArchive:
    """Answers GET_CERT from own records; drops journal files that are old enough.

    Args:
        journal: read here, and told to drop files; written by the engine alone.
        send: takes (member, certificate).
        spawn: runs a search beside the engine.
        unix_time_s: the wall clock, for the age of files.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        send: Callable[[int, Certificate], object],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        now_ms: Callable[[], int],
        unix_time_s: Callable[[], int],
        log: EventLog,
    ) -> None:
        self._journal = journal
        self._send = send
        self._spawn = spawn
        self._now_ms = now_ms
        self._unix_time_s = unix_time_s
        self._log = log
        self._held: OrderedDict[_Key, Certificate] = OrderedDict()
        self._budgets: dict[int, RequestBudget] = {}
        self._begins: dict[int, int] = {}
        self._is_searching = False

    def note(self, records: Iterable[object]) -> None:
        """Take in the certificates of own journal records."""
        for record in records:
            if isinstance(record, Base):
                self.note(record.records)
            elif isinstance(record, VoteRecord | BlockSigRecord) and record.certificate is not None:
                self._held[_key(record.certificate)] = record.certificate
        while len(self._held) > HELD_MAX:
            self._held.popitem(last=False)

    def commits(self) -> list[Certificate]:
        """The COMMIT certificates in memory, oldest first."""
        return [c for c in self._held.values() if c.type is VoteType.PRECOMMIT]

    async def find(self, request: GetCertificate) -> Certificate | None:
        """The certificate asked for, from memory or from an own journal file."""
        held = self._held.get(_key_asked(request))
        number = self._file_of(request.height) if held is None else None
        if number is None:
            return held
        try:
            return await asyncio.to_thread(_find, self._journal, number, request)
        except (JournalCorrupt, OSError) as error:
            self._log.warning("journal_not_readable", number=number, reason=str(error))
            return None

    def answer(self, to: int, request: GetCertificate) -> None:
        """Send the certificate asked for, now or after a search, or nothing."""
        budget = self._budgets.setdefault(
            to, RequestBudget(per_s=REQUESTS_PER_S, burst=REQUESTS_BURST)
        )
        if not budget.take(self._now_ms()):
            return
        held = self._held.get(_key_asked(request))
        if held is not None:
            self._send(to, held)
        elif not self._is_searching:
            self._is_searching = True
            self._spawn(self._search(to, request))

    def drop_old(self, height: int) -> None:
        """Delete journal files whose records are all old enough (N25).

        Args:
            height: in progress.
        Raises:
            JournalFailed: the disk refused.
        """
        numbers = self._journal.numbers
        keep_from = numbers[0] if numbers else 0
        for number, following in zip(numbers, numbers[1:], strict=False):
            ended_at = self._begin_of(following)
            age_s = self._unix_time_s() - self._journal.modified_unix_s(number)
            if ended_at is None or ended_at + KEPT_HEIGHTS > height or age_s < KEPT_S:
                break
            keep_from = following
        self._journal.drop_older(keep_from)

    # -- inside

    async def _search(self, to: int, request: GetCertificate) -> None:
        try:
            found = await self.find(request)
            if found is not None:
                self._send(to, found)
        finally:
            self._is_searching = False

    def _file_of(self, height: int) -> int | None:
        """The file in which records of a height are: the last one that begins below it."""
        found = None
        for number in self._journal.numbers:
            begin = self._begin_of(number)
            if begin is not None and begin < height:
                found = number
        return found

    def _begin_of(self, number: int) -> int | None:
        """The highest height of the files before this one; None when the file is damaged."""
        if number not in self._begins:
            try:
                first = self._journal.first_record(number)
                record = decode_record(first.kind, first.body) if first is not None else None
            except (JournalCorrupt, InvalidMessage, OSError) as error:
                self._log.warning("journal_not_readable", number=number, reason=str(error))
                return None
            if isinstance(record, Base):
                self._begins[number] = max(record.position[0], record.block_signature[0])
            elif number == 1:
                self._begins[number] = -1
            else:
                return None
        return self._begins[number]


def _find(journal: Journal, number: int, request: GetCertificate) -> Certificate | None:
    """Runs in a thread: reads a file, touches no state."""
    wanted = _key_asked(request)
    for record in reversed(journal.read_older(number)):
        if request.block_hash not in record.body or record.kind == KIND_BASE:
            continue
        try:
            found = decode_record(record.kind, record.body)
        except InvalidMessage:
            continue
        held = found.certificate if isinstance(found, VoteRecord | BlockSigRecord) else None
        if held is not None and _key(held) == wanted:
            return held
    return None


def _key(certificate: Certificate) -> _Key:
    return _key_of(certificate.type, certificate.height, certificate.round, certificate.block_hash)


def _key_asked(request: GetCertificate) -> _Key:
    return _key_of(request.type, request.height, request.round, request.block_hash)


def _key_of(kind: VoteType, height: int, round_number: int, block_hash: bytes) -> _Key:
    """Any COMMIT of a block answers for it; who asks cannot know its round."""
    return int(kind), height, -1 if kind is VoteType.PRECOMMIT else round_number, block_hash
