"""The signer process: `python -m federation.signer_process --folder DIR --federation FILE`.

One loop over one Unix socket, no threads: it holds the keys, the guard and the headers it follows,
and carries out one request at a time. One client may have signatures made; others may only ask for
the status. What a client sends never ends the process; a disk that refuses does (C40).

Source: consensus:9, consensus:C40, peg:P38, N31; docs/signer.md.
"""

import contextlib
import grp
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from federation.config import FederationFile, InvalidConfig, MemberFolder
from federation.files import FileLayer
from federation.frames import FrameDecoder, FrameError, encode_frame
from federation.log import Log, open_log, terminal_of_process
from federation.peers import EventLog
from federation.signer import GuardStart, Signer, SignerFailed, SignerFiles, public_key_of
from federation.signer_chain import FollowedChain, PinDamaged
from federation.signer_desk import SignerDesk
from federation.signer_link import listen, peer_uid
from federation.signer_messages import ASK_LIMITS_BYTES, REPLY_LIMITS_BYTES, Ask, Reply
from federation.signer_port import SignerBusy

CLIENTS_MAX: Final = 4
READ_BYTES: Final = 65_536
SEND_TIMEOUT_S: Final = 5
LOOK_AROUND_S: Final = 0.5
BUSY_POLL_S: Final = 0.1
CHILD_PATIENCE_S: Final = 10
"""A member that was killed leaves its signer behind for a moment."""
FRAME_TIMEOUT_MS: Final = 10_000
"""How long a frame may stay unfinished before its client is sent away."""


@dataclass(slots=True)
class _Client:
    """A connection; `seated` once its HELLO made it the one that has signatures made."""

    link: socket.socket
    decoder: FrameDecoder
    uid: int
    seated: bool = False
    begun_ms: int | None = None


class SignerServer:
    """Serves one socket until it is told to stop."""

    def __init__(
        self, desk: SignerDesk, listener: socket.socket, log: EventLog, parent: int | None = None
    ) -> None:
        """Take over a listening socket.

        Args:
            parent: pid of the process whose end is also this one's; None for none.
        """
        self._desk = desk
        self._listener = listener
        self._log = log
        self._parent = parent
        self._clients: dict[int, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self._stopped = False

    def stop(self) -> None:
        """End `run` after the request in hand."""
        self._stopped = True

    def run(self, wakeup: socket.socket) -> str:
        """Serve until told to stop; returns why it ended, "" for an order.

        Args:
            wakeup: becomes readable when a signal has come.
        """
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wakeup, selectors.EVENT_READ)
        try:
            while not self._stopped:
                for key, _ in self._selector.select(LOOK_AROUND_S):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is wakeup:
                        wakeup.recv(READ_BYTES)
                    elif key.fd in self._clients:
                        self._read(self._clients[key.fd])
                if self._desk.has_failed:
                    return "the guard could not be made durable"
                if self._parent is not None and os.getppid() != self._parent:
                    self._log.info("parent_ended")
                    return ""
                self._send_away_slow()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._selector.close()
        return ""

    # -- clients

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        link.settimeout(SEND_TIMEOUT_S)
        client = _Client(link, FrameDecoder(ASK_LIMITS_BYTES), peer_uid(link))
        if len(self._clients) >= CLIENTS_MAX:
            self._say(client, self._desk.refuse("busy: too many connections"))
            link.close()
            return
        self._clients[link.fileno()] = client
        self._selector.register(link, selectors.EVENT_READ)

    def _read(self, client: _Client) -> None:
        try:
            data = client.link.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        try:
            frames = client.decoder.feed(data)
        except FrameError as fault:
            self._log.warning("malformed_frame", uid=client.uid, reason=fault.reason)
            self._say(client, self._desk.refuse(f"malformed frame: {fault.reason}"))
            self._drop(client)
            return
        if frames or not client.decoder.is_mid_frame:
            client.begun_ms = None
        if client.decoder.is_mid_frame and client.begun_ms is None:
            client.begun_ms = _now_ms()
        for kind, body in frames:
            if not self._say(client, self._answer(client, kind, body)):
                self._drop(client)
                return

    def _answer(self, client: _Client, kind: int, body: bytes) -> tuple[int, bytes]:
        if kind == Ask.HELLO and not client.seated:
            if any(other.seated for other in self._clients.values()):
                return self._desk.refuse("busy: another client has signatures made")
            reply = self._desk.answer(kind, body)
            client.seated = reply[0] == Reply.DONE
            if client.seated:
                self._log.info("client_seated", uid=client.uid)
            return reply
        if not client.seated and kind != Ask.STATUS:
            return self._desk.refuse("HELLO comes first")
        reply = self._desk.answer(kind, body)
        if reply[0] != Reply.DONE:
            reason = reply[1][8:].decode(errors="replace")
            self._log.warning("not_signed", ask=Ask(kind).name, reason=reason)
        return reply

    def _say(self, client: _Client, reply: tuple[int, bytes]) -> bool:
        try:
            client.link.sendall(encode_frame(*reply, REPLY_LIMITS_BYTES))
        except (OSError, FrameError):
            return False
        return True

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.link.fileno(), None) is not None:
            self._selector.unregister(client.link)
        client.link.close()
        if client.seated:
            self._log.info("client_gone", uid=client.uid)

    def _send_away_slow(self) -> None:
        now_ms = _now_ms()
        for client in list(self._clients.values()):
            if client.begun_ms is not None and now_ms - client.begun_ms > FRAME_TIMEOUT_MS:
                self._log.warning("unfinished_frame", uid=client.uid)
                self._drop(client)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _open_when_free(files: SignerFiles, patience_s: float, **arguments: Any) -> Signer:
    """Open the signer; one that a member is ending just now is waited for."""
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            return Signer.open(files, **arguments)
        except SignerBusy:
            if time.monotonic() > give_up_s:
                raise
        time.sleep(BUSY_POLL_S)


