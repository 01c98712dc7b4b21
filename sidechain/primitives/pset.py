"""PSETs as maps of fields: read as strictly as elementsd reads them, written in its order.

Source: BIP 174, BIP 370, BIP 371, Elements' doc/pset.mediawiki.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from sidechain.crypto.hashes import hash160
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import Reader, compact_size, vec
from sidechain.primitives.pset_fields import (
    GLOBAL,
    INPUT,
    KEYED,
    OUTPUT,
    SIGNING_NAMES,
    Field,
    Form,
)
from sidechain.primitives.pset_values import (
    check_keyed,
    checked_value,
    leaf_path,
    read_count,
    read_leaf_path,
)
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut

MAGIC = b"pset\xff"
VERSION = 2
_LOCKS = ("height_locktime", "time_locktime")
INVALID_BASE64 = "invalid base64"
EXTRA_DATA = "extra data after PSBT"
_PROPRIETARY = 0xFC
_OWN_PREFIX = b"\xfc\x04pset"


@dataclass(slots=True)
class FieldMap:
    """One map. `values` holds plain fields by name, `keyed` those that say something in their
    key, by the rest of it; `proprietary` and `unknown` are by the whole key."""

    values: dict[str, bytes] = dataclass_field(default_factory=dict)
    keyed: dict[str, dict[bytes, bytes]] = dataclass_field(default_factory=dict)
    proprietary: dict[bytes, bytes] = dataclass_field(default_factory=dict)
    unknown: dict[bytes, bytes] = dataclass_field(default_factory=dict)

    def get(self, name: str) -> bytes:
        """A plain field, empty where it is absent."""
        return self.values.get(name, b"")

    def number(self, name: str, *, signed: bool = False) -> int | None:
        """An integer field, None where it is absent."""
        found = self.values.get(name)
        return None if found is None else int.from_bytes(found, "little", signed=signed)

    def entries(self, name: str) -> dict[bytes, bytes]:
        """A keyed field."""
        return self.keyed.get(name, {})

    def ordered(self, name: str) -> list[tuple[bytes, bytes]]:
        """A keyed field in the order in which elementsd has its entries."""
        form = next(entry.form for entry in (*INPUT, *GLOBAL) if entry.name == name)
        return _ordered(form, self.entries(name))

    @property
    def is_final(self) -> bool:
        """Whether an input has its final script or witness."""
        return bool(self.get("final_script_sig") or self.get("final_script_witness"))

    @property
    def outpoint(self) -> OutPoint:
        """What an input spends."""
        return OutPoint(self.get("previous_txid"), self.number("previous_vout") or 0)

    def spent(self, params: ChainParams) -> TxOut | None:
        """The output that an input says it spends."""
        whole = self.get("non_witness_utxo")
        if whole:
            outputs = Transaction.decode(whole).outputs
            index = self.outpoint.index
            return outputs[index] if index < len(outputs) else None
        if self.get("witness_utxo"):
            return TxOut.decode(self.get("witness_utxo"))
        value, claim = self.number("pegin_value", signed=True), self.get("pegin_claim_script")
        if value is None or value < 0 or not claim:
            return None
        return TxOut(explicit_asset(params.pegged_asset), explicit_value(value), NULL, claim)

    @property
    def is_to_be_blinded(self) -> bool:
        """Whether an output names the key of who shall see it."""
        return bool(self.get("blinding_pubkey"))

    @property
    def is_blinded(self) -> bool:
        """Whether an output that is to be blinded has everything of it."""
        return self.is_to_be_blinded and all(map(self.get, _BLINDED_PARTS))


_BLINDED_PARTS = (
    "value_commitment",
    "asset_commitment",
    "rangeproof",
    "surjection_proof",
    "ecdh_pubkey",
)


@dataclass(slots=True)
class Pset:
    """A PSET of version 2."""

    shared: FieldMap
    inputs: list[FieldMap]
    outputs: list[FieldMap]

    def serialize(self) -> bytes:
        """The bytes, as elementsd orders them."""
        self.shared.values["input_count"] = compact_size(len(self.inputs))
        self.shared.values["output_count"] = compact_size(len(self.outputs))
        return MAGIC + b"".join(
            _write(found, table)
            for found, table in (
                (self.shared, GLOBAL),
                *((item, INPUT) for item in self.inputs),
                *((item, OUTPUT) for item in self.outputs),
            )
        )

    def locktime(self) -> int:
        """The lock time that suits all inputs; heights go before times.

        Raises:
            InvalidEncoding: there is none.
        Source: BIP 370, "Determining Lock Time".
        """
        locks = {name: [0] for name in _LOCKS}
        for found in self.inputs:
            asked = {name: found.number(name) for name in _LOCKS}
            if all(lock is None for lock in asked.values()):
                continue
            locks = {
                name: [*known, lock]
                for name, known in locks.items()
                if (lock := asked[name]) is not None
            }
        if not locks:
            raise InvalidEncoding("The lock times of the inputs exclude one another")
        for known in locks.values():
            if max(known):
                return max(known)
        return self.shared.number("fallback_locktime") or 0

    def text(self) -> str:
        """The bytes in base64."""
        return b64encode(self.serialize()).decode()


def decode_pset(text: str, params: ChainParams) -> Pset:
    """Read a PSET in base64.

    Raises:
        InvalidEncoding: with elementsd's words.
    """
    try:
        raw = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise InvalidEncoding(INVALID_BASE64) from error
    if b64encode(raw).decode() != text:
        raise InvalidEncoding(INVALID_BASE64)
    return parse_pset(raw, params)


def parse_pset(raw: bytes, params: ChainParams) -> Pset:
    """Read a PSET.

    Raises:
        InvalidEncoding: with elementsd's words.
    """
    reader = Reader(raw)
    if reader.read(len(MAGIC)) != MAGIC:
        raise InvalidEncoding("Invalid PSBT magic bytes")
    shared = _read(reader, GLOBAL, "the global map", params)
    _check_shared(shared)
    counts = [read_count(shared.get(name)) for name in ("input_count", "output_count")]
    inputs: list[FieldMap] = []
    while reader.remaining and len(inputs) < counts[0]:
        inputs.append(_read(reader, INPUT, "an input map", params))
        _check_input(inputs[-1])
    if len(inputs) != counts[0]:
        raise InvalidEncoding("Inputs provided does not match the number of inputs in transaction.")
    outputs: list[FieldMap] = []
    while reader.remaining and len(outputs) < counts[1]:
        outputs.append(_read(reader, OUTPUT, "an output map", params))
        _check_output(outputs[-1])
    if len(outputs) != counts[1]:
        raise InvalidEncoding(
            "Outputs provided does not match the number of outputs in transaction."
        )
    if reader.remaining:
        raise InvalidEncoding(EXTRA_DATA)
    pset = Pset(shared, inputs, outputs)
    pset.locktime()
    return pset


def _read(reader: Reader, table: Sequence[Field], where: str, params: ChainParams) -> FieldMap:
    found = FieldMap()
    plain, own = _TABLES[id(table)]
    while reader.remaining:
        key = reader.vec()
        if not key:
            return found
        number, subtype, rest = _read_key(key)
        entry = plain.get(number)
        if number == _PROPRIETARY:
            entry = None if subtype is None else own.get(subtype)
        elif table is GLOBAL and number == 0:
            raise InvalidEncoding("Unsigned tx is not allowed in PSET")
        if entry is not None:
            _take(found, entry, key, rest, reader, params)
            continue
        others = found.proprietary if number == _PROPRIETARY else found.unknown
        if key in others:
            raise InvalidEncoding(
                "Duplicate Key, proprietary key already found"
                if number == _PROPRIETARY
                else "Duplicate Key, key for unknown value already provided"
            )
        others[key] = reader.vec()
    raise InvalidEncoding(f"Separator is missing at the end of {where}")


def _read_key(key: bytes) -> tuple[int, int | None, int]:
    """Number of a key, Elements' own subtype if it has one, and how many bytes follow."""
    reader, subtype = Reader(key), None
    try:
        number = reader.compact_size()
        if number == _PROPRIETARY:
            identifier = reader.vec()
            subtype = reader.compact_size()
            subtype = subtype if identifier == b"pset" else None
    except InvalidEncoding as error:
        if error.reason == "end of data":
            raise InvalidEncoding("SpanReader::read(): end of data") from error
        raise
    return number, subtype, reader.remaining


