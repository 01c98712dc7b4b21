"""The member sets whose k-of-n scripts a process holds; which one is in force the chain says.

A header names a set by the hash of its script alone, so who has not seen the script cannot tell who
signs. It comes from federation.json, or from the file of a change that the operator approved.

Source: consensus:C80, consensus:C83.
"""

from dataclasses import dataclass

from federation.members import MemberSet
from sidechain.errors import InvalidBlock
from sidechain.script.script import p2wsh, parse_multisig


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A set and its k-of-n witness script."""

    members: MemberSet
    witness_script: bytes


class MemberSets:
    """Known sets by their signblockscript.

    Args:
        witness_scripts: the founding members' and those of later sets.
    """

    def __init__(self, *witness_scripts: bytes) -> None:
        self._known: dict[bytes, KnownSet] = {}
        for witness_script in witness_scripts:
            self.learn(witness_script)

    def learn(self, witness_script: bytes) -> None:
        """Hold one more set.

        Raises:
            ValueError: it is no k-of-n script of member keys.
        """
        parsed = parse_multisig(witness_script)
        if parsed is None:
            raise ValueError("not a k-of-n script")
        k, keys = parsed
        self._known[p2wsh(witness_script)] = KnownSet(MemberSet.of(keys, k), witness_script)

    def of(self, signblockscript: bytes) -> KnownSet:
        """The set behind a signblockscript.

        Raises:
            InvalidBlock: its script was never shown to this process.
        """
        found = self._known.get(signblockscript)
        if found is None:
            raise InvalidBlock(
                "unknown-signblockscript",
                f"the chain names the member set {signblockscript.hex()}, whose script is not "
                "known here: start with a federation file that has this change",
            )
        return found
