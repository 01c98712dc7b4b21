"""RPC methods about output descriptors, and the search for coins that they describe.

libwally reads the descriptors; the forms it does not have (`raw`, `addr`, `pk`, `combo`) are read
here.

Source: elements/interfaces.md 3, BIP380 to BIP386.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import wallycore

from sidechain.api.arguments import array_argument, integer_argument, text_argument
from sidechain.api.descriptor_keys import provide_keys
from sidechain.api.json_text import coins
from sidechain.api.pset_signing import Provider
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.script_json import add_checksum, descriptor, script_address
from sidechain.api.transaction_json import amount_json, asset_json
from sidechain.chain import Chain
from sidechain.crypto.keys import is_public_key, public_key, tweak_add_public
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import decode_address, decode_secret
from sidechain.primitives.transaction import OutPoint
from sidechain.script.opcodes import OP_CHECKSIG
from sidechain.script.script import p2pkh, p2sh, p2tr, p2wpkh, push
from sidechain.script.taproot import tweak_hash
from sidechain.validation.coins import Coin

NEEDS_PRIVATE_KEYS = "Cannot derive script without private keys"
MAX_RANGE = 1_000_000
MAX_SCAN_SCRIPTS = 1_000_000
MAX_DESCRIPTOR_CHARACTERS = 10_000
DEFAULT_RANGE_END = 1_000
COINS_PER_TURN = 500
MAX_PROVIDED = 10_000
"""Indexes of one descriptor whose keys are derived for a PSET."""
_PRIVATE_KEY = re.compile(r"\b[1-9A-HJ-NP-Za-km-z]{51,52}\b")
_FAULTS = (ValueError, RuntimeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A descriptor without its checksum. `parsed` is libwally's, None for the forms read here."""

    text: str
    is_range: bool
    solvable: bool
    has_private_keys: bool
    scripts: tuple[bytes, ...]
    parsed: Any

    def scripts_at(self, index: int) -> list[bytes]:
        """The output scripts for one index.

        Raises:
            RpcError: it needs private keys that the descriptor does not have.
        """
        if self.parsed is None:
            return list(self.scripts)
        try:
            script = wallycore.descriptor_to_script(self.parsed, 0, 0, 0, 0, index, 0)
        except _FAULTS as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, NEEDS_PRIVATE_KEYS) from error
        return [_tweaked(bytes(script)) if self.text.startswith("tr(") else bytes(script)]


