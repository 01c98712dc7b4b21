"""A signer behind its socket: one client, bounded frames, restarts, SIGKILL (R5-R7)."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation import signer_keeper
from federation.consensus.encoding import peg_frame_digest
from federation.frames import FrameDecoder
from federation.signer import GuardStart, SignerFailed
from federation.signer_client import Greeting, RemoteSigner, SignerHome, _Link, greet
from federation.signer_link import connect, listen
from federation.signer_messages import REPLY_LIMITS_BYTES, Ask, Reply, SignerFacts, decode_reply
from federation.signer_port import SignerRefused, SignerUnreachable
from federation.signer_process import SignerServer
from sidechain.crypto.keys import schnorr_verify
from sidechain.primitives.block import BlockHeader
from tests.federation.engine_world import Lines
from tests.federation.signer_world import (
    PRECOMMIT,
    PREVOTE,
    A,
    B,
    SignerWorld,
)

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60


@pytest.fixture
def world(tmp_path: Path) -> SignerWorld:
    world = SignerWorld(tmp_path)
    world.headers.extend(4)
    return world


class Source:
    """The member's chain, as far as its signer asks."""

    def __init__(self, world: SignerWorld, made: list[BlockHeader]) -> None:
        self.made = made
        self.tip_height = len(made)

    def header(self, height: int) -> BlockHeader:
        return self.made[height - 1]


def source(world: SignerWorld) -> Source:
    chain = world.headers.chain
    return Source(world, [chain.header(h) for h in range(1, chain.tip_height + 1)])


@contextmanager
def serving(world: SignerWorld, start: GuardStart = GuardStart.INTACT) -> Iterator[Lines]:
    """A server in a thread, on the member's socket."""
    log, (ours, theirs) = Lines(), socket.socketpair()
    with ours, theirs, world.desk(start) as desk, listen(world.home.signer_socket) as listener:
        server = SignerServer(desk, listener, log)
        thread = threading.Thread(target=server.run, args=(ours,))
        thread.start()
        try:
            yield log
        finally:
            server.stop()
            theirs.send(b"x")
            thread.join()


def home(world: SignerWorld) -> SignerHome:
    entry = world.file.members[1]
    return SignerHome(
        path=world.home.signer_socket,
        genesis=world.genesis,
        block_key=entry.block_key,
        peg_key=entry.peg_key,
        scripts=(world.file.signblockscript,),
    )


@contextmanager
def member(world: SignerWorld, lost: list[str] | None = None) -> Iterator[RemoteSigner]:
    """A member's side, connected and at height 5."""
    signer = RemoteSigner(home(world), (lost if lost is not None else []).append)
    signer.open()
    try:
        signer.follow(source(world))
        signer.begin_height(world.members(), world.root)
        yield signer
    finally:
        signer.close()


def greeted(world: SignerWorld) -> Greeting:
    """A new connection, once the signer has seen the end of the one before."""
    give_up_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return greet(home(world))
        except SignerUnreachable as busy:
            assert time.monotonic() < give_up_s, busy
            time.sleep(0.02)


def send_raw(world: SignerWorld, data: bytes) -> list[tuple[int, bytes]]:
    """What comes back for raw bytes until the other side hangs up or a second passes."""
    decoder, frames = FrameDecoder(REPLY_LIMITS_BYTES), []
    with connect(world.home.signer_socket, 1) as link:
        link.sendall(data)
        try:
            while piece := link.recv(4_096):
                frames += decoder.feed(piece)
        except TimeoutError:
            pass
    return frames


def reason_of(frame: tuple[int, bytes]) -> str:
    assert frame[0] == Reply.REFUSED
    return decode_reply(frame[1])[1].decode()


# -- a member and its signer


def test_member_when_its_signer_is_a_process_then_signatures_are_the_same(
    world: SignerWorld,
) -> None:
    with serving(world, GuardStart.FRESH), member(world) as signer:
        vote = world.vote(PREVOTE, 5, 0, A)
        signed = signer.sign_vote(vote, None)
        digest = vote.digest(world.genesis, world.root)
        assert signed.signature == world.secrets[1].sign_schnorr(digest)
        signer.sign_vote(world.vote(PRECOMMIT, 5, 0, A), world.pol(5, 0, A))
        block = signer.sign_block_hash(5, A, world.commit(5, 0, A))
        assert (block.member, signer.counter) == (1, 3)
        for attempt in (
            lambda: signer.sign_vote(world.vote(PREVOTE, 5, 9, B), None),
            lambda: signer.sign_block_hash(5, B, world.commit(5, 1, B)),
            lambda: signer.sign_message("fedchain/vote/1", b""),
        ):
            with pytest.raises(SignerRefused):
                attempt()
        assert len(signer.sign_peg_frame(20, b"body")) == 64
        signer.halt()
        with pytest.raises(SignerRefused, match="halted"):
            signer.sign_peg_frame(20, b"body")