def _take(
    found: FieldMap,
    entry: Field,
    key: bytes,
    rest: int,
    reader: Reader,
    params: ChainParams,
) -> None:
    if entry.form in KEYED:
        known = found.keyed.setdefault(entry.name, {})
        inner_key = key[7:] if entry.own else key[1:]
        if inner_key in known:
            raise InvalidEncoding(f"Duplicate Key, {entry.doubled}")
        value = reader.vec()
        check_keyed(entry, key, value)
        known[inner_key] = value
        return
    if entry.name in found.values and (entry.own or not rest):
        raise InvalidEncoding(f"Duplicate Key, {entry.doubled}")
    if rest:
        raise InvalidEncoding(f"{entry.long_key} is more than one byte type")
    value = checked_value(entry, reader.vec(), params)
    if entry.name == "version" and int.from_bytes(value, "little") > VERSION:
        raise InvalidEncoding("Unsupported version number")
    if value or entry.name == "script":
        found.values[entry.name] = value


def _check_shared(shared: FieldMap) -> None:
    version = shared.number("version") or 0
    if version == 0:
        # The misspelling is elementsd's.
        raise InvalidEncoding("No unsigned transcation was provided")
    if version == 1:
        raise InvalidEncoding("There is no PSBT version 1")
    for name in ("tx_version", "input_count", "output_count"):
        if not shared.get(name):
            raise InvalidEncoding(f"PSBT_GLOBAL_{name.upper()} is required in PSBTv2")


