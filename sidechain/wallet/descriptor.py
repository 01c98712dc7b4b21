"""Output descriptors of a wallet, as text: `elwpkh(…)` and `ct(slip77(…),elwpkh(…))`.

The one form written and read is what lwk and other Elements wallets use for one P2WPKH account:
key origin, account key, receive and change branches as `<0;1>/*`, eight characters of checksum.

Source: elements/transactions.md 8.4; ELIP 150 (ct), ELIP 152 (elwpkh).
"""

import re

import wallycore

from sidechain.errors import InvalidEncoding
from sidechain.wallet.blinding import WALLY_REFUSALS
from sidechain.wallet.keys import EXTENDED_KEY_BYTES, KeyOrigin, PublicAccount, SecretKey

MAX_DESCRIPTOR_CHARS = 1_000
_HARDENED = 1 << 31
_WRAPPED = re.compile(r"ct\(slip77\(([0-9a-f]{64})\),(.*)\)")
_ACCOUNT = re.compile(
    r"elwpkh\((?:\[([0-9a-f]{8})((?:/[0-9]{1,10}['h]?){0,10})\])?"
    r"([1-9A-HJ-NP-Za-km-z]{100,120})/<0;1>/\*\)"
)


def account_descriptor(account: PublicAccount, *, blinded: bool = True) -> str:
    """The descriptor of an account, with checksum.

    Args:
        blinded: with the master blinding key: whoever has the text sees all amounts.
    Raises:
        InvalidEncoding: the account lacks the blinding key or the origin of its key.
    """
    key, origin = account.master_blinding_key, account.origin
    if origin is None or (blinded and key is None):
        raise InvalidEncoding("the keys of this wallet are not all known: unlock it once")
    steps = "".join(f"/{_shown_step(step)}" for step in origin.path)
    shown = wallycore.base58check_from_bytes(account.extended_key)
    text = f"elwpkh([{origin.fingerprint.hex()}{steps}]{shown}/<0;1>/*)"
    if blinded and key is not None:
        text = f"ct(slip77({key.value.hex()}),{text})"
    return f"{text}#{checksum(text)}"


def parse_descriptor(text: str) -> PublicAccount:
    """The account of a descriptor; one without `ct(…)` opens nothing hidden.

    Raises:
        InvalidEncoding: wrong checksum, a bad key, or a form this wallet does not have. The text
            is not repeated: it may hold a blinding key.
    """
    if len(text) > MAX_DESCRIPTOR_CHARS or not text.isascii():
        raise InvalidEncoding("this is no descriptor")
    body, mark, given = text.strip().partition("#")
    if mark and given != checksum(body):
        raise InvalidEncoding("the descriptor's checksum is wrong")
    wrapped = _WRAPPED.fullmatch(body)
    found = _ACCOUNT.fullmatch(body if wrapped is None else wrapped[2])
    if found is None:
        raise InvalidEncoding(
            "only elwpkh([origin]xpub/<0;1>/*) is known, alone or in ct(slip77(key),…)"
        )
    fingerprint, steps, shown = found.groups()
    origin = None
    if fingerprint:
        path = tuple(_read_step(step) for step in steps.split("/")[1:])
        origin = KeyOrigin(fingerprint=bytes.fromhex(fingerprint), path=path)
    key = None if wrapped is None else SecretKey(bytes.fromhex(wrapped[1]))
    if key is not None and not any(key.value):
        raise InvalidEncoding("the blinding key is zero")
    return PublicAccount.decode(_key_bytes(shown), master_blinding_key=key, origin=origin)


def checksum(body: str) -> str:
    """The eight characters behind `#`.

    Raises:
        InvalidEncoding: the text is no descriptor that libwally can read.
    """
    try:
        parsed = wallycore.descriptor_parse(
            body, None, wallycore.WALLY_NETWORK_NONE, wallycore.WALLY_MINISCRIPT_AS_ELEMENTS
        )
        return str(wallycore.descriptor_get_checksum(parsed, 0))
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("this is no descriptor of Elements") from error


def _key_bytes(shown: str) -> bytes:
    try:
        data = bytes(wallycore.base58check_to_bytes(shown))
    except WALLY_REFUSALS as error:
        raise InvalidEncoding("the account key does not decode") from error
    if len(data) != EXTENDED_KEY_BYTES:
        raise InvalidEncoding("the account key does not decode")
    return data


def _shown_step(step: int) -> str:
    return f"{step - _HARDENED}h" if step >= _HARDENED else str(step)


def _read_step(text: str) -> int:
    number = int(text.rstrip("'h"))
    if number >= _HARDENED:
        raise InvalidEncoding("a step of the key's path is out of range")
    return number + (_HARDENED if text[-1] in "'h" else 0)
