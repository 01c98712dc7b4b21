"""A member set to come: the file that operators read and approve, and its entry in a header.

Everything in the file that follows from the rest is written out all the same, so that a person sees
what the chain will hold, and is refused when it does not follow.

Source: consensus:C83, consensus:V4, N1, elements/blocks.md 8.
"""

from dataclasses import dataclass
from typing import Any, Final, Self

from federation.config_fields import Fields, InvalidConfig
from federation.member_entry import MemberEntry
from federation.member_folder import MEMBERS_MAX
from federation.members import MemberSet, witness_limit_bytes
from sidechain.primitives.block import FULL_KIND, ParamEntry
from sidechain.script.script import multisig_script, p2wsh

FORMAT: Final = 1
HEIGHT_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberChange:
    """Who is to be the federation from an epoch's first block on.

    Args:
        not_before: the first height that the new set may sign.
        k: signatures that a block takes.
        members: in script order; `index` is that of their links.
        fedpegscript: of the entry.
    """

    not_before: int
    k: int
    members: tuple[MemberEntry, ...]
    fedpegscript: bytes

    @property
    def signblockscript(self) -> bytes:
        """The k-of-n witness script."""
        return multisig_script(self.k, [entry.block_key for entry in self.members])

    def member_set(self) -> MemberSet:
        """The set as agreement sees it.

        Raises:
            ValueError: as `MemberSet.of`.
        """
        return MemberSet.of(tuple(entry.block_key for entry in self.members), self.k)

    def entry(self) -> ParamEntry:
        """What blocks that vote for the change hold as `proposed`."""
        return ParamEntry(
            kind=FULL_KIND,
            signblockscript=p2wsh(self.signblockscript),
            witness_limit=witness_limit_bytes(len(self.members), self.k),
            fedpeg_program=p2wsh(self.fedpegscript),
            fedpegscript=self.fedpegscript,
        )

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        entry = self.entry()
        return {
            "format": FORMAT,
            "not_before": self.not_before,
            "k": self.k,
            "members": [member.to_json() for member in self.members],
            "signblockscript": self.signblockscript.hex(),
            "fedpegscript": self.fedpegscript.hex(),
            "entry": {
                "signblockscript": entry.signblockscript.hex(),
                "max_block_witness": entry.witness_limit,
                "fedpeg_program": entry.fedpeg_program.hex(),
                "root": entry.root()[::-1].hex(),
            },
        }

    @classmethod
    def from_json(cls, plain: object, where: str = "") -> Self:
        """Check a parsed file by itself.

        Raises:
            InvalidConfig: with the place and what is wrong there.
        """
        fields = Fields(plain, where)
        fields.integer("format", FORMAT, FORMAT)
        at = f"{where}." if where else ""
        change = cls(
            not_before=fields.integer("not_before", 1, HEIGHT_MAX),
            k=fields.integer("k", 1, MEMBERS_MAX),
            members=tuple(
                MemberEntry.from_json(item, f"{at}members[{i}]")
                for i, item in enumerate(fields.items("members", 1, MEMBERS_MAX))
            ),
            fedpegscript=fields.hex("fedpegscript"),
        )
        written = fields.hex("signblockscript"), fields.take_object("entry")
        fields.done()
        try:
            change.member_set()
        except ValueError as error:
            raise InvalidConfig(f"{at}members: {error}") from error
        if written != (change.signblockscript, change.to_json()["entry"]):
            raise InvalidConfig(f"{at}entry or signblockscript is not that of the members named")
        return change
