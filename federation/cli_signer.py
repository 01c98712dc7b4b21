"""Commands about signers: run one, and ask one how it is.

Source: consensus:9; docs/signer.md.
"""

import asyncio
from pathlib import Path
from typing import Any

import click

from federation.cli_session import Failed, Session, command
from federation.frames import FrameDecoder, FrameError, encode_frame
from federation.local_state import LocalError
from federation.member_folder import MemberFolder
from federation.signer_link import connect
from federation.signer_messages import (
    ASK_LIMITS_BYTES,
    REPLY_LIMITS_BYTES,
    Ask,
    Reply,
    SignerFacts,
    decode_reply,
)
from federation.signer_process import run as run_signer
from federation.signer_process import start_of
from sidechain.errors import Unavailable

STATUS_TIMEOUT_S = 3


def register(group: click.Group) -> None:
    """Add the commands to the program."""

    @group.group("signer")
    def signer_group() -> None:
        """Hold a member's keys in a process of their own, behind a Unix socket.

        `fedpeg up --signers` starts one for every member by itself. `fedpeg signer run` is for a
        signer under another user; its member is started with --signer-socket.
        """

    _register_run(signer_group)
    _register_status(signer_group)


def _register_run(group: click.Group) -> None:
    @group.command("run")
    @click.option(
        "--folder",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        required=True,
        help="Folder with keys/block.key and keys/peg.key (0600); its memory goes to signer/.",
    )
    @click.option(
        "--federation",
        "federation_path",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        required=True,
        help="The signer's own copy of federation.json: what it believes from the start.",
    )
    @click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path),
        help="Where to listen. [default: signer/socket in the folder]",
    )
    @click.option("--group", "owner_group", help="Let this group use the socket (mode 0660).")
    @click.option("--init", is_flag=True, help="First start of these keys, once ever.")
    @click.option(
        "--restored",
        is_flag=True,
        help="The memory is lost or from a backup; the member has to start with --restored too.",
    )
    @click.option(
        "--allow-no-byzantine-safety",
        "no_byzantine_safety",
        is_flag=True,
        help="Accept a federation that one lying member can fork.",
    )
    def run(
        folder: Path,
        federation_path: Path,
        socket_path: Path | None,
        owner_group: str | None,
        init: bool,
        restored: bool,
        no_byzantine_safety: bool,
    ) -> None:
        """Serve one member's signatures until SIGTERM or Ctrl-C.

        It keeps its own memory of what the key signed and refuses whatever contradicts it. What
        happens goes to signer/log.jsonl in the folder, and to the terminal.
        """
        reason = run_signer(
            folder,
            federation_path,
            start=start_of(init=init, restored=restored),
            socket_path=socket_path,
            group=owner_group,
            no_byzantine_safety=no_byzantine_safety,
        )
        if reason:
            raise Failed(reason)


def _register_status(group: click.Group) -> None:
    @command(group, "status")
    @click.argument("member", required=False)
    @click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path),
        help="Ask the signer that listens there, of whatever federation.",
    )
    async def status(session: Session, *, member: str | None, socket_path: Path | None) -> None:
        """Show what signers remember: of all members, of one, or of the one at a socket.

        Exit code 1 when one does not answer.
        """
        if member is not None and socket_path is not None:
            raise click.UsageError("name a member or a socket, not both")
        found = []
        for name, path in _places(session, member, socket_path).items():
            try:
                facts = await asyncio.to_thread(ask_status, path)
                found.append({"name": name, "socket": str(path), "problem": "", **facts})
            except Unavailable as error:
                found.append({"name": name, "socket": str(path), "problem": str(error)})
        session.output.result({"signers": found}, "\n".join(map(_line, found)))
        silent = [str(entry["name"]) for entry in found if entry["problem"]]
        if silent:
            raise Failed(f"no answer from the signer of {', '.join(silent)}")


def _places(session: Session, member: str | None, socket_path: Path | None) -> dict[str, Path]:
    if socket_path is not None:
        return {socket_path.name: socket_path}
    federation = session.federation
    state = federation.require_state()
    members = [federation.find_member(state, member)] if member else list(state.members)
    if not state.signers:
        raise LocalError(
            "the members of this federation hold their keys themselves: `fedpeg down`, then "
            "`fedpeg up --signers` gives them signers"
        )
    return {m.name: MemberFolder(federation.folder.member(m.name)).signer_socket for m in members}


def _line(entry: dict[str, Any]) -> str:
    if entry["problem"]:
        return f"{entry['name']:<6} {entry['problem']}"
    notes = [word for word in ("halted", "abstains") if entry[word]]
    height, round_number, _ = entry["position"]
    return (
        f"{entry['name']:<6} pid {entry['pid']}  {entry['signatures']} signatures  voted at "
        f"{height}/{round_number}  headers to {entry['tip_height']}  {' '.join(notes)}"
    ).rstrip()


def ask_status(path: Path) -> dict[str, Any]:
    """What the signer at a socket says of itself; it may serve a member meanwhile.

    Raises:
        Unavailable: nobody answers there, or not as a signer does.
    """
    decoder = FrameDecoder(REPLY_LIMITS_BYTES)
    try:
        with connect(path, STATUS_TIMEOUT_S) as link:
            link.sendall(encode_frame(Ask.STATUS, b"", ASK_LIMITS_BYTES))
            frames: list[tuple[int, bytes]] = []
            while not frames:
                data = link.recv(4_096)
                if not data:
                    raise Unavailable("the signer has closed the connection")
                frames = decoder.feed(data)
    except (OSError, FrameError) as error:
        raise Unavailable(f"no signer answers at {path}: {error}") from error
    counter, payload = decode_reply(frames[0][1])
    if frames[0][0] != Reply.DONE:
        raise Unavailable(payload.decode(errors="replace"))
    facts = SignerFacts.decode(payload)
    signed_height, signed_hash = facts.block_signature
    return {
        "pid": facts.pid,
        "signatures": counter,
        "position": list(facts.position),
        "block_signature": {"height": signed_height, "hash": signed_hash[::-1].hex()},
        "vote_from": facts.vote_from,
        "halted": facts.halted,
        "abstains": facts.abstains,
        "tip_height": facts.tip_height,
        "tip_hash": facts.tip_hash[::-1].hex(),
        "block_key": facts.block_key.hex(),
        "peg_key": facts.peg_key.hex(),
    }