def test_member_when_its_signer_is_away_then_unreachable_until_restored(
    world: SignerWorld,
) -> None:
    lost: list[str] = []
    with serving(world, GuardStart.FRESH):
        signer = RemoteSigner(home(world), lost.append)
        signer.open()
        signer.follow(source(world))
        signer.begin_height(world.members(), world.root)
        signer.sign_vote(world.vote(PREVOTE, 5, 0, A), None)
    signer.probe()
    assert len(lost) == 1 and not signer.is_connected
    with pytest.raises(SignerUnreachable):
        signer.sign_vote(world.vote(PREVOTE, 5, 1, A), None)
    signer.halt()
    with pytest.raises(SignerUnreachable):
        greet(home(world))
    with serving(world):
        signer.restore(greet(home(world)))
        with pytest.raises(SignerRefused, match="halted"):  # what it could not be told then
            signer.sign_vote(world.vote(PREVOTE, 5, 1, A), None)
        signer.unhalt()
        signer.sign_vote(world.vote(PREVOTE, 5, 1, A), None)
        assert signer.counter == 2
    signer.close()


def test_r6_signer_when_it_comes_back_with_another_memory_then_it_is_not_used(
    world: SignerWorld,
) -> None:
    with serving(world, GuardStart.FRESH):
        older = world.home.guard.read_bytes()
        with member(world) as signer:
            signer.sign_vote(world.vote(PREVOTE, 5, 0, A), None)
    world.home.guard.write_bytes(older)
    with serving(world), pytest.raises(SignerFailed, match="R6"):
        signer.restore(greet(home(world)))


class Between:
    """A link that lets through whole frames of the signer's, as many as `left` says.

    What the member sends arrives always; after the last frame the link is cut.
    """

    def __init__(self, link: _Link, left: int) -> None:
        self.link, self.left = link, left

    def receive(self) -> tuple[int, bytes]:
        frame = self.link.receive()
        if not self.left:
            raise ConnectionResetError("killed")
        self.left -= 1
        return frame

    def __getattr__(self, name: str) -> Any:
        return getattr(self.link, name)


def test_r6_signer_when_killed_behind_an_owed_reply_then_its_counter_may_be_one_more(
    world: SignerWorld,
) -> None:
    """The reply to ADVANCE comes first and says nothing of the vote behind it."""
    with serving(world, GuardStart.FRESH), member(world) as signer:
        link = signer._link
        assert link is not None and signer._owed == 1
        signer._link = Between(link, left=1)  # type: ignore[assignment]
        with pytest.raises(SignerUnreachable):
            signer.sign_vote(world.vote(PREVOTE, 5, 0, A), None)
    with serving(world):
        signer.restore(greet(home(world)))
        assert signer.counter == 1
        signer.sign_vote(world.vote(PREVOTE, 5, 1, A), None)
        with pytest.raises(SignerRefused):
            signer.sign_vote(world.vote(PREVOTE, 5, 0, B), None)
        assert signer._in_doubt == 0  # a refusal settles it as well
        signer.close()


def test_c72_bounds_when_told_to_an_absent_signer_then_it_hears_them_before_it_signs(
    world: SignerWorld,
) -> None:
    """In their order: each kind undoes the one before it, so another order would end elsewhere."""

    def vote(round_number: int, signer: RemoteSigner) -> None:
        signer.sign_vote(world.vote(PREVOTE, 5, round_number, A), None)

    with serving(world, GuardStart.FRESH), member(world) as signer:
        vote(0, signer)
    for bounds, reason in (
        ((signer.abstain,), "abstaining"),
        ((lambda: signer.refuse_below(6), signer.unhalt), "below height 6"),
        ((signer.halt, signer.unhalt, signer.abstain), "abstaining"),
        ((signer.unhalt, lambda: signer.resume_at(5), signer.halt), "halted"),
    ):
        for bound in bounds:
            bound()
        assert not signer.is_connected
        with serving(world):
            link = greeted(world)
            closed = Between(link.link, left=0)
            with pytest.raises(SignerUnreachable):  # lost again: nothing is forgotten
                signer.restore(replace(link, link=closed))
            signer.restore(greeted(world))
            with pytest.raises(SignerRefused, match=reason):
                vote(1, signer)
        signer.close()
    with serving(world):
        signer.restore(greeted(world))
        signer.unhalt()
        vote(1, signer)
        signer.close()


