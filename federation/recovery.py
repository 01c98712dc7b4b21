"""Bringing members back that lost their state: what is there, what is missing, start, compare.

A member rebuilds itself from the two chains when it is started. This orders it, follows it, and
believes it only when k - 1 other members have the same state at the same height.

Source: peg:9, consensus:C70-C76, N5.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from federation import tls
from federation.config import FederationFile, MemberConfig, MemberFolder
from federation.files import FileLayer, read_secret, replace_file
from federation.local import BITCOIND, LocalFederation, Report
from federation.local_state import LocalError, LocalMember
from sidechain.api.client import RpcError
from sidechain.crypto.keys import public_key
from sidechain.errors import Invalid, Unavailable

POLL_S: Final = 0.3
STANDSTILL_S: Final = 120
"""Without any progress for so long recovery gives up; the members go on by themselves."""
ASK_TIMEOUT_S: Final = 20
RESTORED_HINT: Final = "--restored"
KEY_FILES: Final = ("block.key", "peg.key", "tls.key", "tls.crt")
STATE_PARTS: Final = ("chain", "journal", "signer")
"""What every member that ran has. The peg journal may be empty, and may be lost (N24)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """How one member stands at the end.

    Attributes:
        lost: what was missing.
        agrees_with: members with the same state digest at that height.
        open_batch: txid of its newest version of the open batch; None without one.
        mode: of the agreement; another than VOTING means that it does not vote (yet).
    """

    name: str
    lost: tuple[str, ...]
    height: int
    state_digest: str
    agrees_with: tuple[str, ...]
    open_batch: str | None
    mode: str

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "member": self.name,
            "lost": list(self.lost),
            "height": self.height,
            "state_digest": self.state_digest,
            "agrees_with": list(self.agrees_with),
            "open_batch": self.open_batch,
            "mode": self.mode,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One member's answers at one moment."""

    height: int
    state_height: int
    digest: str
    syncing: bool
    mode: str
    open_batch: str | None