@contextlib.contextmanager
def open_desk(
    folder: MemberFolder,
    federation: FederationFile,
    start: GuardStart,
    *,
    patience_s: float = 0,
    layer: FileLayer | None = None,
) -> Iterator[SignerDesk]:
    """Keys, guard and followed headers of one member, opened and closed.

    Args:
        patience_s: how long another signer on the same state is waited for.
    Raises:
        SignerFailed: keys, guard or pin cannot be used, another signer uses them, or no member of
            the federation has this block key.
    """
    params = federation.chain_params()
    block_key = public_key_of(folder.block_key)
    own = [entry for entry in federation.people if entry.block_key == block_key]
    if not own:
        raise SignerFailed(f"{folder.block_key} is no member's key of this federation")
    signer = _open_when_free(
        SignerFiles(block_key=folder.block_key, peg_key=folder.peg_key, guard=folder.guard),
        patience_s,
        genesis=params.genesis_hash,
        start=start,
        block_key=own[0].block_key,
        peg_key=own[0].peg_key,
        script=federation.fed_script(),
        layer=layer,
    )
    try:
        if start is GuardStart.RESTORED:
            (layer or FileLayer()).remove(folder.pin)
        chain = FollowedChain(params, federation.signblockscript, folder.pin, layer)
    except (PinDamaged, OSError) as error:
        signer.close()
        raise SignerFailed(f"{error}: start once with --restored") from error
    try:
        yield SignerDesk(signer, chain, genesis=params.genesis_hash, pid=os.getpid())
    finally:
        signer.close()


def serve(
    folder: MemberFolder,
    federation: FederationFile,
    start: GuardStart,
    *,
    path: Path,
    group: str | None,
    parent: int | None,
    log: Log,
) -> str:
    """Serve until SIGTERM or SIGINT; returns why it had to end, "" for an orderly end.

    Raises:
        SignerFailed, InvalidConfig, OSError: it cannot start.
    """
    patience_s = 0 if parent is None else CHILD_PATIENCE_S
    gid = None if group is None else _group_id(group)
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        open_desk(folder, federation, start, patience_s=patience_s) as desk,
        listen(path, gid=gid) as listener,
    ):
        server = SignerServer(desk, listener, log.logger, parent)
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        log.logger.info("signer_started", pid=os.getpid(), socket=str(path))
        try:
            reason = server.run(ours)
        finally:
            signal.set_wakeup_fd(-1)
    log.logger.info("signer_stopped", reason=reason)
    return reason


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SignerFailed(f"there is no group {name!r} on this machine") from None


def run(
    path: Path,
    federation_path: Path,
    *,
    start: GuardStart,
    socket_path: Path | None,
    group: str | None = None,
    parent: int | None = None,
    no_byzantine_safety: bool = False,
) -> str:
    """Load what the signer needs and serve; the reason of a failure, "" for an orderly end."""
    folder = MemberFolder(path)
    folder.guard.parent.mkdir(mode=0o700, exist_ok=True)
    log = open_log(f"{path.name}-signer", path=folder.signer_log, terminal=terminal_of_process())
    try:
        federation = FederationFile.load(
            federation_path, allow_no_byzantine_safety=no_byzantine_safety
        )
        where = socket_path or folder.signer_socket
        return serve(folder, federation, start, path=where, group=group, parent=parent, log=log)
    except (SignerFailed, InvalidConfig, OSError) as error:
        log.logger.error("signer_stopped", alarm=True, reason=str(error))
        return str(error)
    finally:
        log.close()


@click.command(help="Hold one member's keys behind a Unix socket until SIGTERM or Ctrl-C.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True
)
@click.option(
    "--federation",
    "federation_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
)
@click.option("--socket", "socket_path", type=click.Path(path_type=Path))
@click.option("--parent", type=int, help="End when this process ends.")
@click.option("--init", is_flag=True)
@click.option("--restored", is_flag=True)
@click.option("--allow-no-byzantine-safety", "no_byzantine_safety", is_flag=True)
def main(
    folder: Path,
    federation_path: Path,
    socket_path: Path | None,
    parent: int | None,
    init: bool,
    restored: bool,
    no_byzantine_safety: bool,
) -> None:
    """Run the signer of a member that started it."""
    reason = run(
        folder,
        federation_path,
        start=start_of(init=init, restored=restored),
        socket_path=socket_path,
        parent=parent,
        no_byzantine_safety=no_byzantine_safety,
    )
    if reason:
        click.echo(f"{folder.name}-signer: {reason}", err=True)
        sys.exit(1)


def start_of(*, init: bool, restored: bool) -> GuardStart:
    """What the guard file has to be, by the operator's word.

    Raises:
        click.UsageError: both at once.
    """
    if init and restored:
        raise click.UsageError("--init and --restored exclude each other")
    if restored:
        return GuardStart.RESTORED
    return GuardStart.FRESH if init else GuardStart.INTACT


if __name__ == "__main__":
    main()
