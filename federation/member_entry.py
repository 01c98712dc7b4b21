"""One member as federation.json and the files of member changes name it.

Source: N1, N2.
"""

from dataclasses import dataclass
from typing import Any, Self

from federation import tls
from federation.config_fields import Fields, InvalidConfig
from federation.member_folder import PEOPLE_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberEntry:
    """One member as the federation file names it.

    `index` is what its links go by. Of founding members it is their place in the signblockscript
    too; who joins later takes the next number, and never one that somebody had.
    """

    index: int
    name: str
    host: str
    port: int
    block_key: bytes
    peg_key: bytes
    certificate_pem: str

    @property
    def identity(self) -> tuple[str, bytes, bytes, str]:
        """What of a member stays when it moves to another host."""
        return self.name, self.block_key, self.peg_key, self.certificate_pem

    @classmethod
    def from_json(cls, plain: object, where: str) -> Self:
        """Read one entry of `members`.

        Raises:
            InvalidConfig: with the place and what is wrong there.
        """
        fields = Fields(plain, where)
        certificate = fields.text("certificate", size_max=8_192)
        try:
            tls.certificate_der(certificate)
        except ValueError:
            raise InvalidConfig(f"{where}.certificate is not one certificate in PEM form") from None
        entry = cls(
            index=fields.integer("index", 0, PEOPLE_MAX - 1),
            name=fields.text("name", size_max=64),
            host=fields.text("host", size_max=253),
            port=fields.integer("port", 1, 65_535),
            block_key=fields.public_key("block_key"),
            peg_key=fields.public_key("peg_key"),
            certificate_pem=certificate,
        )
        fields.done()
        return entry

    def to_json(self) -> dict[str, Any]:
        """Inverse of `from_json`."""
        return {
            "index": self.index,
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "block_key": self.block_key.hex(),
            "peg_key": self.peg_key.hex(),
            "certificate": self.certificate_pem,
        }
