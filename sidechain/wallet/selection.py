"""Coin choice: which coins pay an amount and the fee of the transaction that spends them.

Looks for a set that needs no change first (bounded branch and bound), else takes the largest
coins. Sizes are worst case, so the real fee rate is never below the asked one; a change output
that would cost about as much to spend as it is worth is left to the fee.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from sidechain.errors import Invalid
from sidechain.policy.fees import required_fee_sats
from sidechain.policy.standardness import MAX_STANDARD_TX_WEIGHT_WU
from sidechain.primitives.confidential import NULL
from sidechain.primitives.encoding import compact_size
from sidechain.primitives.transaction import OutPoint, TxOut
from sidechain.wallet.blinding import (
    RANGE_PROOF_BYTES,
    ZERO,
    Opened,
    fields,
    surjection_proof_bytes,
)
from sidechain.wallet.keys import Branch

INPUT_BASE_BYTES = 41
INPUT_WITNESS_BYTES = 2 + 1 + 1 + 72 + 1 + 33 + 1
"""Two empty proofs, the item count, the longest low-S signature, the key, no peg-in items."""
INPUT_VBYTES = (4 * INPUT_BASE_BYTES + INPUT_WITNESS_BYTES + 3) // 4
"""What spending a change output will cost."""

OUTPUT_WITNESS_BYTES = 2
HIDDEN_OUTPUT_WU = 4 * (24 + 32) + (3 + RANGE_PROOF_BYTES) + 1 - OUTPUT_WITNESS_BYTES
"""What a blinded output weighs more than an explicit one, but for its surjection proof."""

_SEARCH_STEPS = 4_000
_SEARCH_COINS = 100


class WalletRefusal(Invalid):
    """The wallet does not build what was asked for; `reason` is a short code, `detail` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedCoin:
    """One output that this wallet can spend, what it holds, and the key that spends it.

    `height` is None while the transaction that made it is in no final block. `nonce` is the raw
    field; `abf` and `vbf` blind asset and value, zero where these are explicit.
    """

    outpoint: OutPoint
    asset: bytes
    value_sats: int
    script: bytes
    branch: Branch
    index: int
    height: int | None
    nonce: bytes = NULL
    abf: bytes = ZERO
    vbf: bytes = ZERO

    @property
    def is_blinded(self) -> bool:
        """Whether the chain hides something of it."""
        return self.abf != ZERO or self.vbf != ZERO

    @property
    def opened(self) -> Opened:
        """What it holds, as input of a balance."""
        return Opened(asset=self.asset, value_sats=self.value_sats, abf=self.abf, vbf=self.vbf)

    @property
    def output(self) -> TxOut:
        """The output as it stands on the chain."""
        asset, value = fields(self.opened)
        return TxOut(asset, value, self.nonce, self.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of everything in a transaction but the inputs to choose and the change.

    `output_bytes` and `change_bytes` are of the serialized outputs (fee output included) as they
    are while explicit, without witnesses; `hidden` of the outputs will be blinded. An issuance
    adds `issuance_wu` to the weight and `issued` targets to every surjection proof. `discounted`:
    the fee is asked for the discounted size, in which a blinded output counts as an explicit one.
    """

    fixed_inputs: int
    output_count: int
    output_bytes: int
    change_bytes: int
    hidden: int = 0
    hidden_change: bool = False
    issuance_wu: int = 0
    issued: int = 0
    discounted: bool = True

    def vsize(self, inputs: int, with_change: bool) -> int:
        """Worst-case virtual bytes, as a fee counts them, with `inputs` chosen P2WPKH inputs."""
        if self.discounted:
            return (self._explicit_weight_wu(inputs, with_change) + 3) // 4
        return (self.weight_wu(inputs, with_change) + 3) // 4

    def weight_wu(self, inputs: int, with_change: bool) -> int:
        """Worst-case weight with `inputs` chosen P2WPKH inputs."""
        hidden = self.hidden + (self.hidden_change and with_change)
        targets = self.fixed_inputs + inputs + self.issued
        each = HIDDEN_OUTPUT_WU + surjection_proof_bytes(targets)
        return self._explicit_weight_wu(inputs, with_change) + hidden * each

    def _explicit_weight_wu(self, inputs: int, with_change: bool) -> int:
        n_in = self.fixed_inputs + inputs
        n_out = self.output_count + with_change
        base = 4 + 1 + len(compact_size(n_in)) + INPUT_BASE_BYTES * n_in + 4
        base += len(compact_size(n_out)) + self.output_bytes + self.change_bytes * with_change
        witness = INPUT_WITNESS_BYTES * n_in + OUTPUT_WITNESS_BYTES * n_out
        return 4 * base + witness + self.issuance_wu


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Coins to spend, and how what they hold beyond the amount is split."""

    coins: tuple[OwnedCoin, ...]
    fee_sats: int
    change_sats: int


def choose(
    coins: Sequence[OwnedCoin],
    amount_sats: int,
    shape: Shape,
    *,
    rate_sats_per_kvb: int,
    dust_sats: int,
) -> Choice:
    """Choose coins of one asset, the fee asset, for an amount and the fee.

    Args:
        coins: spendable coins, all of the fee asset.
        dust_sats: change below this is never made.
    Raises:
        WalletRefusal: "insufficient-funds", or "tx-size" when the coins are too small and many.
    """
    ranked = sorted(coins, key=lambda coin: (-coin.value_sats, coin.outpoint.serialize()))
    least_change = dust_sats + required_fee_sats(INPUT_VBYTES, rate_sats_per_kvb)

    @cache
    def need(inputs: int, with_change: bool) -> int:
        return amount_sats + required_fee_sats(shape.vsize(inputs, with_change), rate_sats_per_kvb)

    @cache
    def slack(inputs: int) -> int:
        return need(inputs, True) - need(inputs, False) + least_change

    exact = _search_exact(ranked[:_SEARCH_COINS], need, slack)
    picked = exact if exact is not None else _largest_first(ranked, need)
    if shape.weight_wu(len(picked), True) > MAX_STANDARD_TX_WEIGHT_WU:
        raise WalletRefusal("tx-size", "too many small coins would be needed: pay less at a time")
    total = sum(coin.value_sats for coin in picked)
    change = total - need(len(picked), True)
    if change < least_change:
        change = 0
    return Choice(coins=picked, fee_sats=total - amount_sats - change, change_sats=change)


def choose_plain(coins: Sequence[OwnedCoin], amount_sats: int) -> tuple[OwnedCoin, ...]:
    """The largest coins of an asset that reach an amount, the fee being paid in another asset.

    Raises:
        WalletRefusal: "insufficient-funds".
    """
    ranked = sorted(coins, key=lambda coin: (-coin.value_sats, coin.outpoint.serialize()))
    return _largest_first(ranked, lambda _inputs, _with_change: amount_sats)


def _largest_first(
    ranked: Sequence[OwnedCoin], need: Callable[[int, bool], int]
) -> tuple[OwnedCoin, ...]:
    total = 0
    for count, coin in enumerate(ranked, start=1):
        total += coin.value_sats
        if total >= need(count, False):
            return tuple(ranked[:count])
    have = sum(coin.value_sats for coin in ranked)
    least = need(max(1, len(ranked)), False)
    raise WalletRefusal(
        "insufficient-funds",
        f"not enough coins: {have} sat can be spent, at least {least} needed with the fee",
    )


def _search_exact(
    ranked: Sequence[OwnedCoin], need: Callable[[int, bool], int], slack: Callable[[int], int]
) -> tuple[OwnedCoin, ...] | None:
    """Depth-first over take/leave of each coin, largest first; None when nothing fits soon.

    A set fits when it covers the amount and what it has too much is no worth a change output.
    """
    rest = [0] * (len(ranked) + 1)
    for position in range(len(ranked) - 1, -1, -1):
        rest[position] = rest[position + 1] + ranked[position].value_sats
    # (next coin, sum so far, positions taken); the branch that takes the coin is visited first
    stack: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    for _ in range(_SEARCH_STEPS):
        if not stack:
            break
        position, total, taken = stack.pop()
        count = len(taken)
        if count and need(count, False) <= total < need(count, False) + slack(count):
            return tuple(ranked[i] for i in taken)
        exhausted = position == len(ranked) or total + rest[position] < need(count, False)
        if exhausted or (count and total >= need(count, False) + slack(count)):
            continue
        stack.append((position + 1, total, taken))
        stack.append((position + 1, total + ranked[position].value_sats, (*taken, position)))
    return None
