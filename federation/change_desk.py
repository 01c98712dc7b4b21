"""The member change of one member's operator: approved, remembered, proposed, followed.

Each change that the operator ever approved stays in the folder `changes`, one file each: whoever
follows the chain has to know the scripts of all its sets. At most one is approved at a time, and
none any more once it is in force.

Source: consensus:C83, consensus:V4, consensus:V10, N1, elements/blocks.md 8.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from federation.config import FederationFile
from federation.config_fields import InvalidConfig
from federation.files import FileLayer, replace_file
from federation.member_change import MemberChange
from federation.member_folder import read_config_json
from sidechain.chain import Chain
from sidechain.primitives.block import ParamEntry

PARTS_OF_FIVE: Final = 4
"""Of five blocks of an epoch, so many must vote for a change (elements/blocks.md 8.2)."""


@dataclass(slots=True)
class _Stored:
    change: MemberChange
    approved: bool


def read_changes(folder: Path) -> tuple[tuple[MemberChange, bool], ...]:
    """The changes a member's folder holds and which of them is approved, in the order of joining.

    Raises:
        InvalidConfig: a file is damaged.
    """
    if not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.glob("*.json")):
        plain = read_config_json(path)
        if not isinstance(plain, dict) or not isinstance(plain.get("approved"), bool):
            raise InvalidConfig(f"{path} does not say whether the change is approved")
        found.append((MemberChange.from_json(plain.get("change"), path.name), plain["approved"]))
    return tuple(sorted(found, key=lambda each: max(m.index for m in each[0].members)))


def with_changes(federation: FederationFile, folder: Path) -> FederationFile:
    """The federation as a member knows it: its file, and what its operator approved since.

    Raises:
        InvalidConfig: a file of the folder is damaged or does not fit.
    """
    known = {change.entry().root() for change in federation.changes}
    more = [c for c, _ in read_changes(folder) if c.entry().root() not in known]
    whole = replace(federation, changes=(*federation.changes, *more))
    if more:
        whole.check(allow_no_byzantine_safety=True)
    return whole


class ChangeDesk:
    """Owner of the folder `changes` of a running member.

    Args:
        federation: with all changes known at the start.
        own_index: of this member's links.
        at_tip: members connected now that have this member's last final block.
        on_learn: told of a change that was not known before.
    """

    def __init__(
        self,
        folder: Path,
        federation: FederationFile,
        chain: Chain,
        *,
        own_index: int,
        at_tip: Callable[[], frozenset[int]],
        on_learn: Callable[[MemberChange], None],
        layer: FileLayer | None = None,
    ) -> None:
        """Read the folder.

        Raises:
            InvalidConfig: a file is damaged.
        """
        self._folder = folder
        self._federation = federation
        self._chain = chain
        self._own_index = own_index
        self._at_tip = at_tip
        self._on_learn = on_learn
        self._layer = layer or FileLayer()
        self._stored = {
            change.entry().root(): _Stored(change, approved)
            for change, approved in read_changes(folder)
        }

    @property
    def approved(self) -> MemberChange | None:
        """The change this operator approved, while it is not in force."""
        return next((each.change for each in self._stored.values() if each.approved), None)

    # -- what block production asks

    def to_propose(self) -> ParamEntry | None:
        """The approved entry, while all conditions of C83 hold now."""
        change = self.approved
        return None if change is None or self._waits_for(change) else change.entry()

    def is_approved(self, entry: ParamEntry) -> bool:
        """Whether the operator approved exactly this entry (V10)."""
        change = self.approved
        return change is not None and change.entry() == entry

    def on_final(self) -> None:
        """A block became final: an approval ends when its change is in force.

        Raises:
            OSError: the disk refused.
        """
        change = self.approved
        if change is not None and self._chain.full_current() == change.entry():
            self._store(change, approved=False)

    # -- what the operator says

    def approve(self, plain: object) -> MemberChange:
        """Approve exactly this file; another one that was approved is no more.

        Raises:
            InvalidConfig: it is no change of this federation, or one that must not be made.
            OSError: the disk refused.
        """
        change = MemberChange.from_json(plain)
        root = change.entry().root()
        current = self._chain.full_current()
        if change.entry() == current:
            raise InvalidConfig("these parameters are in force already")
        known = {each.entry().root() for each in self._federation.changes}
        changes = self._federation.changes if root in known else (*self._federation.changes, change)
        federation = replace(self._federation, changes=changes)
        federation.check(allow_no_byzantine_safety=change.member_set().f_s < 1)
        if change.fedpegscript != current.fedpegscript:
            raise InvalidConfig(
                "the file changes the fedpegscript, which this version does not: "
                "the keys of the coins stay with their holders"
            )
        for each in [each.change for each in self._stored.values() if each.approved]:
            if each != change:
                self._store(each, approved=False)
        self._store(change, approved=True)
        self._federation = federation
        if root not in known:
            self._on_learn(change)
        return change

    def revoke(self) -> bool:
        """Take the approval back; False when there is none.

        Raises:
            OSError: the disk refused.
        """
        change = self.approved
        if change is not None:
            self._store(change, approved=False)
        return change is not None

    # -- what is shown

    def status(self) -> dict[str, Any]:
        """The set in force, what is approved here, and how far the epoch's vote is."""
        length = self._chain.params.dynamic_epoch_length
        tip = self._chain.tip_height
        first = tip + 1 - (tip + 1) % length
        current = self._chain.full_current()
        tally: dict[str, int] = {}
        for height in range(first, tip + 1):
            proposed = self._chain.header(height).proposed
            if not proposed.is_null:
                name = proposed.root()[::-1].hex()
                tally[name] = tally.get(name, 0) + 1
        change = self.approved
        return {
            "height": tip,
            "epoch": {"first": first, "last": first + length - 1, "blocks": tip + 1 - first},
            "needed": length * PARTS_OF_FIVE // 5,
            "tally": tally,
            "signblockscript": current.signblockscript.hex(),
            "root": current.root()[::-1].hex(),
            "fedpegscript": current.fedpegscript.hex(),
            "members": self._names(current.signblockscript),
            "approved": None if change is None else change.to_json(),
            "approved_root": None if change is None else change.entry().root()[::-1].hex(),
            "waits_for": None if change is None else self._waits_for(change),
        }

    # -- inside

    def _waits_for(self, change: MemberChange) -> str:
        """Why an own block would not vote for a change now; empty when it would."""
        length = self._chain.params.dynamic_epoch_length
        height = self._chain.tip_height + 1
        begins = height - height % length + length
        if begins < change.not_before:
            return f"the epoch that begins at block {begins} is before {change.not_before}"
        there = self._at_tip() | {self._own_index}
        missing = [entry.name for entry in change.members if entry.index not in there]
        if len(change.members) - len(missing) < change.k:
            names = ", ".join(missing)
            return f"{change.k} members of the new set are not connected at the tip: {names}"
        return ""

    def _names(self, signblockscript: bytes) -> list[str]:
        for change in self._federation.changes:
            if change.entry().signblockscript == signblockscript:
                return [entry.name for entry in change.members]
        return [entry.name for entry in self._federation.members]

    def _store(self, change: MemberChange, *, approved: bool) -> None:
        root = change.entry().root()
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700)
            self._layer.sync_folder(self._folder.parent)
        text = json.dumps({"approved": approved, "change": change.to_json()}, indent=2) + "\n"
        replace_file(self._layer, self._folder / f"{root[::-1].hex()}.json", text.encode())
        self._stored[root] = _Stored(change, approved)
