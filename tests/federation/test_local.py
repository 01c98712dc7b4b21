"""The local runner: its state file, its ports and refusals; with real processes, its resumption."""

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from federation.bitcoind_process import (
    BitcoindMissing,
    BitcoindProgram,
    bitcoind_arguments,
    find_bitcoind,
)
from federation.ceremony import bring_up
from federation.local import AlreadyRunning, LocalFederation, Report
from federation.local_state import (
    PORTS_FIRST,
    PORTS_LAST,
    LocalError,
    LocalFolder,
    LocalMember,
    LocalState,
    PortChooser,
    Stage,
    UpOptions,
    port_is_free,
    with_options,
)
from federation.processes import find_processes, kill_processes

FAST = UpOptions(block_time_ms=0)


def quiet(_: str, __: str) -> None:
    """Nobody listens."""


async def up(federation: LocalFederation, options: UpOptions, report: Report = quiet) -> LocalState:
    """What `fedpeg up` does."""
    with federation.folder.locked():
        return await bring_up(federation, options, report)


def state_of(n: int = 4) -> LocalState:
    """A state with invented ports."""
    members = tuple(
        LocalMember(name=f"m{i}", index=i, port=20_000 + i, rpc_port=21_000 + i) for i in range(n)
    )
    return LocalState(
        chain="fedpeg-test",
        n=n,
        k=2 * n // 3 + 1,
        block_time_ms=250,
        members=members,
        bitcoind_rpc_port=22_000,
        wallet_rpc_port=22_001,
        stage=Stage.FUNDED,
        anchor="ab:0",
        trial="cd:1",
    )


def fake_bitcoind(path: Path, version: str) -> Path:
    """A program that only tells a version."""
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


# ---- the state file ----


def test_state_when_saved_then_loads_equal(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert folder.load() is None
    folder.save(state_of())
    assert folder.load() == state_of()


def test_state_when_of_the_first_version_then_no_esplora_port(tmp_path: Path) -> None:
    plain = state_of().to_json()
    for member in plain["members"]:
        del member["esplora_port"]
    loaded = LocalState.from_json(plain)
    assert [member.esplora_port for member in loaded.members] == [0] * loaded.n
    chosen = PortChooser().keep_or_choose(0)
    assert PORTS_FIRST <= chosen < PORTS_LAST


@pytest.mark.parametrize("name", ["second_validation", "allow_faults"])
def test_state_when_of_the_first_version_then_members_run_plainly(name: str) -> None:
    plain = replace(state_of(), **{name: True}).to_json()
    assert getattr(LocalState.from_json(plain), name)
    del plain[name]
    assert not getattr(LocalState.from_json(plain), name)


@pytest.mark.parametrize("name", ["second_validation", "allow_faults"])
def test_state_when_up_asks_for_more_then_kept_until_it_asks_otherwise(name: str) -> None:
    asked = with_options(state_of(), UpOptions(**{name: True}))
    assert asked == replace(state_of(), **{name: True})
    assert with_options(asked, UpOptions()) == asked
    assert with_options(asked, UpOptions(**{name: False})) == state_of()


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
async def test_members_when_started_then_told_how_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool, restored: bool
) -> None:
    state = replace(state_of(), second_validation=wanted, allow_faults=wanted)
    LocalFolder(tmp_path).save(state)
    started: list[Sequence[str]] = []

    def spawn_module(self: LocalFederation, name: str, module: str, words: Sequence[str]) -> None:
        started.append(words)

    async def answers(*_: object) -> None:
        return

    monkeypatch.setattr(LocalFederation, "spawn_module", spawn_module)
    monkeypatch.setattr(LocalFederation, "_until_member_answers", answers)
    await LocalFederation(tmp_path, quiet).start_members(["m0", "m1"], restored=restored)
    assert len(started) == 2
    for words in started:
        assert ("--second-validation" in words) == wanted
        assert ("--allow-faults" in words) == wanted
        assert ("--restored" in words) == restored


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', "\x00"])
def test_state_when_file_is_damaged_then_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "local.json").write_text(text)
    with pytest.raises(LocalError, match="cannot be read"):
        LocalFolder(tmp_path).load()


