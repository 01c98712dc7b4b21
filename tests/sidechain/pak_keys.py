"""Members who may peg out, for tests of chains that demand it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sidechain.crypto.keys import GROUP_ORDER, public_key
from sidechain.crypto.zkp import sign_whitelist_proof
from sidechain.params import ChainParams
from sidechain.script.script import push
from tests.factories import secret


@dataclass(frozen=True, slots=True)
class PakMember:
    """One pair of keys of the list."""

    name: str

    @property
    def entry(self) -> bytes:
        """As it stands in the extension space."""
        return self.offline + self.online

    @property
    def offline(self) -> bytes:
        """Public key that is added to the destination's."""
        return public_key(secret(f"pak offline {self.name}"))

    @property
    def online(self) -> bytes:
        """Public key that signs."""
        return public_key(secret(f"pak online {self.name}"))

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Offline and online key."""
        return self.offline, self.online

    def proof(self, members: Sequence["PakMember"], key_secret: bytes) -> bytes:
        """Allow the key of a secret, under the list of all members."""
        offline = int.from_bytes(secret(f"pak offline {self.name}"), "big")
        summed = (offline + int.from_bytes(key_secret, "big")) % GROUP_ORDER
        return sign_whitelist_proof(
            [member.online for member in members],
            [member.offline for member in members],
            public_key(key_secret),
            index=list(members).index(self),
            online_secret=secret(f"pak online {self.name}"),
            summed_secret=summed.to_bytes(32, "big"),
        )


PAK_MEMBERS = tuple(PakMember(name) for name in ("first", "second", "third"))


def pegout_script(params: ChainParams, destination: bytes, *pushes: bytes) -> bytes:
    """A peg-out to this chain's parent with some pushes behind the destination."""
    head = b"\x6a" + push(params.parent_genesis_hash) + push(destination)
    return head + b"".join(map(push, pushes))
