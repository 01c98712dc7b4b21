"""A founded federation's keys, headers signed with them, and a signer desk over a fresh guard."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from federation.config import FederationFile, MemberFolder, witness_limit_bytes
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, VoteType
from federation.files import FileLayer
from federation.members import MemberSet
from federation.secret_key import SecretKey
from federation.signer import GuardStart
from federation.signer_chain import FollowedChain
from federation.signer_desk import SignerDesk
from federation.signer_messages import (
    Advance,
    Ask,
    BlockOrder,
    Reply,
    SignerFacts,
    VoteOrder,
    decode_reply,
)
from federation.signer_process import open_desk
from sidechain.primitives.block import NULL_ENTRY, BlockHeader, ParamEntry
from sidechain.script.block_signature import signblock_witness
from sidechain.script.script import multisig_script, p2wsh
from sidechain.validation.dynafed import current_entry, full_current
from tests.federation.founded import found, member_folder

PROPOSAL, PREVOTE, PRECOMMIT = VoteType.PROPOSAL, VoteType.PREVOTE, VoteType.PRECOMMIT
A, B, NIL = b"\xaa" * 32, b"\xbb" * 32, bytes(32)
DYNAFED_VERSION = 0xA0000000
OWN = 1


class Headers:
    """Makes a chain of headers with all keys; follows it like a signer does."""

    def __init__(self, file: FederationFile, secrets: Sequence[SecretKey], pin: Path) -> None:
        self.file, self.params = file, file.chain_params()
        self.chain = FollowedChain(self.params, file.signblockscript, pin)
        self.keys = {p2wsh(file.signblockscript): (file.k, list(secrets))}
        self.made: list[bytes] = []

    def new_set(self, k: int, secrets: Sequence[SecretKey]) -> tuple[bytes, ParamEntry]:
        """A member set to come: its script, and the entry that proposes it."""
        script = multisig_script(k, [secret.public_key for secret in secrets])
        self.keys[p2wsh(script)] = k, list(secrets)
        full = full_current(self.chain, self.chain.tip_height, self.params)
        return script, replace(
            full,
            signblockscript=p2wsh(script),
            witness_limit=witness_limit_bytes(len(secrets), k),
        )

    def header(
        self, *, proposed: ParamEntry = NULL_ENTRY, salt: int = 0, signers: int | None = None
    ) -> BlockHeader:
        """The next header, signed; it is not taken in."""
        chain, params = self.chain, self.params
        height = chain.tip_height + 1
        bare = BlockHeader(
            version=DYNAFED_VERSION & 0xFFFFFFFF,
            prev_hash=chain.tip_hash,
            merkle_root=sha256(bytes([salt]) + height.to_bytes(4, "little")).digest(),
            time=1_700_000_000 + height,
            height=height,
            current=current_entry(chain, chain.tip_height, params),
            proposed=proposed,
        )
        return self.signed(bare, signers)

    def signed(self, bare: BlockHeader, signers: int | None = None) -> BlockHeader:
        """A header with so many signatures of the set it names, k by default."""
        k, secrets = self.keys[bare.current.signblockscript]
        publics = [secret.public_key for secret in secrets]
        count = k if signers is None else signers
        signatures = {s.public_key: s.sign_ecdsa(bare.hash) for s in secrets[:count]}
        witness = signblock_witness(count, publics, signatures)
        return replace(bare, signblock_witness=(*witness[:-1], multisig_script(k, publics)))

    def extend(self, count: int = 1, *, proposed: ParamEntry = NULL_ENTRY) -> list[bytes]:
        """Take in so many next headers; their bytes."""
        new = []
        for _ in range(count):
            new.append(self.header(proposed=proposed).serialize())
            self.chain.advance(new[-1])
        self.made += new
        return new


class SignerWorld:
    """Keys of four members; member 1 has the signer."""

    def __init__(self, folder: Path, *, n: int = 4, k: int = 3) -> None:
        self.folder = folder
        self.file: FederationFile = found(folder, n=n, k=k)
        self.secrets = [
            SecretKey(bytes.fromhex(member_folder(folder, i).block_key.read_text().strip()))
            for i in range(n)
        ]
        self.headers = Headers(self.file, self.secrets, folder / "made-pin")
        self.genesis = self.headers.params.genesis_hash

    @property
    def home(self) -> MemberFolder:
        return member_folder(self.folder, OWN)

    @contextmanager
    def desk(
        self, start: GuardStart = GuardStart.INTACT, layer: FileLayer | None = None
    ) -> Iterator[SignerDesk]:
        self.home.guard.parent.mkdir(mode=0o700, exist_ok=True)
        with open_desk(self.home, self.file, start, layer=layer) as desk:
            yield desk

    # -- what is asked

    @property
    def root(self) -> bytes:
        return self.headers.chain.params_root()

    def members(self) -> MemberSet:
        found_set = self.headers.chain.member_set()
        assert found_set is not None
        return found_set

    def vote(
        self, kind: VoteType, height: int, round_number: int, block: bytes, cites: int = -1
    ) -> Vote:
        return Vote(
            type=kind,
            height=height,
            round=round_number,
            valid_round=cites,
            block_hash=block,
            member=OWN,
            signature=NO_SIGNATURE,
        )

    def order(self, vote: Vote, certificate: Certificate | None = None) -> bytes:
        return VoteOrder(self.genesis, self.root, vote, certificate).encode()

    def certificate(
        self, kind: VoteType, height: int, round_number: int, block: bytes, count: int = 3
    ) -> Certificate:
        votes = []
        for member in range(count):
            said = replace(self.vote(kind, height, round_number, block), member=member)
            digest = said.digest(self.genesis, self.root)
            votes.append((member, -1, self.secrets[member].sign_schnorr(digest)))
        return Certificate(
            type=kind, height=height, round=round_number, block_hash=block, votes=tuple(votes)
        )

    def pol(self, height: int, round_number: int, block: bytes) -> Certificate:
        return self.certificate(PREVOTE, height, round_number, block)

    def commit(self, height: int, round_number: int, block: bytes) -> Certificate:
        return self.certificate(PRECOMMIT, height, round_number, block)


def done(desk: SignerDesk, ask: Ask, body: bytes = b"") -> bytes:
    """The payload of a request that is granted."""
    kind, reply = desk.answer(ask, body)
    counter, payload = decode_reply(reply)
    assert kind == Reply.DONE, payload.decode()
    assert counter == desk._signer.counter
    return payload


def refused(desk: SignerDesk, ask: Ask, body: bytes) -> str:
    """The reason of a request that is refused; nothing was counted."""
    before = desk._signer.counter
    kind, reply = desk.answer(ask, body)
    counter, payload = decode_reply(reply)
    assert kind == Reply.REFUSED, payload.hex()
    assert counter == before
    return payload.decode()


def facts(desk: SignerDesk) -> SignerFacts:
    """What it says of itself."""
    return SignerFacts.decode(done(desk, Ask.STATUS))


def advance(desk: SignerDesk, headers: Sequence[bytes], *scripts: bytes) -> None:
    """Show it headers."""
    done(desk, Ask.ADVANCE, Advance(tuple(headers), tuple(scripts)).encode())


def block_order(height: int, block: bytes, certificate: Certificate) -> bytes:
    """A SIGN_BLOCK body."""
    return BlockOrder(height, block, certificate).encode()
