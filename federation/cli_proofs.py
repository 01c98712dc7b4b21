"""Commands about proofs that outlive the federation: evidence, and decided blocks.

Evidence is read from the members' files, whether they run or not; a block with its votes is asked
of a member. Whatever was exported is checked with the federation file alone.

Source: consensus:C58, N26.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.cli_member import asking, folder_option
from federation.cli_session import Failed, Session, command
from federation.config import FederationFile
from federation.evidence_store import EVIDENCE_NAME, UNANSWERED, read_evidence
from federation.stranger import CLASS_WORDS, NotProved, Stranger, convict, prove_decided

EVIDENCE_FILE_MAX_BYTES: Final = 1_000_000
CERTIFICATE_FILE_MAX_BYTES: Final = 9_000_000
"""The largest block in hex, and what stands around it."""
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class GroupWithDefault(click.Group):
    """A group that has one of its commands carried out when none is named.

    Args:
        default: the command's name.
        takes: whether a first word that is no command's name belongs to that command.
    """

    def __init__(
        self, *args: Any, default: str, takes: Callable[[str], bool], **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self._default = default
        self._takes = takes

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command's name before words that name none."""
        first = args[0] if args else ""
        if first not in ("--help", "-h") and first not in self.commands and self._takes(first):
            args = [self._default, *args]
        return super().parse_args(ctx, args)


@dataclass(slots=True)
class _Kept:
    """One piece of evidence and who keeps it; `problem` says why it would not convince anybody."""

    line: dict[str, Any]
    name: str
    problem: str = ""
    kept_by: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """What `show` and `export` call it."""
        return f"{self.name}-{self.line['height']}-{class_word(self.line)}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "member": self.line["member"],
            "name": self.name,
            "height": self.line["height"],
            "class": class_word(self.line),
            "proved": not self.problem,
            "problem": self.problem,
            "kept_by": self.kept_by,
        }


def class_word(line: dict[str, Any]) -> str:
    """The class of an evidence line as a word."""
    kind = line["class"]
    if kind == UNANSWERED:
        return "unanswered"
    return CLASS_WORDS.get(kind, f"class-{kind}")


def register(program: click.Group) -> None:
    """Add the commands to the program."""
    group = GroupWithDefault(
        "evidence",
        default="list",
        takes=lambda word: not word or word.startswith("-"),
        help="Evidence against members who signed two things that no honest member signs.\n\n"
        "Without a command, as `evidence list`.",
    )
    program.add_command(group)
    _register_kept(group)
    _register_verify(group)
    _register_certificate(program)


def _register_kept(group: click.Group) -> None:
    federation_option = federation_file_option()

    @command(group, "list")
    @folder_option()
    @federation_option
    async def list_evidence(
        session: Session, *, folder: Path | None, federation_path: Path | None
    ) -> None:
        """List what the members keep, each line with who keeps it."""
        kept = _collect(session, folder, federation_path)
        lines = [
            f"{each.id:<28} kept by {', '.join(each.kept_by)}"
            + (f"  NOT PROVED: {each.problem}" if each.problem else "")
            for each in kept
        ]
        text = "\n".join(lines) or "there is no evidence against anybody"
        session.output.result({"evidence": [each.to_json() for each in kept]}, text)

    @command(group, "show")
    @click.argument("name", metavar="ID")
    @folder_option()
    @federation_option
    async def show(
        session: Session, *, name: str, folder: Path | None, federation_path: Path | None
    ) -> None:
        """Show one piece of evidence: who, what, and the two messages."""
        found = _find(_collect(session, folder, federation_path), name)
        stranger = stranger_of(session, federation_path)
        try:
            conviction = convict(found.line, stranger)
        except NotProved as error:
            session.output.result(
                found.to_json() | {"evidence": found.line}, f"{found.id}: not proved: {error}"
            )
            return
        shown = conviction.to_json() | found.to_json() | {"evidence": found.line}
        text = conviction_text(conviction.to_json())
        session.output.result(shown, f"{text}\nkept by {', '.join(found.kept_by)}")

    @command(group, "export")
    @click.argument("name", metavar="ID")
    @click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File.")
    @folder_option()
    @federation_option
    async def export(
        session: Session,
        *,
        name: str,
        output: Path | None,
        folder: Path | None,
        federation_path: Path | None,
    ) -> None:
        """Write one piece of evidence for `evidence verify`, to a file or standard output.

        It holds no secret. Give it away together with federation.json.
        """
        found = _find(_collect(session, folder, federation_path), name)
        write_proof(session, found.line, output, f"evidence {found.id}")


def _register_verify(group: click.Group) -> None:
    @command(group, "verify")
    @click.argument("path", metavar="FILE", type=FILE)
    @federation_file_option()
    async def verify(session: Session, *, path: Path, federation_path: Path | None) -> None:
        """Check a file with evidence, with nothing but the federation file.

        Says who is convicted, of what, and by which two messages. Exit code 1 when the file is no
        evidence, with the reason.
        """
        stranger = stranger_of(session, federation_path)
        try:
            found = convict(read_proof(path, EVIDENCE_FILE_MAX_BYTES), stranger).to_json()
        except NotProved as error:
            session.output.result({"evidence": False, "reason": str(error)}, "")
            raise Failed(f"{path} is no evidence: {error}") from error
        session.output.result({"evidence": True, **found}, conviction_text(found))


