"""The error families of the whole project: who is wrong decides the type.

* `Invalid` and its leaves: data from outside breaks a rule. Carries the reject code Elements uses.
* `Stalled`: data from outside that cannot be judged now and is not invalid.
* `Unavailable`: something we depend on does not answer; try again later.
* `PeerFault`: a known federation member did something wrong that can be shown to others.
* `InvariantError`: our own bug; the node must stop rather than go on with wrong state.
"""


class Invalid(Exception):
    """Base of everything that outside data can be refused for.

    Attributes:
        reason: Elements' reject code ("bad-txns-vin-empty"), or one sentence where it has none.
        detail: free text that follows the code, empty when there is nothing to add.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}, {self.detail}" if self.detail else self.reason


class InvalidEncoding(Invalid):
    """Bytes or text do not decode, decode in a non-minimal way, or leave something over."""


class InvalidTransaction(Invalid):
    """A well-formed transaction breaks a rule of consensus or policy."""


class InvalidBlock(Invalid):
    """A well-formed block or header breaks a rule of consensus."""


class ScriptError(Invalid):
    """A script does not accept the input that spends it."""


class Stalled(Exception):
    """A peg-in cannot be judged yet: too shallow at the parent, or the parent does not answer.

    Attributes:
        reason: Elements' text, for example "Needs more confirmations.".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unavailable(Exception):
    """A service this process needs does not answer now; nothing is known about the data."""


class PeerFault(Exception):
    """A federation member broke the protocol.

    Attributes:
        member_id: index of the member in the federation file.
        proof: what shows it to a third party; empty bytes when it is only suspected.
    """

    def __init__(self, member_id: int, proof: bytes, message: str = "") -> None:
        super().__init__(member_id, proof, message)
        self.member_id = member_id
        self.proof = proof
        self.message = message

    def __str__(self) -> str:
        known = "proved" if self.proof else "suspected"
        return f"member {self.member_id} at fault ({known}): {self.message}"


class InvariantError(Exception):
    """A state that our own code must never reach. Never caught below the node: it stops."""
