"""Attacks on one live member's port that try to use it up: it stays alive and small, others go on.

What single frames and links do is tested in tests/federation/test_peers.py; here are floods.
"""

import os
import random
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.consensus.encoding import FRAME_LIMITS_BYTES, FrameKind
from federation.founding import make_certificate
from federation.frames import FrameDecoder
from tests.e2e.local import Local
from tests.e2e.test_hostile import HELLO, _hello_of, dial, frame, port_of, refused
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0.3")
VICTIM, ATTACKER = "m1", "m0"
CONNECTIONS = 300
STRANGERS = 40
HANDSHAKES_MAX = 32
SPARE_DESCRIPTORS = 30
MEMORY_GROWTH_BYTES = 60_000_000
LISTEN_S = 2.0
REPLAYS = 100
DEADLINE_S = 20


@pytest.fixture
def besieged(local: Local) -> Iterator[Local]:
    """A federation without the member whose keys the attacker has; at the end all are well."""
    local.kill(ATTACKER)
    pid, memory = local.processes()[VICTIM], memory_of(local)
    yield local
    assert local.processes()[VICTIM] == pid
    assert memory_of(local) - memory < MEMORY_GROWTH_BYTES
    grow(local)


def grow(local: Local, by: int = 2) -> None:
    """The victim and the others have new blocks."""
    names = (VICTIM, "m2", "m3")
    first = max(int(local.member(name).call("getblockcount")) for name in names)
    for name in names:
        member = local.member(name)
        wait_for(
            lambda m=member: int(m.call("getblockcount")) >= first + by, f"{name} has new blocks"
        )


def memory_of(local: Local) -> int:
    """Resident bytes of the victim."""
    fields = Path(f"/proc/{local.processes()[VICTIM]}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors_of(local: Local) -> int:
    """Open files of the victim."""
    return len(os.listdir(f"/proc/{local.processes()[VICTIM]}/fd"))


def test_connections_when_hundreds_stay_open_in_silence_then_few_are_kept(besieged: Local) -> None:
    """Slow-loris: half of them begin a handshake and send a byte now and then."""
    before = descriptors_of(besieged)
    address = ("127.0.0.1", port_of(besieged, VICTIM))
    with ExitStack() as stack:
        held = []
        for i in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection(address, DEADLINE_S))
            if i % 2:
                connection.sendall(b"\x16\x03\x01\x02\x00\x01")
            held.append(connection)
        for _ in range(5):
            for connection in held:
                try:
                    connection.sendall(b"\x00")
                except OSError:
                    continue
            assert descriptors_of(besieged) <= before + HANDSHAKES_MAX + SPARE_DESCRIPTORS
            grow(besieged, by=1)
    wait_for(
        lambda: descriptors_of(besieged) <= before + SPARE_DESCRIPTORS, "descriptors are given back"
    )


def test_strangers_when_they_come_with_wrong_certificates_then_refused_and_forgotten(
    besieged: Local, tmp_path: Path
) -> None:
    before, known = descriptors_of(besieged), refused(besieged, VICTIM)
    port = port_of(besieged, VICTIM)
    for i in range(STRANGERS):
        if i % 10 == 0:
            certificate, key = make_certificate(f"x{i}", os.urandom, int(time.time()))
            (tmp_path / "tls.crt").write_bytes(certificate)
            (tmp_path / "tls.key").write_bytes(key)
        try:
            with dial(port, tmp_path) as connection:
                connection.sendall(frame(HELLO, bytes(121)))
                connection.settimeout(DEADLINE_S)
                assert connection.recv(1) == b""
        except (ssl.SSLError, ConnectionError):
            continue
    wait_for(lambda: refused(besieged, VICTIM) >= known + STRANGERS, "all are counted")
    wait_for(
        lambda: descriptors_of(besieged) <= before + SPARE_DESCRIPTORS, "descriptors are given back"
    )
    log = [line for line in besieged.log(VICTIM) if line["event"] == "link_refused"]
    assert len(log) < STRANGERS  # nobody fills the disk


def test_member_key_when_it_leaves_largest_frames_unfinished_then_memory_is_bounded(
    besieged: Local,
) -> None:
    """Each link may hold one frame, and there is one link a member: a hundred leave no trace."""
    keys = besieged.folder(ATTACKER) / "keys"
    hello = frame(HELLO, _hello_of(besieged, VICTIM, keys))
    size = FRAME_LIMITS_BYTES[FrameKind.FINAL]
    unfinished = frame(FrameKind.FINAL, b"", size) + bytes(1_000_000)
    sent = 0
    with ExitStack() as stack:
        for _ in range(30):
            try:
                connection = stack.enter_context(dial(port_of(besieged, VICTIM), keys))
                connection.settimeout(DEADLINE_S)
                connection.sendall(hello + unfinished)
                sent += 1
            except OSError:
                continue
        grow(besieged)
    assert sent >= 1, "no unfinished frame ever reached the victim"


def test_member_key_when_it_replays_what_it_heard_then_nothing_happens_twice(
    besieged: Local,
) -> None:
    """Frames of all kinds, true ones, sent back a hundred times in any order.

    Last: the victim keeps the attacker out afterwards.
    """
    keys = besieged.folder(ATTACKER) / "keys"
    hello = frame(HELLO, _hello_of(besieged, VICTIM, keys))
    heard = _listen(besieged, keys, hello)
    kinds = {kind for kind, _ in heard}
    assert {FrameKind.VOTE, FrameKind.STATUS} <= kinds, kinds
    dice = random.Random(5)
    sent = 0
    for _ in range(REPLAYS):
        dice.shuffle(heard)
        data = hello + b"".join(frame(kind, body) for kind, body in heard[:300])
        try:
            with dial(port_of(besieged, VICTIM), keys) as connection:
                connection.sendall(data)
                sent += 1
        except OSError:
            break  # kept out for a while
    assert sent >= 1, "nothing was ever replayed"
    grow(besieged)
    for name in (VICTIM, "m2", "m3"):
        info = besieged.member(name).call("getfederationinfo")
        assert (info["mode"], info["evidence"], info["alarms"]) == ("VOTING", 0, [])


def _listen(local: Local, keys: Path, hello: bytes) -> list[tuple[int, bytes]]:
    """What the victim says to a member for a while."""
    decoder = FrameDecoder(FRAME_LIMITS_BYTES)
    heard: list[tuple[int, bytes]] = []
    until = time.monotonic() + LISTEN_S
    with dial(port_of(local, VICTIM), keys) as connection:
        connection.sendall(hello)
        connection.settimeout(DEADLINE_S)
        while time.monotonic() < until:
            heard += [f for f in decoder.feed(connection.recv(65_536)) if f[0] != HELLO]
    return heard