def test_signer_when_it_refuses_a_header_then_no_reply_is_taken_for_another(
    world: SignerWorld,
) -> None:
    """What was asked behind the refused ADVANCE is answered all the same; nobody may read that."""
    with serving(world, GuardStart.FRESH):
        for told_before in (False, True):
            lost: list[str] = []
            with member(world, lost) as signer:
                chain = source(world)
                chain.made += [world.headers.header(signers=2)] * 9
                signer.follow(chain)
                with pytest.raises(SignerRefused, match="signatures|malformed"):
                    for _ in range(9 if told_before else 1):  # more than may be owed, or one
                        chain.tip_height += 1
                        signer.begin_height(world.members(), world.root)
                    signer.sign_peg_frame(20, b"first")
                assert len(lost) == 1 and signer._owed == 0
                with pytest.raises(SignerUnreachable):
                    signer.sign_peg_frame(20, b"second")
                signer.follow(source(world))
                signer.restore(greeted(world))
                digest = peg_frame_digest(world.genesis, 20, b"third")
                signature = signer.sign_peg_frame(20, b"third")
                assert schnorr_verify(signer.block_key[1:], signature, digest)


def test_signer_when_of_other_keys_or_another_chain_then_not_used(world: SignerWorld) -> None:
    with serving(world, GuardStart.FRESH):
        place = home(world)
        for wrong in (
            SignerHome(
                path=place.path,
                genesis=place.genesis,
                block_key=world.file.members[0].block_key,
                peg_key=place.peg_key,
                scripts=(),
            ),
            SignerHome(
                path=place.path,
                genesis=A,
                block_key=place.block_key,
                peg_key=place.peg_key,
                scripts=(),
            ),
        ):
            with pytest.raises(SignerFailed):
                greet(wrong)


def test_keeper_when_its_signer_is_lost_again_at_once_then_it_looks_for_it_again(
    world: SignerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signer_keeper, "PROBE_S", 0.01)
    log, raised = Lines(), list[SignerUnreachable]()
    keeper = signer_keeper.SignerKeeper(home(world), None, log)  # type: ignore[arg-type]
    signer = keeper.signer
    real, back = signer.restore, asyncio.Event()

    def restore(greeting: Greeting) -> None:
        if not raised:
            greeting.link.close()
        real(greeting)

    def engine(act: Callable[[], None]) -> None:
        try:
            act()
            back.set()
        except SignerUnreachable as error:
            raised.append(error)

    async def story() -> None:
        with serving(world, GuardStart.FRESH):
            signer.open()
            signer.close()
            signer.follow(source(world))
            signer.begin_height(world.members(), world.root)  # what `restore` will have to tell
            async with asyncio.timeout(DEADLINE_S):
                run = asyncio.create_task(keeper.run(engine))
                await back.wait()
            run.cancel()
            assert len(raised) == 1 == len(log.of("signer_back")) and signer.is_connected
            signer.close()

    monkeypatch.setattr(signer, "restore", restore)
    asyncio.run(story())


# -- who may ask


@pytest.mark.slow
def test_clients_when_there_are_two_then_the_second_may_only_ask_for_the_status(
    world: SignerWorld,
) -> None:
    hello = (36).to_bytes(4, "little") + b"\x01" + (1).to_bytes(4, "little") + world.genesis
    status = bytes(4) + bytes((Ask.STATUS,))
    with serving(world, GuardStart.FRESH), member(world) as signer:
        with pytest.raises(SignerUnreachable, match="busy"):
            greet(home(world))
        busy, halt, facts = send_raw(world, hello + bytes(4) + bytes((Ask.HALT,)) + status)
        assert "busy" in reason_of(busy) and "HELLO comes first" in reason_of(halt)
        assert not SignerFacts.decode(decode_reply(facts[1])[1]).halted
        signer.sign_vote(world.vote(PREVOTE, 5, 0, A), None)
    assert not world.home.signer_socket.exists()


def test_frames_when_malformed_then_that_client_alone_is_sent_away(world: SignerWorld) -> None:
    with serving(world, GuardStart.FRESH) as log, member(world) as signer:
        for data in (
            b"\xff\xff\xff\xff\x02",  # above every limit: refused before it is read
            b"\0\0\0\0\x63",
            (37).to_bytes(4, "little") + b"\x01" + bytes(37),
            os.urandom(64) + b"\xff" * 8,
        ):
            assert "malformed" in reason_of(send_raw(world, data)[-1])
        assert send_raw(world, b"\x05\0\0\0") == []  # cut off in the middle
        signer.sign_vote(world.vote(PREVOTE, 5, 0, A), None)
    assert len(log.of("malformed_frame")) == 4


