"""Certificates of past heights that this member has asked others for.

What comes is matched by height and block; whoever asked is told of the first one whose votes
verify. Nothing of it reaches agreement, which is done with those heights.

Source: consensus:C57, N25.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from federation.consensus.messages import GetCertificate, encode_message
from federation.consensus.votes import Certificate, VoteType
from federation.engine_parts import MemberNetwork

OPEN_MAX: Final = 256
"""Open requests; more are refused."""

ROUNDS_TRIED: Final = 4
PATIENCE_S: Final = 2
"""How long to wait for an answer; others may have to search their journals."""

OnCertificate = Callable[[int, Certificate], None]
"""Takes the member who sent it, and the certificate, verified."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One open request; give it back with `close`."""

    request: GetCertificate
    on_certificate: OnCertificate


class CertificateRequests:
    """Owner of the open requests; runs in the engine's event loop."""

    def __init__(self, network: MemberNetwork) -> None:
        self._network = network
        self._open: list[Ticket] = []

    def open(self, request: GetCertificate, on_certificate: OnCertificate) -> Ticket | None:
        """Wait for a certificate; None when too many are waited for."""
        if len(self._open) >= OPEN_MAX:
            return None
        ticket = Ticket(request, on_certificate)
        self._open.append(ticket)
        return ticket

    def send(self, member: int, request: GetCertificate) -> None:
        """Ask a member."""
        self._network.send(member, *encode_message(request))

    async def ask_all(self, request: GetCertificate) -> Certificate | None:
        """Ask every connected member for a COMMIT; None when nobody gives it in time.

        The round in it is only tried: others than this implementation may want the right one.
        """
        came: asyncio.Future[Certificate] = asyncio.get_running_loop().create_future()

        def on_certificate(member: int, certificate: Certificate) -> None:
            if not came.done():
                came.set_result(certificate)

        ticket = self.open(request, on_certificate)
        if ticket is None:
            return None
        try:
            for round_number in range(ROUNDS_TRIED):
                for member in sorted(self._network.connected):
                    self.send(member, replace(request, round=round_number))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_S):
                        return await asyncio.shield(came)
        finally:
            self.close(ticket)
            came.cancel()
        return None

    def close(self, ticket: Ticket) -> None:
        """Wait no longer."""
        if ticket in self._open:
            self._open.remove(ticket)

    def wants(self, certificate: Certificate) -> bool:
        """Whether somebody waits for such a certificate; ask before verifying its votes."""
        return any(answers(certificate, ticket.request) for ticket in self._open)

    def take(self, member: int, certificate: Certificate) -> None:
        """Hand a certificate, its votes verified, to everybody who waits for it."""
        for ticket in [t for t in self._open if answers(certificate, t.request)]:
            ticket.on_certificate(member, certificate)


def answers(certificate: Certificate, request: GetCertificate) -> bool:
    """Whether a certificate is the one asked for; the round of a COMMIT does not matter.

    Whoever lacks the COMMIT of a final block cannot know in which round it was decided.
    """
    return (
        certificate.type is request.type
        and certificate.height == request.height
        and certificate.block_hash == request.block_hash
        and (request.type is VoteType.PRECOMMIT or certificate.round == request.round)
    )