def _check_input(found: FieldMap) -> None:
    if not found.get("previous_txid"):
        raise InvalidEncoding("Previous TXID is required in PSBTv2")
    if not found.get("previous_vout"):
        raise InvalidEncoding("Previous output's index is required in PSBTv2")
    if found.get("issuance_value_commitment") and not found.get("issuance_value_rangeproof"):
        raise InvalidEncoding("Issuance value commitment provided without value rangeproof")
    if found.get("issuance_keys_commitment") and not found.get("issuance_keys_rangeproof"):
        raise InvalidEncoding(
            "Issuance inflation keys commitment provided without inflation keys rangeproof"
        )
    for what in ("value", "asset"):
        if bool(found.get(f"explicit_{what}")) != bool(found.get(f"{what}_proof")):
            raise InvalidEncoding(
                f"Input explicit {what} and {what} proof must be provided together"
            )
    whole = found.get("non_witness_utxo")
    if whole and Transaction.decode(whole).txid != found.get("previous_txid"):
        raise InvalidEncoding("Non-witness UTXO does not match outpoint hash")


def _check_output(found: FieldMap) -> None:
    if not found.get("amount") and not found.get("value_commitment"):
        raise InvalidEncoding("Output amount is required in PSBTv2")
    if "script" not in found.values:
        raise InvalidEncoding("Output script is required in PSBTv2")
    if not found.get("asset") and not found.get("asset_commitment"):
        raise InvalidEncoding("Output asset is required in PSET")
    if found.is_to_be_blinded and not found.get("blinder_index"):
        raise InvalidEncoding("Output is blinded but does not have a blinder index")
    if found.is_to_be_blinded and any(map(found.get, _BLINDED_PARTS)) and not found.is_blinded:
        raise InvalidEncoding(
            "Blinded output contains some blinding data but not all, this is an invalid state"
        )


def _write(found: FieldMap, table: Sequence[Field]) -> bytes:
    pieces = []
    last = len(table)
    if table is OUTPUT:
        # The taproot fields of an output stand behind its proprietary ones.
        last = next(at for at, entry in enumerate(table) if entry.name == "tap_internal_key")
    for entry in table[:last]:
        if table is INPUT and found.is_final and entry.name in SIGNING_NAMES:
            continue
        pieces.append(_written(found, entry))
    pieces.extend(_pairs(sorted(found.proprietary.items())))
    pieces.extend(_written(found, entry) for entry in table[last:])
    pieces.extend(_pairs(sorted(found.unknown.items())))
    return b"".join(pieces) + b"\0"


def _written(found: FieldMap, entry: Field) -> bytes:
    head = (_OWN_PREFIX if entry.own else b"") + bytes((entry.number,))
    if entry.form in KEYED:
        known = _ordered(entry.form, found.entries(entry.name))
        return b"".join(_pairs((head + key, _canonical(entry.form, value)) for key, value in known))
    if entry.name not in found.values:
        return b""
    value = found.values[entry.name]
    if entry.form is Form.TRANSACTION:
        value = Transaction.decode(value).serialize(include_witness=False)
    return vec(head) + vec(value)


def _pairs(items: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    return (vec(key) + vec(value) for key, value in items)


def _canonical(form: Form, value: bytes) -> bytes:
    if form is Form.PATH_BY_XONLY:
        return leaf_path(*read_leaf_path(value))
    return b"" if form is Form.SCALAR else value


def _ordered(form: Form, known: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    match form:
        case Form.BY_PUBKEY:
            return sorted(known.items(), key=lambda item: hash160(item[0]))
        case Form.BY_CONTROL_BLOCK:
            return sorted(
                known.items(), key=lambda item: (item[1][:-1], item[1][-1], len(item[0]), item[0])
            )
        case Form.PATH_BY_XPUB:
            return sorted(known.items(), key=lambda item: (_origin_order(item[1]), item[0][45:]))
        case _:
            return sorted(known.items())


def _origin_order(origin: bytes) -> tuple[bytes, list[int]]:
    path = [int.from_bytes(origin[at : at + 4], "little") for at in range(4, len(origin), 4)]
    return origin[:4], path


_TABLES = {
    id(table): (
        {entry.number: entry for entry in table if not entry.own},
        {entry.number: entry for entry in table if entry.own},
    )
    for table in (GLOBAL, INPUT, OUTPUT)
}
