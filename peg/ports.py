"""What one member's peg is given: the federation's facts, and the doors to the world.

Source: peg:4, peg:5, N1, N23, N24.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from peg.broadcasts import SendingNode
from peg.burn_relay import BurnRelay
from peg.covenant_ports import CovenantPorts
from peg.fedscript import FedScript
from peg.parameters import PegParameters
from peg.parent_view import ParentView
from peg.sessions import BatchSigner, PegJournal
from peg.voting import VotingNode
from sidechain.params import ChainParams


class MemberLink(Protocol):
    """Sends frames to other members. Met by `federation.peers`."""

    def send(self, member: int, kind: int, body: bytes) -> object:
        """Queue a frame for one member."""
        ...

    def broadcast(self, kind: int, body: bytes) -> object:
        """Queue a frame for all connected members."""
        ...


class PegNode(VotingNode, SendingNode, Protocol):
    """What the peg asks of the member's own Bitcoin node. Met by `peg.bitcoind`."""


class EventLog(Protocol):
    """The part of a structlog logger that is used here."""

    def info(self, event: str, **facts: object) -> object:
        """Something happened."""

    def warning(self, event: str, **facts: object) -> object:
        """Something a person may want to look at."""

    def error(self, event: str, **facts: object) -> object:
        """Something a person has to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PegSetup:
    """What a member knows from the federation file.

    Attributes:
        script: the plain fedpegscript.
        parameter_hash: of the federation file (N2), which block 1 carries.
        member: own index.
        block_keys: of all members, 33 bytes each, by the index of their links; may grow.
        voters: block keys of the set of the next block; None: those of `block_keys` for ever.
        approvals_folder: where operator approvals are (N23).
        reports_folder: where reserves reports are kept (peg:11).
    """

    chain: ChainParams
    parameters: PegParameters
    script: FedScript
    parameter_hash: bytes
    member: int
    block_keys: Sequence[bytes]
    approvals_folder: Path
    reports_folder: Path
    voters: Callable[[], Sequence[bytes]] | None = None

    def voter_keys(self) -> Sequence[bytes]:
        """Block keys of the set of the next block, in its order: a PAUSE is one of theirs (N1)."""
        return self.block_keys if self.voters is None else self.voters()

    @property
    def seat(self) -> int | None:
        """Own index in that set; None for who is not in it, yet or any more."""
        voters, own = list(self.voter_keys()), self.block_keys[self.member]
        return voters.index(own) if own in voters else None

    @property
    def holds_peg_key(self) -> bool:
        """Whether a key of this member is in the script; who joined later has none."""
        return self.member < len(self.script.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class PegPorts:
    """What the shell passes in.

    Attributes:
        view: the own best chain, kept by the watcher.
        is_healthy: whether the Bitcoin node answered last time.
        is_halted: whether block agreement is halted, which ends payouts too (X1).
        is_catching_up: whether many final blocks are still to come; nothing waits for each.
        second_opinion: what a second validator says against the own chain since the height of
            the last RESUME (X7); empty: nothing.
        burns: the check of the member's mempool; kept at the values in force.
        poke: has the watcher ask the node now.
        signer: raises Unavailable when it refuses now.
        journal_bodies: bodies of the share records read at start, oldest first.
        covenants: what claims for offline users need; None leaves them to other members.
        on_work: told when a claim or record that waited could go into a block now.
    """

    client: PegNode
    view: ParentView
    is_healthy: Callable[[], bool]
    poke: Callable[[], None]
    signer: BatchSigner
    link: MemberLink
    journal: PegJournal
    journal_bodies: Sequence[bytes]
    log: EventLog
    covenants: CovenantPorts | None = None
    burns: BurnRelay | None = None
    second_opinion: Callable[[int], str] = lambda resumed_height: ""
    on_work: Callable[[], None] = lambda: None
    is_halted: Callable[[], bool] = lambda: False
    is_catching_up: Callable[[], bool] = lambda: False
