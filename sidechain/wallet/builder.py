"""Transactions a wallet makes: payments, burns (peg-outs) and peg-in claims, and signing them.

Everything is explicit (unblinded). A draft is unsigned; `sign` fills in its P2WPKH witnesses.

Source: elements/peg.md 3, 5.1 and 9; elements/transactions.md 2 and 7; peg 3.4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sidechain.crypto.hashes import hash160
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.policy import (
    INCREMENTAL_RELAY_FEE_SATS_PER_KVB,
    dust_threshold_sats,
    required_fee_sats,
)
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import (
    EMPTY_INPUT_WITNESS,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push
from sidechain.script.sighash import SIGHASH_ALL, SighashCache, segwit_v0_sighash
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
MAX_CLAIM_SCRIPT_BYTES = 100
CLAIM_SPARE_VBYTES = 200
"""Room in a claim's fee for a longer merkle proof, should the deposit move to another block."""

_P2WPKH_BYTES = 22
_PLACEHOLDER = InputWitness(script=(bytes(72), bytes(33)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One output to make: an amount of an asset to a script, never confidential."""

    script: bytes
    asset: bytes
    value_sats: int

    def output(self) -> TxOut:
        """The output that pays it."""
        return _output(self.asset, self.value_sats, self.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class PegoutLimits:
    """What the federation pays out now; amounts in satoshis.

    `federation_scripts` are the FED scripts of this federation, past and present.
    """

    min_pegout_sats: int
    payout_cap_sats: int
    federation_scripts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimableDeposit:
    """A deposit with what a claim of it must show.

    `parent_tx` is the depositing transaction without witness, `proof` the serialized merkle block
    of its block, `claim_script` the script the deposit address commits to.
    """

    outpoint: OutPoint
    value_sats: int
    claim_script: bytes
    parent_tx: bytes
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An unsigned transaction and the coins it spends, in the order of its inputs."""

    tx: Transaction
    spent: tuple[OwnedCoin, ...]
    fee_sats: int


def build_payment(
    payments: Sequence[Payment],
    coins: Sequence[OwnedCoin],
    params: ChainParams,
    *,
    change_script: bytes,
    rate_sats_per_kvb: int,
) -> Draft:
    """Pay some outputs, with change per asset and one fee output, last.

    Coins in final blocks are used alone when they suffice, others only when they do not.

    Args:
        coins: what may be spent; none twice.
        change_script: own P2WPKH script for all change.
    Raises:
        WalletRefusal: "insufficient-funds", "dust", "amount" or "tx-size".
    """
    for payment in payments:
        _check_payable(payment, params)
    request = _Request(tuple(payments), params, change_script, rate_sats_per_kvb)
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
    params: ChainParams,
    *,
    limits: PegoutLimits,
    change_script: bytes,
    rate_sats_per_kvb: int,
) -> Draft:
    """Burn coins for a peg-out of `value_sats` to a Bitcoin script; the burn is output 0.

    Raises:
        WalletRefusal: as `check_burn` and `build_payment`.
    Source: elements/peg.md 5.1, peg 3.4.
    """
    check_burn(destination, value_sats, limits)
    script = burn_script(params.parent_genesis_hash, destination)
    payment = Payment(script=script, asset=params.pegged_asset, value_sats=value_sats)
    return build_payment(
        [payment],
        coins,
        params,
        change_script=change_script,
        rate_sats_per_kvb=rate_sats_per_kvb,
    )


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


def build_claim(
    deposit: ClaimableDeposit,
    params: ChainParams,
    *,
    to_script: bytes,
    rate_sats_per_kvb: int,
    least_fee_sats: int = 0,
) -> Transaction:
    """The unsigned claim of one deposit, all of it but the fee to `to_script`.

    Args:
        least_fee_sats: pay at least this, to replace an earlier claim of the same deposit.
    Raises:
        WalletRefusal: "dust" when nothing worth having would be left, "claim-script" when the
            script is not P2WPKH.
    Source: elements/peg.md 3 and 9.
    """
    script = deposit.claim_script
    if len(script) != _P2WPKH_BYTES or script[:2] != b"\x00\x14":
        raise WalletRefusal("claim-script", "this wallet claims to its own P2WPKH scripts only")
    pegin = (
        le64(deposit.value_sats),
        params.pegged_asset,
        params.parent_genesis_hash,
        script,
        deposit.parent_tx,
        deposit.proof,
    )
    asset = params.pegged_asset
    sized = _claim(deposit, asset, to_script, 0, replace(_PLACEHOLDER, pegin=pegin))
    fee = required_fee_sats(sized.vsize + CLAIM_SPARE_VBYTES, rate_sats_per_kvb)
    fee = max(fee, least_fee_sats)
    least = dust_threshold_sats(_output(asset, 0, to_script), params)
    if deposit.value_sats - fee < max(1, least):
        raise WalletRefusal("dust", f"{deposit.value_sats} sat does not pay for its own claim")
    return _claim(deposit, asset, to_script, fee, InputWitness(pegin=pegin))


def replacement_fee_sats(claim: Transaction) -> int:
    """The fee with which a new claim of the same deposit takes the place of this one."""
    fee = sum(output.value_sats or 0 for output in claim.outputs if output.is_fee)
    vsize = claim.vsize + CLAIM_SPARE_VBYTES
    return fee + required_fee_sats(vsize, INCREMENTAL_RELAY_FEE_SATS_PER_KVB)


def with_claim_proof(claim: Transaction, proof: bytes) -> Transaction:
    """The same claim, signed as it was, with the proof of another block.

    The proof is witness data that no signature covers: txid and signature stay.
    """
    witness = claim.input_witnesses[0]
    changed = replace(witness, pegin=(*witness.pegin[:5], proof))
    return _with_witnesses(claim, (changed, *claim.input_witnesses[1:]))


def sign(draft: Draft, secret_of: Callable[[OwnedCoin], SecretKey]) -> Transaction:
    """Sign every input with the key of its coin, SIGHASH_ALL.

    Raises:
        InvalidEncoding: a key is not the one its coin pays to.
    """
    witnesses = []
    cache = SighashCache(draft.tx)
    for position, coin in enumerate(draft.spent):
        stack = _p2wpkh_witness(cache, position, coin.script, coin.value_sats, secret_of(coin))
        witnesses.append(InputWitness(script=stack))
    return _with_witnesses(draft.tx, tuple(witnesses))


def sign_claim(claim: Transaction, secret: SecretKey) -> Transaction:
    """Sign a claim with the key of its claim script.

    Raises:
        InvalidEncoding: the key is not the claim script's.
    """
    witness = claim.input_witnesses[0]
    value = int.from_bytes(witness.pegin[0], "little")
    stack = _p2wpkh_witness(SighashCache(claim), 0, witness.pegin[3], value, secret)
    return _with_witnesses(claim, (replace(witness, script=stack),))


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be paid and on which terms, without the coins."""

    payments: tuple[Payment, ...]
    params: ChainParams
    change_script: bytes
    rate_sats_per_kvb: int

    def need(self, asset: bytes) -> int:
        return sum(payment.value_sats for payment in self.payments if payment.asset == asset)


def _check_payable(payment: Payment, params: ChainParams) -> None:
    if payment.value_sats <= 0:
        raise WalletRefusal("amount", "the amount must be above zero")
    dust = dust_threshold_sats(payment.output(), params)
    if payment.asset == params.pegged_asset and payment.value_sats < dust:
        raise WalletRefusal("dust", f"amounts below {dust} sat are not relayed")


def _draft(request: _Request, coins: Sequence[OwnedCoin]) -> Draft:
    fee_asset = request.params.pegged_asset
    outputs = [payment.output() for payment in request.payments]
    spent: list[OwnedCoin] = []
    # A dict keeps first-seen order: the result must not depend on hashing.
    for asset in dict.fromkeys(payment.asset for payment in request.payments):
        if asset == fee_asset:
            continue
        need = request.need(asset)
        picked = choose_plain([coin for coin in coins if coin.asset == asset], need)
        surplus = sum(coin.value_sats for coin in picked) - need
        spent.extend(picked)
        if surplus:
            outputs.append(_output(asset, surplus, request.change_script))
    choice = _choose_fee_asset(request, outputs, len(spent), coins)
    spent.extend(choice.coins)
    if choice.change_sats:
        outputs.append(_output(fee_asset, choice.change_sats, request.change_script))
    outputs.append(_output(fee_asset, choice.fee_sats, b""))
    inputs = [TxIn(coin.outpoint, sequence=REPLACEABLE_SEQUENCE) for coin in spent]
    tx = Transaction.build(version=TX_VERSION, inputs=inputs, outputs=outputs)
    return Draft(tx=tx, spent=tuple(spent), fee_sats=choice.fee_sats)


def _choose_fee_asset(
    request: _Request, outputs: Sequence[TxOut], fixed_inputs: int, coins: Sequence[OwnedCoin]
) -> Choice:
    fee_asset = request.params.pegged_asset
    fee_output = _output(fee_asset, 0, b"")
    change = _output(fee_asset, 0, request.change_script)
    shape = Shape(
        fixed_inputs=fixed_inputs,
        output_count=len(outputs) + 1,
        output_bytes=sum(len(output.serialize()) for output in (*outputs, fee_output)),
        change_bytes=len(change.serialize()),
    )
    return choose(
        [coin for coin in coins if coin.asset == fee_asset],
        request.need(fee_asset),
        shape,
        rate_sats_per_kvb=request.rate_sats_per_kvb,
        dust_sats=dust_threshold_sats(change, request.params),
    )


def _claim(
    deposit: ClaimableDeposit,
    pegged_asset: bytes,
    to_script: bytes,
    fee_sats: int,
    witness: InputWitness,
) -> Transaction:
    return Transaction.build(
        version=TX_VERSION,
        inputs=[TxIn(deposit.outpoint, is_pegin=True)],
        outputs=[
            _output(pegged_asset, deposit.value_sats - fee_sats, to_script),
            _output(pegged_asset, fee_sats, b""),
        ],
        input_witnesses=[witness],
    )


def _output(asset: bytes, value_sats: int, script: bytes) -> TxOut:
    return TxOut(explicit_asset(asset), explicit_value(value_sats), NULL, script)


def _p2wpkh_witness(
    cache: SighashCache, position: int, script: bytes, value_sats: int, secret: SecretKey
) -> tuple[bytes, bytes]:
    key = public_key(secret.value)
    if script != b"\x00\x14" + hash160(key):
        raise InvalidEncoding("the key does not belong to the script it should spend")
    script_code = b"\x76\xa9\x14" + script[2:] + b"\x88\xac"
    digest = segwit_v0_sighash(
        cache.tx,
        position,
        script_code,
        explicit_value(value_sats),
        SIGHASH_ALL,
        rangeproof=False,
        cache=cache,
    )
    return ecdsa_sign(secret.value, digest) + bytes([SIGHASH_ALL]), key


def _with_witnesses(tx: Transaction, witnesses: tuple[InputWitness, ...]) -> Transaction:
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
