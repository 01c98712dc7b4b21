"""The RPC method about the whole set of coins.

Source: elements/interfaces.md 3; hash types as the reference computes them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sidechain.api.arguments import flag_argument, text_argument
from sidechain.api.json_text import coins
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.chain import Chain
from sidechain.crypto.muhash import MuHash
from sidechain.primitives.confidential import NULL, value_sats
from sidechain.primitives.encoding import le32, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.validation.coins import Coin

BOGO_BYTES = 50
COINS_PER_TURN = 500

_SERIALIZED, _MUHASH, _NONE = "hash_serialized_3", "muhash", "none"


@dataclass(slots=True)
class _Totals:
    """What is counted over all coins, which come by txid."""

    count: int = 0
    transactions: int = 0
    bogo_bytes: int = 0
    sum_sats: int = 0
    last_txid: bytes = field(default=b"", repr=False)

    def add(self, outpoint: OutPoint, coin: Coin) -> None:
        self.count += 1
        self.bogo_bytes += BOGO_BYTES + len(coin.script)
        self.transactions += outpoint.txid != self.last_txid
        self.last_txid = outpoint.txid
        self.sum_sats += value_sats(coin.value) or 0


class CoinMethods:
    """Reads all coins; changes nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            "gettxoutsetinfo", self.gettxoutsetinfo, "Count, sum and hash of all coins. Slow."
        )

    async def gettxoutsetinfo(
        self, hash_type: Any = None, hash_or_height: Any = None, use_index: Any = None
    ) -> dict[str, Any]:
        """Count and sum of unspent outputs; the sum is of explicit amounts of every asset."""
        kind = _SERIALIZED if hash_type is None else text_argument(hash_type)
        if kind not in (_SERIALIZED, _MUHASH, _NONE):
            raise RpcError(INVALID_PARAMETER, f"'{kind}' is not a valid hash_type")
        flag_argument(use_index, True)
        if hash_or_height is not None:
            raise RpcError(
                INVALID_PARAMETER, "Querying specific block heights requires coinstatsindex"
            )
        chain = self._chain
        tip_height, tip_hash = chain.tip_height, chain.tip_hash
        totals = _Totals()
        take, digest = _hasher(kind)
        for outpoint, coin in chain.coins():
            totals.add(outpoint, coin)
            take(outpoint, coin)
            if totals.count % COINS_PER_TURN == 0:
                # The coins are a snapshot; blocks may be connected meanwhile.
                await asyncio.sleep(0)
        shown: dict[str, Any] = {
            "height": tip_height,
            "bestblock": tip_hash[::-1].hex(),
            "txouts": totals.count,
            "bogosize": totals.bogo_bytes,
        }
        if kind != _NONE:
            shown[kind] = digest()[::-1].hex()
        return shown | {
            "total_amount": coins(totals.sum_sats),
            "transactions": totals.transactions,
            "disk_size": chain.disk_bytes(),
        }


def coin_bytes(outpoint: OutPoint, coin: Coin) -> bytes:
    """A coin as it is hashed: where it is, what made it, and the output without its nonce."""
    place = outpoint.serialize() + le32(coin.height << 1 | coin.coinbase)
    return place + coin.asset + coin.value + NULL + vec(coin.script)


def _hasher(kind: str) -> tuple[Callable[[OutPoint, Coin], None], Callable[[], bytes]]:
    """What takes the coins one by one, and what gives the hash in the end."""
    if kind == _MUHASH:
        muhash = MuHash()
        return lambda point, coin: muhash.insert(coin_bytes(point, coin)), muhash.digest
    if kind == _NONE:
        return lambda point, coin: None, bytes
    serial = sha256()
    return (
        lambda point, coin: serial.update(coin_bytes(point, coin)),
        lambda: sha256(serial.digest()).digest(),
    )
