"""What the engine of a member works with, and the network as it sees it.

Source: the contract in `consensus.effects`.
"""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from federation.consensus.driver import Driver
from federation.consensus.records import Mode
from federation.evidence_store import EvidenceStore
from federation.peers import EventLog
from federation.production import BlockProduction
from federation.signer_port import MemberSigner
from federation.verification import MessageVerifier
from federation.wal import BlockFiles, Journal
from sidechain.chain import Chain
from sidechain.primitives.block import Block

FrameHandler = Callable[[int, int, bytes], None]


class MemberNetwork(Protocol):
    """Links to the other members. Met by `federation.peers.PeerNetwork`."""

    expected: frozenset[int]
    """Members that owe us final blocks; the byte budget (C96) lets these through."""

    @property
    def connected(self) -> frozenset[int]:
        """Members whose link is up."""
        ...

    def send(self, member: int, kind: int, body: bytes) -> bool:
        """Queue a frame; False when there is no link or no room."""
        ...

    def broadcast(self, kind: int, body: bytes) -> None:
        """Queue a frame for every connected member."""
        ...

    def room_bytes(self, member: int) -> int:
        """How much the send queue of a member still takes, 0 without a link."""
        ...

    def charge_signatures(self, member: int, *, checked: int = 0, failed: int = 0) -> None:
        """Count what a member's frames cost; used up: disconnect and ban (C95)."""
        ...

    def drop(self, member: int, reason: str, *, ban: bool = False) -> None:
        """Close a member's link."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What the engine works with; it owns none of their life times.

    Attributes:
        vote_keys: x-only block keys of the members, by link index.
        block_files: proposals named in own votes.
        now_ms: the monotonic clock.
        unix_time_s: the wall clock, for ages of files.
        spawn: runs work beside the engine; its failure ends the process.
        on_final: called once for every block after it was connected.
        on_mode: called after every change of mode.
        on_link: called with (member, connected), after the frames that came before it.
        on_tick: called every second.
        other_frames: gets every frame that is not agreement's.
    """

    vote_keys: Sequence[bytes]
    chain: Chain
    driver: Driver
    journal: Journal
    block_files: BlockFiles
    signer: MemberSigner
    network: MemberNetwork
    verifier: MessageVerifier
    production: BlockProduction
    evidence: EvidenceStore
    log: EventLog
    now_ms: Callable[[], int]
    unix_time_s: Callable[[], int]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    on_final: Callable[[Block], None]
    on_mode: Callable[[Mode, str], None]
    on_link: Callable[[int, bool], None]
    on_tick: Callable[[], None]
    other_frames: FrameHandler
