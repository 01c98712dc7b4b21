"""What can be checked with nothing but the federation file: evidence, and decided blocks.

Whoever checks holds no chain and asks nobody. The founding members' set and parameters are in the
file; a federation that has changed its members since needs the headers of the change as well, and
this version, which makes no such change, refuses what was signed under other parameters.

Source: consensus:C56, consensus:C58, consensus:A1, N26.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, Self

from federation.config import FederationFile
from federation.consensus.encoding import NIL, InvalidMessage, MessageReader
from federation.consensus.evidence import check_evidence
from federation.consensus.messages import Evidence, EvidenceClass
from federation.consensus.votes import BlockSignature, Certificate, Vote, VoteType
from federation.evidence_store import UNANSWERED
from federation.header_signatures import read_header, signatures_in, verified_signatures
from federation.members import MemberSet
from federation.peg_evidence import (
    MALFORMED_SIGNATURE,
    TWO_BATCHES,
    contradict,
    is_malformed,
    read_share,
)
from federation.production import check_committed
from federation.verification import MessageVerifier
from sidechain.crypto.keys import is_low_s
from sidechain.errors import Invalid, InvalidEncoding, PeerFault
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.genesis import genesis_block
from sidechain.validation.dynafed import full_current

CLASS_WORDS: Final[dict[int, str]] = {
    EvidenceClass.DOUBLE_VOTE: "double-vote",
    EvidenceClass.TWO_BLOCKS: "two-blocks",
    EvidenceClass.AMNESIA: "amnesia",
    TWO_BATCHES: "two-batches",
    MALFORMED_SIGNATURE: "malformed-peg-signature",
}
"""Names of C56's classes (a), (b) and (c) and of the peg's (P33), as commands show them."""
_BARE_SIGNATURE_BYTES: Final = 101


class NotProved(Exception):
    """What a file claims does not follow from it; the text is the reason."""


@dataclass(frozen=True, slots=True)
class _GenesisOnly:
    """A chain of one header."""

    params: ChainParams

    @property
    def tip_height(self) -> int:
        return 0

    def header(self, height: int) -> BlockHeader:
        if height:
            raise NotProved("no header above genesis is known")
        return genesis_block(self.params).header


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A federation as its file alone shows it, under one of the parameters that the file gives.

    `names` and `members` are those of the set that the parameters put in force, `params_root` is
    their D. Whether the chain ever put a later set in force only its headers tell.
    """

    federation: FederationFile
    params: ChainParams
    members: MemberSet
    names: tuple[str, ...]
    params_root: bytes
    signblockscript: bytes

    @classmethod
    def of(cls, federation: FederationFile) -> Self:
        """Work out what the file implies.

        Raises:
            InvalidConfig: its options make no chain.
        """
        params = federation.chain_params()
        entry = full_current(_GenesisOnly(params), 0, params)
        return cls(
            federation=federation,
            params=params,
            members=federation.member_set(),
            names=tuple(member.name for member in federation.members),
            params_root=entry.root(),
            signblockscript=entry.signblockscript,
        )

    def verifier(self) -> MessageVerifier:
        """Checks votes and block signatures under these parameters."""
        verifier = MessageVerifier(self.params.genesis_hash)
        verifier.begin_height(self.members, self.params_root)
        return verifier

    def check_origin(self, plain: dict[str, Any]) -> "Stranger":
        """Refuse a file of another chain, or of parameters that this file does not give.

        Returns:
            The stranger under the parameters that were in force for what the file shows.
        Raises:
            NotProved: which of the names differs.
        """
        expected = {
            "genesis": self.params.genesis_hash.hex(),
            "parameter_hash": self.federation.parameter_hash().hex(),
        }
        for name, value in expected.items():
            if plain.get(name) != value:
                raise NotProved(f"{name} is not that of this federation file ({value})")
        wanted = plain.get("params_root", self.params_root.hex())
        if wanted == self.params_root.hex():
            return self
        for change in self.federation.changes:
            if change.entry().root().hex() == wanted:
                return replace(
                    self,
                    members=change.member_set(),
                    names=tuple(member.name for member in change.members),
                    params_root=change.entry().root(),
                    signblockscript=change.entry().signblockscript,
                )
        raise NotProved(
            "it was signed under other parameters than the founding ones, and this federation "
            "file does not give them: a member's file names the sets that came later"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conviction:
    """What a piece of evidence proves; `first` and `second` say what the member signed."""

    member: int
    name: str
    block_key: bytes
    height: int
    kind: int
    first: str
    second: str

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "member": self.member,
            "name": self.name,
            "block_key": self.block_key.hex(),
            "height": self.height,
            "class": CLASS_WORDS[self.kind],
            "first": self.first,
            "second": self.second,
        }


