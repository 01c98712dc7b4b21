"""Commands about proofs that outlive the federation: evidence against members.

They read files and ask nobody: evidence that members have kept, whether they run or not, and files
that somebody exported, of which the federation file tells all that is needed to check them.

Source: consensus:C58, N26.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.cli_session import Failed, Session, command
from federation.config import FederationFile
from federation.consensus.messages import EvidenceClass
from federation.evidence_store import EVIDENCE_NAME, read_evidence
from federation.stranger import CLASS_WORDS, NotProved, Stranger, convict

EVIDENCE_FILE_MAX_BYTES: Final = 1_000_000
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_HEX_SHOWN: Final = 16


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
    known = kind in [int(each) for each in CLASS_WORDS]
    return CLASS_WORDS[EvidenceClass(kind)] if known else f"class-{kind}"


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


def _register_kept(group: click.Group) -> None:
    folder_option = click.option(
        "--folder",
        type=FOLDER,
        help="Folder of one member (with evidence.jsonl), instead of a local federation's members.",
    )
    federation_option = _federation_option()

    @command(group, "list")
    @folder_option
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
    @folder_option
    @federation_option
    async def show(
        session: Session, *, name: str, folder: Path | None, federation_path: Path | None
    ) -> None:
        """Show one piece of evidence: who, what, and the two messages."""
        found = _find(_collect(session, folder, federation_path), name)
        stranger = _stranger(session, federation_path)
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
    @folder_option
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
    @_federation_option()
    async def verify(session: Session, *, path: Path, federation_path: Path | None) -> None:
        """Check a file with evidence, with nothing but the federation file.

        Says who is convicted, of what, and by which two messages. Exit code 1 when the file is no
        evidence, with the reason.
        """
        stranger = _stranger(session, federation_path)
        try:
            found = convict(read_proof(path, EVIDENCE_FILE_MAX_BYTES), stranger).to_json()
        except NotProved as error:
            session.output.result({"evidence": False, "reason": str(error)}, "")
            raise Failed(f"{path} is no evidence: {error}") from error
        session.output.result({"evidence": True, **found}, conviction_text(found))


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


def _federation_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--federation",
        "federation_path",
        type=FILE,
        help="federation.json. [default: that of the data folder]",
    )


def _stranger(session: Session, path: Path | None) -> Stranger:
    chosen = path or session.federation.folder.federation_file
    # What the file says about itself is checked; whether to join such a federation is not asked.
    return Stranger.of(FederationFile.load(chosen, allow_no_byzantine_safety=True))


def _collect(session: Session, folder: Path | None, federation_path: Path | None) -> list[_Kept]:
    """What the members keep, by height; equal pieces once."""
    stranger = _stranger(session, federation_path)
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
    names = [member.name for member in stranger.federation.members]
    return names[index] if 0 <= index < len(names) else f"member{index}"


def _find(kept: list[_Kept], name: str) -> _Kept:
    for each in kept:
        if each.id == name:
            return each
    known = ", ".join(each.id for each in kept[:10])
    raise Failed(
        f"there is no evidence {name!r}: {f'there is {known}' if known else 'none at all'}"
    )
