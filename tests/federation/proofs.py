"""Statements of members of a founded federation, signed with their real keys."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation.config import FederationFile
from federation.consensus.encoding import NIL
from federation.consensus.messages import Evidence
from federation.consensus.votes import BlockSignature, Certificate, Vote, VoteType
from federation.header_signatures import header_signed_by
from federation.secret_key import SecretKey
from federation.stranger import Stranger
from sidechain.crypto.keys import der_to_compact
from sidechain.primitives.block import COMPACT_KIND, BlockHeader, ParamEntry
from tests.federation.founded import found, member_folder


@dataclass(frozen=True)
class Signers:
    """A founded federation with all its secrets."""

    file: FederationFile
    stranger: Stranger
    secrets: tuple[SecretKey, ...]

    @classmethod
    def found(cls, folder: Path) -> "Signers":
        file = found(folder)
        secrets = tuple(
            SecretKey(bytes.fromhex(member_folder(folder, i).block_key.read_text().strip()))
            for i in range(file.n)
        )
        return cls(file, Stranger.of(file), secrets)

    def vote(
        self,
        member: int,
        *,
        type: VoteType = VoteType.PREVOTE,
        height: int = 7,
        round: int = 0,
        valid_round: int = -1,
        block_hash: bytes = NIL,
    ) -> Vote:
        vote = Vote(
            type=type,
            height=height,
            round=round,
            valid_round=valid_round,
            block_hash=block_hash,
            member=member,
            signature=bytes(64),
        )
        digest = vote.digest(self.stranger.params.genesis_hash, self.stranger.params_root)
        signature = self.secrets[member].sign_schnorr(digest)
        return replace(vote, signature=signature)

    def commit(self, block_hash: bytes, *, height: int = 7, round: int = 0) -> Certificate:
        votes = [
            self.vote(
                member,
                type=VoteType.PRECOMMIT,
                height=height,
                round=round,
                block_hash=block_hash,
            )
            for member in range(self.file.k)
        ]
        return Certificate(
            type=VoteType.PRECOMMIT,
            height=height,
            round=round,
            block_hash=block_hash,
            votes=tuple((vote.member, vote.valid_round, vote.signature) for vote in votes),
        )

    def header(self, time: int, *, height: int = 7) -> BlockHeader:
        """An unsigned header of this chain; headers of two times are of two blocks."""
        current = ParamEntry(
            kind=COMPACT_KIND,
            signblockscript=self.stranger.signblockscript,
            witness_limit=self.stranger.params.max_block_sig_size,
            elided_root=b"\x05" * 32,
        )
        return BlockHeader(
            version=0x20000000,
            prev_hash=b"\x01" * 32,
            merkle_root=b"\x02" * 32,
            time=time,
            height=height,
            current=current,
        )

    def block_signature(self, member: int, header: BlockHeader) -> BlockSignature:
        der = self.secrets[member].sign_ecdsa(header.hash)
        return BlockSignature(
            height=header.height,
            block_hash=header.hash,
            member=member,
            signature=der_to_compact(der),
        )

    def signed_header(self, member: int, header: BlockHeader) -> bytes:
        """The header with one member's signature."""
        signature = self.block_signature(member, header)
        return header_signed_by(header, signature, self.stranger.members).serialize()

    def line(self, member: int, evidence: Evidence, *, height: int = 7) -> dict[str, Any]:
        """Evidence as a member keeps it."""
        return {
            "genesis": self.stranger.params.genesis_hash.hex(),
            "parameter_hash": self.file.parameter_hash().hex(),
            "params_root": self.stranger.params_root.hex(),
            "member": member,
            "block_key": self.file.members[member].block_key.hex(),
            "height": height,
            "class": int(evidence.kind),
            "first": evidence.first.hex(),
            "second": evidence.second.hex(),
        }
