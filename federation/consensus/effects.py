"""Events the core is told, effects it orders, and the contract with the shell.

`Driver.handle(event) -> tuple[Effect, ...]`. Events are past facts; effects are orders.

Contract with the shell
=======================

One task owns the driver. It feeds one event, obeys the whole returned tuple in order, then feeds
the next one. No effect waits for an answer; an answer is a later event. Every event carries
`now_ms`, the monotonic clock in milliseconds; it never goes back. For a timer, feed
`max(deadline, clock)`.

Start
-----
1. Lock the journal (C43), read it, `image = restore(decode_record(kind, body) for each record)`.
   `InvalidJournal` or `InvalidMessage`: refuse to start, like a corrupt journal (J6).
2. Read the block files `block-<hash>` (J8) into a dict hash -> bytes, each checked to hash to its
   name. `driver = Driver(vote_key=…, times=…, image=image, blocks=dict)`.
3. `Started(mode=…, nonce=32 fresh random bytes, tip_height=height of the chain's tip)`:
   FRESH for `--init` with the `unborn` file (N5); INTACT for a sound or torn journal, also when its
   last mode record is AMNESIA, HALT or STOP (the image knows); AMNESIAC for no journal without
   `--init`, for `--restored`, for a signer counter ahead of the journal; DOUBTFUL for J6.
4. `HeightStarted` for tip + 1. From then on whenever a block is connected: C37, C38, sync.

Effects, in order
-----------------
- `Persist(records)`: append every record (`encode_record`), then one fsync, before the next effect.
  A record `Seen` alone needs no fsync. Any error: obey nothing more, exit non-zero (C40).
- `PersistBlock`: write and fsync the file and its directory before the next effect (C41, J8).
- `SignVote`, `SignBlock`: ask the signer; answer with `VoteSigned` / `BlockSigned`, best right
  after the current tuple and before any other event. The core sends the message then, not before.
  A signer that fails or refuses: exit non-zero (C40). Exception: `again=True` (already journaled
  before a restart) refused by a guard that only knows its latest position: drop it silently.
- `Broadcast`: to every connected peer. `Send(to=…)`: to that peer, dropped if it is gone.
  A `BlockMessage` holds a reference to the bytes, not a copy.
- `SetTimer(timer, after_ms)`: feed `TimerFired(timer)` after that time; setting an equal timer
  again replaces it. Timers are never cancelled: one that no longer matches is ignored (C33).
- `CheckBlock(height, round, hash, data)`: judge the block now and answer `BlockChecked` with the
  same height, round and hash. The verdict (N8): INVALID if O fails; else REFUSED if P fails; else
  NOT_YET if E fails; else ACCEPTABLE. O may be cached by hash; E and P are judged anew each time.
  Never answer INVALID for bytes that fail V6: such bytes must not reach the core (see below). The
  core asks again by itself: each second while NOT_YET matters, and at each re-proposal. Slow checks
  run elsewhere and answer late; a late answer counts for O, and for E and P only in its round.
- `BuildBlock(height, round, minimal, allow_empty)`: answer `BlockBuilt` with the same height and
  round, as soon as a template is ready and V9 holds for its time; never, when `allow_empty` is
  false and there is nothing to put in. `minimal=True` asks for N9's minimal block. The block is
  stored and proposed by the core; the core then asks for its verdict like any other.
- `Finalize(height, hash, data, signatures)`: C37. Assemble the signblock witness from exactly these
  k signatures (key order), check its limit, connect in one batch with sync, then feed
  `HeightStarted(height + 1)` before any other event.
- `Connect(height, hash)`: C38. Connect the block of the `FinalVerified` just fed, the same way.
  Without this effect the block must not be connected.
- `ForgetBlocks(keep)`: delete block files and bytes of this and lower heights not in `keep`.
- `SendFinal(to, from_height, count)`: send FINAL frames of these own final blocks.
- `CatchUp(peer, height)`: the peer says it is at this height, above ours: `sync.py` asks (C54).
- `SendAnswer`: complete the ANSWER (proof: the header of final block `known`, or the given COMMIT
  certificate), sign it with the block key, send it.
- `LookUpCertificate(to, request)`: answer GET_CERT from journal files or the block store, or not.
- `Accuse(member, evidence)`: store the evidence once, show it (C58). The core broadcasts it.
- `ModeChanged`: log and show. `Alarm(reason)`: log loudly, show.
- `Exit(reason)`: STOPPED; close everything and exit non-zero. After HALTED go on running: serve
  reads; the peg signer must be told.

What the shell verifies before the core sees it
-----------------------------------------------
`driver.wants(message)` is a cheap first filter: False means known already or out of every window;
drop it without a signature check, no blame. Then, against `driver.members` (M_h),
`driver.params_root` (D_h) and the genesis hash, for messages of `driver.height`:
- Vote, Proposal (and the votes of its certificate), Certificate: every BIP340 signature;
  certificates have exactly k votes (`is_complete`). BlockSignature: ECDSA, low-S.
- Messages of height + 1: into `EarlyMessages` (C92), unverified; after `HeightStarted` drain it
  and treat each as if it just came. Other heights: drop (C93), except Status, GetBlock, GetFinal,
  RollCall, Answer, Evidence, GetCertificate, which are for any height.
- BLOCK: parse (V1), hash to the name, V6. Failing bytes are dropped and the sender blamed. Feed
  `BlockReceived` with `is_empty` as N17 says.
- FINAL of `driver.height`: parse, verify the k signatures under M_h and the objective rules, then
  `FinalVerified` with the signatures found (64-byte form). In a window of C54, in order. A FINAL at
  or below the tip with another hash than ours, k valid signatures and a parent in our chain:
  `ConflictFound` with both headers (C60).
- Answer: signature over our key and nonce; the proof (header: k signatures under the set of its
  height, hash = known_hash; certificate: k votes); the seen message's own signature. A proof that
  cannot be verified yet (height above the tip + 1) may be verified as far as the set is known: with
  a static set always. Else: drop, the roll-call is repeated.
- Evidence: both signatures, under the set of its height, `check_evidence` for the structure.
- Status, GetBlock, GetFinal, RollCall, GetCertificate: only the link authenticates them.
- GetFinal is answered by the shell alone, at most 16 blocks a request.
Signature failures are charged to the link (C95), as are C96 to C98.

Pacing (C20)
------------
`HeightStarted.work_due` and later `WorkAvailable(height)` say that C20(a) holds: the mempool offers
a non-empty template, a commitment, record or parameter vote is due (N17), or the height is ≤ L
(N35). Feed `WorkAvailable` at the moment it becomes true; repeating it does no harm.

Journal rotation
----------------
At a `HeightStarted`, before feeding it, when the file is large: `journal.rotate(body)` with
`encode_record(driver.base_record())` (J7).

Source: consensus:4, consensus:4.4, consensus:4.5, consensus:4.7, consensus:4.9, N8, N9, N17.
"""

