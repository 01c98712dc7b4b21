"""What all methods of the wallet process share: error codes, arguments, refusals as RPC errors."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from sidechain.api.json_text import sats
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    RpcError,
)
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.wallet.sealing import WrongPassphrase
from sidechain.wallet.selection import WalletRefusal

WALLET_ERROR = -4
INSUFFICIENT_FUNDS = -6
CLIENT_NOT_CONNECTED = -9
UNLOCK_NEEDED = -13
PASSPHRASE_INCORRECT = -14
WALLET_NOT_FOUND = -18

_REFUSAL_CODES = {
    "unknown-wallet": WALLET_NOT_FOUND,
    "insufficient-funds": INSUFFICIENT_FUNDS,
    "locked": UNLOCK_NEEDED,
    "wallet-name": INVALID_PARAMETER,
    "amount": INVALID_PARAMETER,
    "no-token": WALLET_ERROR,
    "no-blinding-key": UNLOCK_NEEDED,
    "watch-only": WALLET_ERROR,
    "pset": INVALID_PARAMETER,
    "dust": INVALID_PARAMETER,
    "E3_SCRIPT": INVALID_ADDRESS_OR_KEY,
    "E4_MIN": INVALID_PARAMETER,
    "E5_FED": INVALID_ADDRESS_OR_KEY,
    "HELD_OVERSIZE": INVALID_PARAMETER,
}


def translated(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with our errors as RPC errors; its parameters stay visible to the registry."""

    @wraps(handler)
    async def run(*params: Any) -> Any:
        try:
            result = handler(*params)
            return await result if isinstance(result, Awaitable) else result
        except WalletRefusal as error:
            raise RpcError(_REFUSAL_CODES.get(error.reason, WALLET_ERROR), _text(error)) from error
        except WrongPassphrase as error:
            raise RpcError(PASSPHRASE_INCORRECT, error.reason) from error
        except InvalidEncoding as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, str(error)) from error
        except Unavailable as error:
            raise RpcError(CLIENT_NOT_CONNECTED, str(error)) from error

    return run


def _text(refusal: WalletRefusal) -> str:
    """The sentence for the user, behind the code where peg-protocol 3.4 defines one."""
    return str(refusal) if refusal.reason.isupper() else refusal.detail


def amount_of(value: Any) -> int:
    """Satoshis of an amount in coins, above zero.

    Raises:
        RpcError: it is no such amount.
    """
    try:
        amount_sats = sats(value)
    except ValueError as error:
        raise RpcError(TYPE_ERROR, str(error)) from error
    if amount_sats == 0:
        raise RpcError(TYPE_ERROR, "Invalid amount for send")
    return amount_sats


def check_text(value: object, name: str) -> str:
    """The argument, if it is text.

    Raises:
        RpcError: it is something else.
    """
    if not isinstance(value, str):
        raise RpcError(TYPE_ERROR, f"{name} must be text")
    return value
