"""Fee rates in satoshis per 1,000 virtual bytes, sizes, and amounts as reasons write them.

Source: elements/transactions.md 3 and 7.
"""

from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.transaction import EMPTY_OUTPUT_WITNESS, Transaction

COIN_SATS = 100_000_000
CURRENCY = "BTC"
"""The unit that reasons name, whatever the policy asset is called."""


class FeeTooLow(InvalidTransaction):
    """A fee that does not do alone; in a package a child may pay for it."""


def required_fee_sats(vsize: int, rate_sats_per_kvb: int) -> int:
    """Fee for that many virtual bytes, rounded up; at least 1 where the rate is not 0."""
    fee = -(-rate_sats_per_kvb * vsize // 1000)
    return max(fee, 1) if rate_sats_per_kvb > 0 and vsize else fee


def fee_rate(fee: int, vsize: int) -> int:
    """Satoshis per 1,000 virtual bytes, rounded towards zero; a modified fee may be negative."""
    if vsize <= 0:
        return 0
    return fee * 1000 // vsize if fee >= 0 else -(-fee * 1000 // vsize)


def fee_sats(tx: Transaction, params: ChainParams) -> int:
    """Sum of the transaction's fee outputs in the fee asset; other assets count nothing."""
    field = b"\x01" + params.policy_asset
    return sum(
        output.value_sats or 0
        for output in tx.outputs
        if not output.script and output.asset == field
    )


def virtual_size(weight_wu: int, sigop_cost: int, bytes_per_sigop: int) -> int:
    """Virtual bytes, raised where signature operations weigh more than the bytes."""
    return (max(weight_wu, sigop_cost * bytes_per_sigop) + 3) // 4


def discounted_size(tx: Transaction, sigop_cost: int, params: ChainParams) -> int:
    """Virtual bytes a block maker counts: discounted where the chain discounts hidden outputs."""
    weight = max(tx.weight_wu, sigop_cost * params.bytes_per_sigop)
    if params.accept_discount_ct and hides_something(tx):
        weight = tx.discount_weight_wu(weight)
    return (weight + 3) // 4


def relay_size(tx: Transaction, vsize: int, params: ChainParams) -> int:
    """Virtual bytes a relay fee is asked for.

    Args:
        vsize: `virtual_size` of the transaction. The discounted size does not look at signature
            operations.
    """
    if not params.accept_discount_ct:
        return vsize
    return tx.discount_vsize if hides_something(tx) else tx.vsize


def hides_something(tx: Transaction) -> bool:
    """Whether anything in its outputs makes the transaction larger than explicit outputs would."""
    for output in tx.outputs:
        if output.value[0] > 1 or output.nonce[0] > 1:
            return True
    return any(witness is not EMPTY_OUTPUT_WITNESS for witness in tx.output_witnesses)


def check_relay_fee(fee: int, vsize: int, rate_sats_per_kvb: int) -> None:
    """Refuse a transaction that pays less than the rate for its size.

    Raises:
        InvalidTransaction: "min relay fee not met".
    """
    needed = required_fee_sats(vsize, rate_sats_per_kvb)
    if fee < needed:
        raise InvalidTransaction("min relay fee not met", f"{fee} < {needed}")


def format_money(amount_sats: int) -> str:
    """An amount in coins with two to eight decimals."""
    whole, rest = divmod(abs(amount_sats), COIN_SATS)
    decimals = f"{rest:08d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_sats < 0 else ''}{whole}.{decimals}"


def format_rate(rate_sats_per_kvb: int) -> str:
    """A fee rate in coins, with eight decimals and its unit."""
    whole, rest = divmod(rate_sats_per_kvb, COIN_SATS)
    return f"{whole}.{rest:08d} {CURRENCY}/kvB"