def test_lock_when_held_then_second_command_is_told(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    with folder.locked(), pytest.raises(LocalError, match="right now"), folder.locked():
        pass
    with folder.locked():
        pass


# ---- ports ----


def test_ports_when_taken_then_another_is_chosen() -> None:
    chooser = PortChooser()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        assert not port_is_free(taken)
        assert chooser.keep_or_choose(taken) != taken
    free = chooser.choose()
    assert chooser.keep_or_choose(free) != free, "a port is given once"


def test_ports_when_none_is_free_then_error() -> None:
    with pytest.raises(LocalError, match="no free port"):
        PortChooser(is_free=lambda _: False).choose()


# ---- bitcoind ----


def test_bitcoind_when_named_then_used_and_its_kind_known(tmp_path: Path) -> None:
    core = fake_bitcoind(tmp_path / "core", "Bitcoin Core daemon version v30.0.0")
    found = find_bitcoind({"BITCOIND": str(core), "HOME": str(tmp_path)})
    assert (found.major, found.is_knots) == (30, False)
    arguments = bitcoind_arguments(found, tmp_path, 1)
    assert not [word for word in arguments if word.startswith("-mempooltruc")]


def test_bitcoind_when_knots_then_told_to_enforce_truc(tmp_path: Path) -> None:
    knots = BitcoindProgram(path=tmp_path / "b", version="Bitcoin Knots daemon v29.5", major=29)
    arguments = bitcoind_arguments(knots, tmp_path, 18_000)
    assert "-mempooltruc=enforce" in arguments
    assert "-txindex=1" in arguments
    assert f"-datadir={tmp_path}" in arguments


@pytest.mark.parametrize("version", ["Bitcoin Core version v27.1.0", "hello"])
def test_bitcoind_when_old_or_no_bitcoind_then_refused(tmp_path: Path, version: str) -> None:
    named = fake_bitcoind(tmp_path / "b", version)
    with pytest.raises(BitcoindMissing):
        find_bitcoind({"BITCOIND": str(named), "PATH": ""})


def test_bitcoind_when_only_cached_then_found(tmp_path: Path) -> None:
    cached = tmp_path / "fedpeg" / "bitcoind" / "bin"
    cached.mkdir(parents=True)
    fake_bitcoind(cached / "bitcoind", "Bitcoin Knots daemon version v29.5.0")
    found = find_bitcoind({"XDG_CACHE_HOME": str(tmp_path), "PATH": str(tmp_path)})
    assert found.path == cached / "bitcoind"
    with pytest.raises(BitcoindMissing, match="deploy/setup"):
        find_bitcoind({"XDG_CACHE_HOME": str(tmp_path / "other"), "PATH": str(tmp_path)})


# ---- refusals before anything starts ----


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (UpOptions(n=4, k=2), "at least 3"),
        (UpOptions(n=5, k=3), "at least 4"),
        (UpOptions(n=3, k=4), "k is 1 to n"),
    ],
)
async def test_up_when_numbers_make_no_safe_federation_then_nothing_is_written(
    tmp_path: Path, options: UpOptions, reason: str
) -> None:
    program = fake_bitcoind(tmp_path / "b", "Bitcoin Core daemon version v30.0.0")
    data = tmp_path / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITCOIND", str(program))
        with pytest.raises(LocalError, match=reason):
            await up(LocalFederation(data, quiet), options)
    assert [path.name for path in data.iterdir()] == [".lock"]


async def test_up_when_folder_holds_other_files_then_refused(tmp_path: Path) -> None:
    program = fake_bitcoind(tmp_path / "b", "Bitcoin Core daemon version v30.0.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITCOIND", str(program))
        with pytest.raises(LocalError, match="other files"):
            await up(LocalFederation(tmp_path, quiet), UpOptions())


