"""Amounts: what comes in equals what goes out, per asset, shown or hidden.

What a transaction shows is added up as integers per asset; only what it hides costs curve
operations. A transaction that hides nothing needs none, and gets the verdict commitments of its
amounts would get: the generators of different assets have no known relation.

Source: elements/transactions.md 5.1 and 6.2.
"""

from collections.abc import Iterator, Sequence
from typing import NoReturn

from sidechain.crypto import zkp
from sidechain.crypto.zkp import Commitment, Generator
from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_asset, is_commitment, value_sats
from sidechain.primitives.issuance import IssuedIds, issued_ids
from sidechain.primitives.transaction import (
    EMPTY_OUTPUT_WITNESS,
    InputWitness,
    Issuance,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import (
    UNBALANCED,
    ProofCheck,
    RangeProofCheck,
    SurjectionProofCheck,
)

_COMMITTED_SATS_MAX = (1 << 64) - 1


def fees_by_asset(tx: Transaction) -> dict[bytes, int]:
    """Sum of the fee outputs per 32-byte asset id, in the order the assets first appear.

    Raises:
        InvalidTransaction: "bad-txns-fee-outofrange" for a fee output that is not above zero, or
            a sum above the money limit.
    """
    fees: dict[bytes, int] = {}
    for output in tx.outputs:
        if output.script or not output.is_fee:
            continue
        asset, amount_sats = output.asset_id, output.value_sats
        if asset is None or amount_sats is None or not 0 < amount_sats <= MAX_MONEY_SATS:
            raise InvalidTransaction("bad-txns-fee-outofrange")
        fees[asset] = fees.get(asset, 0) + amount_sats
        if fees[asset] > MAX_MONEY_SATS:
            raise InvalidTransaction("bad-txns-fee-outofrange")
    return fees


def check_amounts(
    tx: Transaction, spent: Sequence[Coin], pegged_asset: bytes
) -> tuple[ProofCheck, ...]:
    """Check the amounts of a transaction that is no coinbase, all but its proofs.

    Args:
        spent: the coin of every input, in order; for a peg-in the coin it claims.
        pegged_asset: 32-byte id; its issued amounts are limited to the money limit.
    Returns:
        What is left to verify, in Elements' order; empty when nothing is hidden. The transaction
        is valid in its amounts when all of it holds.
    Raises:
        InvalidTransaction: "bad-txns-in-ne-out".
    """
    if balances_plainly(tx, spent):
        return ()
    return judge_amounts(tx, spent, pegged_asset)


def balances_plainly(tx: Transaction, spent: Sequence[Coin]) -> bool:
    """Whether nothing is hidden or issued and everything adds up; False decides nothing.

    The short way of nearly all payments; `judge_amounts` says the same of them.
    """
    if tx.output_witnesses.count(EMPTY_OUTPUT_WITNESS) != len(tx.outputs):
        return False
    left: dict[bytes, int] = {}
    for item, coin in zip(tx.inputs, spent, strict=True):
        asset, value = coin.asset, coin.value
        if item.issuance is not None or asset[0] != 1 or value[0] != 1:
            return False
        amount_sats = int.from_bytes(value[1:], "big")
        if not 0 < amount_sats <= MAX_MONEY_SATS:
            return False
        left[asset] = left.get(asset, 0) + amount_sats
    for output in tx.outputs:
        asset, value = output.asset, output.value
        amount_sats = int.from_bytes(value[1:], "big")
        shown = asset[0] == 1 == value[0]
        if not shown or not 0 < amount_sats <= MAX_MONEY_SATS:
            return False
        left[asset] = left.get(asset, 0) - amount_sats
    return not any(left.values())


def judge_amounts(
    tx: Transaction, spent: Sequence[Coin], pegged_asset: bytes
) -> tuple[ProofCheck, ...]:
    """As `check_amounts`, always with both sides on a sheet."""
    sheet = _Sheet()
    for item, witness, coin in zip(tx.inputs, tx.input_witnesses, spent, strict=True):
        sheet.spend(coin)
        if item.issuance is not None:
            _Issuing(sheet, item, witness, pegged_asset).add(tx, coin)
    for output in tx.outputs:
        sheet.pay(output)
    sheet.check_balance()
    for output, proofs in zip(tx.outputs, tx.output_witnesses, strict=True):
        sheet.prove_range(output, proofs)
    for output, proofs in zip(tx.outputs, tx.output_witnesses, strict=True):
        sheet.prove_asset(output, proofs)
    return tuple(sheet.checks)


class _Sheet:
    """The two sides of one transaction.

    Attributes:
        shown: what is shown, per asset id: inputs less outputs.
        hidden: commitments of the inputs (and issuances) and of the outputs.
        targets: asset fields of all inputs and issuances, as surjection proofs order them.
        checks: proofs to verify.
    """

    def __init__(self) -> None:
        self.shown: dict[bytes, int] = {}
        self.hidden: tuple[list[Commitment], list[Commitment]] = ([], [])
        self.targets: list[bytes] = []
        self.checks: list[ProofCheck] = []
        self._generators: dict[bytes, Generator] = {}
        self._target_points: tuple[bytes, ...] | None = None

    def spend(self, coin: Coin) -> None:
        """Add the coin of an input."""
        asset, amount_sats = coin.asset, value_sats(coin.value)
        if asset == NULL or coin.value == NULL:
            _refuse("spent output without asset or amount")
        self.targets.append(asset)
        if amount_sats is None:
            self._parse(asset)
            self.hidden[0].append(_commitment(coin.value))
        elif not 1 <= amount_sats <= MAX_MONEY_SATS:
            _refuse("spent amount out of range")
        else:
            self._add(0, asset, amount_sats)

    def issue(self, asset_id: bytes, field: bytes, amount: int | None) -> None:
        """Add what an issuance creates; `amount` None says that `field` hides it."""
        asset = explicit_asset(asset_id)
        self.targets.append(asset)
        if amount is None:
            self.hidden[0].append(_commitment(field))
        else:
            self._add(0, asset, amount)

    def pay(self, output: TxOut) -> None:
        """Take off an output."""
        amount_sats = output.value_sats
        if amount_sats is None:
            self._parse(output.asset)
            self.hidden[1].append(_commitment(output.value))
        elif not 0 <= amount_sats <= MAX_MONEY_SATS:
            _refuse("output amount out of range")
        elif amount_sats:
            self._add(1, output.asset, amount_sats)
        elif not output.is_unspendable:
            _refuse("spendable output of zero")
        else:
            self._parse(output.asset)

    def check_balance(self) -> None:
        """Compare both sides.

        Raises:
            InvalidTransaction: they differ in some asset.
        """
        if not any(self.hidden):
            if any(self.shown.values()):
                _refuse("value in != value out")
            return
        sides = ([*self.hidden[0]], [*self.hidden[1]])
        for asset_id, difference in self.shown.items():
            if difference:
                generator = self.generator(explicit_asset(asset_id))
                sides[difference < 0].extend(_commit(abs(difference), generator))
        if not zkp.sums_are_equal(*sides):
            _refuse("value in != value out")

    def prove_range(self, output: TxOut, proofs: OutputWitness) -> None:
        """Demand a range proof of an output that hides its amount, and none of another."""
        if not is_commitment(output.value):
            if proofs.range_proof:
                _refuse("range proof of an amount that is shown")
            return
        self.demand_range(output.asset, output.value, proofs.range_proof, output.script)

    def demand_range(self, asset: bytes, value: bytes, proof: bytes, script: bytes) -> None:
        """Note a range proof to verify."""
        if not proof:
            _refuse("hidden amount without range proof")
        self.checks.append(RangeProofCheck(proof, value, self._point(asset), script))

    def prove_asset(self, output: TxOut, proofs: OutputWitness) -> None:
        """Demand a surjection proof of an output that hides its asset, and none of another."""
        proof = proofs.surjection_proof
        if not is_commitment(output.asset):
            if proof:
                _refuse("surjection proof of an asset that is shown")
            return
        if not proof:
            _refuse("hidden asset without surjection proof")
        if self._target_points is None:
            self._target_points = tuple(self._point(target) for target in self.targets)
        self.checks.append(SurjectionProofCheck(proof, self._target_points, output.asset))

    def generator(self, asset: bytes) -> Generator:
        """The generator an asset field stands for.

        Raises:
            InvalidTransaction: the field hides the asset and is no point.
        """
        known = self._generators.get(asset)
        if known is None:
            if is_commitment(asset):
                parsed = zkp.parse_generator(asset)
                if parsed is None:
                    _refuse("asset commitment is no point")
                known = parsed
            else:
                known = zkp.asset_generator(asset[1:])
            self._generators[asset] = known
        return known

    def _add(self, side: int, asset: bytes, amount: int) -> None:
        """Add an amount that is shown, to the inputs (0) or the outputs (1)."""
        if asset[0] == 1:
            asset_id = asset[1:]
            signed = -amount if side else amount
            self.shown[asset_id] = self.shown.get(asset_id, 0) + signed
        else:
            self.hidden[side].extend(_commit(amount, self.generator(asset)))

    def _parse(self, asset: bytes) -> None:
        """Refuse an asset field that hides its asset and is no point."""
        if is_commitment(asset):
            self.generator(asset)

    def _point(self, asset: bytes) -> bytes:
        """The serialized generator of an asset field."""
        if is_commitment(asset):
            return asset
        return zkp.serialize_generator(self.generator(asset))


class _Issuing:
    """The issuance of one input. Source: elements/transactions.md 5.1."""

    def __init__(
        self, sheet: _Sheet, item: TxIn, witness: InputWitness, pegged_asset: bytes
    ) -> None:
        self._sheet = sheet
        self._item = item
        self._witness = witness
        self._pegged_asset = pegged_asset

    def add(self, tx: Transaction, coin: Coin) -> None:
        """Check the issuance and put what it creates on the sheet.

        Raises:
            InvalidTransaction: "bad-txns-in-ne-out".
        """
        ids, issuance = issued_ids(self._item), self._item.issuance
        if ids is None or issuance is None:
            return
        if issuance.is_reissuance:
            _check_reissuance(ids, issuance, coin)
        if not tx.has_witness:
            _refuse("issuance without a witness section")
        for asset_id, field, proof in self._created(ids, issuance):
            if is_commitment(field):
                self._sheet.demand_range(explicit_asset(asset_id), field, proof, b"")
                self._sheet.issue(asset_id, field, None)
            else:
                self._sheet.issue(asset_id, field, self._shown_amount(asset_id, field, proof))

    def _created(self, ids: IssuedIds, issuance: Issuance) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Asset id, amount field and range proof of what is created; null creates nothing."""
        if issuance.amount != NULL:
            yield ids.asset, issuance.amount, self._witness.issuance_range_proof
        if issuance.inflation_keys != NULL:
            yield ids.token, issuance.inflation_keys, self._witness.inflation_range_proof

    def _shown_amount(self, asset_id: bytes, field: bytes, proof: bytes) -> int:
        amount = value_sats(field)
        limited = asset_id == self._pegged_asset
        if amount is None or amount <= 0 or (limited and amount > MAX_MONEY_SATS):
            _refuse("issued amount out of range")
        if proof:
            _refuse("range proof of an issued amount that is shown")
        return amount


def _check_reissuance(ids: IssuedIds, issuance: Issuance, coin: Coin) -> None:
    """A reissuance spends the asset's token, blinded with the nonce it shows."""
    token = zkp.blinded_generator(ids.token, issuance.blinding_nonce)
    if token is None or zkp.serialize_generator(token) != coin.asset:
        _refuse("reissuance does not spend the asset's token")
    if issuance.inflation_keys != NULL:
        _refuse("reissuance of tokens")


def _commitment(field: bytes) -> Commitment:
    parsed = zkp.parse_commitment(field)
    if parsed is None:
        _refuse("value commitment is no point")
    return parsed


def _commit(amount: int, generator: Generator) -> Iterator[Commitment]:
    """Commitments, with no blinder, that add up to an amount above zero.

    A sum of many amounts can be too great for one.
    """
    while amount:
        part = min(amount, _COMMITTED_SATS_MAX)
        made = zkp.commit(part, generator)
        if made is None:
            _refuse("amount without a commitment")
        yield made
        amount -= part


def _refuse(text: str) -> NoReturn:
    raise InvalidTransaction(UNBALANCED, text)
