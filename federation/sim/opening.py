"""How a simulated member starts: what journal, guard and chain on its disk say of its past.

Does what `federation.start` does with real files, with the same parts.

Source: consensus:C70, consensus:C75, consensus:J6, consensus:R6, consensus:R7.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.consensus.encoding import InvalidMessage
from federation.consensus.events import StartMode
from federation.consensus.records import InvalidJournal, JournalImage, decode_record, restore
from federation.own_signatures import CountedRecords
from federation.signer import GuardStart, Signer, SignerFailed, start_guard
from federation.sim.world import GENESIS, block_hash
from federation.sim.written import BLOCKS, GUARD, JOURNAL
from federation.start import OpenedJournal, settle_mode
from federation.verification import MessageVerifier
from federation.wal import BlockFiles, Journal, JournalCorrupt, Verdict

if TYPE_CHECKING:
    from federation.sim.member import Node

REMEMBERED_SIGNATURES: Final = 500
GUARD_STARTS: Final = {
    StartMode.FRESH: GuardStart.FRESH,
    StartMode.AMNESIAC: GuardStart.RESTORED,
}


class NeedsOperator(Exception):
    """The member must not start by itself: `--restored` is needed. The text says why."""


@dataclass(slots=True)
class Opened:
    """Everything durable of one process of a member."""

    journal: Journal
    image: JournalImage
    signer: Signer
    counted: CountedRecords
    block_files: BlockFiles
    mode: StartMode

    def stored_blocks(self) -> dict[bytes, bytes]:
        """Proposals found on the disk, each checked to hash to its name (J8)."""
        found = {}
        for hash_ in sorted(self.block_files.hashes):
            data = self.block_files.load(hash_)
            if data is not None and block_hash(data) == hash_:
                found[hash_] = data
        return found


def open_state(node: "Node") -> Opened:
    """Open journal, guard and block files of a member's disk.

    Raises:
        NeedsOperator: damaged, missing or contradicting itself.
        JournalFailed, SignerFailed, OSError: the disk refused.
    """
    disk, key = node.disk, node.key
    if node.is_told:
        node.is_told = False
        disk.wipe(JOURNAL, BLOCKS)  # --restored moves them out of the way
    vote_key = key.public_key[1:]
    try:
        journal = Journal.open(Path(JOURNAL), genesis=GENESIS, key=vote_key, layer=disk)
    except JournalCorrupt as error:
        raise NeedsOperator(str(error)) from error
    try:
        records = tuple(decode_record(r.kind, r.body) for r in journal.records)
        image = restore(records)
    except (InvalidMessage, InvalidJournal) as error:
        if not node.is_lost:
            node.sim.checker.fail("J6", f"the journal of {node.label} is refused: {error}")
        raise NeedsOperator(str(error)) from error
    mode = _mode(node, journal.verdict, bool(records))
    signer = _open_signer(node, mode)
    mode = settle_mode(OpenedJournal(journal, image, records, mode), signer, disk.tip_height)
    if mode is StartMode.INTACT and _shows_lost_journal(node, image):
        mode = StartMode.AMNESIAC
    counted, blocks = CountedRecords(signer), BlockFiles(Path(BLOCKS), disk)
    return Opened(journal, image, signer, counted, blocks, mode)


def _mode(node: "Node", verdict: Verdict, has_records: bool) -> StartMode:
    if verdict is Verdict.DOUBTFUL:
        return StartMode.DOUBTFUL
    if has_records:
        return StartMode.INTACT
    is_new = node.life == 1 and not node.is_twin
    return StartMode.FRESH if is_new else StartMode.AMNESIAC


def _open_signer(node: "Node", mode: StartMode) -> Signer:
    path, vote_key = Path(GUARD) / "guard", node.key.public_key[1:]
    start = GUARD_STARTS.get(mode, GuardStart.INTACT)
    try:
        guard = start_guard(node.disk, path, GENESIS, vote_key, start)
    except SignerFailed as error:
        raise NeedsOperator(str(error)) from error
    return Signer(
        genesis=GENESIS,
        block_key=node.key,
        peg_key=node.key,
        guard_path=path,
        guard=guard,
        layer=node.disk,
        lock=-1,
        verifier=MessageVerifier(GENESIS, REMEMBERED_SIGNATURES, node.sim.scheme),
    )


def _shows_lost_journal(node: "Node", image: JournalImage) -> bool:
    """C75: an own signature in a final block that the journal does not know."""
    for height in range(max(image.height, image.vote_from, 1), node.disk.tip_height + 1):
        index = node.sim.plan.index(height, node.member)
        for signature in node.disk.chain[height - 1].signatures:
            if signature.member == index and not image.has(signature):
                return True
    return False
