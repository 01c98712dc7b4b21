"""Faults of a running local federation, for tests: processes, links, clocks and disks go wrong.

    async with local_federation(folder, n=4, block_time_ms=0) as federation:
        faults = Faults(federation)
        async with faults.partition(["m0", "m1"], ["m2", "m3"]):
            ...  # no block is final here
        ...      # and here they are again

What lasts is an async context manager that heals at its end, or ends by itself after `for_s`; what
is done at once (`wipe`, `restore`, `damage_journal`) is awaited. `federation.pytest_plugin` offers
both as fixtures. `federation.fault_check.check` reads all disks afterwards. All of it needs members
that were started with faults allowed, but `kill` and `pause`.

Source: issue 4 item 10, N32.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from federation.fault_disk import Damage, DamageDone
from federation.fault_injection import ActiveFault, Injection, member_fault
from federation.fault_links import InvalidLinks, Way, between, by_member, one_way, parse_ways
from federation.fault_processes import ProcessFault, ProcessFaults, locked_patiently
from federation.fault_rules import FaultKind
from federation.local import LocalFederation
from federation.local_run import local_federation, start_federation, wait_agreed
from federation.local_state import LocalError, LocalMember
from federation.processes import is_frozen
from sidechain.api.client import RpcError
from sidechain.api.registry import METHOD_NOT_FOUND
from sidechain.errors import Unavailable

__all__ = [
    "ActiveFault",
    "Damage",
    "DamageDone",
    "Faults",
    "Injection",
    "LocalError",
    "local_federation",
    "start_federation",
    "wait_agreed",
]

ORDER_TIMEOUT_S: Final = 5
LOCK_PATIENCE_S: Final = 60
T = TypeVar("T")
Links = str | Sequence[str]
"""One group of members, or a text such as `m0>m1` (see `federation.fault_links`)."""


class Faults:
    """Everything that can be made to go wrong in one running local federation."""

    def __init__(self, federation: LocalFederation) -> None:
        self._federation = federation
        self._processes = ProcessFaults(federation)

    # ---- links ----

    def partition(self, *groups: Links, for_s: float | None = None) -> Injection:
        """Nothing passes between members of different groups; one group is cut from the rest.

        Links stay up for as long as silence lets them, as when a cable is cut.
        """
        return self._cut(self._ways(groups), for_s)

    def one_way(self, sources: Links, targets: Links, for_s: float | None = None) -> Injection:
        """Nothing passes from sources to targets; the other way all does."""
        names = self._names()
        ways = _checked(lambda: one_way(_group(sources), _group(targets), names))
        return self._cut(ways, for_s)

    def disconnect(self, *groups: Links, for_s: float | None = None) -> Injection:
        """Links between these end now, and none is made, as when a host refuses connections."""
        orders = [
            (member, {"kind": FaultKind.DISCONNECT.value, "peers": sorted(out | into)})
            for member, (out, into) in by_member(self._ways(groups)).items()
        ]
        return self._ordered(orders, for_s)

    def delay(
        self, *links: Links, delay_ms: int, jitter_ms: int = 0, for_s: float | None = None
    ) -> Injection:
        """What is sent over these links arrives later, by delay ± jitter, in order."""
        fields = {"kind": "delay", "delay_ms": delay_ms, "jitter_ms": jitter_ms}
        return self._sending(self._ways(links), fields, for_s)

    def drop(self, *links: Links, percent: int, for_s: float | None = None) -> Injection:
        """So many of a hundred frames on these links are lost."""
        return self._sending(self._ways(links), {"kind": "drop", "percent": percent}, for_s)

    def clock(self, member: str, offset_s: int, for_s: float | None = None) -> Injection:
        """A member's wall clock is off by so many seconds."""
        index = self._member(member).index
        return self._ordered([(index, {"kind": "clock", "offset_s": offset_s})], for_s)

    # ---- processes ----

    def kill(self, member: str, for_s: float | None = None) -> Injection:
        """SIGKILL; started again at the end."""

        async def strike(name: str) -> None:
            self._processes.kill(name)

        return self._process(ProcessFault.KILL, member, for_s, strike)

    def pause(self, member: str, for_s: float | None = None) -> Injection:
        """SIGSTOP; SIGCONT at the end."""

        async def strike(name: str) -> None:
            self._processes.pause(name)

        return self._process(ProcessFault.PAUSE, member, for_s, strike)

    def equivocate(
        self,
        member: str,
        for_s: float | None = None,
        *,
        seed: int | None = None,
        anyway: bool = False,
    ) -> Injection:
        """A liar with the member's keys runs in its place; then the member, as restored (C70).

        Args:
            seed: chooses which lies are told to whom.
            anyway: as `wipe`.
        """
        chosen = secrets.randbelow(2**31) if seed is None else seed

        async def strike(name: str) -> None:
            await self._spare_quorum(name, anyway)
            await self._processes.equivocate(name, seed=chosen)

        return self._process(ProcessFault.EQUIVOCATE, member, for_s, strike)

    async def start(self, member: str) -> bool:
        """Start a member that does not run, as restored where its journal demands it (J6).

        Returns:
            Whether it had to be started as restored.
        Raises:
            LocalError: it does not start.
        """
        name = self._member(member).name
        async with locked_patiently(self._federation.folder, LOCK_PATIENCE_S):
            return await self._processes.start(name)

    # ---- disks ----

    async def wipe(self, member: str, *, down_s: float = 0, anyway: bool = False) -> None:
        """Stop a member, delete all but its keys, and start it again.

        Args:
            anyway: also when so many members abstain then that no block can follow (C76).
        Raises:
            LocalError: faults are not allowed, or it does not start.
        """
        await self._spare_quorum(member, anyway)
        await self._with_disk(member, self._processes.folder.wipe, down_s)

    async def snapshot(self, member: str) -> str:
        """Keep a copy of a member's disk for `restore`; it is stopped for the moment it takes.

        Raises:
            LocalError: as `wipe`.
        """
        return await self._with_disk(member, self._processes.folder.take_snapshot, 0)

    async def restore(
        self,
        member: str,
        snapshot: str | None = None,
        *,
        down_s: float = 0,
        anyway: bool = False,
    ) -> str:
        """Put an old disk in the place of a member's: it has to find that out by itself (C75).

        Args:
            anyway: as `wipe`.
        Raises:
            LocalError: as `wipe`, or there is no such snapshot.
        """
        self.require_allowed()
        folder = self._processes.folder
        folder.find_snapshot(self._member(member).name, snapshot)
        await self._spare_quorum(member, anyway)
        return await self._with_disk(
            member, lambda name: folder.restore_snapshot(name, snapshot), down_s
        )

    async def damage_journal(
        self,
        member: str,
        how: Damage = Damage.FLIP,
        *,
        at_byte: int | None = None,
        seed: int = 0,
        anyway: bool = False,
    ) -> tuple[DamageDone, str]:
        """Stop a member, damage its journal, and start it as if nothing had happened.

        Args:
            at_byte: where; by the seed without it. Negative counts from the end.
            anyway: as `wipe`.
        Returns:
            What was done, and what the member said where it refused to start (J6), else "".
        Raises:
            LocalError: faults are not allowed, or there is no such byte.
        """
        await self._spare_quorum(member, anyway)
        folder = self._processes.folder

        def work(name: str) -> DamageDone:
            return folder.damage_journal(name, how, at_byte=at_byte, seed=seed)

        refusals: list[str] = []
        done = await self._with_disk(member, work, 0, refusals)
        return done, "".join(refusals)

    # ---- all ----

    async def active(self) -> tuple[ActiveFault, ...]:
        """The faults in force, those of processes first."""
        found = self._process_faults()
        for member in self._reachable():
            try:
                shown = await self._ask(member, "listfaults")
            except (RpcError, Unavailable, LocalError):
                continue
            found += [member_fault(member.name, plain, self._names()) for plain in shown["faults"]]
        return tuple(found)

    async def heal(self, fault_id: str | None = None) -> tuple[str, ...]:
        """End one fault or, without an id, everything: also members that do not run are started.

        Returns:
            What was done, a sentence each.
        Raises:
            LocalError: no such fault is in force, or a member does not start.
        """
        known = [fault for fault in await self.active() if fault_id in (None, fault.id)]
        if fault_id is not None and not known:
            raise LocalError(f"no fault {fault_id!r} is in force: `fedpeg fault list` shows them")
        done: list[str] = []
        async with locked_patiently(self._federation.folder, LOCK_PATIENCE_S):
            self._processes.forget_endings(fault_id)
            for fault in known:
                if fault.kind in tuple(ProcessFault):
                    name = fault.members[0]
                    await self._processes.end(ProcessFault(fault.kind), name)
                    done.append(f"{name}: {fault.kind} has ended")
            if fault_id is None:
                for name in self._processes.down():
                    restored = await self._processes.start(name)
                    done.append(f"{name} runs again" + " (as restored)" * restored)
                await self._federation.start_members(self._names())  # until all answer
        for member in self._reachable():
            try:
                count = await self._ask(member, "endfaults", fault_id)
            except LocalError:
                continue  # it takes no orders, so it has no faults
            if count:
                done.append(f"{member.name}: {count} ended")
        return tuple(done)

    def require_allowed(self) -> None:
        """Refuse what only a federation made for faults may suffer.

        Raises:
            LocalError: it was not started with `--allow-faults`.
        """
        if not self._federation.require_state().allow_faults:
            raise LocalError(
                "this federation takes no faults: `fedpeg down`, then `fedpeg up --allow-faults`"
            )

    # ---- parts ----

    def _cut(self, ways: frozenset[Way], for_s: float | None) -> Injection:
        orders: list[tuple[int, dict[str, Any]]] = []
        for member, (out, into) in by_member(ways).items():
            for name, peers in (("outgoing", out), ("incoming", into)):
                if peers:
                    order = {"kind": "partition", "peers": sorted(peers), name: True}
                    orders.append((member, order))
        return self._ordered(orders, for_s)

    def _sending(
        self, ways: frozenset[Way], fields: dict[str, Any], for_s: float | None
    ) -> Injection:
        orders = [
            (member, {**fields, "peers": sorted(out)})
            for member, (out, _) in by_member(ways).items()
            if out
        ]
        return self._ordered(orders, for_s)

    def _ordered(
        self, orders: Sequence[tuple[int, dict[str, Any]]], for_s: float | None
    ) -> Injection:
        """A fault that members carry out themselves; each counts the time itself."""
        for_ms = _milliseconds(for_s)
        concerned = {index for index, _ in orders}

        async def begin(injection: Injection) -> None:
            told: set[int] = set()
            members = {member.index: member for member in self._reachable()}
            for number, (index, order) in enumerate(orders):
                plain = {**order, "id": f"{injection.id}.{number}", "for_ms": for_ms}
                try:
                    if index in members:
                        await self._ask(members[index], "setfault", plain)
                        told.add(index)
                except Unavailable:
                    del members[index]  # it is being started, or has just ended
                except BaseException:
                    await end(injection)
                    raise
            injection.unreached = tuple(self._names()[i] for i in sorted(concerned - told))
            if not told:
                raise LocalError(f"{' and '.join(injection.unreached)}: not running or paused")

        async def end(injection: Injection) -> None:
            unaware = []
            for name in self._unreachable():
                if self._member(name).index in concerned:
                    unaware.append(name)  # frozen: it goes on with the fault once it thaws
            for member in self._reachable():
                if member.index in concerned and not await self._end_at(member, injection.id):
                    unaware.append(member.name)
            if unaware and not for_ms:
                raise LocalError(
                    f"{' and '.join(unaware)} did not hear of the end of {injection.id}: "
                    "`fedpeg fault heal` ends it once they answer"
                )

        return Injection(_new_id(), begin, end)

    def _process(
        self,
        kind: ProcessFault,
        member: str,
        for_s: float | None,
        strike: Callable[[str], Awaitable[None]],
    ) -> Injection:
        name = self._member(member).name
        for_ms = _milliseconds(for_s)

        async def begin(injection: Injection) -> None:
            async with locked_patiently(self._federation.folder, LOCK_PATIENCE_S):
                await strike(name)
                if for_ms:
                    self._processes.end_later(kind, name, injection.id, for_ms)

        async def end(injection: Injection) -> None:
            async with locked_patiently(self._federation.folder, LOCK_PATIENCE_S):
                had_end = self._processes.forget_endings(injection.id)
                if had_end or not for_ms:
                    await self._processes.end(kind, name)

        return Injection(_new_id(), begin, end)

    async def _with_disk(
        self,
        member: str,
        work: Callable[[str], T],
        down_s: float,
        refusals: list[str] | None = None,
    ) -> T:
        """Do something to the disk of a member, which is stopped meanwhile.

        Args:
            refusals: takes what the member says when it does not start; without it that is raised.
        """
        name = self._member(member).name
        self.require_allowed()
        async with locked_patiently(self._federation.folder, LOCK_PATIENCE_S):
            if name in self._processes.lying():
                raise LocalError(f"a liar runs in place of {name}: `fedpeg fault heal` ends it")
            self._processes.stop(name)
            try:
                found = work(name)  # in one go: Ctrl-C must not leave half a disk
            except LocalError:
                await self._processes.start(name)
                raise
            if down_s:
                for_ms = _milliseconds(down_s)
                self._processes.end_later(ProcessFault.KILL, name, _new_id(), for_ms)
                return found
            try:
                await self._federation.start_members([name])
            except LocalError as refusal:
                if refusals is None:
                    raise
                refusals.append(str(refusal))
        return found

    async def _spare_quorum(self, member: str, anyway: bool) -> None:
        """Refuse to make so many members forget that only an operator could go on (C76)."""
        self.require_allowed()
        state, name = self._federation.require_state(), self._member(member).name
        forgetful = {name}
        for other in self._reachable():
            try:
                info = await self._ask(other, "getfederationinfo")
            except (LocalError, Unavailable):
                continue
            if info["mode"] == "ABSTAINING":
                forgetful.add(other.name)
        if len(forgetful) > state.n - state.k and not anyway:
            names = " and ".join(sorted(forgetful))
            raise LocalError(
                f"{names} would abstain at once, more than n - k = {state.n - state.k}: only an "
                "operator's word could go on then (C76). Wait until they vote again; --anyway "
                "does it all the same"
            )

    def _process_faults(self) -> list[ActiveFault]:
        now_ms = time.monotonic_ns() // 1_000_000
        endings = {(e.kind, e.member): e for e in self._processes.endings()}
        found = []
        for kind, names in (
            (ProcessFault.KILL, self._processes.down()),
            (ProcessFault.PAUSE, self._processes.frozen()),
            (ProcessFault.EQUIVOCATE, self._processes.lying()),
        ):
            for name in names:
                ending = endings.get((kind, name))
                found.append(
                    ActiveFault(
                        id=ending.id if ending else f"{kind.value}-{name}",
                        kind=kind.value,
                        members=(name,),
                        detail=_PROCESS_WORDS[kind],
                        remaining_ms=max(0, ending.ends_ms - now_ms) if ending else None,
                    )
                )
        return found

    async def _end_at(self, member: LocalMember, fault_id: str) -> bool:
        """End a fault at one member; False when it does not answer."""
        try:
            await self._ask(member, "endfaults", fault_id)
        except LocalError:
            return True  # it takes no orders, so it has no faults
        except Unavailable:
            return member.name not in self._federation.running()
        return True

    async def _ask(self, member: LocalMember, method: str, *words: Any) -> Any:
        async with self._federation.member_client(member, timeout_s=ORDER_TIMEOUT_S) as client:
            try:
                return await client.call(method, *words)
            except RpcError as error:
                if error.code != METHOD_NOT_FOUND:
                    raise LocalError(error.message) from error
                raise LocalError(
                    f"{member.name} was started without --allow-faults: `fedpeg down`, then "
                    "`fedpeg up --allow-faults`"
                ) from error

    def _reachable(self) -> list[LocalMember]:
        """Members that run as themselves and are not frozen."""
        state = self._federation.require_running()
        running, lying = self._federation.running(), self._processes.lying()
        return [
            m
            for m in state.members
            if m.name in running and m.name not in lying and not is_frozen(running[m.name])
        ]

    def _unreachable(self) -> tuple[str, ...]:
        """Members that run as themselves but are frozen."""
        return tuple(n for n in self._processes.frozen() if n not in self._processes.lying())

    def _ways(self, groups: Sequence[Links]) -> frozenset[Way]:
        names = self._names()
        if all(isinstance(group, str) for group in groups):
            return _checked(lambda: parse_ways([str(group) for group in groups], names))
        return _checked(lambda: between([_group(group) for group in groups], names))

    def _names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self._federation.require_state().members)

    def _member(self, name: str) -> LocalMember:
        return self._federation.find_member(self._federation.require_running(), name)


_PROCESS_WORDS: Final = {
    ProcessFault.KILL: "does not run",
    ProcessFault.PAUSE: "is frozen",
    ProcessFault.EQUIVOCATE: "a liar runs in its place",
}


def _group(links: Links) -> list[str]:
    return links.split(",") if isinstance(links, str) else list(links)


def _checked(read: Callable[[], frozenset[Way]]) -> frozenset[Way]:
    try:
        return read()
    except InvalidLinks as error:
        raise LocalError(str(error)) from error


def _milliseconds(for_s: float | None) -> int:
    return 0 if for_s is None else max(1, round(for_s * 1_000))


def _new_id() -> str:
    return f"f{secrets.token_hex(3)}"