async def test_up_when_folder_holds_another_federation_then_refused(tmp_path: Path) -> None:
    LocalFolder(tmp_path).save(state_of())
    with pytest.raises(LocalError, match="another one needs another --data"):
        await up(LocalFederation(tmp_path, quiet), UpOptions(n=7))


def test_member_when_unknown_then_known_ones_are_named(tmp_path: Path) -> None:
    federation = LocalFederation(tmp_path, quiet)
    assert federation.find_member(state_of(), "2").name == "m2"
    with pytest.raises(LocalError, match="m0, m1, m2, m3"):
        federation.find_member(state_of(), "m7")


# ---- with real processes ----


@pytest.fixture
def federation(tmp_path: Path) -> "Federation":
    """A federation that is taken away at the end."""
    return Federation(tmp_path / "data")


@contextmanager
def squatters(ports: Sequence[int]) -> Iterator[None]:
    """Other programs that listen on these ports."""
    with ExitStack() as stack:
        for port in ports:
            squatter = stack.enter_context(socket.socket())
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()
        yield


class Federation(LocalFederation):
    """A local federation with what the tests ask of it."""

    def __init__(self, data: Path) -> None:
        super().__init__(data, quiet)

    async def up(self) -> LocalState:
        """Bring it up."""
        return await up(self, FAST)

    async def tip(self) -> tuple[int, str]:
        """Height and genesis of the chain."""
        async with self.member_client(self.require_state().members[0]) as client:
            height = int(await client.call("getblockcount"))
            return height, str(await client.call("getblockhash", 0))

    def kill_everything(self) -> None:
        """As if the machine had lost power."""
        kill_processes(find_processes(self.folder.path))


@pytest.mark.e2e
async def test_up_when_everything_was_killed_then_same_chain_goes_on(
    federation: Federation,
) -> None:
    try:
        state = await federation.up()
        assert state.stage is Stage.OPEN
        with pytest.raises(AlreadyRunning, match="up already"):
            await federation.up()
        height, genesis = await federation.tip()
        federation.kill_everything()
        stolen = (
            state.members[1].rpc_port,
            state.members[2].port,
            state.bitcoind_rpc_port,
            state.members[3].esplora_port,
        )
        with squatters(stolen):
            again = await federation.up()
        assert again.members[1].rpc_port != stolen[0]
        assert again.members[2].port != stolen[1]
        assert again.bitcoind_rpc_port != stolen[2]
        assert again.members[3].esplora_port not in (0, stolen[3])
        assert again.members[0] == state.members[0]
        assert await federation.tip() >= (height, genesis)
        assert (await federation.tip())[1] == genesis
    finally:
        federation.kill_everything()


@pytest.mark.e2e
@pytest.mark.parametrize("step", ["keys", "members", "fund", "dry run", "open"])
async def test_up_when_interrupted_at_a_step_then_nothing_runs_and_next_up_goes_on(
    federation: Federation, step: str
) -> None:
    def interrupt(found: str, _: str) -> None:
        task = asyncio.current_task()
        if found == step and task is not None:
            task.cancel()

    interrupted = LocalFederation(federation.folder.path, interrupt)
    try:
        with pytest.raises(asyncio.CancelledError):
            await up(interrupted, FAST, interrupt)
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()
        assert federation.running() == {}
        assert (await federation.up()).stage is Stage.OPEN
    finally:
        federation.kill_everything()


@pytest.mark.e2e
async def test_up_when_one_member_is_missing_then_only_it_is_started(
    federation: Federation,
) -> None:
    try:
        await federation.up()
        before = federation.running()
        assert federation.stop_member("m3", kill=True)
        assert not federation.stop_member("m3", kill=True)
        await federation.up()
        after = federation.running()
        assert {name for name in after if after[name] != before[name]} == {"m3"}
        assert set(federation.stop_all()) == set(after)
        assert federation.running() == {}
        content = json.loads(federation.folder.state.read_text())
        assert content["founding"]["stage"] == "open"
    finally:
        federation.kill_everything()
