"""What a federation is: federation.json, which all members share and which holds no secret.

Hex in it is lower case; keys and scripts are written as they are, the parent's genesis hash as
people read it (reversed). How one member runs is in `federation.member_folder`.

Source: N1-N4, consensus:C1.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from federation import tls
from federation.canonical import canonical_json
from federation.config_fields import Fields, InvalidConfig
from federation.files import FileLayer, replace_file
from federation.member_change import MemberChange
from federation.member_entry import MemberEntry
from federation.member_folder import (
    MEMBERS_MAX,
    BitcoindAccess,
    MemberConfig,
    MemberFolder,
    read_config_json,
    take_birth_mark,
)
from federation.members import MemberSet, check_byzantine_safety, witness_limit_bytes
from peg.fedscript import FedScript, fed_script
from peg.parameters import ChainFacts, PegParameters, check_parameters
from sidechain.daemon.chain_options import params_from_options
from sidechain.errors import Invalid
from sidechain.params import ChainParams
from sidechain.script.script import multisig_script, p2wsh

__all__ = [
    "BitcoindAccess",
    "FederationFile",
    "InvalidConfig",
    "MemberConfig",
    "MemberEntry",
    "MemberFolder",
    "chain_options",
    "take_birth_mark",
    "witness_limit_bytes",
]

FORMAT = 1
CHANGES_MAX = 48
LOCAL_EPOCH_LENGTH = 10
LOCAL_VALID_EPOCHS = 30
_FIXED_OPTIONS: dict[str, int | str] = {
    "con_signed_blocks": 1,
    "con_blockheightinheader": 1,
    "con_elementsmode": 1,
    "con_has_parent_chain": 1,
    "con_start_p2wsh_script": 1,
    "con_mandatorycoinbase": "6a",
    "con_blocksubsidy": 0,
    "con_connect_genesis_outputs": 1,
    "enforce_pak": 0,
    "initialfreecoins": 0,
    "initialreissuancetokens": 0,
}
_FREE_OPTIONS = (
    "con_max_block_sig_size",
    "con_parentpowlimit",
    "parentgenesisblockhash",
    "peginconfirmationdepth",
    "dynamic_epoch_length",
    "total_valid_epochs",
)
# Relay policy, not agreement: the same on every member, outside the parameter hash.
_POLICY_OPTIONS = ("-acceptdiscountct=1", "-anyonecanspendaremine=0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationFile:
    """federation.json, checked: what all members share, without a secret.

    `signblockscript` is the k-of-n witness script, `options` are elementsd's names and values for
    the consensus rules of the chain, in the file's order. `changes` are the member sets to come
    and those that came: the file says who they would be, the chain alone says which is in force.
    """

    chain_name: str
    signblockscript: bytes
    fedpegscript: bytes
    emergency_keys: tuple[bytes, ...]
    peg: PegParameters
    options: tuple[tuple[str, int | str], ...]
    members: tuple[MemberEntry, ...]
    changes: tuple[MemberChange, ...] = ()

    @property
    def people(self) -> tuple[MemberEntry, ...]:
        """Founding members and all who may join, by the index of their links."""
        found = {entry.index: entry for entry in self.members}
        for change in self.changes:
            found |= {entry.index: found.get(entry.index, entry) for entry in change.members}
        return tuple(found[index] for index in sorted(found))

    @property
    def signblockscripts(self) -> tuple[bytes, ...]:
        """The k-of-n scripts of all sets, the founding one first."""
        later = (change.signblockscript for change in self.changes)
        return (self.signblockscript, *later)

    @property
    def n(self) -> int:
        """Number of members."""
        return len(self.members)

    @property
    def k(self) -> int:
        """Votes and signatures a block takes, signatures a peg-out takes."""
        return self.peg.k

    def params_json(self) -> dict[str, Any]:
        """The `params` part: what every member must hold identically."""
        return {
            "format": FORMAT,
            "chain_name": self.chain_name,
            "signblockscript": self.signblockscript.hex(),
            "fedpegscript": self.fedpegscript.hex(),
            "emergency_keys": [key.hex() for key in self.emergency_keys],
            "peg": self.peg.to_json(),
            "chain": dict(self.options),
        }

    def to_json(self) -> dict[str, Any]:
        """The whole file."""
        whole: dict[str, Any] = {
            "params": self.params_json(),
            "members": [member.to_json() for member in self.members],
        }
        if self.changes:  # outside the parameter hash: files without any stay as they were
            whole["changes"] = [change.to_json() for change in self.changes]
        return whole

    def parameter_hash(self) -> bytes:
        """SHA-256 of `params` alone as RFC 8785 JSON (N2): 32 bytes, shown as plain hex."""
        return sha256(canonical_json(self.params_json())).digest()

    def member_set(self) -> MemberSet:
        """The founding members as agreement sees them."""
        return MemberSet.of(tuple(member.block_key for member in self.members), self.k)

    def fed_script(self) -> FedScript:
        """The fedpegscript, taken apart."""
        return fed_script(
            k=self.k,
            keys=[member.peg_key for member in self.members],
            csv=self.peg.csv,
            emergency_keys=self.emergency_keys,
        )

    def chain_params(self) -> ChainParams:
        """Parameters of the sidechain, with genesis hash and pegged asset.

        Raises:
            InvalidConfig: an option is malformed or of a kind this version does not run.
        """
        given = [f"-{name}={value}" for name, value in self.options]
        scripts = [
            f"-chain={self.chain_name}",
            f"-signblockscript={self.signblockscript.hex()}",
            f"-fedpegscript={self.fedpegscript.hex()}",
        ]
        try:
            return params_from_options([*scripts, *given, *_POLICY_OPTIONS])
        except Invalid as error:
            raise InvalidConfig(f"params.chain: {error}") from error

    def at_ports(self, ports: Mapping[int, int]) -> Self:
        """The same federation with members, by index, listening elsewhere."""

        def moved(entries: tuple[MemberEntry, ...]) -> tuple[MemberEntry, ...]:
            return tuple(replace(e, port=ports.get(e.index, e.port)) for e in entries)

        changes = tuple(replace(each, members=moved(each.members)) for each in self.changes)
        return replace(self, members=moved(self.members), changes=changes)

    def save(self, path: Path, layer: FileLayer | None = None) -> None:
        """Write the file, durable and whole. Readable by anybody: it holds no secret.

        Raises:
            OSError: the disk refused.
        """
        text = json.dumps(self.to_json(), indent=2) + "\n"
        replace_file(layer or FileLayer(), path, text.encode(), mode=0o644)

    @classmethod
    def load(cls, path: Path, *, allow_no_byzantine_safety: bool = False) -> Self:
        """Read and check a file.

        Raises:
            InvalidConfig: it cannot be read or breaks a rule; says what a person can change.
        """
        plain = read_config_json(path)
        return cls.from_json(plain, allow_no_byzantine_safety=allow_no_byzantine_safety)

    @classmethod
    def from_json(cls, plain: object, *, allow_no_byzantine_safety: bool = False) -> Self:
        """Check a parsed file.

        Args:
            allow_no_byzantine_safety: accept a federation that one lying member can fork (C1).
        Raises:
            InvalidConfig: as `load`.
        """
        top = Fields(plain, "")
        params = Fields(top.take("params"), "params")
        members = tuple(
            MemberEntry.from_json(item, f"members[{i}]")
            for i, item in enumerate(top.items("members", 1, MEMBERS_MAX))
        )
        listed = top.items("changes", 0, CHANGES_MAX) if top.has("changes") else []
        changes = tuple(
            MemberChange.from_json(item, f"changes[{i}]") for i, item in enumerate(listed)
        )
        top.done()
        params.integer("format", FORMAT, FORMAT)
        try:
            peg = PegParameters.from_json(params.take_object("peg"))
        except Invalid as error:
            raise InvalidConfig(f"params.peg: {error}") from error
        federation = cls(
            chain_name=params.name("chain_name"),
            signblockscript=params.hex("signblockscript"),
            fedpegscript=params.hex("fedpegscript"),
            emergency_keys=params.public_keys("emergency_keys", 3),
            peg=peg,
            options=_options(params.take_object("chain")),
            members=members,
            changes=changes,
        )
        params.done()
        federation.check(allow_no_byzantine_safety=allow_no_byzantine_safety)
        return federation

    def check(self, *, allow_no_byzantine_safety: bool) -> None:
        """Refuse a federation whose parts do not fit together.

        Raises:
            InvalidConfig: with the rule and what a person can change.
        Source: N2-N4, peg:S1-S13, consensus:C1.
        """
        _check_members(self)
        check_changes(self)
        try:
            check_byzantine_safety(self.member_set(), allow_none=allow_no_byzantine_safety)
        except ValueError as error:
            raise InvalidConfig(
                f"{error}; start with --allow-no-byzantine-safety if that is what you want"
            ) from error
        keys = [member.block_key for member in self.members]
        if self.signblockscript != multisig_script(self.k, keys):
            raise InvalidConfig("params.signblockscript is not k of the members' block keys")
        try:
            script = self.fed_script()
        except Invalid as error:
            raise InvalidConfig(f"params.fedpegscript: {error}") from error
        if self.fedpegscript != script.script:
            raise InvalidConfig("params.fedpegscript is not the script of the members' peg keys")
        _check_options(self)
        facts = ChainFacts(
            mandatory_coinbase=self.chain_params().mandatory_coinbase,
            fee_asset_set=False,
            fedpeg_program=p2wsh(self.fedpegscript),
        )
        try:
            check_parameters(
                self.peg,
                script=script,
                chain=facts,
                allow_no_byzantine_safety=allow_no_byzantine_safety,
            )
        except Invalid as error:
            raise InvalidConfig(f"params.peg breaks rule {error}") from error


def chain_options(
    peg: PegParameters,
    *,
    parent_genesis_hash: bytes,
    parent_pow_limit: int,
    epoch_length: int = LOCAL_EPOCH_LENGTH,
    valid_epochs: int = LOCAL_VALID_EPOCHS,
) -> tuple[tuple[str, int | str], ...]:
    """The chain options of a federation, by the rules that fix them (N4).

    Args:
        parent_genesis_hash: 32 bytes, internal order.
    """
    free: dict[str, int | str] = {
        "con_max_block_sig_size": witness_limit_bytes(peg.n, peg.k),
        "con_parentpowlimit": f"{parent_pow_limit:064x}",
        "parentgenesisblockhash": parent_genesis_hash[::-1].hex(),
        "peginconfirmationdepth": peg.pegin_depth,
        "dynamic_epoch_length": epoch_length,
        "total_valid_epochs": valid_epochs,
    }
    return tuple(sorted((_FIXED_OPTIONS | free).items()))


def _options(plain: Mapping[str, Any]) -> tuple[tuple[str, int | str], ...]:
    for name, value in plain.items():
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise InvalidConfig(f"params.chain.{name} is neither a whole number nor text")
    return tuple(sorted(plain.items()))


def _check_options(federation: FederationFile) -> None:
    options = dict(federation.options)
    wanted = {*_FIXED_OPTIONS, *_FREE_OPTIONS}
    if set(options) != wanted:
        odd = ", ".join(sorted(set(options) ^ wanted))
        raise InvalidConfig(f"params.chain: missing or unknown: {odd}")
    derived = {
        "con_max_block_sig_size": witness_limit_bytes(federation.n, federation.k),
        "peginconfirmationdepth": federation.peg.pegin_depth,
    }
    for name, value in (_FIXED_OPTIONS | derived).items():
        if options[name] != value:
            raise InvalidConfig(f"params.chain.{name} must be {value} in a federation (N4)")
    for name in ("dynamic_epoch_length", "total_valid_epochs"):
        value = options[name]
        if not isinstance(value, int) or not 1 <= value <= 1_000_000:
            raise InvalidConfig(f"params.chain.{name} is out of range")
    for name in ("con_parentpowlimit", "parentgenesisblockhash"):
        value = options[name]
        if not isinstance(value, str) or len(value) != 64 or value.strip("0123456789abcdef"):
            raise InvalidConfig(f"params.chain.{name} is not 64 lower-case hex digits")


def check_changes(federation: FederationFile) -> None:
    """Refuse a later member set that cannot follow on the others (N1, N3).

    Everybody keeps key, name and link for as long as the chain lives; n and k stay, since values
    of the parameter hash rest on them.

    Raises:
        InvalidConfig: with the set and what is wrong there.
    """
    known = {entry.index: entry for entry in federation.members}
    for i, change in enumerate(federation.changes):
        where = f"changes[{i}]"
        if (len(change.members), change.k) != (federation.n, federation.k):
            raise InvalidConfig(
                f"{where}: {change.k} of {len(change.members)} members, but this federation has "
                f"{federation.k} of {federation.n} for good: a change replaces members"
            )
        for entry in change.members:
            if known.setdefault(entry.index, entry).identity != entry.identity:
                raise InvalidConfig(f"{where}: index {entry.index} is another member's for good")
    if sorted(known) != list(range(len(known))):
        raise InvalidConfig("changes: who joins takes the next index, without gaps")
    everybody = list(known.values())
    secrets = [e.block_key[1:] for e in everybody] + [e.peg_key[1:] for e in everybody]
    secrets += [key[1:] for key in federation.emergency_keys]
    names, certificates = {e.name for e in everybody}, {e.certificate_pem for e in everybody}
    if len(set(secrets)) != len(secrets) or {len(names), len(certificates)} != {len(everybody)}:
        raise InvalidConfig("changes: a key, name or certificate is somebody else's already (N1)")


def _check_members(federation: FederationFile) -> None:
    members = federation.members
    if [member.index for member in members] != list(range(len(members))):
        raise InvalidConfig("members must stand in the order of their index, from 0 on")
    if federation.peg.n != len(members):
        raise InvalidConfig(f"params.peg.n is {federation.peg.n}, but there are {len(members)}")
    if not 1 <= federation.k <= len(members):
        raise InvalidConfig(f"params.peg.k is {federation.k}: it must be 1 to {len(members)}")
    secrets = [m.block_key for m in members] + [m.peg_key for m in members]
    secrets += federation.emergency_keys
    if len({key[1:] for key in secrets}) != len(secrets):
        raise InvalidConfig("a public key appears twice: every key must be its own (N1, N6)")
    for what, values in (
        ("name", [m.name for m in members]),
        ("address", [f"{m.host}:{m.port}" for m in members]),
        ("certificate", [tls.certificate_der(m.certificate_pem).hex() for m in members]),
    ):
        if len(set(values)) != len(values):
            raise InvalidConfig(f"two members have the same {what}")
