"""One member's part in reserves reports: makes, signs, collects and keeps them.

A report is due at the first height whose clock enters another epoch, and whenever an operator asks
for one. Every member has the same report at the same height, so a signature and the digest are all
that travels. A member signs what another one asks about if its own report of that height is the
same; what it keeps on the disk are the reports of epochs and those its own operator asked for.
Those who sign are the holders of the coins' keys, whom the federation file names.

Source: peg:11, N15.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from peg.canonical import NotCanonical, canonical_json, strict_loads
from peg.history import PegHistory
from peg.ports import PegSetup
from peg.reserves_report import (
    FILE_BYTES_MAX,
    REPORT_EVERY,
    REPORT_TAG,
    ReportOrigin,
    ReportShare,
    check_signatures,
    decode_share,
    make_report,
    read_report_file,
    report_bytes,
    report_digest,
    report_file,
)
from peg.sessions import BatchSigner
from peg.signing_turn import Send
from peg.state import PegView
from sidechain.crypto.keys import schnorr_verify
from sidechain.errors import Invalid, InvalidEncoding, PeerFault, Unavailable

KIND_REPORTSIG: Final = 23
VIEWS_KEPT: Final = 64
"""Newest heights that can still be reported on."""
OPEN_REPORTS_MAX: Final = 16
EARLY_HEIGHTS_MAX: Final = 16
"""Heights, not reached yet, of which a member's signatures are kept."""


@dataclass(slots=True)
class _Open:
    """A report and the signatures on it so far."""

    report: dict[str, Any]
    digest: bytes
    is_kept: bool
    signatures: dict[int, bytes] = field(default_factory=dict)


