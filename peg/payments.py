"""What the keeper of the peg key is asked to sign: a whole transaction in a known form.

The keeper is never handed a digest. It gets what the transaction is made of, refuses every form
but a batch, a trial spend and a deposit given back, and makes the digests itself; so whoever asks
cannot have it sign a spend that the federation's rules have no name for. The bytes below cross the
border to a signer process.

Source: peg:3.8, peg:P2, peg:C9, peg:P38, peg:P39, N22, N31.
"""

from dataclasses import dataclass
from typing import Self

from peg.batches import FedCoin, OpenBatch, input_digests
from peg.fedscript import FedScript
from peg.lanes import EMERGENCY_LANE, batch_digest, decode_marker
from peg.limits import is_payable
from peg.parameters import RETURN_FEE_MAX_SATS
from sidechain.errors import InvalidEncoding
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.encoding import Reader, le32, le64
from sidechain.primitives.transaction import OutPoint

BURN_ID_BYTES = 36
INPUTS_MAX = 600
PAYOUTS_MAX = 255
SCRIPT_MAX_BYTES = 10_000
TRIAL_FEE_MAX_SATS = 100_000
_FED_COIN = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentInput:
    """A coin to be spent; `claim_script` tweaks a deposit's, None stands for FED outputs."""

    outpoint: OutPoint
    value_sats: int
    claim_script: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A transaction to be signed by the peg key: a batch, a trial spend, or a RETURN.

    Attributes:
        index: i of a batch; None makes it a trial spend or a RETURN.
        burn_ids: what a batch pays, in queue order, 36 bytes each.
        outputs: (satoshis, script).
    """

    index: int | None
    burn_ids: tuple[bytes, ...]
    inputs: tuple[PaymentInput, ...]
    outputs: tuple[tuple[int, bytes], ...]

    def digests(self, script: FedScript) -> tuple[bytes, ...]:
        """BIP143 digests (SIGHASH_ALL) in input order; `script` is the plain fedpegscript."""
        return input_digests(self.inputs, self.outputs, script)

    def encode(self) -> bytes:
        """As it is sent to a signer process."""
        head = b"\0" if self.index is None else b"\1" + le32(self.index)
        parts = [head, bytes((len(self.burn_ids),)), *self.burn_ids, _u16(len(self.inputs))]
        for coin in self.inputs:
            parts += [coin.outpoint.serialize(), le64(coin.value_sats)]
            claim = coin.claim_script
            parts += [_u16(_FED_COIN)] if claim is None else [_u16(len(claim)), claim]
        parts.append(_u16(len(self.outputs)))
        for value_sats, program in self.outputs:
            parts += [le64(value_sats), _u16(len(program)), program]
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`.

        Raises:
            InvalidEncoding: cut off, trailing bytes, or a count or length out of range.
        """
        reader = Reader(body)
        kind = reader.u8()
        if kind > 1:
            raise InvalidEncoding("payment", "unknown kind")
        index = reader.u32() if kind else None
        burn_ids = tuple(reader.read(BURN_ID_BYTES) for _ in range(reader.u8()))
        inputs = tuple(_input(reader) for _ in range(_count(reader, INPUTS_MAX)))
        outputs = tuple(
            (reader.u64(), reader.read(_count(reader, SCRIPT_MAX_BYTES)))
            for _ in range(_count(reader, PAYOUTS_MAX + 2))
        )
        reader.done()
        return cls(index=index, burn_ids=burn_ids, inputs=inputs, outputs=outputs)


def batch_payment(batch: OpenBatch, fee_sats: int) -> Payment:
    """One version of an open batch."""
    return Payment(
        index=batch.index,
        burn_ids=tuple(burn.burn_id for burn in batch.payouts),
        inputs=_inputs(batch.inputs),
        outputs=batch.outputs(fee_sats),
    )


def return_payment(inputs: tuple[FedCoin, ...], outputs: tuple[tuple[int, bytes], ...]) -> Payment:
    """One version of the transaction that gives a deposit back (C9)."""
    return Payment(index=None, burn_ids=(), inputs=_inputs(inputs), outputs=outputs)