def test_socket_when_made_then_closed_to_others_and_found_at_long_paths(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 10)
    folder.mkdir(parents=True)
    path = folder / "socket"
    with listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connect(path, 1).close()
    assert not path.exists()
    with listen(path, gid=os.getgid()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    path.write_text("a file of somebody else")
    with pytest.raises(FileExistsError), listen(path):
        pass


# -- real processes


def spawn(world: SignerWorld, *flags: str, code: str = "") -> subprocess.Popen[bytes]:
    """The program itself, or a few lines around it."""
    program = ["-c", code] if code else ["-m", "federation.signer_process"]
    arguments = ["--folder", str(world.home.path), *("--federation", str(federation(world)))]
    return subprocess.Popen(
        [sys.executable, *program, *arguments, *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )


def federation(world: SignerWorld) -> Path:
    return world.folder / "federation.json"


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert process.poll() is None, process.stderr.read() if process.stderr else b""
        assert time.monotonic() < give_up_s
        time.sleep(0.02)


def answers(world: SignerWorld) -> bool:
    try:
        greet(home(world)).link.close()
    except SignerUnreachable:
        return False
    return True


@contextmanager
def running(world: SignerWorld, *flags: str, code: str = "") -> Iterator[subprocess.Popen[bytes]]:
    with spawn(world, *flags, code=code) as process:
        try:
            wait_until(lambda: answers(world), process)
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_process_when_started_twice_stopped_or_killed_then_one_signs_and_leaves_nothing(
    world: SignerWorld,
) -> None:
    with running(world, "--init") as first:
        with spawn(world) as second:
            _, said = second.communicate(timeout=DEADLINE_S)
        assert second.returncode == 1 and b"R7" in said
        first.send_signal(signal.SIGTERM)
        assert first.wait(DEADLINE_S) == 0
    assert not world.home.signer_socket.exists()
    with running(world) as killed:
        killed.kill()
        killed.wait(DEADLINE_S)
    assert world.home.signer_socket.exists()  # a SIGKILL leaves its name behind
    with running(world) as third:
        third.send_signal(signal.SIGINT)
        assert third.wait(DEADLINE_S) == 0
    world.home.guard.unlink()
    with spawn(world) as without:
        _, said = without.communicate(timeout=DEADLINE_S)
    assert without.returncode == 1 and b"--restored" in said


@pytest.mark.slow
def test_process_when_its_member_ends_then_it_ends_too(world: SignerWorld) -> None:
    code = f"""
import subprocess, sys, os, time
child = subprocess.Popen([sys.executable, "-m", "federation.signer_process", *sys.argv[1:],
    "--parent", str(os.getpid())])
print(child.pid, flush=True)
time.sleep({DEADLINE_S})
"""
    with running(world, "--init", code=code) as parent:
        with member(world) as signer:
            pid = signer.pid
        parent.kill()
        parent.wait(DEADLINE_S)
        give_up_s = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{pid}/environ").exists() and time.monotonic() < give_up_s:
            time.sleep(0.02)
    assert not world.home.signer_socket.exists()


KILLED_AT = """
import os, signal, sys
from federation import files
from federation.signer_process import main
at, done = int(sys.argv.pop()), 0
def dying(name):
    real = getattr(files.FileLayer, name)
    def operation(*arguments):
        global done
        done += 1
        if done == at and name == "write":
            os.write(arguments[1], arguments[2][:7])
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    setattr(files.FileLayer, name, operation)
for name in ("create", "write", "sync_data", "rename", "sync_folder"):
    dying(name)
main()
"""


@pytest.mark.slow
def test_r5_process_when_killed_at_any_operation_then_nothing_said_is_contradicted(
    world: SignerWorld,
) -> None:
    """SIGKILL of a real process before each operation of each write, and inside the write."""
    with world.desk(GuardStart.FRESH):
        start = world.home.guard.read_bytes()
    votes = (world.vote(PREVOTE, 5, 0, A), world.vote(PREVOTE, 5, 1, A))
    for at in range(2, 12):  # the first is the folder sync at the start
        world.home.guard.write_bytes(start)
        said = []
        with running(world, str(at), code=KILLED_AT) as process:
            with pytest.raises(SignerUnreachable), member(world) as signer:
                for vote in votes:
                    said.append(signer.sign_vote(vote, None))
            assert process.wait(DEADLINE_S) == -signal.SIGKILL
        assert len(said) == (at - 2) // 5
        with world.desk() as desk:
            guard = desk._signer
            assert guard.counter in (len(said), len(said) + 1)
            guard.begin_height(world.members(), world.root)
            for vote in said:
                assert guard.sign_vote(vote, None) == vote
                with pytest.raises(SignerRefused):
                    guard.sign_vote(world.vote(PREVOTE, 5, vote.round, B), None)