def convict(plain: object, stranger: Stranger) -> Conviction:
    """Check one piece of evidence as `fedpeg evidence export` writes it.

    Raises:
        NotProved: why it is no evidence.
    Source: consensus:C56.
    """
    if not isinstance(plain, dict):
        raise NotProved("it is not a JSON object")
    stranger = stranger.check_origin(plain)
    member, height, kind, bodies = _read_claim(plain, stranger)
    if kind in (TWO_BATCHES, MALFORMED_SIGNATURE):
        first, second = _peg_frames(member, height, kind, bodies, stranger)
    else:
        evidence = Evidence(EvidenceClass(kind), *bodies)
        check = _signed_headers if kind == EvidenceClass.TWO_BLOCKS else _signed_votes
        first, second = check(member, height, evidence, stranger)
    return Conviction(
        member=member,
        name=_who(member, kind, stranger)[0],
        block_key=_who(member, kind, stranger)[1],
        height=height,
        kind=kind,
        first=first,
        second=second,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What a certificate proves: who voted for the block in one round, and who signed it."""

    height: int
    block_hash: bytes
    round: int
    voters: tuple[str, ...]
    signers: tuple[str, ...]
    transactions: int
    time: int

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "height": self.height,
            "hash": self.block_hash[::-1].hex(),
            "round": self.round,
            "voters": list(self.voters),
            "signers": list(self.signers),
            "transactions": self.transactions,
            "time": self.time,
        }


def prove_decided(plain: object, stranger: Stranger) -> Decided:
    """Check a block with the votes that decided it, as `fedpeg certificate -o` writes it.

    Raises:
        NotProved: why it proves nothing.
    Source: consensus:C12, consensus:C37, N25, N26.
    """
    if not isinstance(plain, dict):
        raise NotProved("it is not a JSON object")
    stranger = stranger.check_origin(plain)
    try:
        parts = [bytes.fromhex(plain[name]) for name in ("block", "certificate")]
    except (KeyError, TypeError, ValueError):
        raise NotProved("block or certificate is missing or no hex") from None
    block, signatures = signed_block(parts[0], stranger)
    try:
        reader = MessageReader(parts[1])
        certificate = Certificate.read(reader)
        reader.done()
    except InvalidMessage as error:
        raise NotProved(f"not a certificate: {error}") from error
    named = (certificate.type, certificate.height, certificate.block_hash)
    if named != (VoteType.PRECOMMIT, block.header.height, block.hash):
        raise NotProved("the certificate is no COMMIT of this block")
    if plain.get("height") != block.header.height:
        raise NotProved(f"the block is of height {block.header.height}, not as the file says")
    if (
        certificate.votes[-1][0] >= stranger.members.n
        or not stranger.verifier().check(certificate).good
    ):
        raise NotProved("the votes in the certificate are not those of k members")
    names = stranger.names
    return Decided(
        height=block.header.height,
        block_hash=block.hash,
        round=certificate.round,
        voters=tuple(names[member] for member, _, _ in certificate.votes),
        signers=tuple(names[signature.member] for signature in signatures),
        transactions=len(block.transactions),
        time=block.header.time,
    )


def signed_block(data: bytes, stranger: Stranger) -> tuple[Block, tuple[BlockSignature, ...]]:
    """A block whose header commits to all of it, with the signatures of k members.

    Raises:
        NotProved: it is none.
    """
    try:
        block = Block.decode(data, stranger.params)
        check_committed(block)
        if block.header.current.signblockscript != stranger.signblockscript:
            raise NotProved("a block under another signblockscript")
        return block, verified_signatures(block.header, stranger.members, stranger.params)
    except Invalid as error:
        raise NotProved(f"the block: {error}") from error


def _read_claim(
    plain: dict[str, Any], stranger: Stranger
) -> tuple[int, int, int, tuple[bytes, bytes]]:
    numbers = [plain.get(name) for name in ("member", "height", "class")]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise NotProved("member, height or class is missing or no whole number")
    member, height, kind = (int(number or 0) for number in numbers)
    try:
        _, block_key = _who(member, kind, stranger)
    except IndexError:
        raise NotProved(f"there is no member {member} in this federation") from None
    if plain.get("block_key") != block_key.hex():
        raise NotProved(f"block_key is not that of member {member}")
    if kind == UNANSWERED:
        _refuse_unanswered(plain, member, stranger)
    if kind not in CLASS_WORDS:
        raise NotProved(f"class {kind} is none of C56 or P33")
    try:
        bodies = [bytes.fromhex(plain[name]) for name in ("first", "second")]
    except (KeyError, TypeError, ValueError):
        raise NotProved("first or second is missing or no hex") from None
    return member, height, kind, (bodies[0], bodies[1])


def _who(member: int, kind: int, stranger: Stranger) -> tuple[str, bytes]:
    """Name and block key: frames name their sender by its links, votes by its place in the set.

    Raises:
        IndexError: there is no such member.
    """
    if member < 0:
        raise IndexError(member)
    if kind in (TWO_BATCHES, MALFORMED_SIGNATURE):
        person = stranger.federation.people[member]
        return person.name, person.block_key
    return stranger.names[member], stranger.members.members[member].block_key


def _refuse_unanswered(plain: dict[str, Any], member: int, stranger: Stranger) -> NoReturn:
    """Say what a challenge is worth: a debt of its member, and nothing that is proved (C57)."""
    try:
        vote = Vote.read(MessageReader(bytes.fromhex(plain["first"])))
    except (KeyError, TypeError, ValueError, InvalidMessage):
        raise NotProved("an unanswered challenge without a vote") from None
    digest = vote.digest(stranger.params.genesis_hash, stranger.params_root)
    is_signed = stranger.verifier().check_message(member, digest, vote.signature).good
    if vote.member != member or not is_signed:
        raise NotProved("an unanswered challenge over a vote that the member has not signed")
    raise NotProved(
        f"an unanswered challenge is a claim of the one who asked: {describe_vote(vote)} obliges "
        "its signer to show the prevotes it rests on, and whoever holds them can still do so"
    )


def _signed_votes(
    member: int, height: int, evidence: Evidence, stranger: Stranger
) -> tuple[str, str]:
    try:
        accused = check_evidence(evidence)
    except InvalidMessage as error:
        raise NotProved(str(error)) from error
    if accused != (height, member):
        raise NotProved("the votes are of another member or height than the file says")
    votes = [Vote.read(MessageReader(body)) for body in (evidence.first, evidence.second)]
    verifier = stranger.verifier()
    for which, vote in zip(("first", "second"), votes, strict=True):
        digest = vote.digest(stranger.params.genesis_hash, stranger.params_root)
        if not verifier.check_message(member, digest, vote.signature).good:
            raise NotProved(f"the {which} vote is not signed by member {member}")
    return describe_vote(votes[0]), describe_vote(votes[1])


def describe_vote(vote: Vote) -> str:
    """One vote in words."""
    block = "no block" if vote.block_hash == NIL else f"block {vote.block_hash[::-1].hex()}"
    cites = f", citing the votes of round {vote.valid_round}" if vote.valid_round >= 0 else ""
    return f"{VoteType(vote.type).name} for {block} in round {vote.round}{cites}"


def _signed_headers(
    member: int, height: int, evidence: Evidence, stranger: Stranger
) -> tuple[str, str]:
    headers = [
        _header_signed_by(member, height, body, stranger)
        for body in (evidence.first, evidence.second)
    ]
    if headers[0].hash == headers[1].hash:
        raise NotProved("both headers are of one block")
    texts = [f"block signature of block {header.hash[::-1].hex()}" for header in headers]
    return texts[0], texts[1]


def _peg_frames(
    member: int, height: int, kind: int, bodies: tuple[bytes, bytes], stranger: Stranger
) -> tuple[str, str]:
    """P33: two transactions of one version, or a signature of no form that Bitcoin takes."""
    shares = []
    for body in bodies if kind == TWO_BATCHES else bodies[:1]:
        try:
            share = read_share(
                body,
                genesis=stranger.params.genesis_hash,
                member=member,
                block_key=_who(member, kind, stranger)[1],
            )
        except (PeerFault, InvalidEncoding) as error:
            raise NotProved(f"no PEGSIG that member {member} has signed: {error}") from error
        if share.session.h_sel != height:
            raise NotProved(f"a batch selected at {share.session.h_sel}, not {height}")
        shares.append(share)
    texts = [
        f"version {share.session.version} of batch {share.index} is transaction "
        f"{share.txid[::-1].hex()}"
        for share in shares
    ]
    if kind == MALFORMED_SIGNATURE:
        if not is_malformed(shares[0]):
            raise NotProved("every signature in it has a form that Bitcoin takes")
        return texts[0], "with a signature of a form that Bitcoin never takes"
    if not contradict(*shares):
        raise NotProved("the two frames do not contradict each other")
    return texts[0], texts[1]


def _header_signed_by(member: int, height: int, body: bytes, stranger: Stranger) -> BlockHeader:
    if len(body) == _BARE_SIGNATURE_BYTES:
        raise NotProved(
            "a BLOCKSIG does not sign the height it names: without the block's header anybody "
            "could have written another height on it"
        )
    try:
        header = read_header(body, stranger.params)
    except Invalid as error:
        raise NotProved(f"not a block header: {error}") from error
    if header.height != height:
        raise NotProved(f"a header of height {header.height}, not {height}")
    if header.current.signblockscript != stranger.signblockscript:
        raise NotProved("a header under another signblockscript")
    signed = {s.member: s for s in signatures_in(header, stranger.members)}
    if member not in signed or not is_low_s(signed[member].signature):
        raise NotProved(f"a header that member {member} has not signed")
    return header