def _register_certificate(program: click.Group) -> None:
    group = GroupWithDefault(
        "certificate",
        default="show",
        takes=lambda word: word[:1].isdigit(),
        help="The votes that decided a block: `certificate HEIGHT` shows and exports them.",
    )
    program.add_command(group)

    @command(group, "show")
    @click.argument("height", type=click.IntRange(1, 2**32 - 1))
    @click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File.")
    @click.option("--member", "name", help="Ask this member. [default: whichever answers]")
    @folder_option()
    async def show_certificate(
        session: Session,
        *,
        height: int,
        output: Path | None,
        name: str | None,
        folder: Path | None,
    ) -> None:
        """Show who voted for the block of HEIGHT and who signed it; with -o, export it.

        The file holds the whole block with the votes. A member that lacks the votes asks the
        others. With --json and without -o the file's content is printed.
        """
        session.output.progress("certificate", f"asking for the votes of block {height}")
        async with asking(session, name, folder) as ask:
            found: dict[str, Any] = await ask("getcertificate", height)
        if output is not None:
            write_proof(session, found, output, f"block {height} with its votes")
            return
        stranger = stranger_of(session, federation_of(session, folder))
        try:
            text = decided_text(prove_decided(found, stranger).to_json())
        except NotProved as error:
            raise Failed(f"what the member sent proves nothing: {error}") from error
        session.output.result(found, f"{text}\n-o FILE writes it, for `certificate verify`")

    @command(group, "verify")
    @click.argument("path", metavar="FILE", type=FILE)
    @federation_file_option()
    async def verify_certificate(
        session: Session, *, path: Path, federation_path: Path | None
    ) -> None:
        """Check a block with its votes, with nothing but the federation file.

        Exit code 1 when the file proves nothing, with the reason.
        """
        stranger = stranger_of(session, federation_path)
        try:
            plain = read_proof(path, CERTIFICATE_FILE_MAX_BYTES)
            found = prove_decided(plain, stranger).to_json()
        except NotProved as error:
            session.output.result({"proved": False, "reason": str(error)}, "")
            raise Failed(f"{path} proves nothing: {error}") from error
        session.output.result({"proved": True, **found}, decided_text(found))


def decided_text(found: dict[str, Any]) -> str:
    """A decided block for people."""
    return "\n".join(
        [
            f"block {found['height']} ({found['hash']}) was decided in round {found['round']}",
            f"votes       {', '.join(found['voters'])}",
            f"signatures  {', '.join(found['signers'])}",
            f"holds       {found['transactions']} transactions",
        ]
    )


def conviction_text(found: dict[str, Any]) -> str:
    """A conviction for people."""
    return "\n".join(
        [
            f"{found['name']} (member {found['member']}) is convicted of {found['class']} "
            f"at height {found['height']}",
            f"key     {found['block_key']}",
            f"first   {found['first']}",
            f"second  {found['second']}",
        ]
    )


def write_proof(session: Session, plain: dict[str, Any], path: Path | None, what: str) -> None:
    """Write a proof as canonical JSON, to a file or standard output."""
    data = canonical_json(plain) + b"\n"
    if path is None:
        session.output.close()
        click.echo(data.decode("ascii"), nl=False)
        return
    path.write_bytes(data)
    session.output.result({"written": str(path), "bytes": len(data)}, f"{what} is in {path}")


def read_proof(path: Path, bytes_max: int) -> Any:
    """Parse a file that a stranger was given.

    Raises:
        NotProved: it is too large, or not the JSON that is allowed.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise NotProved(f"the file is larger than {bytes_max} bytes")
    try:
        return strict_loads(data.decode("utf-8"))
    except (NotCanonical, ValueError) as error:
        raise NotProved(f"the file is not JSON as it is written here: {error}") from error


def federation_file_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --federation."""
    return click.option(
        "--federation",
        "federation_path",
        type=FILE,
        help="federation.json. [default: that of the data folder]",
    )


def federation_of(session: Session, folder: Path | None) -> Path | None:
    """Where a member's folder has the usual place in a federation's, that federation's file."""
    usual = folder.parent.parent / "federation.json" if folder is not None else None
    return usual if usual is not None and usual.is_file() else None


def stranger_of(session: Session, path: Path | None) -> Stranger:
    """What a federation file implies; without a path that of the data folder.

    Raises:
        InvalidConfig: it cannot be read.
    """
    chosen = path or session.federation.folder.federation_file
    # What the file says about itself is checked; whether to join such a federation is not asked.
    return Stranger.of(FederationFile.load(chosen, allow_no_byzantine_safety=True))


def _collect(session: Session, folder: Path | None, federation_path: Path | None) -> list[_Kept]:
    """What the members keep, by height; equal pieces once."""
    stranger = stranger_of(session, federation_path)
    if folder is not None:
        places = [(folder.name, folder)]
    else:
        local = session.federation
        members = local.require_state().members
        places = [(member.name, local.folder.member(member.name)) for member in members]
    found: dict[tuple[int, int, int], _Kept] = {}
    for keeper, place in places:
        for line in read_evidence(place / EVIDENCE_NAME):
            key = (int(line["member"]), int(line["height"]), int(line["class"]))
            known = found.get(key)
            if known is None or known.problem:
                problem, kept_by = _problem(line, stranger), known.kept_by if known else []
                found[key] = known = _Kept(line, _name(line, stranger), problem, kept_by)
            known.kept_by.append(keeper)
    return sorted(found.values(), key=lambda each: (each.line["height"], each.id))


def _problem(line: dict[str, Any], stranger: Stranger) -> str:
    try:
        convict(line, stranger)
    except NotProved as error:
        return str(error)
    return ""


def _name(line: dict[str, Any], stranger: Stranger) -> str:
    index = line["member"]
    names = [member.name for member in stranger.federation.people]
    return names[index] if 0 <= index < len(names) else f"member{index}"


def _find(kept: list[_Kept], name: str) -> _Kept:
    for each in kept:
        if each.id == name:
            return each
    known = ", ".join(each.id for each in kept[:10])
    raise Failed(
        f"there is no evidence {name!r}: {f'there is {known}' if known else 'none at all'}"
    )
