"""Who the two ends of a link are.

Source: N15.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerMember:
    """Where a member is and how it is recognised."""

    index: int
    host: str
    port: int
    certificate_pem: str
    block_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """What this process shows: own index, PEM files, and the address to listen on (port 0: any)."""

    index: int
    certificate: Path
    key: Path
    listen_host: str
    listen_port: int