def check_payment(payment: Payment, script: FedScript, genesis: bytes) -> None:
    """Refuse all that has not the form of a batch, a trial spend, or a deposit given back (P39).

    What the chains say (whether the anchor is the walked one, whether the burns are due) is not
    known here: those rules are the caller's.

    Args:
        script: the plain fedpegscript.
        genesis: sidechain genesis hash.
    Raises:
        InvalidEncoding: which part is wrong.
    """
    if len({coin.outpoint for coin in payment.inputs}) != len(payment.inputs):
        raise InvalidEncoding("payment", "an input appears twice")
    if _is_return(payment):
        _check_return(payment, script)
        return
    if not payment.inputs or payment.inputs[0].claim_script is not None:
        raise InvalidEncoding("payment", "input 0 is no FED output")
    if not payment.outputs or payment.outputs[0][1] != script.program:
        raise InvalidEncoding("payment", "output 0 does not pay FED")
    received_sats = sum(coin.value_sats for coin in payment.inputs)
    paid_sats = sum(value for value, _ in payment.outputs)
    if not 0 < paid_sats < received_sats <= MAX_MONEY_SATS:
        raise InvalidEncoding("payment", "amounts out of range")
    if payment.index is None:
        _check_trial(payment, received_sats - paid_sats)
    else:
        _check_batch(payment, payment.index, genesis)


def _is_return(payment: Payment) -> bool:
    """One deposit to one output: no batch has this form, since input 0 of a batch is an anchor."""
    one = len(payment.inputs) == len(payment.outputs) == 1
    return payment.index is None and one and payment.inputs[0].claim_script is not None


def _check_return(payment: Payment, script: FedScript) -> None:
    ((value_sats, program),) = payment.outputs
    fee_sats = payment.inputs[0].value_sats - value_sats
    if payment.burn_ids or not is_payable(program) or program == script.program:
        raise InvalidEncoding("return", "does not pay one standard script")
    if not (0 < value_sats <= MAX_MONEY_SATS and 0 < fee_sats <= RETURN_FEE_MAX_SATS):
        raise InvalidEncoding("return", "amounts out of range")


def _check_trial(payment: Payment, fee_sats: int) -> None:
    if len(payment.inputs) != 1 or len(payment.outputs) != 1 or payment.burn_ids:
        raise InvalidEncoding("trial spend", "not one FED input and one FED output")
    if fee_sats > TRIAL_FEE_MAX_SATS:
        raise InvalidEncoding("trial spend", f"pays more than {TRIAL_FEE_MAX_SATS} sat of fees")


def _check_batch(payment: Payment, index: int, genesis: bytes) -> None:
    if len(payment.outputs) < 2 or payment.outputs[1][0] != 0:
        raise InvalidEncoding("batch", "no marker of value 0 at output 1")
    marker = decode_marker(payment.outputs[1][1])
    if marker is None or marker.lane >= EMERGENCY_LANE:
        raise InvalidEncoding("batch", "output 1 is no marker of a lane")
    if not marker.count == len(payment.burn_ids) == len(payment.outputs) - 2:
        raise InvalidEncoding("batch", "payouts, burns and the marker's count differ")
    if len(set(payment.burn_ids)) != len(payment.burn_ids):
        raise InvalidEncoding("batch", "a burn is paid twice")
    digest = batch_digest(
        genesis,
        lane=marker.lane,
        index=index,
        anchor=payment.inputs[0].outpoint,
        h_sel=marker.h_sel,
        burn_ids=payment.burn_ids,
    )
    if digest != marker.digest:
        raise InvalidEncoding("batch", "the marker's digest is of another batch")


def _inputs(coins: tuple[FedCoin, ...]) -> tuple[PaymentInput, ...]:
    return tuple(
        PaymentInput(
            outpoint=coin.outpoint, value_sats=coin.value_sats, claim_script=coin.claim_script
        )
        for coin in coins
    )


def _input(reader: Reader) -> PaymentInput:
    outpoint = OutPoint(reader.read(32), reader.u32())
    value_sats, size = reader.u64(), reader.u16()
    if size == _FED_COIN:
        return PaymentInput(outpoint=outpoint, value_sats=value_sats, claim_script=None)
    if size > SCRIPT_MAX_BYTES:
        raise InvalidEncoding("payment", "length of a claim script")
    return PaymentInput(outpoint=outpoint, value_sats=value_sats, claim_script=reader.read(size))


def _count(reader: Reader, most: int) -> int:
    count = reader.u16()
    if count > most:
        raise InvalidEncoding("payment", "a count or length is out of range")
    return count


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")
