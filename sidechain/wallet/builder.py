"""Transactions a wallet makes: payments and burns (peg-outs), and signing them.

Outputs to confidential addresses are blinded, and so is change; what leaves the sidechain, what is
burned and the fee stay explicit. Where blinding needs one more output a hidden zero is added, as
elementsd does. A draft is unsigned; `sign` fills in its P2WPKH witnesses.

Source: elements/peg.md 5.1; elements/transactions.md 2, 7 and 8.3; peg 3.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sidechain.crypto.hashes import hash160
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import InvalidEncoding, InvalidTransaction, InvariantError
from sidechain.params import ChainParams
from sidechain.policy.standardness import dust_threshold_sats
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    EMPTY_INPUT_WITNESS,
    NULL_OUTPOINT,
    InputWitness,
    Issuance,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push
from sidechain.script.sighash import SIGHASH_ALL, SighashCache, segwit_v0_sighash
from sidechain.validation.amounts import check_amounts, fees_by_asset
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import verify_proofs
from sidechain.validation.tx_check import check_transaction
from sidechain.wallet.blinding import (
    MAX_TARGETS,
    RANGE_PROOF_BYTES,
    Opened,
    blind_and_open,
    throwaway_key,
)
from sidechain.wallet.keys import SecretKey
from sidechain.wallet.selection import (
    Choice,
    OwnedCoin,
    Shape,
    WalletRefusal,
    choose,
    choose_plain,
)

TX_VERSION = 2
REPLACEABLE_SEQUENCE = 0xFFFFFFFD
_MAX_ISSUED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One output to make: an amount of an asset to a script.

    `blinding_key` is the receiver's; without it the output is explicit.
    """

    script: bytes
    asset: bytes
    value_sats: int
    blinding_key: bytes | None = None

    def output(self) -> TxOut:
        """The output that pays it, before it is blinded."""
        return explicit_output(self.asset, self.value_sats, self.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a transaction is made, whatever it is for.

    `change_script` is an own P2WPKH script for all change, and `change_blinding_key` its key; None
    leaves change explicit. `entropy`: FRESH random bytes, 32 of them.
    """

    params: ChainParams
    change_script: bytes
    change_blinding_key: bytes | None
    rate_sats_per_kvb: int
    entropy: bytes

    def change(self, asset: bytes, value_sats: int) -> Payment:
        """Change of an asset."""
        return Payment(
            script=self.change_script,
            asset=asset,
            value_sats=value_sats,
            blinding_key=self.change_blinding_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What the first input issues: `issuance` with explicit amounts, and who gets it.

    `outputs` come first in the transaction. Their assets are what `issued_assets` makes of them
    once the first input is known. `secret` hides the amounts; None leaves them explicit.
    """

    issuance: Issuance
    outputs: Callable[[OutPoint], tuple[Payment, ...]]
    secret: Callable[[OutPoint], SecretKey] | None

    def weight_wu(self) -> int:
        """What the issuance adds to the weight of its input."""
        weight = 4 * len(self.issuance.serialize())
        if self.secret is not None:
            amounts = (self.issuance.amount, self.issuance.inflation_keys)
            weight += (4 * 24 + 2 + RANGE_PROOF_BYTES) * sum(field != NULL for field in amounts)
        return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class PegoutLimits:
    """What the federation pays out now; amounts in satoshis.

    `federation_scripts` are the FED scripts of this federation, past and present.
    """

    min_pegout_sats: int
    payout_cap_sats: int
    federation_scripts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An unsigned transaction and the coins it spends, in the order of its inputs.

    `receivers` has for every output the blinding key it is blinded for, or None; `opened` what it
    holds.
    """

    tx: Transaction
    spent: tuple[OwnedCoin, ...]
    fee_sats: int
    receivers: tuple[bytes | None, ...]
    opened: tuple[Opened, ...]


def build_payment(payments: Sequence[Payment], coins: Sequence[OwnedCoin], terms: Terms) -> Draft:
    """Pay some outputs, with change per asset and one fee output, last.

    Coins in final blocks are used alone when they suffice, others only when they do not.

    Args:
        coins: what may be spent; none twice.
    Raises:
        WalletRefusal: "insufficient-funds", "dust", "amount" or "tx-size".
    """
    for payment in payments:
        _check_payable(payment, terms.params)
    return build(_Request(payments=tuple(payments), terms=terms), coins)


def build_issue(
    issue: Issue, forced: Sequence[OwnedCoin], coins: Sequence[OwnedCoin], terms: Terms
) -> Draft:
    """Issue something on the first input, paying the fee from `coins`.

    Args:
        forced: coins that must be the first inputs; all they hold must be in the outputs.
        coins: what else may be spent; none of the forced ones.
    Raises:
        WalletRefusal: as `build_payment`.
    """
    request = _Request(payments=(), terms=terms, forced=tuple(forced), issue=issue)
    return build(request, coins)


def build(request: "_Request", coins: Sequence[OwnedCoin]) -> Draft:
    """Make what was asked for, of final coins alone when they suffice.

    Raises:
        WalletRefusal: as `build_payment`.
    """
    final = [coin for coin in coins if coin.height is not None]
    try:
        return _draft(request, final)
    except WalletRefusal:
        if len(final) == len(coins):
            raise
    return _draft(request, coins)


def build_burn(
    destination: bytes,
    value_sats: int,
    coins: Sequence[OwnedCoin],
    terms: Terms,
    *,
    limits: PegoutLimits,
) -> Draft:
    """Burn coins for a peg-out of `value_sats` to a Bitcoin script; the burn is output 0.

    The burn is explicit whatever the coins are: a hidden one is no peg-out.

    Raises:
        WalletRefusal: as `check_burn` and `build_payment`.
    Source: elements/peg.md 5.1, peg 3.4.
    """
    check_burn(destination, value_sats, limits)
    params = terms.params
    script = burn_script(params.parent_genesis_hash, destination)
    payment = Payment(script=script, asset=params.pegged_asset, value_sats=value_sats)
    return build_payment([payment], coins, terms)


def burn_script(parent_genesis: bytes, destination: bytes) -> bytes:
    """OP_RETURN, the parent's genesis hash, the parent script to pay."""
    return b"\x6a" + push(parent_genesis) + push(destination)


def check_burn(destination: bytes, value_sats: int, limits: PegoutLimits) -> None:
    """Refuse a burn the federation would not pay, or would hold.

    Raises:
        WalletRefusal: the code of peg 3.4 (`E3_SCRIPT`, `E4_MIN`, `E5_FED`), or
            `HELD_OVERSIZE` above the cap of one payout.
    """
    if not is_payable_destination(destination):
        raise WalletRefusal(
            "E3_SCRIPT", "only P2PKH, P2SH, P2WPKH, P2WSH and P2TR addresses are paid"
        )
    if destination in limits.federation_scripts:
        raise WalletRefusal("E5_FED", "the address belongs to the federation")
    if value_sats < limits.min_pegout_sats:
        raise WalletRefusal("E4_MIN", f"the least amount is {limits.min_pegout_sats} sat")
    if value_sats > limits.payout_cap_sats:
        raise WalletRefusal(
            "HELD_OVERSIZE",
            f"one peg-out pays at most {limits.payout_cap_sats} sat: split the amount",
        )


def is_payable_destination(script: bytes) -> bool:
    """Whether a parent script is exactly P2PKH, P2SH, P2WPKH, P2WSH or P2TR."""
    return (
        (len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac")
        or (len(script) == 23 and script[:2] == b"\xa9\x14" and script[22:] == b"\x87")
        or (len(script) == 22 and script[:2] == b"\x00\x14")
        or (len(script) == 34 and script[:2] in (b"\x00\x20", b"\x51\x20"))
    )


def sign(
    draft: Draft, secret_of: Callable[[OwnedCoin], SecretKey], params: ChainParams
) -> Transaction:
    """Sign every input with the key of its coin, SIGHASH_ALL, and check all of it.

    Raises:
        InvalidEncoding: a key is not the one its coin pays to.
        InvariantError: consensus would not take what was made.
    """
    witnesses = []
    cache = SighashCache(draft.tx)
    for position, coin in enumerate(draft.spent):
        stack = p2wpkh_witness(cache, position, coin.output, secret_of(coin))
        witnesses.append(replace(draft.tx.input_witnesses[position], script=stack))
    tx = with_witnesses(draft.tx, tuple(witnesses))
    check_made(tx, [coin.output for coin in draft.spent], params)
    return tx


def check_made(tx: Transaction, spent: Sequence[TxOut], params: ChainParams) -> None:
    """Verify an own transaction as the members will: form, balance, all proofs.

    Raises:
        InvariantError: it is not valid.
    """
    try:
        verify_made(tx, spent, params)
    except InvalidTransaction as error:
        raise InvariantError(f"an own transaction is not valid: {error}") from error


def verify_made(tx: Transaction, spent: Sequence[TxOut], params: ChainParams) -> None:
    """Verify what needs no chain: form, balance and all proofs.

    Args:
        spent: the outputs its inputs spend, in their order.
    Raises:
        InvalidTransaction: the reason, under Elements' name.
    """
    coins = [Coin.of(output, height=0, coinbase=False) for output in spent]
    check_transaction(tx)
    fees_by_asset(tx)
    verify_proofs(check_amounts(tx, coins, params.pegged_asset))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is to be made and on which terms, without the coins."""

    payments: tuple[Payment, ...]
    terms: Terms
    forced: tuple[OwnedCoin, ...] = ()
    issue: Issue | None = None

    def need(self, asset: bytes) -> int:
        return sum(payment.value_sats for payment in self.payments if payment.asset == asset)


def _check_payable(payment: Payment, params: ChainParams) -> None:
    if payment.value_sats <= 0:
        raise WalletRefusal("amount", "the amount must be above zero")
    dust = dust_threshold_sats(payment.output(), params)
    if payment.asset == params.pegged_asset and payment.value_sats < dust:
        raise WalletRefusal("dust", f"amounts below {dust} sat are not relayed")


def _draft(request: _Request, coins: Sequence[OwnedCoin]) -> Draft:
    terms = request.terms
    fee_asset = terms.params.pegged_asset
    spent = list(request.forced)
    made = list(request.payments)
    # A dict keeps first-seen order: the result must not depend on hashing.
    for asset in dict.fromkeys(payment.asset for payment in request.payments):
        if asset == fee_asset:
            continue
        need = request.need(asset)
        picked = choose_plain([coin for coin in coins if coin.asset == asset], need)
        surplus = sum(coin.value_sats for coin in picked) - need
        spent.extend(picked)
        if surplus:
            made.append(terms.change(asset, surplus))
    choice = _choose_fee_asset(request, made, spent, coins)
    if _hides_change_only(request, made, spent, choice):
        # Inputs and payments show the change anyhow, and one hidden output has no free blinder.
        return _draft(replace(request, terms=replace(terms, change_blinding_key=None)), coins)
    chosen = made
    if _needs_filler(request, made, spent, choice):
        chosen = [*made, _filler(terms)]
        choice = _choose_fee_asset(request, chosen, spent, coins)
        if not _needs_filler(request, made, spent, choice):
            chosen = made  # the coins of the second choice do without; its fee is a little high
    spent.extend(choice.coins)
    if choice.change_sats:
        # before the filler: payments, change, filler, fee
        chosen.insert(len(request.payments), terms.change(fee_asset, choice.change_sats))
    return _assemble(request, chosen, spent, choice.fee_sats)


def _assemble(
    request: _Request, payments: Sequence[Payment], spent: Sequence[OwnedCoin], fee_sats: int
) -> Draft:
    terms, issue = request.terms, request.issue
    inputs = [TxIn(coin.outpoint, sequence=REPLACEABLE_SEQUENCE) for coin in spent]
    secrets: dict[int, SecretKey] = {}
    if issue is not None:
        inputs[0] = replace(inputs[0], issuance=issue.issuance)
        payments = (*issue.outputs(inputs[0].prevout), *payments)
        if issue.secret is not None:
            secrets[0] = issue.secret(inputs[0].prevout)
    receivers = (*(payment.blinding_key for payment in payments), None)
    if len(spent) + _MAX_ISSUED > MAX_TARGETS and any(receivers):
        raise WalletRefusal("tx-size", "too many small coins would be needed: pay less at a time")
    outputs = [payment.output() for payment in payments]
    outputs.append(explicit_output(terms.params.pegged_asset, fee_sats, b""))
    plain = Transaction.build(version=TX_VERSION, inputs=inputs, outputs=outputs)
    opened = [coin.opened for coin in spent]
    made = blind_and_open(plain, opened, receivers, entropy=terms.entropy, issuance_secrets=secrets)
    return Draft(
        tx=made.tx,
        spent=tuple(spent),
        fee_sats=fee_sats,
        receivers=receivers,
        opened=made.opened,
    )


def _needs_filler(
    request: _Request, payments: Sequence[Payment], spent: Sequence[OwnedCoin], choice: Choice
) -> bool:
    """Whether blinding needs one more output. Source: elements/transactions.md 8.3."""
    hidden = _count_hidden(request, payments, choice)
    return hidden == (0 if _has_blinders(request, spent, choice) else 1)


def _hides_change_only(
    request: _Request, payments: Sequence[Payment], spent: Sequence[OwnedCoin], choice: Choice
) -> bool:
    """Whether the only hidden thing in the transaction would be one change output."""
    change = request.terms.change_blinding_key
    if change is None or request.issue is not None or _has_blinders(request, spent, choice):
        return False
    wanted = any(payment.blinding_key is not None for payment in request.payments)
    return not wanted and _count_hidden(request, payments, choice) == 1


def _count_hidden(request: _Request, payments: Sequence[Payment], choice: Choice) -> int:
    issued = request.issue.outputs(NULL_OUTPOINT) if request.issue is not None else ()
    hidden = sum(payment.blinding_key is not None for payment in (*issued, *payments))
    return hidden + (request.terms.change_blinding_key is not None and choice.change_sats > 0)


def _has_blinders(request: _Request, spent: Sequence[OwnedCoin], choice: Choice) -> bool:
    if request.issue is not None and request.issue.secret is not None:
        return True
    return any(coin.is_blinded for coin in (*spent, *choice.coins))


def _filler(terms: Terms) -> Payment:
    """A hidden zero that nobody can open."""
    return Payment(
        script=b"\x6a",
        asset=terms.params.pegged_asset,
        value_sats=0,
        blinding_key=throwaway_key(terms.entropy),
    )


def _choose_fee_asset(
    request: _Request,
    payments: Sequence[Payment],
    fixed: Sequence[OwnedCoin],
    coins: Sequence[OwnedCoin],
) -> Choice:
    terms, issue = request.terms, request.issue
    fee_asset = terms.params.pegged_asset
    change = explicit_output(fee_asset, 0, terms.change_script)
    issued = issue.outputs(NULL_OUTPOINT) if issue is not None else ()
    outputs = [payment.output() for payment in (*issued, *payments)]
    outputs.append(explicit_output(fee_asset, 0, b""))
    shape = Shape(
        fixed_inputs=len(fixed),
        output_count=len(outputs),
        output_bytes=sum(len(output.serialize()) for output in outputs),
        change_bytes=len(change.serialize()),
        hidden=sum(payment.blinding_key is not None for payment in (*issued, *payments)),
        hidden_change=terms.change_blinding_key is not None,
        issuance_wu=0 if issue is None else issue.weight_wu(),
        issued=0 if issue is None else _MAX_ISSUED,
        discounted=terms.params.accept_discount_ct,
    )
    return choose(
        [coin for coin in coins if coin.asset == fee_asset],
        request.need(fee_asset),
        shape,
        rate_sats_per_kvb=terms.rate_sats_per_kvb,
        dust_sats=dust_threshold_sats(change, terms.params),
    )


def explicit_output(asset: bytes, value_sats: int, script: bytes) -> TxOut:
    """An output that hides nothing."""
    return TxOut(explicit_asset(asset), explicit_value(value_sats), NULL, script)


def p2wpkh_witness(
    cache: SighashCache, position: int, spent: TxOut, secret: SecretKey
) -> tuple[bytes, bytes]:
    """Signature and key that spend a P2WPKH output, SIGHASH_ALL.

    Args:
        cache: of the transaction; `position` is the input.
    Raises:
        InvalidEncoding: the key is not the one the output pays to.
    """
    key = public_key(secret.value)
    if spent.script != b"\x00\x14" + hash160(key):
        raise InvalidEncoding("the key does not belong to the script it should spend")
    script_code = b"\x76\xa9\x14" + spent.script[2:] + b"\x88\xac"
    digest = segwit_v0_sighash(
        cache.tx,
        position,
        script_code,
        spent.value,
        SIGHASH_ALL,
        rangeproof=False,
        cache=cache,
    )
    return ecdsa_sign(secret.value, digest) + bytes([SIGHASH_ALL]), key


def with_witnesses(tx: Transaction, witnesses: Sequence[InputWitness]) -> Transaction:
    """The same transaction with other input witnesses.

    Raises:
        InvalidEncoding: all of them are empty.
    """
    if all(witness == EMPTY_INPUT_WITNESS for witness in witnesses):
        raise InvalidEncoding("nothing was signed")
    return Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=witnesses,
        output_witnesses=tx.output_witnesses,
    )
