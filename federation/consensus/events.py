"""Events: past facts that the shell tells the core, and the few types they are made of.

When each is fed is said in the contract at the top of `federation.consensus.effects`.

Source: consensus:4, N8, N16, N18.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

from federation.consensus.messages import Message
from federation.consensus.votes import BlockSignature, Vote
from federation.members import MemberSet

PeerId = int
"""A peer's name, chosen by the shell, stable while the process runs; opaque to the core."""


class TimerKind(IntEnum):
    """What a timer is for."""

    START = 1
    PROPOSE = 2
    PREVOTE = 3
    PRECOMMIT = 4
    RECHECK = 5
    FETCH = 6
    GOSSIP = 7
    ROLLCALL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """Name of a timer; height and round are 0 where they do not matter."""

    kind: TimerKind
    height: int = 0
    round: int = 0


class Verdict(Enum):
    """Answer to `CheckBlock`, by N8's classes. All but INVALID mean: objectively valid."""

    INVALID = "invalid"
    REFUSED = "refused"
    NOT_YET = "not yet"
    ACCEPTABLE = "acceptable"


class StartMode(Enum):
    """How a process starts (C70, J6)."""

    FRESH = "fresh"
    INTACT = "intact"
    AMNESIAC = "amnesiac"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusTimes:
    """Durations in milliseconds (C20, C33, C50).

    A round's timeout is min(timeout_base_ms + round · timeout_step_ms, timeout_cap_ms).
    """

    block_interval_ms: int
    min_interval_ms: int
    timeout_base_ms: int
    timeout_step_ms: int
    timeout_cap_ms: int
    gossip_interval_ms: int

    def timeout_ms(self, round_number: int) -> int:
        """Length of each timeout of a round (C33)."""
        return min(self.timeout_base_ms + round_number * self.timeout_step_ms, self.timeout_cap_ms)


def local_times(n: int, *, block_interval_ms: int = 1_000) -> ConsensusTimes:
    """Durations of a local federation of n members (C20, C33, N16); 0 = on demand (N18)."""
    on_demand = block_interval_ms == 0
    return ConsensusTimes(
        block_interval_ms=60_000 if on_demand else block_interval_ms,
        min_interval_ms=170 if on_demand else block_interval_ms // 10,
        timeout_base_ms=500,
        timeout_step_ms=100,
        timeout_cap_ms=10_000,
        gossip_interval_ms=max(100, 70 * n),
    )


PRODUCTION_TIMES = ConsensusTimes(
    block_interval_ms=60_000,
    min_interval_ms=6_000,
    timeout_base_ms=3_000,
    timeout_step_ms=1_000,
    timeout_cap_ms=60_000,
    gossip_interval_ms=1_000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process started; first event, once. `nonce`: 32 fresh random bytes for the roll-call."""

    now_ms: int
    mode: StartMode
    nonce: bytes
    tip_height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightStarted:
    """Block `height` − 1 is final and connected here; `members` and `params_root` are of `height`.

    `tip_hash` is the hash of block `height` − 1. `work_due`: C20(a) holds already.
    """

    now_ms: int
    height: int
    tip_hash: bytes
    members: MemberSet
    params_root: bytes
    work_due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkAvailable:
    """C20(a) holds from now on for this height."""

    now_ms: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A message of kinds 1, 2, 4 to 7 or 10 to 13, verified as the contract says."""

    now_ms: int
    sender: PeerId
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReceived:
    """Bytes of a proposed block that parse and hash to `block_hash` (V1, V6)."""

    now_ms: int
    sender: PeerId
    height: int
    block_hash: bytes
    data: bytes
    is_empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChecked:
    """Answer to `CheckBlock`."""

    now_ms: int
    height: int
    round: int
    block_hash: bytes
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockBuilt:
    """Answer to `BuildBlock`: a block with empty signblock witness."""

    now_ms: int
    height: int
    round: int
    block_hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteSigned:
    """Answer to `SignVote`: the same vote with its signature."""

    now_ms: int
    vote: Vote

    @property
    def height(self) -> int:
        """The height voted at."""
        return self.vote.height


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSigned:
    """Answer to `SignBlock`."""

    now_ms: int
    signature: BlockSignature

    @property
    def height(self) -> int:
        """The height signed."""
        return self.signature.height


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalVerified:
    """A block of the current height, child of the tip, with a verified signblock witness (C38)."""

    now_ms: int
    height: int
    block_hash: bytes
    header: bytes
    signatures: tuple[BlockSignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictFound:
    """Two k-signed headers that cannot both stand, the own chain's first (C60)."""

    now_ms: int
    first: bytes
    second: bytes
    reason: str = "two k-signed blocks of one height"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A timer set by `SetTimer` ran out."""

    now_ms: int
    timer: Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected:
    """A link is up and HELLO was exchanged."""

    now_ms: int
    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDisconnected:
    """A link is gone."""

    now_ms: int
    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorResumed:
    """`--resume-at HEIGHT` was given (C76). Voids safety if wrong."""

    now_ms: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorUnhalted:
    """`fedpeg member unhalt --keep HASH` was given (C60, N13)."""

    now_ms: int
    block_hash: bytes


Event = (
    Started
    | HeightStarted
    | WorkAvailable
    | MessageReceived
    | BlockReceived
    | BlockChecked
    | BlockBuilt
    | VoteSigned
    | BlockSigned
    | FinalVerified
    | ConflictFound
    | TimerFired
    | PeerConnected
    | PeerDisconnected
    | OperatorResumed
    | OperatorUnhalted
)
