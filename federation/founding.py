"""Making a new federation on one machine: keys, certificates, files.

Everything is made in a side folder and moved into place at the end, the federation file last: a
folder with a federation file is complete, one without has no federation.

Source: N1, N5, N6, N18.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.config import (
    BitcoindAccess,
    FederationFile,
    InvalidConfig,
    MemberConfig,
    MemberEntry,
    MemberFolder,
    chain_options,
)
from federation.files import FileLayer, replace_file
from peg.fedscript import fed_script
from peg.parameters import PegParameters, for_members
from sidechain.crypto.keys import GROUP_ORDER, public_key
from sidechain.params import BITCOIN_REGTEST_GENESIS_HASH, REGTEST_POW_LIMIT
from sidechain.script.script import multisig_script

CERTIFICATE_DAYS = 3_650
EMERGENCY_KEYS = 3
ON_DEMAND_INTERVAL_MS = 60_000
SHORTEST_INTERVAL_MS = 170
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Entropy = Callable[[int], bytes]
"""Gives that many fresh random bytes, such as os.urandom."""


class AlreadyFounded(Exception):
    """The folder holds a federation already; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPorts:
    """Ports of one member: for the other members, for its JSON-RPC, and for Esplora's routes.

    0 leaves a port to the system, anew at every start.
    """

    link: int
    rpc: int
    esplora: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _MemberKeys:
    block: bytes
    peg: bytes
    tls_key_pem: bytes
    certificate_pem: bytes


def found_federation(
    folder: Path,
    *,
    n: int,
    k: int,
    chain_name: str,
    block_time_ms: int,
    ports: Sequence[MemberPorts],
    peg: PegParameters,
    bitcoind_url: str,
    bitcoind_cookie: str,
    entropy: Entropy,
    unix_time_s: int,
    host: str = "127.0.0.1",
    allow_no_byzantine_safety: bool = False,
) -> FederationFile:
    """Make keys, certificates and files of a local federation in `folder`.

    Args:
        block_time_ms: longest pause between blocks; 0 makes blocks on demand (N18).
        ports: one entry a member.
        peg: a preset; adapted to n and k where it is for others.
        bitcoind_cookie: path of the cookie file; a relative one starts at the member's folder.
        unix_time_s: now, for the certificates.
        host: address the members listen on and reach each other at.
    Returns:
        The federation as it was written, checked.
    Raises:
        AlreadyFounded: there is a federation file.
        InvalidConfig: numbers that make no federation.
        OSError: the disk refused; running again starts anew.
    """
    layer = FileLayer()
    final = folder / "federation.json"
    if final.exists():
        raise AlreadyFounded(f"{final} exists")
    if len(ports) != n:
        raise InvalidConfig(f"{n} members need {n} pairs of ports, got {len(ports)}")
    if (peg.n, peg.k) != (n, k):
        peg = for_members(peg, n, k)
    keys = [_member_keys(f"m{i}.{chain_name}", entropy, unix_time_s) for i in range(n)]
    emergency = [_secret(entropy) for _ in range(EMERGENCY_KEYS)]
    federation = _federation(chain_name, peg, keys, emergency, host, ports)
    federation.check(allow_no_byzantine_safety=allow_no_byzantine_safety)

    staging = folder / "founding.partial"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    base_config = MemberConfig(
        index=0,
        listen_host=host,
        listen_port=0,
        rpc_port=0,
        bitcoind=BitcoindAccess(url=bitcoind_url, cookie=Path(bitcoind_cookie)),
        allow_no_byzantine_safety=allow_no_byzantine_safety,
        second_validator=None,
        **_pace(n, block_time_ms),
    )
    _write_emergency(layer, staging / "emergency", emergency)
    (staging / "members").mkdir(mode=0o700)
    for i in range(n):
        _write_member(layer, staging / "members" / f"m{i}", keys[i], base_config, i, ports[i])
    layer.sync_folder(staging / "members")
    federation.save(staging / "federation.json", layer)
    _move_in(layer, staging, folder)
    return federation


def add_member(
    folder: Path,
    config: MemberConfig,
    name: str,
    *,
    chain_name: str,
    ports: MemberPorts,
    entropy: Entropy,
    unix_time_s: int,
) -> MemberEntry:
    """Make keys and folder of a member that is to join, never started before (C85).

    Args:
        folder: of all members.
        config: of the new member but for its ports; `index` is its own.
    Raises:
        OSError: the disk refused; running again starts anew.
    """
    layer = FileLayer()
    keys = _member_keys(f"{name}.{chain_name}", entropy, unix_time_s)
    staging, final = folder / f"{name}.partial", folder / name
    shutil.rmtree(staging, ignore_errors=True)
    _write_member(layer, staging, keys, config, config.index, ports)
    if final.exists():  # of a try that ended before any file named its keys
        aside = folder / f"{name}.unfinished"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(final, aside)
    layer.rename(staging, final)
    layer.sync_folder(folder)
    return MemberEntry(
        index=config.index,
        name=name,
        host=config.listen_host,
        port=ports.link,
        block_key=public_key(keys.block),
        peg_key=public_key(keys.peg),
        certificate_pem=keys.certificate_pem.decode(),
    )


