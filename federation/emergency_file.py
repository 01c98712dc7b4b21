"""Files that emergency holders hand to each other: claim scripts, and the plan with its signatures.

Neither holds a secret. A plan is never believed: whoever signs or sends computes every transaction
again from its parts.

Source: peg:10.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from federation.config_fields import Fields, InvalidConfig
from federation.files import FileLayer, replace_file
from federation.member_folder import read_config_json
from peg.emergency import EmergencyCoin, EmergencySpend
from peg.fedscript import EMERGENCY_KEYS, MAX_CLAIM_SCRIPT_BYTES, parse_fed_script
from peg.status import outpoint_text, parse_outpoint
from sidechain.errors import Invalid
from sidechain.primitives.transaction import OutPoint

FORMAT: Final = 1
CLAIM_SCRIPTS_KIND: Final = "fedpeg claim scripts"
PLAN_KIND: Final = "fedpeg emergency plan"
COINS_MAX: Final = 100_000
SPENDS_MAX: Final = 2_000
_SATS_MAX: Final = 21_000_000 * 100_000_000
_HEIGHT_MAX: Final = 2**31 - 1
_HASH_TEXT_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimScripts:
    """What only the sidechain tells: what tweaks each deposit, and where the lane stands.

    `anchor` is the one of the export; later batches move it, which the Bitcoin node tells.
    """

    parameter_hash: bytes
    height: int
    lane: int
    anchor: OutPoint
    scripts: tuple[bytes, ...]

    def save(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        plain = {
            "kind": CLAIM_SCRIPTS_KIND,
            "format": FORMAT,
            "parameter_hash": self.parameter_hash.hex(),
            "height": self.height,
            "lane": self.lane,
            "anchor": outpoint_text(self.anchor),
            "claim_scripts": [script.hex() for script in self.scripts],
        }
        _save(path, plain)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            InvalidConfig: it cannot be read, or is no such file.
        """
        fields = _open(path, CLAIM_SCRIPTS_KIND)
        found = cls(
            parameter_hash=_hash(fields, "parameter_hash"),
            height=fields.integer("height", 0, _HEIGHT_MAX),
            lane=fields.integer("lane", 0, 255),
            anchor=_outpoint(fields, "anchor"),
            scripts=tuple(
                _script(text, f"claim_scripts[{i}]")
                for i, text in enumerate(fields.items("claim_scripts", 0, COINS_MAX))
            ),
        )
        fields.done()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """Transactions to be signed, and what holders have signed so far.

    `signatures` has one mapping a transaction: place of the holder's key in the script, and the
    signatures on each input.
    """

    parameter_hash: bytes
    lane: int
    new_fedpegscript: bytes
    spends: tuple[EmergencySpend, ...]
    signatures: tuple[Mapping[int, tuple[bytes, ...]], ...]

    def save(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        plain = {
            "kind": PLAN_KIND,
            "format": FORMAT,
            "parameter_hash": self.parameter_hash.hex(),
            "lane": self.lane,
            "new_fedpegscript": self.new_fedpegscript.hex(),
            "transactions": [
                _spend_json(spend, shares)
                for spend, shares in zip(self.spends, self.signatures, strict=True)
            ],
        }
        _save(path, plain)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file; nothing but its form is checked.

        Raises:
            InvalidConfig: it cannot be read, or is no such file.
        """
        fields = _open(path, PLAN_KIND)
        parameter_hash = _hash(fields, "parameter_hash")
        lane = fields.integer("lane", 0, 255)
        new_fedpegscript = fields.hex("new_fedpegscript")
        read = [
            _read_spend(item, f"transactions[{i}]")
            for i, item in enumerate(fields.items("transactions", 1, SPENDS_MAX))
        ]
        fields.done()
        return cls(
            parameter_hash=parameter_hash,
            lane=lane,
            new_fedpegscript=new_fedpegscript,
            spends=tuple(spend for spend, _ in read),
            signatures=tuple(shares for _, shares in read),
        )


def read_fedpegscript(text: str) -> bytes:
    """A federation's script out of a command's words: federation.json, or the script in hex.

    Raises:
        InvalidConfig: it is neither, or a script that no federation has.
    """
    path = Path(text)
    if path.is_file():
        params = Fields(read_config_json(path), "").take_object("params")
        script = Fields(params, "params").hex("fedpegscript")
    else:
        try:
            script = bytes.fromhex(text)
        except ValueError:
            raise InvalidConfig(f"{text!r} is neither a file nor a script in hex") from None
    try:
        parse_fed_script(script)
    except (Invalid, IndexError) as error:
        raise InvalidConfig(f"{text!r} is not a federation's script: {error}") from error
    return script


def _spend_json(spend: EmergencySpend, shares: Mapping[int, Sequence[bytes]]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "outpoint": outpoint_text(coin.outpoint),
                "value_sats": coin.value_sats,
                "height": coin.height,
                "claim_script": (coin.claim_script or b"").hex(),
            }
            for coin in spend.coins
        ],
        "outputs": [
            {"value_sats": value_sats, "script": script.hex()}
            for value_sats, script in spend.outputs
        ],
        "signatures": {
            str(holder): [signature.hex() for signature in given]
            for holder, given in sorted(shares.items())
        },
    }


def _read_spend(plain: object, where: str) -> tuple[EmergencySpend, dict[int, tuple[bytes, ...]]]:
    fields = Fields(plain, where)
    coins = tuple(
        _read_coin(item, f"{where}.inputs[{i}]")
        for i, item in enumerate(fields.items("inputs", 1, COINS_MAX))
    )
    outputs = tuple(
        _read_output(item, f"{where}.outputs[{i}]")
        for i, item in enumerate(fields.items("outputs", 1, COINS_MAX))
    )
    given = Fields(fields.take_object("signatures"), f"{where}.signatures")
    fields.done()
    shares = {}
    for holder in range(EMERGENCY_KEYS):
        if given.has(str(holder)):
            texts = given.items(str(holder), len(coins), len(coins))
            shares[holder] = tuple(
                _bytes(text, 80, f"{where}.signatures.{holder}") for text in texts
            )
    given.done()
    return EmergencySpend(coins=coins, outputs=outputs), shares


def _read_coin(plain: object, where: str) -> EmergencyCoin:
    fields = Fields(plain, where)
    script = _script(fields.take("claim_script"), f"{where}.claim_script")
    coin = EmergencyCoin(
        outpoint=_outpoint(fields, "outpoint"),
        value_sats=fields.integer("value_sats", 0, _SATS_MAX),
        height=fields.integer("height", 0, _HEIGHT_MAX),
        claim_script=script or None,
    )
    fields.done()
    return coin


def _read_output(plain: object, where: str) -> tuple[int, bytes]:
    fields = Fields(plain, where)
    found = fields.integer("value_sats", 0, _SATS_MAX), fields.hex("script")
    fields.done()
    return found


def _open(path: Path, kind: str) -> Fields:
    fields = Fields(read_config_json(path), "")
    if fields.has("kind") and fields.take("kind") == kind:
        fields.integer("format", FORMAT, FORMAT)
        return fields
    raise InvalidConfig(f"{path} is no file of the kind {kind!r}")


def _save(path: Path, plain: Mapping[str, Any]) -> None:
    text = json.dumps(plain, indent=1) + "\n"
    replace_file(FileLayer(), path, text.encode(), mode=0o644)


def _hash(fields: Fields, name: str) -> bytes:
    found = _bytes(fields.text(name, size_max=_HASH_TEXT_MAX), 32, name)
    if len(found) != 32:
        raise InvalidConfig(f"{name} is not 32 bytes")
    return found


def _outpoint(fields: Fields, name: str) -> OutPoint:
    try:
        return parse_outpoint(fields.text(name, size_max=80))
    except InvalidConfig:
        raise
    except Invalid as error:
        raise InvalidConfig(f"{name}: {error}") from error


def _script(text: object, where: str) -> bytes:
    return _bytes(text, MAX_CLAIM_SCRIPT_BYTES, where)


def _bytes(text: object, most: int, where: str) -> bytes:
    if isinstance(text, str) and len(text) <= 2 * most:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    raise InvalidConfig(f"{where} is not hex of at most {most} bytes")