from dataclasses import dataclass

from federation.consensus.events import (
    PRODUCTION_TIMES,
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockSigned,
    ConflictFound,
    ConsensusTimes,
    Event,
    FinalVerified,
    HeightStarted,
    MessageReceived,
    OperatorResumed,
    OperatorUnhalted,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    Started,
    StartMode,
    Timer,
    TimerFired,
    TimerKind,
    Verdict,
    VoteSigned,
    WorkAvailable,
    local_times,
)
from federation.consensus.messages import Evidence, GetCertificate, Message
from federation.consensus.records import JournalRecord, Mode
from federation.consensus.votes import BlockSignature, Certificate, Vote

__all__ = [
    "Accuse",
    "Alarm",
    "BlockBuilt",
    "BlockChecked",
    "BlockReceived",
    "BlockSigned",
    "Broadcast",
    "BuildBlock",
    "CatchUp",
    "CheckBlock",
    "ConflictFound",
    "Connect",
    "ConsensusTimes",
    "Effect",
    "Event",
    "Exit",
    "FinalVerified",
    "Finalize",
    "ForgetBlocks",
    "HeightStarted",
    "LookUpCertificate",
    "MessageReceived",
    "ModeChanged",
    "OperatorResumed",
    "OperatorUnhalted",
    "PRODUCTION_TIMES",
    "PeerConnected",
    "PeerDisconnected",
    "PeerId",
    "Persist",
    "PersistBlock",
    "Send",
    "SendAnswer",
    "SendFinal",
    "SetTimer",
    "SignBlock",
    "SignVote",
    "StartMode",
    "Started",
    "Timer",
    "TimerFired",
    "TimerKind",
    "Verdict",
    "VoteSigned",
    "WorkAvailable",
    "local_times",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Append these records to the journal and fsync."""

    records: tuple[JournalRecord, ...]


@dataclass(frozen=True, slots=True)
class PersistBlock:
    """Make the bytes of a proposal durable (C41, J8)."""

    block_hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class SignVote:
    """Sign a journaled vote. `certificate`: the POL in its record; `again`: signed before."""

    vote: Vote
    certificate: Certificate | None
    again: bool


@dataclass(frozen=True, slots=True)
class SignBlock:
    """Sign the block hash of a decided, journaled block (C36)."""

    height: int
    block_hash: bytes
    certificate: Certificate
    again: bool


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send to every connected peer."""

    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one peer."""

    to: PeerId
    message: Message


@dataclass(frozen=True, slots=True)
class SendFinal:
    """Send own final blocks `from_height` … `from_height + count − 1` to a peer that is behind."""

    to: PeerId
    from_height: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAnswer:
    """Answer a roll-call (C71). `certificate` proves `known` when no final block of it is held."""

    to: PeerId
    asker_key: bytes
    nonce: bytes
    known: int
    known_hash: bytes
    certificate: Certificate | None
    abstaining: bool
    seen: Vote | BlockSignature | None


@dataclass(frozen=True, slots=True)
class LookUpCertificate:
    """Answer a GET_CERT that memory cannot (C57)."""

    to: PeerId
    request: GetCertificate


@dataclass(frozen=True, slots=True)
class CatchUp:
    """A peer is at this height, above ours (C54)."""

    peer: PeerId
    height: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Feed `TimerFired(timer)` after this many milliseconds; replaces an equal timer."""

    timer: Timer
    after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildBlock:
    """Build a proposal (C21)."""

    height: int
    round: int
    minimal: bool
    allow_empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckBlock:
    """Judge a block now (N8)."""

    height: int
    round: int
    block_hash: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize:
    """k block signatures are here, in key order: make the block final (C37)."""

    height: int
    block_hash: bytes
    data: bytes
    signatures: tuple[BlockSignature, ...]


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect the block of the `FinalVerified` just fed (C38)."""

    height: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class ForgetBlocks:
    """Delete stored proposals of this and lower heights, except these."""

    keep: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Accuse:
    """Keep evidence against a member of the current height (C58)."""

    member: int
    height: int
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """The member's mode is now this one; `reason` for the log."""

    mode: Mode
    reason: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something an operator has to see."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Stop the process, exit code not 0 (C75)."""

    reason: str


Effect = (
    Persist
    | PersistBlock
    | SignVote
    | SignBlock
    | Broadcast
    | Send
    | SendFinal
    | SendAnswer
    | LookUpCertificate
    | CatchUp
    | SetTimer
    | BuildBlock
    | CheckBlock
    | Finalize
    | Connect
    | ForgetBlocks
    | Accuse
    | ModeChanged
    | Alarm
    | Exit
)
