"""Transactions that hide amounts and assets, made with the library's own proofs.

Everything is deterministic: blinders follow from names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidechain.crypto import zkp
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import GROUP_ORDER
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.primitives.tx_parts import is_unspendable
from sidechain.validation.coins import Coin


def blinder(name: str) -> bytes:
    """A blinder that follows from a name."""
    return sha256(b"fedpeg test blinder " + name.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An amount of an asset and how it is hidden; a blinder None shows what it would hide.

    `bits` and `least` are of its range proof; `least` None takes what the script allows.
    """

    asset_id: bytes
    amount: int
    script: bytes = b"\x51"
    asset_blinder: bytes | None = None
    value_blinder: bytes | None = None
    bits: int = 52
    least: int | None = None

    @property
    def generator(self) -> zkp.Generator:
        """Generator of the asset, blinded or not."""
        made = zkp.blinded_generator(self.asset_id, self.asset_blinder or zkp.ZERO_BLINDER)
        assert made is not None
        return made

    @property
    def asset_field(self) -> bytes:
        """As it stands in an output."""
        if self.asset_blinder is None:
            return explicit_asset(self.asset_id)
        return zkp.serialize_generator(self.generator)

    @property
    def value_field(self) -> bytes:
        """As it stands in an output."""
        if self.value_blinder is None:
            return explicit_value(self.amount)
        made = zkp.commit(self.amount, self.generator, self.value_blinder)
        assert made is not None
        return zkp.serialize_commitment(made)

    @property
    def output(self) -> TxOut:
        """The output it is."""
        return TxOut(self.asset_field, self.value_field, NULL, self.script)

    @property
    def coin(self) -> Coin:
        """The coin it is."""
        return Coin.of(self.output, height=1, coinbase=False)

    @property
    def factor(self) -> int:
        """What it contributes to the sum of blinders, modulo the group order."""
        asset = int.from_bytes(self.asset_blinder or b"\0", "big")
        return self.amount * asset + int.from_bytes(self.value_blinder or b"\0", "big")

    def hidden(self, name: str) -> "Opening":
        """The same with asset and amount hidden by blinders of a name."""
        return replace(
            self, asset_blinder=blinder(f"asset {name}"), value_blinder=blinder(f"value {name}")
        )

    def range_proof(self, script: bytes | None = None) -> bytes:
        """Its range proof, empty when the amount is shown."""
        if self.value_blinder is None:
            return b""
        chosen = self.script if script is None else script
        usual = 0 if is_unspendable(chosen) or self.amount == 0 else 1
        return zkp.sign_range_proof(
            self.amount,
            self.value_blinder,
            self.generator,
            nonce=blinder("nonce"),
            message=self.asset_id + (self.asset_blinder or zkp.ZERO_BLINDER),
            extra=chosen,
            least=usual if self.least is None else self.least,
            bits=self.bits,
        )

    def surjection_proof(self, targets: Sequence["Opening"], used: int = 3) -> bytes:
        """Its surjection proof, empty when the asset is shown."""
        if self.asset_blinder is None:
            return b""
        known = [
            zkp.BlindedAsset(item.asset_id, item.asset_blinder or zkp.ZERO_BLINDER)
            for item in targets
        ]
        own = zkp.BlindedAsset(self.asset_id, self.asset_blinder)
        return zkp.sign_surjection_proof(known, own, seed=blinder("seed"), used=used)


def balanced(sources: Sequence[Opening], outputs: Sequence[Opening]) -> list[Opening]:
    """The outputs, the last one that hides its amount with the blinder that balances them."""
    last = max(n for n, item in enumerate(outputs) if item.value_blinder is not None)
    total = sum(item.factor for item in sources)
    total -= sum(item.factor for n, item in enumerate(outputs) if n != last)
    asset = int.from_bytes(outputs[last].asset_blinder or b"\0", "big")
    solved = (total - outputs[last].amount * asset) % GROUP_ORDER
    result = list(outputs)
    result[last] = replace(outputs[last], value_blinder=solved.to_bytes(32, "big"))
    return result


def hidden_transaction(
    inputs: Sequence[TxIn],
    sources: Sequence[Opening],
    outputs: Sequence[Opening],
    *,
    input_witnesses: Sequence[InputWitness] = (),
) -> Transaction:
    """A transaction with all its proofs; `outputs` are balanced first if any hides its amount.

    Args:
        sources: what the inputs spend and issue, in the order of surjection targets.
    """
    if any(item.value_blinder is not None for item in outputs):
        outputs = balanced(sources, outputs)
    return Transaction.build(
        inputs=inputs,
        outputs=[item.output for item in outputs],
        input_witnesses=input_witnesses,
        output_witnesses=[
            OutputWitness(item.surjection_proof(sources), item.range_proof()) for item in outputs
        ],
    )