def make_certificate(name: str, entropy: Entropy, unix_time_s: int) -> tuple[bytes, bytes]:
    """A self-signed certificate (ECDSA P-256, ten years) and its secret key, both PEM.

    Returns:
        Certificate, secret key.
    """
    number = int.from_bytes(entropy(48), "big") % (_P256_ORDER - 1) + 1
    key = ec.derive_private_key(number, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    begin = datetime.fromtimestamp(unix_time_s, UTC) - timedelta(days=1)
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(entropy(16), "big") >> 1 | 1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret


def _federation(
    chain_name: str,
    peg: PegParameters,
    keys: Sequence[_MemberKeys],
    emergency: Sequence[bytes],
    host: str,
    ports: Sequence[MemberPorts],
) -> FederationFile:
    members = tuple(
        MemberEntry(
            index=i,
            name=f"m{i}",
            host=host,
            port=ports[i].link,
            block_key=public_key(key.block),
            peg_key=public_key(key.peg),
            certificate_pem=key.certificate_pem.decode(),
        )
        for i, key in enumerate(keys)
    )
    emergency_keys = tuple(public_key(secret) for secret in emergency)
    script = fed_script(
        k=peg.k,
        keys=[member.peg_key for member in members],
        csv=peg.csv,
        emergency_keys=emergency_keys,
    )
    federation = FederationFile(
        chain_name=chain_name,
        signblockscript=multisig_script(peg.k, [member.block_key for member in members]),
        fedpegscript=script.script,
        emergency_keys=emergency_keys,
        peg=peg,
        options=chain_options(
            peg,
            parent_genesis_hash=BITCOIN_REGTEST_GENESIS_HASH,
            parent_pow_limit=REGTEST_POW_LIMIT,
        ),
        members=members,
    )
    # What is written has to be what a reader accepts.
    return FederationFile.from_json(federation.to_json(), allow_no_byzantine_safety=True)


def _pace(n: int, block_time_ms: int) -> dict[str, int]:
    """Intervals and time-outs of a local federation.

    Block times are whole seconds above the median of the last eleven, so in the long run a block
    every 170 ms is the fastest that does not outrun the clock (N18).
    """
    gossip_ms = max(100, 70 * n)
    on_demand = block_time_ms == 0
    interval_ms = ON_DEMAND_INTERVAL_MS if on_demand else block_time_ms
    shortest = SHORTEST_INTERVAL_MS if on_demand else max(interval_ms // 10, SHORTEST_INTERVAL_MS)
    return {
        "block_interval_ms": interval_ms,
        "min_interval_ms": min(shortest, interval_ms),
        "timeout_base_ms": max(500, 2 * gossip_ms - 60),
        "timeout_step_ms": 100,
        "timeout_cap_ms": 10_000,
        "gossip_interval_ms": gossip_ms,
        "future_limit_s": 30,
    }


def _member_keys(name: str, entropy: Entropy, unix_time_s: int) -> _MemberKeys:
    certificate, secret = make_certificate(name, entropy, unix_time_s)
    return _MemberKeys(
        block=_secret(entropy),
        peg=_secret(entropy),
        tls_key_pem=secret,
        certificate_pem=certificate,
    )


def _secret(entropy: Entropy) -> bytes:
    """32 bytes in the range of secret keys."""
    seed = entropy(32)
    if len(seed) != 32 or not any(seed):
        raise InvalidConfig("the entropy source gives no entropy")
    number = int.from_bytes(sha256(b"fedpeg/key" + seed).digest(), "big")
    return (number % (GROUP_ORDER - 1) + 1).to_bytes(32, "big")


def _write_member(
    layer: FileLayer,
    path: Path,
    keys: _MemberKeys,
    config: MemberConfig,
    index: int,
    ports: MemberPorts,
) -> None:
    folder = MemberFolder(path)
    for made in (path, folder.keys, folder.journal, folder.peg_journal, folder.approved):
        made.mkdir(mode=0o700)
    folder.guard.parent.mkdir(mode=0o700)
    contents = {
        folder.block_key: keys.block.hex().encode() + b"\n",
        folder.peg_key: keys.peg.hex().encode() + b"\n",
        folder.tls_key: keys.tls_key_pem,
        folder.certificate: keys.certificate_pem,
        folder.birth_mark: b"",
    }
    for target, data in contents.items():
        replace_file(layer, target, data)
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    values |= {"index": index, "listen_port": ports.link, "rpc_port": ports.rpc}
    values["esplora_port"] = ports.esplora
    MemberConfig(**values).save(path, layer)


def _write_emergency(layer: FileLayer, path: Path, secrets: Sequence[bytes]) -> None:
    path.mkdir(mode=0o700)
    for number, secret in enumerate(secrets, 1):
        replace_file(layer, path / f"e{number}.key", secret.hex().encode() + b"\n")


def _move_in(layer: FileLayer, staging: Path, folder: Path) -> None:
    """Give the parts their places, the federation file last.

    What an interrupted earlier try left in place never had a federation file: no coin can depend
    on those keys. It is moved aside all the same, not deleted.
    """
    for name in ("emergency", "members", "federation.json"):
        target = folder / name
        if target.exists():
            aside = folder / f"{name}.unfinished"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(target, aside)
        layer.rename(staging / name, target)
        layer.sync_folder(folder)
    shutil.rmtree(staging, ignore_errors=True)
