"""Checks of a transaction against the coins and claims of the chain it is to enter.

The steps stand alone, so that the mempool and a block put them in their own order:
`resolve_inputs` finds what is spent, `check_inputs` judges maturity, fees and balance,
`check_final` and `check_sequence_locks` the times, `check_scripts` the permissions.

Source: elements/transactions.md 4 and 6.2, elements/peg.md 3.2.
"""

from collections.abc import Callable, Collection, Sequence

from sidechain.errors import InvalidTransaction, ScriptError
from sidechain.params import COINBASE_MATURITY_BLOCKS, ChainParams
from sidechain.primitives.transaction import SEQUENCE_FINAL, Transaction
from sidechain.script.interpreter import (
    LOCKTIME_THRESHOLD,
    POLICY_FLAGS,
    SEQUENCE_LOCKTIME_MASK,
    SEQUENCE_TYPE_FLAG,
    Flags,
    SighashCache,
    run_input,
    verify_input,
)
from sidechain.script.ops_crypto import SEQUENCE_DISABLE_FLAG
from sidechain.script.script import count_sigops, is_p2wpkh, p2sh_sigops, witness_sigops
from sidechain.script.sighash import SpentOutput
from sidechain.validation.amounts import check_amounts, fees_by_asset
from sidechain.validation.coins import Coin, CoinView, PeginKey
from sidechain.validation.dynafed import HeaderChain, median_time_past
from sidechain.validation.pegins import PeginClaim
from sidechain.validation.proofs import ProofCheck, verify_proofs
from sidechain.validation.tx_check import WITNESS_SCALE

SEQUENCE_TIME_UNIT_S = 512

JudgePegin = Callable[[Transaction, int], PeginClaim]
"""Checks the peg-in at an input position, or raises; `pegins.check_pegin` with its context."""

TakeProofs = Callable[[Sequence[ProofCheck]], None]
"""Sees to it that proofs are verified, now (then it may raise) or later."""


def resolve_inputs(
    tx: Transaction,
    view: CoinView,
    judge_pegin: JudgePegin,
    claimed_now: Collection[PeginKey] = (),
    *,
    height: int | None = None,
) -> tuple[tuple[Coin, ...], tuple[PeginKey, ...]]:
    """Find what every input spends.

    Args:
        claimed_now: deposits claimed earlier in the same block.
        height: of the block; with it a coinbase that an input before a wrong peg-in spends too
            early is what is reported, as in Elements.
    Returns:
        The coins in input order (for a peg-in the one it claims) and the deposits claimed.
    Raises:
        InvalidTransaction: "bad-txns-inputs-missingorspent", "bad-pegin-witness",
            "bad-txns-double-pegin" or "bad-txns-premature-spend-of-coinbase".
        Stalled: from `judge_pegin`.
    """
    found = [None if item.is_pegin else view.coin(item.prevout) for item in tx.inputs]
    spent: list[Coin] = []
    keys: list[PeginKey] = []
    for coin, item in zip(found, tx.inputs, strict=True):
        if coin is not None:
            spent.append(coin)
        elif not item.is_pegin:
            raise InvalidTransaction("bad-txns-inputs-missingorspent")
    if len(spent) == len(found):
        return tuple(spent), ()
    spent.clear()
    for index, coin in enumerate(found):
        if coin is None:
            claim = judge_pegin(tx, index)
            key = claim.key(tx.inputs[index].prevout)
            if view.pegin_claimed(key) or key in claimed_now or key in keys:
                raise InvalidTransaction("bad-txns-double-pegin")
            keys.append(key)
            coin = claim.coin
        elif height is not None:
            check_mature(coin, height)
        spent.append(coin)
    return tuple(spent), tuple(keys)


def check_inputs(
    tx: Transaction,
    spent: Sequence[Coin],
    *,
    height: int,
    params: ChainParams,
    take_proofs: TakeProofs = verify_proofs,
) -> dict[bytes, int]:
    """Check maturity, fee outputs and balance of a transaction that is no coinbase.

    Args:
        spent: from `resolve_inputs`.
        height: block the transaction is in or could be in next.
        take_proofs: gets the proofs, of which all is checked but that they hold.
    Returns:
        Fees in satoshis per 32-byte asset id.
    Raises:
        InvalidTransaction: "bad-txns-premature-spend-of-coinbase", "bad-txns-fee-outofrange" or
            "bad-txns-in-ne-out".
    """
    for coin in spent:
        check_mature(coin, height)
    fees = fees_by_asset(tx)
    take_proofs(check_amounts(tx, spent, params.pegged_asset))
    return fees


def check_mature(coin: Coin, height: int) -> None:
    """Check that a coin is no coinbase's, or old enough to be spent in a block at `height`.

    Raises:
        InvalidTransaction: "bad-txns-premature-spend-of-coinbase".
    """
    if coin.coinbase and height - coin.height < COINBASE_MATURITY_BLOCKS:
        raise InvalidTransaction(
            "bad-txns-premature-spend-of-coinbase",
            f"tried to spend coinbase at depth {height - coin.height}",
        )


