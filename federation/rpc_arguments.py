"""Arguments of a member's RPC methods, checked the same way by all of them."""

from typing import Any

from sidechain.api.registry import INVALID_PARAMETER, RpcError


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number within limits, both allowed.

    Raises:
        RpcError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RpcError(INVALID_PARAMETER, f"{name} is not a whole number from {least} to {most}")
    return value


def text(value: Any, name: str) -> str:
    """Text.

    Raises:
        RpcError: it is something else.
    """
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMETER, f"{name} is not text")
    return value


def hex_bytes(value: Any, name: str) -> bytes:
    """The bytes of hex digits.

    Raises:
        RpcError: it is something else.
    """
    try:
        return bytes.fromhex(text(value, name))
    except ValueError:
        raise RpcError(INVALID_PARAMETER, f"{name} is not hex") from None