class DescriptorMethods:
    """Reads a chain's coins; changes nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._scanned = 0
        self._scanning = False
        self._abort = False

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getdescriptorinfo", self.getdescriptorinfo, "Explain a descriptor.")
        add("deriveaddresses", self.deriveaddresses, "Addresses of a descriptor.")
        add("scantxoutset", self.scantxoutset, "Find the coins of descriptors. Slow.")

    def getdescriptorinfo(self, descriptor: Any) -> dict[str, Any]:
        """Explain a descriptor."""
        text = text_argument(descriptor)
        found = self._read(text, checksum_needed=False)
        return {
            "descriptor": add_checksum(found.text),
            "checksum": add_checksum(text.partition("#")[0])[-8:],
            "isrange": found.is_range,
            "issolvable": found.solvable,
            "hasprivatekeys": found.has_private_keys,
        }

    async def deriveaddresses(self, descriptor: Any, range: Any = None) -> list[str]:
        """Addresses of a descriptor, for an index or a range of them."""
        text = text_argument(descriptor)
        first, last = (0, 0) if range is None else _range(range)
        found = self._read(text, checksum_needed=True)
        if not found.is_range and range is not None:
            raise RpcError(
                INVALID_PARAMETER, "Range should not be specified for an un-ranged descriptor"
            )
        if found.is_range and range is None:
            raise RpcError(INVALID_PARAMETER, "Range must be specified for a ranged descriptor")
        # A long range takes its time.
        return await asyncio.to_thread(self._addresses, found, first, last)

    def _addresses(self, found: Described, first: int, last: int) -> list[str]:
        shown = []
        for index in _indexes(first, last):
            scripts = found.scripts_at(index)
            for script in scripts:
                address = script_address(script, self._chain.params.prefixes)
                if address is not None:
                    shown.append(address)
                elif len(scripts) == 1:
                    raise RpcError(
                        INVALID_ADDRESS_OR_KEY,
                        "Descriptor does not have a corresponding address",
                    )
        return shown

    async def scantxoutset(self, action: Any, scanobjects: Any = None) -> Any:
        """Find the coins of descriptors, say how far that is, or end it."""
        what = text_argument(action)
        if what == "status":
            return {"progress": self._scanned} if self._scanning else None
        if what == "abort":
            self._abort = self._scanning
            return self._scanning
        if what != "start":
            raise RpcError(INVALID_PARAMETER, f"Invalid action '{what}'")
        if self._scanning:
            raise RpcError(
                INVALID_PARAMETER,
                'Scan already in progress, use action "abort" or "status"',
            )
        if scanobjects is None:
            raise RpcError(MISC_ERROR, "scanobjects argument is required for the start action")
        self._scanning, self._abort = True, False
        try:
            wanted = await asyncio.to_thread(self._all_wanted, array_argument(scanobjects))
            return await self._scan(wanted)
        finally:
            self._scanning = False

    def _all_wanted(self, items: list[Any]) -> set[bytes]:
        wanted: set[bytes] = set()
        for item in items:
            wanted.update(self._wanted_scripts(item))
            if len(wanted) > MAX_SCAN_SCRIPTS:
                raise RpcError(INVALID_PARAMETER, "Range is too large")
        return wanted

    def _wanted_scripts(self, item: Any) -> Iterator[bytes]:
        _, found, indexes = self._scan_object(item)
        for index in indexes:
            yield from found.scripts_at(index)

    def _scan_object(self, item: Any) -> tuple[str, Described, Iterator[int]]:
        """A descriptor as it is written, what it means, and the indexes that are asked for."""
        first, last = 0, DEFAULT_RANGE_END
        text = item
        if isinstance(item, dict):
            text = item.get("desc")
            if text is None:
                raise RpcError(INVALID_PARAMETER, "Descriptor needs to be provided in scan object")
            if item.get("range") is not None:
                first, last = _range(item["range"])
        elif not isinstance(item, str):
            raise RpcError(
                INVALID_PARAMETER, "Scan object needs to be either a string or an object"
            )
        found = self._read(text_argument(text), checksum_needed=False)
        if not found.is_range:
            first = last = 0
        return text.partition("#")[0], found, _indexes(first, last)

    def provide(self, item: Any, provider: Provider) -> None:
        """Add the keys, origins and scripts of a descriptor, given as to `scantxoutset`.

        Raises:
            RpcError: it is none, or asks for too many indexes.
        """
        text, found, indexes = self._scan_object(item)
        for count, index in enumerate(indexes):
            if count > MAX_PROVIDED:
                raise RpcError(INVALID_PARAMETER, "Range is too large")
            for script in found.scripts_at(index):
                provider.add_script(script)
            provide_keys(text, found.parsed, index, provider, self._chain.params)

    async def _scan(self, wanted: set[bytes]) -> dict[str, Any]:
        chain = self._chain
        tip_height, tip_hash = chain.tip_height, chain.tip_hash
        found: list[tuple[OutPoint, Coin]] = []
        count = self._scanned = 0
        for outpoint, coin in chain.coins():
            count += 1
            if count % COINS_PER_TURN == 0:
                # The coins are a snapshot; blocks may be connected meanwhile. Keys are in
                # order, so the first byte says how far this is.
                self._scanned = outpoint.txid[0] * 100 // 256
                await asyncio.sleep(0)
                if self._abort:
                    break
            if coin.script in wanted:
                found.append((outpoint, coin))
        total_sats = sum(
            coin.output.value_sats or 0
            for _, coin in found
            if coin.output.asset_id == chain.params.pegged_asset
        )
        return {
            "success": not self._abort,
            "txouts": count,
            "height": tip_height,
            "bestblock": tip_hash[::-1].hex(),
            "unspents": [self._unspent(*each, tip_height) for each in found],
            "total_unblinded_bitcoin_amount": coins(total_sats),
        }

    def _unspent(self, outpoint: OutPoint, coin: Coin, tip_height: int) -> dict[str, Any]:
        params = self._chain.params
        explicit = coin.output.value_sats is not None
        return {
            "txid": outpoint.txid[::-1].hex(),
            "vout": outpoint.index,
            "scriptPubKey": coin.script.hex(),
            "desc": descriptor(coin.script, params.prefixes),
            **({"amount": amount_json(coin.value)} if explicit else {}),
            **({} if explicit else {"amountcommitment": coin.value.hex()}),
            **asset_json(coin.asset),
            "coinbase": coin.coinbase,
            "height": coin.height,
            "blockhash": self._chain.header(coin.height).hash[::-1].hex(),
            "confirmations": tip_height - coin.height + 1,
        }

    def script_of(self, text: str) -> bytes:
        """The one output script of a descriptor; of `combo` the segwit one, else the hashed key's.

        Raises:
            RpcError: it is not one, names many scripts, or needs private keys.
        """
        found = self._read(text, checksum_needed=False)
        if found.is_range:
            raise RpcError(
                INVALID_PARAMETER,
                "Ranged descriptor not accepted. Maybe pass through deriveaddresses first?",
            )
        scripts = found.scripts_at(0)
        return scripts[{1: 0, 4: 2}.get(len(scripts), 1)]

    def _read(self, text: str, *, checksum_needed: bool) -> Described:
        body, hash_sign, checksum = text.partition("#")
        if len(text) > MAX_DESCRIPTOR_CHARACTERS:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "the descriptor is too long")
        if not hash_sign and checksum_needed:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Missing checksum")
        if hash_sign:
            _check_checksum(body, checksum)
        public = _PRIVATE_KEY.sub(self._public_text, body)
        own = self._own_form(public)
        found = _wally_form(public) if own is None else own
        return replace(found, has_private_keys=found.has_private_keys or public != body)

    def _public_text(self, key: "re.Match[str]") -> str:
        """A key in wallet import format as its public key; any other word as it is."""
        try:
            secret, compressed = decode_secret(key[0], self._chain.params.prefixes)
        except InvalidEncoding:
            return key[0]
        return public_key(secret, compressed=compressed).hex()

    def _own_form(self, body: str) -> Described | None:
        name, _, rest = body.partition("(")
        if name not in ("raw", "addr", "pk", "combo") or not rest.endswith(")"):
            return None
        inner = rest[:-1]
        if name == "raw":
            scripts = [_hex(inner, "Raw script is not hex")]
        elif name == "addr":
            try:
                scripts = [decode_address(inner, self._chain.params.prefixes).script]
            except InvalidEncoding as error:
                raise RpcError(INVALID_ADDRESS_OR_KEY, "Address is not valid") from error
        else:
            key = _hex(inner.rpartition("]")[2], f"{name}(): key '{inner}' is not valid")
            if not is_public_key(key):
                raise RpcError(INVALID_ADDRESS_OR_KEY, f"{name}(): Pubkey '{inner}' is invalid")
            scripts = [push(key) + bytes((OP_CHECKSIG,))]
            if name == "combo":
                scripts.append(p2pkh(key))
                if len(key) == 33:
                    scripts += [p2wpkh(key), p2sh(p2wpkh(key))]
        return Described(
            text=body,
            is_range=False,
            solvable=name in ("pk", "combo"),
            has_private_keys=False,
            scripts=tuple(scripts),
            parsed=None,
        )


def _wally_form(body: str) -> Described:
    # Of `tr`, libwally knows only Bitcoin's tweak; the key alone it gives as `rawtr`.
    form = f"raw{body}" if body.startswith("tr(") else body
    try:
        parsed = wallycore.descriptor_parse(form, None, wallycore.WALLY_NETWORK_LIQUID_REGTEST, 0)
        features = wallycore.descriptor_get_features(parsed)
    except _FAULTS as error:
        raise RpcError(
            INVALID_ADDRESS_OR_KEY, f"'{body[:200]}' is not a valid descriptor function"
        ) from error
    return Described(
        text=body,
        is_range=bool(features & wallycore.WALLY_MS_IS_RANGED),
        solvable=True,
        has_private_keys=bool(features & wallycore.WALLY_MS_IS_PRIVATE),
        scripts=(),
        parsed=parsed,
    )


def _tweaked(script: bytes) -> bytes:
    """The taproot output of an internal key that has no scripts beside it."""
    internal = script[2:]
    return p2tr(tweak_add_public(b"\x02" + internal, tweak_hash(internal))[1:])


def _check_checksum(body: str, checksum: str) -> None:
    if len(checksum) != 8:
        raise RpcError(
            INVALID_ADDRESS_OR_KEY,
            f"Expected 8 character checksum, not {len(checksum)} characters",
        )
    try:
        right = add_checksum(body)[-8:]
    except InvalidEncoding as error:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Invalid characters in payload") from error
    if checksum != right:
        raise RpcError(
            INVALID_ADDRESS_OR_KEY,
            f"Provided checksum '{checksum}' does not match computed checksum '{right}'",
        )


def _hex(text: str, failure: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise RpcError(INVALID_ADDRESS_OR_KEY, failure) from error


def _indexes(first: int, last: int) -> Iterator[int]:
    # A parameter of a method is called `range`, as in elementsd.
    while first <= last:
        yield first
        first += 1


def _range(value: Any) -> tuple[int, int]:
    if isinstance(value, list):
        if len(value) != 2:
            raise RpcError(INVALID_PARAMETER, "Range must be specified as end or as [begin,end]")
        first, last = map(integer_argument, value)
        if first > last:
            raise RpcError(
                INVALID_PARAMETER,
                "Range specified as [begin,end] must not have begin after end",
            )
    elif isinstance(value, int) and not isinstance(value, bool):
        first, last = 0, value
    else:
        raise RpcError(INVALID_PARAMETER, "Range must be specified as end or as [begin,end]")
    if first < 0:
        raise RpcError(INVALID_PARAMETER, "Range should be greater or equal than 0")
    if last >> 31:
        raise RpcError(INVALID_PARAMETER, "End of range is too high")
    if last >= first + MAX_RANGE:
        raise RpcError(INVALID_PARAMETER, "Range is too large")
    return first, last
