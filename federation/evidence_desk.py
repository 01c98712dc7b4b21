"""Evidence in one member: made provable, stored once, told to the others once.

What the core finds of votes convicts by itself. Two BLOCKSIGs do not: their height is not signed,
and anybody could write another one on an honest member's signature. So a block signature is kept
inside the header that it signs; without the header there is no evidence, at least not yet.

Source: consensus:C56, consensus:C58, consensus:C60, consensus:C99, consensus:A1.
"""

from collections.abc import Callable
from typing import Final

from federation.certificate_requests import CertificateRequests
from federation.challenges import ChallengeDesk
from federation.consensus import effects as fx
from federation.consensus.encoding import InvalidMessage
from federation.consensus.messages import Evidence, EvidenceClass, encode_message
from federation.consensus.votes import BlockSignature
from federation.engine_parts import EngineParts
from federation.header_signatures import header_signed_by, read_header
from sidechain.errors import Invalid, InvalidBlock
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import Reader

BARE_SIGNATURE_BYTES: Final = 101
UNPROVED_MAX: Final = 16
"""Pairs of BLOCKSIGs that wait for a header; the first are kept."""


class EvidenceDesk:
    """Owner of the evidence; runs in the engine's task.

    Args:
        alarm: shows something to the operator.
    """

    def __init__(
        self,
        parts: EngineParts,
        requests: CertificateRequests,
        alarm: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self.challenges = ChallengeDesk(parts, requests, parts.evidence.folder, alarm)
        """Who is asked for votes that nobody has shown (C57)."""
        self._alarm = alarm
        self._unproved: list[tuple[int, Evidence]] = []

    def accuse(self, order: fx.Accuse) -> None:
        """Keep what the core found (C58); BLOCKSIGs as soon as both headers are here."""
        if order.evidence.kind is not EvidenceClass.TWO_BLOCKS:
            self._keep(order.member, order.height, order.evidence)
        elif not self.accuse_with_headers(order.evidence) and len(self._unproved) < UNPROVED_MAX:
            self._unproved.append((order.height, order.evidence))
            self._parts.log.warning(
                "block_signatures_without_headers", member=order.member, height=order.height
            )

    def begin_height(self, height: int) -> None:
        """The block below is final: its header may be the one that was missing.

        Call it before the core is told of the new height.
        """
        if self._parts.driver.height == height - 1 > 0:
            self.challenges.end_height(self._parts.driver.agreement)
        waiting, self._unproved = self._unproved, []
        for found_at, evidence in waiting:
            if not self.accuse_with_headers(evidence) and found_at >= height:
                self._unproved.append((found_at, evidence))

    def can_check(self, evidence: Evidence) -> bool:
        """Whether the bodies are headers, or BLOCKSIGs whose headers this member has."""
        return None not in self._headers(evidence)

    def accuse_with_headers(self, evidence: Evidence) -> bool:
        """Convict whoever signed both blocks, by class (b); whether anybody is convicted."""
        first, second = self._headers(evidence)
        return first is not None and second is not None and self.accuse_signers(first, second)

    def accuse_signers(self, first: BlockHeader, second: BlockHeader) -> bool:
        """Convict everyone whose signatures are in two headers of one height (A1).

        Returns:
            Whether there is anybody.
        """
        if first.height != second.height or first.hash == second.hash:
            return False
        if first.current.signblockscript != second.current.signblockscript:
            return False
        production = self._parts.production
        try:
            members = production.member_set_at(first.height)
            signers = [production.signatures_of(header) for header in (first, second)]
        except InvalidBlock:
            return False
        if production.member_set_of(first) != members:
            return False
        signed = [{s.member for s in found} for found in signers]
        bodies = [header.serialize() for header in (first, second)]
        evidence = Evidence(EvidenceClass.TWO_BLOCKS, bodies[0], bodies[1])
        both = sorted(signed[0] & signed[1])
        fresh = [self._keep(member, first.height, evidence) for member in both]
        if any(fresh):
            self._parts.network.broadcast(*encode_message(evidence))
        return bool(both)

    def _headers(self, evidence: Evidence) -> tuple[BlockHeader | None, BlockHeader | None]:
        return self._header(evidence.first), self._header(evidence.second)

    def _header(self, body: bytes) -> BlockHeader | None:
        """The header that a body is, or the one that a BLOCKSIG signs, with that signature."""
        try:
            if len(body) != BARE_SIGNATURE_BYTES:
                return read_header(body, self._parts.chain.params)
            signature = BlockSignature.decode(body)
            header = self._find(signature.block_hash)
            if header is None or header.height != signature.height:
                return None
            return header_signed_by(header, signature, self._parts.production.member_set_of(header))
        except (Invalid, InvalidMessage, IndexError):
            return None

    def _find(self, block_hash: bytes) -> BlockHeader | None:
        """The header of a final block, or of a proposal of the height in progress."""
        chain, driver = self._parts.chain, self._parts.driver
        height = chain.height_of(block_hash)
        if height is not None:
            return chain.header(height)
        held = driver.agreement.blocks.get(block_hash) if driver.height else None
        return None if held is None else BlockHeader.read(Reader(held.data), chain.params)

    def _keep(self, member: int, height: int, evidence: Evidence) -> bool:
        """Store it; whether it is new."""
        facts = {"member": member, "height": height, "kind": evidence.kind.name}
        store, root = self._parts.evidence, self._parts.production.params_root_at(height)
        try:
            is_new = store.add(member, height, evidence, params_root=root)
        except OSError as error:
            # Nothing that was signed rests on this file: say so and go on.
            self._alarm(f"evidence could not be written: {error}")
            is_new = True
        if is_new:
            self._parts.log.error("evidence", alarm=True, **facts)
        return is_new