class ReservesDesk:
    """Makes and collects reserves reports. One owner: the service."""

    def __init__(
        self,
        *,
        setup: PegSetup,
        signer: BatchSigner,
        history: PegHistory,
        send: Send,
        say: Callable[[str, str], None],
    ) -> None:
        """Nothing is read or sent yet.

        Args:
            say: shows a lasting condition and its reason, empty when it ends.
        """
        self._setup = setup
        self._signer = signer
        self._history = history
        self._send = send
        self._say = say
        self._origin = ReportOrigin(
            genesis=setup.chain.genesis_hash,
            parameter_hash=setup.parameter_hash,
            fedpegscripts=(setup.script.script,),
        )
        self._views: OrderedDict[int, PegView] = OrderedDict()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._early: dict[int, OrderedDict[int, ReportShare]] = {}
        self._news = asyncio.Event()
        self._told = 0
        self._told_all: set[int] = set()

    # ---- the state moves ----

    def on_view(self, view: PegView) -> None:
        """The peg's state has reached a height; begin the report if one is due there."""
        self._views[view.height] = view
        while len(self._views) > VIEWS_KEPT:
            self._told_all.discard(self._views.popitem(last=False)[0])
        if self._is_due(view):
            self._begin(view.height, keep=True)
        for shares in self._early.values():
            share = shares.pop(view.height, None)
            if share is not None:
                self._take(share)

    def tell(self) -> None:
        """Send own signatures on the newest report again at every height until k are there."""
        due = [height for height, each in self._open.items() if each.is_kept]
        if not due or self._told == self._history.height:
            return
        self._told = self._history.height
        opened = self._open[max(due)]
        if len(opened.signatures) < self._setup.parameters.k:
            self._sign(max(due), opened)
            self._tell(max(due), opened, None)

    def _is_due(self, view: PegView) -> bool:
        """Whether the clock enters another epoch at a height; the first epoch has no report."""
        if view.height <= 1:
            return False
        before = self._history.totals(view.height - 1).clock
        return view.totals.clock // REPORT_EVERY > before // REPORT_EVERY

    # ---- on demand ----

    async def make(self, height: int | None, deadline_s: int) -> dict[str, Any]:
        """The file of a report, made and signed now if it is not kept already.

        Args:
            height: None for the newest.
            deadline_s: how long to wait for k members.
        Raises:
            Unavailable: not enough members have signed in time; says how many.
            InvalidEncoding: no report can be made for that height; says which can.
        """
        if not self._setup.holds_peg_key:
            raise Unavailable("this member holds no key of the federation's coins: ask another one")
        if height is None:
            if not self._views:
                raise Unavailable("the peg has not read the chains yet")
            height = max(self._views)
        elif (kept := self.kept(height)) is not None:
            return kept
        opened = self._begin(height, keep=True)
        if opened is None:
            raise InvalidEncoding("height", self._no_report(height))
        try:
            async with asyncio.timeout(deadline_s):
                while len(opened.signatures) < self._setup.parameters.k:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise Unavailable(
                f"{len(opened.signatures)} of {self._setup.parameters.k} members have signed the "
                f"report of block {height} so far: ask again"
            ) from None
        return report_file(opened.report, opened.signatures)

    def _no_report(self, height: int) -> str:
        if not self._views:
            return "the peg has not read the chains yet"
        kept = ", ".join(str(each) for each in self.heights()[-10:]) or "none"
        return (
            f"block {height} cannot be reported on any more or yet: members sign for blocks "
            f"{min(self._views)} to {max(self._views)}; reports kept: {kept}"
        )

    # ---- others ----

    def on_frame(self, member: int, body: bytes) -> None:
        """A signature from another member.

        Raises:
            InvalidEncoding: malformed.
            PeerFault: not the sender's own, or it does not verify.
        """
        share = decode_share(body)
        if share.member != member:
            raise PeerFault(member, body, "reserves signature of another member")
        if member >= self._setup.parameters.n:
            return  # joined later, and holds no key of the coins
        key = self._setup.block_keys[member][1:]
        if not schnorr_verify(key, share.signature, share.digest):
            raise PeerFault(member, body, "reserves signature does not verify")
        if share.height > max(self._views, default=0):
            early = self._early.setdefault(member, OrderedDict())
            early[share.height] = share
            while len(early) > EARLY_HEIGHTS_MAX:
                early.popitem(last=False)
            return
        self._take(share)

    def _take(self, share: ReportShare) -> None:
        """Add a verified signature to the own report of its height, and answer with the own."""
        opened = self._open.get(share.height) or self._begin(share.height, keep=False)
        if opened is None:
            return
        event = f"reserves report of m{share.member} differs"
        if share.digest != opened.digest:
            self._say(event, f"at block {share.height}")
            return
        self._say(event, "")
        if share.member in opened.signatures:
            return
        opened.signatures[share.member] = share.signature
        self._keep(share.height, opened)
        self._tell(share.height, opened, share.member)

    # ---- one report ----

    def _begin(self, height: int, *, keep: bool) -> _Open | None:
        """The open report of a height, signed; None when its state is not known.

        All are told once, and again of one to be kept. Who asks later about one that was forgotten
        gets its answer alone, so no number of frames makes more than one each.
        """
        opened, view = self._open.get(height), self._views.get(height)
        if opened is None:
            if view is None:
                return None
            if view.book.difference_sats:
                self._say("reserves report not signed", "the two computations of the book differ")
                return None
            report = make_report(view, self._history.block_hash(height), self._origin)
            opened = self._open[height] = _Open(report, report_digest(report), is_kept=keep)
            self._forget(height)
        opened.is_kept = opened.is_kept or keep
        self._sign(height, opened)
        if keep or height not in self._told_all:
            self._tell(height, opened, None)
        self._keep(height, opened)
        return opened

    def _forget(self, newest: int) -> None:
        """Drop reports that are too many, first those that others asked about; never the newest."""
        while len(self._open) > OPEN_REPORTS_MAX:
            others = [height for height in self._open if height != newest]
            asked = [height for height in others if not self._open[height].is_kept]
            del self._open[(asked or others)[0]]

    def _sign(self, height: int, opened: _Open) -> None:
        """Put the own signature on a report, if it is not there already."""
        if self._setup.member in opened.signatures or not self._setup.holds_peg_key:
            return
        try:
            signature = self._signer.sign_message(REPORT_TAG, report_bytes(opened.report))
        except Unavailable as error:
            self._say("reserves report not signed", f"block {height}: {error}")
            return
        self._say("reserves report not signed", "")
        opened.signatures[self._setup.member] = signature

    def _tell(self, height: int, opened: _Open, member: int | None) -> None:
        own = opened.signatures.get(self._setup.member)
        if own is not None:
            if member is None:
                self._told_all.add(height)
            share = ReportShare(height, self._setup.member, opened.digest, own)
            self._send(KIND_REPORTSIG, share.encode(), member)

    def _keep(self, height: int, opened: _Open) -> None:
        """Wake who waits, and write a report with k signatures that is to be kept."""
        self._news.set()
        if not opened.is_kept or len(opened.signatures) < self._setup.parameters.k:
            return
        try:
            self._write(height, canonical_json(report_file(opened.report, opened.signatures)))
        except OSError as error:
            self._say("reserves report not kept", str(error))
        else:
            self._say("reserves report not kept", "")

    # ---- the disk ----

    def heights(self) -> list[int]:
        """Heights of the reports kept, lowest first."""
        try:
            names = os.listdir(self._setup.reports_folder)
        except FileNotFoundError:
            return []
        stems = [Path(name).stem for name in names if name.endswith(".json")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def kept(self, height: int) -> dict[str, Any] | None:
        """The file of a kept report; None when there is none that k members signed."""
        path = self._path(height)
        try:
            with path.open("rb") as file:
                plain = strict_loads(file.read(FILE_BYTES_MAX).decode())
            report, signatures = read_report_file(plain)
            parameters = self._setup.parameters
            keys = self._setup.block_keys[: parameters.n]
            check_signatures(report, signatures, keys=keys, k=parameters.k)
        except FileNotFoundError:
            return None
        except (OSError, NotCanonical, ValueError, Invalid) as error:
            self._say("reserves report damaged", f"{path.name}: {error}")
            return None
        return dict(plain)

    def summaries(self) -> list[dict[str, Any]]:
        """The reports kept, in short, oldest first."""
        found = (self.kept(height) for height in self.heights())
        return [
            {
                "height": each["report"]["height"],
                "committed_height": each["report"]["committed_height"],
                "reserve_sats": each["report"]["reserve_sats"],
                "pool_sats": each["report"]["pool_sats"],
                "signers": [signed["member"] for signed in each["signatures"]],
            }
            for each in found
            if each is not None
        ]

    def _path(self, height: int) -> Path:
        return self._setup.reports_folder / f"{height}.json"

    def _write(self, height: int, data: bytes) -> None:
        folder = self._setup.reports_folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{height}"
        with open(temporary, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path(height))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
