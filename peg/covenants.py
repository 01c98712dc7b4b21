"""Registrations of covenant claim scripts: their form, and the bounded table a member keeps.

Not needed for safety: a registration only tells members for whom they may claim. What is lost or
dropped here is sent again by peers, or by the user.

Source: peg:4 ("Covenant claim script", "Registration"), N15 (COVREG).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from peg.parameters import PegParameters
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.wallet.covenant import NUMS_KEY, CovenantTerms

PRICE_PARTS = 4
"""max_fee stays below this part of the least deposit (peg:4)."""

OWN_MAX = 10_000
"""Registrations taken from users; then they are refused, and another member may take them."""

PER_PEER_MAX = 10_000
"""Registrations kept from one peer; then its oldest that nothing was paid to makes room."""

_HEADS = {b"\x00\x14": 0, b"\x00\x20": 1, b"\x51\x20": 2}
_KINDS = {kind: head for head, kind in _HEADS.items()}
_OWN_KEY = 0x80
_KEY_BYTES = 32
_AMOUNT_BYTES = 8


def encode_registration(terms: CovenantTerms) -> bytes:
    """The body of a COVREG frame: kind of program, program, max_fee, internal key unless NUMS."""
    with_key = terms.internal_key != NUMS_KEY
    head = _HEADS[terms.script[:2]] | (_OWN_KEY if with_key else 0)
    price = terms.max_fee_sats.to_bytes(_AMOUNT_BYTES, "little")
    return bytes((head,)) + terms.script[2:] + price + (terms.internal_key if with_key else b"")


def decode_registration(body: bytes) -> CovenantTerms:
    """Read what `encode_registration` wrote; there is one form for each terms.

    Raises:
        InvalidEncoding: another form.
    """
    head = _KINDS.get(body[0] & ~_OWN_KEY) if body else None
    if head is None:
        raise InvalidEncoding("covenant registration", "unknown kind of program")
    end = 1 + head[1] + _AMOUNT_BYTES
    with_key = bool(body[0] & _OWN_KEY)
    if len(body) != end + (_KEY_BYTES if with_key else 0):
        raise InvalidEncoding("covenant registration", "wrong length")
    key = body[end:] if with_key else NUMS_KEY
    if with_key and key == NUMS_KEY:
        raise InvalidEncoding("covenant registration", "the common internal key is left out")
    return CovenantTerms(
        script=head + body[1 : end - _AMOUNT_BYTES],
        max_fee_sats=int.from_bytes(body[end - _AMOUNT_BYTES : end], "little"),
        internal_key=key,
    )


def check_price(terms: CovenantTerms, parameters: PegParameters) -> None:
    """A claimer may take less than a quarter of the least deposit.

    Raises:
        InvalidEncoding: he may take more.
    """
    if terms.max_fee_sats * PRICE_PARTS >= parameters.min_pegin_sats:
        limit = (parameters.min_pegin_sats - 1) // PRICE_PARTS
        raise InvalidEncoding("covenant", f"max_fee may be {limit} sat at most")


@dataclass(frozen=True, slots=True)
class Registered:
    """One registration and who brought it first."""

    terms: CovenantTerms
    sender: int


class CovenantTable:
    """Registrations by claim script, in the order they came. Bounded for each sender.

    One owner: `peg.covenant_claims`. The own index stands for users who came by RPC.
    """

    def __init__(self, member: int) -> None:
        """Start empty."""
        self._member = member
        self._known: dict[bytes, Registered] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, claim_script: bytes) -> bool:
        return claim_script in self._known

    @property
    def all(self) -> Mapping[bytes, Registered]:
        """Everything, oldest first."""
        return self._known

    def get(self, claim_script: bytes) -> Registered | None:
        """One registration."""
        return self._known.get(claim_script)

    def count(self, sender: int) -> int:
        """How many came from a sender."""
        return self._counts.get(sender, 0)

    def room_for(self, sender: int, *, busy: Collection[bytes]) -> bytes | None:
        """What has to be forgotten before one more of a sender is added; None: nothing.

        Args:
            busy: claim scripts that something was paid to; these stay.
        Raises:
            Unavailable: there is no room: users' registrations and busy ones are never dropped.
        """
        if sender == self._member:
            if self.count(sender) >= OWN_MAX:
                raise Unavailable(
                    f"this member keeps {OWN_MAX} registrations of users already: ask another one"
                )
            return None
        if self.count(sender) < PER_PEER_MAX:
            return None
        for claim_script, found in self._known.items():
            if found.sender == sender and claim_script not in busy:
                return claim_script
        raise Unavailable(f"no room for another registration of member {sender}")

    def add(self, claim_script: bytes, found: Registered) -> None:
        """Keep a new registration; see `room_for`."""
        self._known[claim_script] = found
        self._counts[found.sender] = self.count(found.sender) + 1

    def forget(self, claim_script: bytes) -> None:
        """Drop a registration."""
        found = self._known.pop(claim_script, None)
        if found is not None:
            self._counts[found.sender] -= 1
