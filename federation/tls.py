"""TLS between members: version 1.3, both sides show the certificate the federation file pins.

Each context trusts only the pinned certificates of those that may be at the other end, so a
stranger fails in the handshake; `pinned_member` then compares the certificate byte for byte.

Source: N15.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path

ALPN_PROTOCOL = "fedpeg/1"
# X509_V_FLAG_NO_CHECK_TIME: a pinned certificate is valid while it is pinned. With the dates
# checked, a member with a wrong clock could not even reach the others.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)


class LinkRefused(Exception):
    """The other end of a connection is not who it has to be.

    Attributes:
        reason: one of a few fixed texts, fit for counting.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def certificate_der(pem: str) -> bytes:
    """The DER bytes of one PEM certificate.

    Raises:
        ValueError: not exactly one certificate in PEM form.
    """
    return ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")


def listening_context(certificate: Path, key: Path, pinned: Mapping[int, bytes]) -> ssl.SSLContext:
    """Context of the side that accepts.

    Args:
        certificate, key: own PEM files.
        pinned: DER certificates of the members that may dial us, by index.
    Raises:
        OSError: a file cannot be read or key and certificate do not belong together.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, pinned)
    context.num_tickets = 0  # no resumption: every handshake shows the certificate
    return context


def dialing_context(certificate: Path, key: Path, peer: bytes) -> ssl.SSLContext:
    """Context of the side that dials one member, whose DER certificate is `peer`.

    Raises:
        OSError: as `listening_context`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, {0: peer})
    return context


def pinned_member(connection: ssl.SSLObject | ssl.SSLSocket, pinned: Mapping[int, bytes]) -> int:
    """Which member is at the other end of a connection whose handshake is done.

    Raises:
        LinkRefused: no pinned certificate, not TLS 1.3, or another application protocol.
    """
    if connection.version() != "TLSv1.3":
        raise LinkRefused("not TLS 1.3")
    if connection.selected_alpn_protocol() != ALPN_PROTOCOL:
        raise LinkRefused("wrong application protocol")
    shown = connection.getpeercert(binary_form=True)
    for index, certificate in pinned.items():
        if shown == certificate:
            return index
    raise LinkRefused("certificate is not pinned")


def handshake_failure(error: OSError) -> str:
    """Why a connection did not come about, in words fit for counting and for `status`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate is not pinned"
    if isinstance(error, ssl.SSLError):
        return f"handshake: {error.reason or 'failed'}"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, TimeoutError):
        return "no answer"
    return "connection lost before hello"


def _context(
    protocol: int, certificate: Path, key: Path, pinned: Mapping[int, bytes]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # the certificate itself is compared, names mean nothing
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _NO_CHECK_TIME
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN_PROTOCOL])
    context.load_cert_chain(certificate, key)
    if pinned:
        context.load_verify_locations(cadata=b"".join(pinned.values()))
    return context
