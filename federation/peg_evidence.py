"""Peg signatures that convict their sender: two transactions of one version, or none at all.

A PEGSIG is signed by its sender's block key. Which transaction a version of a batch is follows from
the final blocks, so no honest member signs two of them; and none sends a signature that no Bitcoin
node would accept whatever it signs. Both can be seen in the frames alone. A well-formed signature
that does not verify takes the transaction and the coins it spends to judge: it is refused where it
arrives, and is no evidence for a stranger.

Source: peg:P32, peg:P33, peg:R2, peg:R4, N29.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from federation.evidence_store import EvidenceStore
from federation.peers import EventLog
from peg.signing import KIND_PEGSIG, PegSig, decode_pegsig, is_well_formed, open_frame
from sidechain.errors import InvalidEncoding, PeerFault

TWO_BATCHES: Final = 5
MALFORMED_SIGNATURE: Final = 6
"""Classes of evidence after those of C56 and C57."""
BATCH_LANE: Final = 0
SEEN_MAX: Final = 64
"""Frames kept for comparison, the newest of each member and version."""

_Version = tuple[int, int, bytes]


def read_share(frame: bytes, *, genesis: bytes, member: int, block_key: bytes) -> PegSig:
    """The share in a PEGSIG frame, once its sender's signature is checked.

    Args:
        block_key: of the sender, 33 bytes.
    Raises:
        PeerFault: the sender did not sign it. InvalidEncoding: it is no share.
    """
    body = open_frame(genesis, KIND_PEGSIG, frame, member=member, block_key=block_key[1:])
    return decode_pegsig(body)


def contradict(first: PegSig, second: PegSig) -> bool:
    """Whether two shares are of two transactions for one version of one batch."""
    return (
        first.lane == second.lane == BATCH_LANE
        and (first.index, first.session) == (second.index, second.session)
        and first.txid != second.txid
    )


def is_malformed(share: PegSig) -> bool:
    """Whether a signature in a share is of no form that Bitcoin takes."""
    return not all(is_well_formed(signature) for signature in share.signatures)


class PegEvidence:
    """Looks at every PEGSIG that arrives; runs in the engine's task.

    Args:
        block_keys: of the members, 33 bytes each, by index.
        alarm: shows something to the operator.
    """

    def __init__(
        self,
        *,
        genesis: bytes,
        block_keys: Sequence[bytes],
        store: EvidenceStore,
        log: EventLog,
        alarm: Callable[[str], None],
    ) -> None:
        self._genesis = genesis
        self._block_keys = block_keys
        self._store = store
        self._log = log
        self._alarm = alarm
        self._seen: OrderedDict[_Version, tuple[PegSig, bytes]] = OrderedDict()

    def see(self, member: int, frame: bytes) -> None:
        """Take a PEGSIG frame of a member, signature included."""
        try:
            share = read_share(
                frame, genesis=self._genesis, member=member, block_key=self._block_keys[member]
            )
        except (PeerFault, InvalidEncoding):
            return  # whoever takes the frame says so
        if is_malformed(share):
            self._keep(member, share.session.h_sel, MALFORMED_SIGNATURE, frame, b"")
        key = member, share.index, share.session.serialize()
        known = self._seen.get(key)
        if known is not None and contradict(known[0], share):
            self._keep(member, share.session.h_sel, TWO_BATCHES, known[1], frame)
        elif known is None and share.lane == BATCH_LANE:
            self._seen[key] = share, frame
            while len(self._seen) > SEEN_MAX:
                self._seen.popitem(last=False)

    def _keep(self, member: int, height: int, kind: int, first: bytes, second: bytes) -> None:
        try:
            is_new = self._store.add_frames(
                member, height, kind, first, second, block_key=self._block_keys[member]
            )
        except OSError as error:
            self._alarm(f"evidence could not be written: {error}")
            is_new = True
        if is_new:
            self._log.error(
                "evidence", alarm=True, member=member, height=height, kind=f"PEG_{kind}"
            )
