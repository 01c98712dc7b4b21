"""Figures of one block, as `getblockstats` shows them.

Source: the reference's `getblockstats`; elements/interfaces.md 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sidechain.api.arguments import array_argument, hash_argument, integer_argument, text_argument
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    RpcError,
)
from sidechain.api.spent_coins import spent_by_block
from sidechain.chain import Chain
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from sidechain.validation.coins import Coin
from sidechain.validation.connect import block_subsidy_sats
from sidechain.validation.dynafed import median_time_past

COIN_OVERHEAD_BYTES = 41
NULL_OUTPUT_BYTES = 4
"""What the reference counts for the coin of a peg-in: an output of nothing."""

_PERCENTILES = ((1, 10), (1, 4), (1, 2), (3, 4), (9, 10))


@dataclass(slots=True)
class _Sums:
    """Figures of a block's transactions, summed up; the coinbase counts where it says so."""

    asset: bytes
    counts_coins: bool
    outputs: int = 0
    coins: int = 0
    coin_bytes: int = 0
    counted_coin_bytes: int = 0
    inputs: int = 0
    total_out_sats: int = 0
    sizes: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    fees: list[int] = field(default_factory=list)
    segwit: list[tuple[int, int]] = field(default_factory=list)

    def add(self, tx: Transaction, spent: Sequence[Coin]) -> None:
        """Count one transaction; a coinbase only by its outputs."""
        fee_sats = out_sats = 0
        for output in tx.outputs:
            size = len(output.serialize()) + COIN_OVERHEAD_BYTES
            self.outputs += 1
            self.coin_bytes += size
            if output.asset_id == self.asset and output.value_sats is not None:
                fee_sats += output.value_sats if output.is_fee else 0
                out_sats += output.value_sats
            if self.counts_coins and not output.is_unspendable:
                self.coins += 1
                self.counted_coin_bytes += size
        if not tx.is_coinbase:
            self._add_payment(tx, spent, fee_sats, out_sats)

    def _add_payment(
        self, tx: Transaction, spent: Sequence[Coin], fee_sats: int, out_sats: int
    ) -> None:
        self.inputs += len(tx.inputs)
        self.total_out_sats += out_sats
        self.sizes.append(tx.total_size)
        self.weights.append(tx.weight_wu)
        self.fees.append(fee_sats)
        if tx.has_witness:
            self.segwit.append((tx.total_size, tx.weight_wu))
        for item, coin in zip(tx.inputs, spent, strict=True):
            size = NULL_OUTPUT_BYTES if item.is_pegin else len(coin.output.serialize())
            self.coin_bytes -= size + COIN_OVERHEAD_BYTES
            self.counted_coin_bytes -= size + COIN_OVERHEAD_BYTES

    @property
    def rates(self) -> list[int]:
        """Satoshis per virtual byte, rounded down, of every transaction."""
        pairs = zip(self.fees, self.weights, strict=True)
        return [4 * fee // weight for fee, weight in pairs]


def block_stats(chain: Chain, hash_or_height: Any, stats: Any) -> dict[str, Any]:
    """Figures of a block of the chain, all or those that are named.

    Raises:
        RpcError: unknown block or figure, or a block beside the chain.
    """
    height = _height(chain, hash_or_height)
    wanted = [] if stats is None else [text_argument(item) for item in array_argument(stats)]
    block = chain.block(height)
    if height == 0 and len(block.transactions) > 1:
        raise RpcError(MISC_ERROR, "Undo data not available")
    spent = spent_by_block(chain, block, height)
    sums = _Sums(chain.params.policy_asset, height > 0)
    for tx in block.transactions:
        sums.add(tx, spent.get(tx.txid, ()))
    shown = _figures(block, sums) | {
        "height": height,
        "mediantime": median_time_past(chain, height),
        "subsidy": block_subsidy_sats(height, chain.params),
    }
    for name in wanted:
        if name not in shown:
            raise RpcError(INVALID_PARAMETER, f"Invalid selected statistic '{name}'")
    return {name: shown[name] for name in sorted(set(wanted) or shown)}


def _height(chain: Chain, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        height = integer_argument(value)
        if height < 0:
            raise RpcError(INVALID_PARAMETER, f"Target block height {height} is negative")
        if height > chain.tip_height:
            text = f"Target block height {height} after current tip {chain.tip_height}"
            raise RpcError(INVALID_PARAMETER, text)
        return height
    wanted = hash_argument(value, "hash_or_height")
    if not chain.branches.knows(wanted):
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
    found = chain.height_of(wanted)
    if found is None:
        node = chain.branches.node(wanted)
        if node is not None and not node.has_data:
            raise RpcError(MISC_ERROR, "Block not available (not fully downloaded)")
        raise RpcError(MISC_ERROR, "Undo data not available")
    return found


def _figures(block: Block, sums: _Sums) -> dict[str, Any]:
    payments = len(sums.sizes)
    weight, fee, rates = sum(sums.weights), sum(sums.fees), sums.rates
    size = sum(sums.sizes)
    return {
        "avgfee": fee // payments if payments else 0,
        "avgfeerate": 4 * fee // weight if weight else 0,
        "avgtxsize": size // payments if payments else 0,
        "blockhash": block.hash[::-1].hex(),
        "feerate_percentiles": _percentiles(rates, sums.weights),
        "ins": sums.inputs,
        "maxfee": max(sums.fees, default=0),
        "maxfeerate": max(rates, default=0),
        "maxtxsize": max(sums.sizes, default=0),
        "medianfee": _median(sums.fees),
        "mediantxsize": _median(sums.sizes),
        "minfee": min(sums.fees, default=0),
        "minfeerate": min(rates, default=0),
        "mintxsize": min(sums.sizes, default=0),
        "outs": sums.outputs,
        "swtotal_size": sum(each for each, _ in sums.segwit),
        "swtotal_weight": sum(each for _, each in sums.segwit),
        "swtxs": len(sums.segwit),
        "time": block.header.time,
        "total_out": sums.total_out_sats,
        "total_size": size,
        "total_weight": weight,
        "totalfee": fee,
        "txs": len(block.transactions),
        "utxo_increase": sums.outputs - sums.inputs,
        "utxo_size_inc": sums.coin_bytes,
        "utxo_increase_actual": sums.coins - sums.inputs,
        "utxo_size_inc_actual": sums.counted_coin_bytes,
    }


def _median(values: Sequence[int]) -> int:
    """The middle value, or half the sum of both, rounded down; 0 of none."""
    if not values:
        return 0
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2


def _percentiles(rates: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Rates below which given shares of the weight lie."""
    pairs = sorted(zip(rates, weights, strict=True))
    if not pairs:
        return [0] * len(_PERCENTILES)
    total, reached = sum(weights), 0
    found: list[int] = []
    for rate, weight in pairs:
        reached += weight
        while len(found) < len(_PERCENTILES):
            share, of = _PERCENTILES[len(found)]
            if reached * of < total * share:
                break
            found.append(rate)
    return found + [pairs[-1][0]] * (len(_PERCENTILES) - len(found))