def check_scripts(
    tx: Transaction,
    spent: Sequence[Coin],
    flags: Flags,
    genesis_hash: bytes,
    *,
    direct: bool = True,
) -> None:
    """Check that every input's scripts accept it.

    An input that fails under policy flags is judged again without them, before the next input:
    only what then fails too is called mandatory.

    Args:
        spent: the coins of all inputs, from `resolve_inputs`.
        genesis_hash: of this chain; taproot signatures commit to it.
        direct: whether plain spends may take the short cut that leaves out the interpreter.
    Raises:
        InvalidTransaction: "mandatory-script-verify-flag-failed (text)" or
            "non-mandatory-script-verify-flag (text)"; the detail names the input.
    """
    cache = SighashCache(tx, spent, genesis_hash)
    verify = verify_input if direct else run_input
    for index, coin in enumerate(spent):
        try:
            verify(tx, index, coin, flags, cache)
        except ScriptError as fault:
            text = _script_fault(fault, index, coin, flags, cache)
            raise InvalidTransaction(text, _input_detail(tx, index)) from fault


def _script_fault(
    fault: ScriptError, index: int, spent: SpentOutput, flags: Flags, cache: SighashCache
) -> str:
    reason = fault.reason
    if flags & POLICY_FLAGS:
        try:
            run_input(cache.tx, index, spent, flags & ~POLICY_FLAGS, cache)
        except ScriptError as mandatory:
            reason = mandatory.reason
        else:
            return f"non-mandatory-script-verify-flag ({reason})"
    return f"mandatory-script-verify-flag-failed ({reason})"


def _input_detail(tx: Transaction, index: int) -> str:
    txid, wtxid = tx.txid[::-1].hex(), tx.wtxid[::-1].hex()
    prevout = tx.inputs[index].prevout
    source = f"{prevout.txid[::-1].hex()}:{prevout.index}"
    return f"input {index} of {txid} (wtxid {wtxid}), spending {source}"


def is_final(tx: Transaction, *, height: int, time_s: int) -> bool:
    """Whether the locktime allows the transaction in a block.

    Args:
        time_s: median time past of the block before, in seconds.
    """
    limit = height if tx.locktime < LOCKTIME_THRESHOLD else time_s
    if tx.locktime == 0 or tx.locktime < limit:
        return True
    return all(item.sequence == SEQUENCE_FINAL for item in tx.inputs)


def check_final(tx: Transaction, *, height: int, time_s: int) -> None:
    """`is_final`, as a check.

    Raises:
        InvalidTransaction: "bad-txns-nonfinal".
    """
    if not is_final(tx, height=height, time_s=time_s):
        raise InvalidTransaction("bad-txns-nonfinal")


def check_sequence_locks(
    tx: Transaction, spent: Sequence[Coin], chain: HeaderChain, *, height: int
) -> None:
    """Check the relative locks of a transaction in a block on top of `chain` (BIP68).

    Peg-in inputs carry no relative lock. A coin not in a block yet counts as made at `height`.

    Raises:
        InvalidTransaction: "bad-txns-nonfinal".
    """
    if tx.version < 2:
        return
    for item, coin in zip(tx.inputs, spent, strict=True):
        if item.is_pegin or item.sequence & SEQUENCE_DISABLE_FLAG:
            continue
        distance = item.sequence & SEQUENCE_LOCKTIME_MASK
        if not item.sequence & SEQUENCE_TYPE_FLAG:
            locked = height < coin.height + distance
        else:
            # Counted from the block before the coin's, as its own time is set by its maker.
            start_s = median_time_past(chain, min(max(coin.height - 1, 0), chain.tip_height))
            now_s = median_time_past(chain, chain.tip_height)
            locked = now_s < start_s + distance * SEQUENCE_TIME_UNIT_S
        if locked:
            raise InvalidTransaction("bad-txns-nonfinal", "relative lock")


def legacy_sigops(tx: Transaction) -> int:
    """Signature operations in the transaction's own scripts, multisigs counted as 20."""
    total = 0
    for item in tx.inputs:
        if item.script_sig:
            total += count_sigops(item.script_sig, accurate=False)
    for output in tx.outputs:
        if output.script:
            total += count_sigops(output.script, accurate=False)
    return total


def sigop_cost(tx: Transaction, spent: Sequence[Coin]) -> int:
    """Signature operation cost, in units of which a block may have 80,000.

    Peg-in inputs contribute only the segwit operations of their claim script.

    Args:
        spent: coin of every input; empty for a coinbase.
    Source: elements/transactions.md 4.
    """
    cost = legacy_sigops(tx) * WITNESS_SCALE
    if tx.is_coinbase:
        return cost
    for item, witness, coin in zip(tx.inputs, tx.input_witnesses, spent, strict=True):
        if is_p2wpkh(coin.script):
            cost += 1
            continue
        if not item.is_pegin:
            cost += p2sh_sigops(item.script_sig, coin.script) * WITNESS_SCALE
        cost += witness_sigops(item.script_sig, coin.script, witness.script)
    return cost
