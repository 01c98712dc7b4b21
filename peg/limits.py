"""Burns, their eligibility, and the schedule that releases them for payment.

The schedule is a function of the sidechain alone: no Bitcoin reorganisation, lane or lost disk
changes what is released, in which order, or how much in a window.

Source: peg:3.4, peg:3.5, peg:7.1, peg:7.2, peg:P26.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from peg.parameters import BASIS_POINTS, PegParameters
from sidechain.errors import InvariantError
from sidechain.primitives.transaction import TxOut


class BurnCode(StrEnum):
    """Eligibility of a peg-out output. All but OK are final and never refunded."""

    OK = "OK"
    BLINDED = "E1_BLINDED"
    ASSET = "E2_ASSET"
    SCRIPT = "E3_SCRIPT"
    MINIMUM = "E4_MIN"
    FED = "E5_FED"
    PAK = "E6_PAK"
    COINBASE = "E7_COINBASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """One peg-out output of a final block.

    Attributes:
        burn_id: its sidechain outpoint, 36 bytes.
        height: of its block.
        clock: clock(height), Bitcoin height.
        script: destination on Bitcoin.
        amount_sats: a(b), burned; 0 when it is not explicit or another asset.
        fee_sats: peg_out_fee in force at its height.
        code: eligibility.
    """

    burn_id: bytes
    height: int
    clock: int
    script: bytes
    amount_sats: int
    fee_sats: int
    code: BurnCode

    @property
    def payout_sats(self) -> int:
        """p(b), what Bitcoin pays; meaningful for OK burns."""
        return self.amount_sats - self.fee_sats


@dataclass(frozen=True, slots=True)
class Release:
    """A burn let through by the schedule at a block with this clock."""

    burn: Burn
    height: int
    clock: int


class BurnStage(StrEnum):
    """Where an OK burn is in the schedule."""

    DELAYED = "DELAYED"
    READY = "READY"
    HELD_OVERSIZE = "HELD_OVERSIZE"
    EXCLUDED = "EXCLUDED"
    RELEASED = "RELEASED"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """Public state of an OK burn before payment.

    Attributes:
        until_clock: when a DELAYED burn becomes ready.
        position: burns before it in the ready list.
        ahead_sats: their sum.
        cap_window: W_j of the first cap that stops the head of the list, if one does.
        cap_free_at: clock from which that cap lets the head pass; None when unknown.
        approved: a RELEASE record lets a HELD_OVERSIZE burn through when no pause is in force.
    """

    stage: BurnStage
    until_clock: int = 0
    position: int = 0
    ahead_sats: int = 0
    cap_window: int | None = None
    cap_free_at: int | None = None
    approved: bool = False


@dataclass(slots=True)
class _Window:
    """Releases inside one window: the index of its oldest and their sum."""

    first: int = 0
    sum_sats: int = 0


def burn_code(
    output: TxOut,
    destination: bytes,
    *,
    pegged_asset: bytes,
    min_pegout_sats: int,
    fed_programs: Collection[bytes],
    in_coinbase: bool,
) -> BurnCode:
    """Eligibility of a peg-out output.

    Args:
        destination: the Bitcoin script it names.
        pegged_asset: 32 bytes.
        fed_programs: FED of every federation past and present.
    Source: peg:3.4.
    """
    if in_coinbase:
        return BurnCode.COINBASE
    amount_sats, asset = output.value_sats, output.asset_id
    if amount_sats is None or asset is None:
        return BurnCode.BLINDED
    if asset != pegged_asset:
        return BurnCode.ASSET
    if not is_payable(destination):
        return BurnCode.SCRIPT
    if amount_sats < min_pegout_sats:
        return BurnCode.MINIMUM
    return BurnCode.FED if destination in fed_programs else BurnCode.OK


def is_payable(script: bytes) -> bool:
    """Whether a Bitcoin script is exactly P2PKH, P2SH, P2WPKH, P2WSH or P2TR. Source: E3, P26."""
    size = len(script)
    return (
        (size == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac")
        or (size == 23 and script[:2] == b"\xa9\x14" and script[22] == 0x87)
        or (size == 22 and script[:2] == b"\x00\x14")
        or (size == 34 and script[:2] in (b"\x00\x20", b"\x51\x20"))
    )


class ReleaseSchedule:
    """Folds blocks into the list of released burns. One owner: the sidechain history."""

    def __init__(
        self,
        parameters: PegParameters,
        is_excluded: Callable[[bytes, int], bool] = lambda burn_id, height: False,
    ) -> None:
        """Start before block 1.

        Args:
            is_excluded: whether EXCLUDE keeps a burn out of the queue as of a height (P22).
        """
        self._parameters = parameters
        self._is_excluded = is_excluded
        self._waiting: list[Burn] = []
        self._ready: deque[Burn] = deque()
        self._held: dict[bytes, Burn] = {}
        self._approved: list[bytes] = []
        self._releases: list[Release] = []
        self._heights: list[int] = []
        self._by_id: dict[bytes, Release] = {}
        self._windows = [_Window() for _ in parameters.caps]
        self._released_sats = 0
        self._clock = 0
        self._height = 0
        self._caps: tuple[int, ...] = ()

    @property
    def released_sats(self) -> int:
        """Sum of all releases."""
        return self._released_sats

    @property
    def releases(self) -> Sequence[Release]:
        """All releases, oldest first."""
        return self._releases

    def apply_block(
        self,
        height: int,
        clock: int,
        burns: Sequence[Burn],
        backing_sats: int,
        *,
        parameters: PegParameters | None = None,
        is_paused: bool = False,
        approved: Sequence[bytes] = (),
    ) -> tuple[Release, ...]:
        """Fold one final block.

        Args:
            clock: clock(height).
            burns: its OK burns in burn order.
            backing_sats: claimed deposits minus burned fees, both up to this block.
            parameters: in force at this height; None: those of the block before.
            is_paused: a pause is in force, so nothing is released (peg:7.3).
            approved: burns that RELEASE records of this block name; other ids have no effect.
        Returns:
            What this block releases, in order.
        Raises:
            InvariantError: clock or height go back.
        Source: peg:3.5.
        """
        if clock < self._clock or height <= self._height:
            raise InvariantError("release schedule fed out of order")
        self._clock, self._height = clock, height
        self._parameters = parameters or self._parameters
        named = [burn_id for burn_id in approved if burn_id in self._held]
        self._approved += [burn_id for burn_id in named if burn_id not in self._approved]
        self._mature(clock)
        self._caps = self._caps_at(backing_sats)
        released = () if is_paused else self._release(height, clock)
        self._waiting.extend(burns)
        return released

    def queue(self, height: int, paid: Collection[bytes], *, first: int = 0) -> list[Burn]:
        """queue(h, paid): released at or below a height, not excluded then, unpaid, in order.

        Args:
            first: number of oldest releases that the caller knows to be paid.
        """
        count = self.released_count(height)
        burns = (self._releases[i].burn for i in range(first, count))
        return [
            burn
            for burn in burns
            if burn.burn_id not in paid and not self._is_excluded(burn.burn_id, height)
        ]

    def released_count(self, height: int) -> int:
        """How many burns were released at or below a height."""
        return bisect_right(self._heights, height)

    def release_of(self, burn_id: bytes) -> Release | None:
        """The release of a burn, if it was released."""
        return self._by_id.get(burn_id)

    def place(self, burn_id: bytes) -> QueuePlace | None:
        """Where an OK burn stands now; None for any other id."""
        if self._is_excluded(burn_id, self._height):
            return QueuePlace(stage=BurnStage.EXCLUDED)
        if burn_id in self._by_id:
            return QueuePlace(stage=BurnStage.RELEASED)
        if burn_id in self._held:
            return QueuePlace(stage=BurnStage.HELD_OVERSIZE, approved=burn_id in self._approved)
        ahead_sats = 0
        for position, burn in enumerate(self._ready):
            if burn.burn_id == burn_id:
                window, free_at = self._blocking_cap()
                return QueuePlace(
                    stage=BurnStage.READY,
                    position=position,
                    ahead_sats=ahead_sats,
                    cap_window=window,
                    cap_free_at=free_at,
                )
            ahead_sats += burn.amount_sats
        for burn in self._waiting:
            if burn.burn_id == burn_id:
                return QueuePlace(stage=BurnStage.DELAYED, until_clock=self._ready_clock(burn))
        return None

    def _ready_clock(self, burn: Burn) -> int:
        large = burn.amount_sats >= self._parameters.large_sats
        return burn.clock + (self._parameters.large_delay if large else 0)

    def _mature(self, clock: int) -> None:
        """Step 2: what waited long enough becomes ready, or is held for its size."""
        still_waiting: list[Burn] = []
        for burn in self._waiting:
            if clock < self._ready_clock(burn):
                still_waiting.append(burn)
            elif burn.amount_sats > self._parameters.payout_cap_sats:
                self._held[burn.burn_id] = burn
            else:
                self._ready.append(burn)
        self._waiting = still_waiting

    def _release(self, height: int, clock: int) -> tuple[Release, ...]:
        """Step 3: the head leaves while every window has room; nothing overtakes.

        What RELEASE records name goes first, past the windows but counted in them.
        """
        self._slide(clock)
        released = [
            self._record(Release(self._held.pop(burn_id), height, clock))
            for burn_id in self._approved
        ]
        self._approved.clear()
        while self._ready:
            head = self._ready[0]
            if head.amount_sats > self._parameters.payout_cap_sats:
                # Left in the list it would block the queue for ever.
                self._held[head.burn_id] = self._ready.popleft()
                continue
            if not self._fits(head.amount_sats):
                break
            self._ready.popleft()
            released.append(self._record(Release(head, height, clock)))
        return tuple(released)

    def _fits(self, amount_sats: int) -> bool:
        pairs = zip(self._windows, self._caps, strict=True)
        return all(window.sum_sats + amount_sats <= cap for window, cap in pairs)

    def _record(self, release: Release) -> Release:
        self._releases.append(release)
        self._heights.append(release.height)
        self._by_id[release.burn.burn_id] = release
        self._released_sats += release.burn.amount_sats
        for window in self._windows:
            window.sum_sats += release.burn.amount_sats
        return release

    def _slide(self, clock: int) -> None:
        """Drop releases with clock at or below clock(h) - W_j from each window."""
        for window, cap in zip(self._windows, self._parameters.caps, strict=True):
            while window.first < len(self._releases):
                oldest = self._releases[window.first]
                if oldest.clock > clock - cap.window:
                    break
                window.sum_sats -= oldest.burn.amount_sats
                window.first += 1

    def _caps_at(self, backing_sats: int) -> tuple[int, ...]:
        """cap_j(h), once per block, before its own releases; percentages round down."""
        outstanding_sats = backing_sats - self._released_sats
        return tuple(
            max(cap.abs_sats, outstanding_sats * cap.pct_bp // BASIS_POINTS)
            for cap in self._parameters.caps
        )

    def _blocking_cap(self) -> tuple[int | None, int | None]:
        """The first window that stops the head, and the clock at which it has room."""
        if not self._ready or not self._caps:
            return None, None
        need_sats = self._ready[0].amount_sats
        for window, cap, limit in zip(
            self._windows, self._parameters.caps, self._caps, strict=True
        ):
            sum_sats = window.sum_sats
            if sum_sats + need_sats <= limit:
                continue
            for release in self._releases[window.first :]:
                sum_sats -= release.burn.amount_sats
                if sum_sats + need_sats <= limit:
                    return cap.window, release.clock + cap.window
            return cap.window, None
        return None, None