class Recovery:
    """Recovers members of one local federation; the folder must be locked."""

    def __init__(self, federation: LocalFederation, report: Report) -> None:
        self._federation = federation
        self._report = report
        self._state = federation.require_state()
        self._file = federation.load_federation(self._state)

    def lost(self, name: str) -> tuple[str, ...]:
        """What is missing in a member's folder, by the names of its parts."""
        path = self._federation.folder.member(name)
        keys = [f"keys/{key}" for key in KEY_FILES if not (path / "keys" / key).is_file()]
        config = [] if (path / "member.json").is_file() else ["member.json"]
        parts = [part for part in STATE_PARTS if not _is_filled(path / part)]
        return (*keys, *config, *parts)

    def all_lost(self) -> tuple[str, ...]:
        """Members that miss anything."""
        return tuple(member.name for member in self._state.members if self.lost(member.name))

    async def run(self, names: Sequence[str], keys: Path | None) -> list[Recovered]:
        """Rebuild, start and compare these members.

        Args:
            keys: folder with a backup of the key files; for one member.
        Raises:
            LocalError: keys are gone or another member's, a member does not start, its state
                differs from the others', or there are too few others to compare with.
        """
        self._federation.require_running(BITCOIND)
        lost = {name: self.lost(name) for name in names}
        for name in names:
            self._check_keys(name, keys)
        for name in names:
            if lost[name] and self._federation.stop_member(name, kill=True):
                self._report("stop", f"stopped {name}: its folder was deleted under it")
        for name in names:
            self._complete(name, keys)
        await self._start(names)
        looks = await self._follow(names)
        return [await self._compared(name, lost[name], looks[name]) for name in names]

    # -- files

    def _check_keys(self, name: str, backup: Path | None) -> None:
        """Refuse before anything is touched when a key is gone or not this member's."""
        folder = MemberFolder(self._federation.folder.member(name))
        missing = [key for key in KEY_FILES if not (folder.keys / key).is_file()]
        if missing and backup is None:
            raise LocalError(
                f"{name} lost {', '.join(missing)}: keys are in neither chain. Give a folder with "
                f"your backup of {', '.join(KEY_FILES)} by --keys; without one this member cannot "
                "come back and has to be replaced"
            )
        source = folder.keys if not missing or backup is None else backup
        check_member_keys(source, self._file, self._member(name).index)

    def _complete(self, name: str, backup: Path | None) -> None:
        """Put keys, configuration and empty folders where they are missing."""
        layer = FileLayer()
        folder = MemberFolder(self._federation.folder.member(name))
        for made in (folder.path, folder.keys, folder.guard.parent):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in (folder.journal, folder.peg_journal, folder.approved):
            made.mkdir(mode=0o700, exist_ok=True)
        for key in KEY_FILES:
            if backup is not None and not (folder.keys / key).is_file():
                replace_file(layer, folder.keys / key, (backup / key).read_bytes())
        if not (folder.path / "member.json").is_file():
            self._neighbours_config(self._member(name)).save(folder.path, layer)

    def _neighbours_config(self, member: LocalMember) -> MemberConfig:
        """member.json after another member's; only place and ports are a member's own."""
        for other in self._state.members:
            path = self._federation.folder.member(other.name)
            if other != member and (path / "member.json").is_file():
                return replace(
                    MemberConfig.load(path),
                    index=member.index,
                    listen_port=member.port,
                    rpc_port=member.rpc_port,
                    esplora_port=member.esplora_port,
                )
        raise LocalError(f"no member has a member.json left to make {member.name}'s from")

    # -- processes

    async def _start(self, names: Sequence[str]) -> None:
        try:
            await self._federation.start_members(names)
        except LocalError as refusal:
            if RESTORED_HINT not in str(refusal):
                raise
            await self._federation.start_members(names, restored=True)

    async def _follow(self, names: Sequence[str]) -> dict[str, _Look]:
        """Wait until these members have synced and replayed; tells how far they are."""
        loop = asyncio.get_running_loop()
        before: dict[str, _Look] = {}
        moved_at = loop.time()
        while True:
            looks = await self._look_at_all()
            best = max((look.height for look in looks.values()), default=0)
            behind = [n for n in names if n not in looks or not _is_done(looks[n], best)]
            if not behind:
                return looks
            if looks != before:
                before, moved_at = looks, loop.time()
            if loop.time() - moved_at > STANDSTILL_S:
                late = ", ".join(behind)
                raise LocalError(f"{late} makes no progress: `fedpeg logs {behind[0]}` tells why")
            self._report("sync", ", ".join(_progress(name, looks, best) for name in behind))
            await asyncio.sleep(POLL_S)

    async def _compared(self, name: str, lost: tuple[str, ...], first: _Look) -> Recovered:
        """Compare with the others at equal heights until k - 1 agree (peg:9).

        Raises:
            LocalError: another member has another state at the same height, or too few answer.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + STANDSTILL_S
        own = {first.state_height: first}
        others: dict[str, dict[int, str]] = {}
        self._report("compare", f"comparing the state of {name} with the other members'")
        while True:
            for other, look in (await self._look_at_all()).items():
                if other == name:
                    own[look.state_height] = look
                else:
                    others.setdefault(other, {})[look.state_height] = look.digest
            self._refuse_difference(name, own, others)
            agreeing = {h: sorted(o for o, d in others.items() if h in d) for h in own}
            height = max(own, key=lambda h: (len(agreeing[h]), h))
            if len(agreeing[height]) >= self._state.k - 1:
                look = own[height]
                return Recovered(
                    name=name,
                    lost=lost,
                    height=height,
                    state_digest=look.digest,
                    agrees_with=tuple(agreeing[height]),
                    open_batch=look.open_batch,
                    mode=own[max(own)].mode,
                )
            if loop.time() > give_up_at:
                raise LocalError(
                    f"{name} runs, but its state could be compared with {len(agreeing[height])} "
                    f"members, and {self._state.k - 1} are needed: start the others"
                )
            await asyncio.sleep(POLL_S)

    def _refuse_difference(
        self, name: str, own: Mapping[int, _Look], others: Mapping[str, Mapping[int, str]]
    ) -> None:
        """Stop a member whose state is another than somebody's at one height."""
        for height, look in own.items():
            differing = sorted(
                other for other, d in others.items() if d.get(height, look.digest) != look.digest
            )
            if differing:
                self._federation.stop_member(name, kill=False)
                raise LocalError(
                    f"the state of {name} at height {height} differs from that of "
                    f"{', '.join(differing)}; {name} is stopped: find out which is wrong first"
                )

    async def _look_at_all(self) -> dict[str, _Look]:
        running = self._federation.running()
        asked = [member for member in self._state.members if member.name in running]
        async with asyncio.TaskGroup() as group:
            tasks = {m.name: group.create_task(self._look_at(m)) for m in asked}
        return {name: look for name, task in tasks.items() if (look := task.result()) is not None}

    async def _look_at(self, member: LocalMember) -> _Look | None:
        async with self._federation.member_client(member, timeout_s=ASK_TIMEOUT_S) as client:
            try:
                info = await client.call("getfederationinfo")
                peg = await client.call("getpeginfo")
            except (RpcError, Unavailable):
                return None
        batch = peg["open_batch"]
        return _Look(
            height=info["height"],
            state_height=peg["state_height"],
            digest=peg.get("state_digest", ""),
            syncing=info["syncing"],
            mode=info["mode"],
            open_batch=batch["versions"][-1]["txid"] if batch and batch["versions"] else None,
        )

    def _member(self, name: str) -> LocalMember:
        return self._federation.find_member(self._state, name)


def check_member_keys(keys: Path, federation: FederationFile, index: int) -> None:
    """Refuse key files that are not those of a member.

    Raises:
        LocalError: missing, open to others, malformed or another member's.
    """
    entry = federation.members[index]
    for name, expected in (("block.key", entry.block_key), ("peg.key", entry.peg_key)):
        path = keys / name
        try:
            found = public_key(bytes.fromhex(read_secret(path).strip().decode("ascii")))
        except OSError as error:
            raise LocalError(f"cannot use {path}: {error.strerror or error}") from error
        except (ValueError, Invalid):
            raise LocalError(f"{path} does not hold a secret key of 64 hex digits") from None
        if found != expected:
            raise LocalError(f"{path} is not the key of {entry.name} in federation.json")
    try:
        certificate = tls.certificate_der((keys / "tls.crt").read_text())
        read_secret(keys / "tls.key")
    except (OSError, ValueError) as error:
        raise LocalError(f"cannot use the certificate in {keys}: {error}") from error
    if certificate != tls.certificate_der(entry.certificate_pem):
        raise LocalError(f"{keys / 'tls.crt'} is not the certificate of {entry.name}")


def _is_filled(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _is_done(look: _Look, best: int) -> bool:
    return look.height >= best and look.state_height >= look.height and not look.syncing


def _progress(name: str, looks: dict[str, _Look], best: int) -> str:
    look = looks.get(name)
    if look is None:
        return f"{name} does not answer yet"
    return f"{name} at block {look.height:,} of {best:,}, peg at {look.state_height:,}"
