"""What the user calls assets: labels of his own, and the chain's name of the pegged asset.

Kept under the store's prefix for its owner: `n`, asset id: label.
"""

import re
from typing import Any

from federation.wallet.arguments import check_text
from sidechain.api.registry import INVALID_PARAMETER, RpcError
from sidechain.params import ChainParams
from sidechain.wallet.book import WalletBook
from sidechain.wallet.records import PREFIX_FOREIGN

MAX_LABEL_CHARS = 32
MAX_LABELS = 10_000

_HEX_ID = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,31}")


class AssetNames:
    """Labels by asset, read once; a label names one asset."""

    def __init__(self, book: WalletBook, params: ChainParams) -> None:
        self._book = book
        self._params = params
        self._labels = {key[-32:]: text.decode() for key, text in book.records(b"n")}

    def find(self, text: str) -> bytes:
        """The asset of a label or shown id; the pegged one for empty text.

        Raises:
            RpcError: no such label.
        """
        check_text(text, "asset")
        if text in ("", self._params.pegged_asset_name):
            return self._params.pegged_asset
        for asset, label in self._labels.items():
            if label == text:
                return asset
        if _HEX_ID.fullmatch(text):
            return bytes.fromhex(text)[::-1]
        raise RpcError(INVALID_PARAMETER, f"there is no asset {text!r}: give its id or a label")

    def show(self, asset: bytes) -> dict[str, Any]:
        """Id and label of an asset, label None without one."""
        return {"asset": asset[::-1].hex(), "label": self.label(asset)}

    def label(self, asset: bytes) -> str | None:
        """The label of an asset."""
        if asset == self._params.pegged_asset:
            return self._params.pegged_asset_name
        return self._labels.get(asset)

    def check(self, label: str) -> None:
        """Refuse a label that is taken or unfit.

        Raises:
            RpcError: it is.
        """
        if not _LABEL.fullmatch(check_text(label, "label")) or _HEX_ID.fullmatch(label):
            raise RpcError(
                INVALID_PARAMETER,
                f"a label is a letter and up to {MAX_LABEL_CHARS - 1} letters, digits, . _ or -",
            )
        if label == self._params.pegged_asset_name or label in self._labels.values():
            raise RpcError(INVALID_PARAMETER, f"the label {label!r} names another asset")
        if len(self._labels) >= MAX_LABELS:
            raise RpcError(INVALID_PARAMETER, f"at most {MAX_LABELS} labels")

    def put(self, asset: bytes, label: str) -> None:
        """Give an asset a label, in place of the one it had; durable.

        Raises:
            RpcError: as `check`.
        """
        if self._labels.get(asset) == label:
            return
        self.check(label)
        self._book.write([(PREFIX_FOREIGN + b"n" + asset, label.encode())], sync=True)
        self._labels[asset] = label
