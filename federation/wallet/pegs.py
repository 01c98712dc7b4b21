"""Peg-ins and peg-outs of the user as durable records, and when a deposit may be claimed.

A record holds facts only; the stage shown to the user is derived from them and from what both
chains say now. Pure: nothing here reads a clock, a disk or the network.
"""

import json
from dataclasses import dataclass
from typing import Any

from peg.covenants import decode_registration, encode_registration
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.covenant import CovenantTerms

COINBASE_DEPTH_BLOCKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Who gets what is pegged in: a wallet, or the sidechain address `pay_to`.

    With an address, `wallet` is the one whose keys claim.
    """

    wallet: str
    pay_to: str = ""

    @property
    def shown(self) -> str:
        """The name of the wallet, or the address."""
        return self.pay_to or self.wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositAddress:
    """A Bitcoin address whose deposits only this wallet can claim, for itself or `pay_to`.

    With `covenant` anybody can, for the receiver alone: the members do it, and no key of the wallet
    is needed. Then `claim_index` means nothing.
    """

    wallet: str
    address: str
    claim_index: int
    claim_script: bytes
    deposit_script: bytes
    pay_to: str = ""
    covenant: CovenantTerms | None = None

    @property
    def receiver(self) -> Receiver:
        """Who gets its deposits."""
        return Receiver(wallet=self.wallet, pay_to=self.pay_to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """A Bitcoin output to a deposit address.

    `tx` is its transaction without witness. `height` and `block_hash` name the block it is in
    (None and empty outside the best chain), `proof` is the merkle block of that block.
    """

    outpoint: OutPoint
    value_sats: int
    tx: bytes
    is_coinbase: bool = False
    height: int | None = None
    block_hash: bytes = b""
    proof: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pegin:
    """One deposit on its way to sidechain coins, or the intent to make one.

    `funding_tx` is the signed Bitcoin transaction when this process makes the deposit.
    `claim_txid` names the last claim made; `final_height` the sidechain block that has a claim.
    `is_reported`: the user was told of the end, so an equal request starts a new one. `entropy`
    blinds its claim: drawn once and kept first, so that a crash changes nothing about the claim.
    """

    number: int
    target: DepositAddress
    amount_sats: int
    is_own: bool
    funding_tx: bytes = b""
    deposit: Deposit | None = None
    claim_txid: bytes = b""
    final_height: int | None = None
    is_reported: bool = False
    entropy: bytes = b""

    @property
    def id(self) -> str:
        """How the user names it."""
        return f"in-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pegout:
    """One burn on its way to a Bitcoin payment.

    `burn` is the sidechain output that names it. `failure` says why no member took it.
    """

    number: int
    wallet: str
    address: str
    amount_sats: int
    burn: OutPoint
    fee_sats: int
    final_height: int | None = None
    failure: str = ""
    is_reported: bool = False

    @property
    def id(self) -> str:
        """How the user names it."""
        return f"out-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PegInfo:
    """What a member's `getpeginfo` says: committed Bitcoin block and the limits in force.

    Depths and ages are in Bitcoin blocks, amounts in satoshis.
    """

    committed_height: int
    committed_hash: bytes
    pegin_depth: int
    commit_depth: int
    csv: int
    w_sweep: int
    peg_out_fee_sats: int
    min_pegin_sats: int
    min_pegout_sats: int
    payout_cap_sats: int
    deposits_open: bool
    reason: str
    reset_depth: int = 0
    claim_before_height: int | None = None

    @classmethod
    def from_json(cls, reply: dict[str, Any]) -> "PegInfo":
        """Read the reply of `getpeginfo`.

        Raises:
            KeyError, ValueError, TypeError: something is missing or of another form.
        """
        numbers = {
            name: int(reply[name])
            for name in (
                "pegin_depth",
                "commit_depth",
                "csv",
                "w_sweep",
                "peg_out_fee_sats",
                "min_pegin_sats",
                "min_pegout_sats",
                "payout_cap_sats",
            )
        }
        height, hash_hex = reply.get("committed_height"), reply.get("committed_hash")
        return cls(
            committed_height=-1 if height is None else int(height),
            committed_hash=bytes.fromhex(hash_hex)[::-1] if hash_hex else b"",
            deposits_open=bool(reply["deposits_open"]),
            reason=str(reply.get("reason") or ""),
            reset_depth=int(reply.get("reset_depth") or 0),
            claim_before_height=reply.get("claim_before_height"),
            **numbers,
        )

    def required_depth(self, deposit: Deposit) -> int:
        """Confirmations a claim needs. Source: peg:C2."""
        return max(self.pegin_depth, COINBASE_DEPTH_BLOCKS if deposit.is_coinbase else 0)


@dataclass(frozen=True, slots=True)
class Ripeness:
    """Whether a deposit may be claimed now; `is_lost` when it may never be, as things stand.

    `next_step` is what its owner can do about a lost one.
    """

    is_ripe: bool
    reason: str = ""
    is_lost: bool = False
    next_step: str = ""


SPENT = Ripeness(
    is_ripe=False,
    reason="the deposit is spent on Bitcoin, and was never claimed",
    is_lost=True,
    next_step="look at what spent it: the operators returned it, or the emergency keys took it",
)
EXPIRED = Ripeness(
    is_ripe=False,
    reason="the federation's script it was paid to is no longer valid",
    is_lost=True,
    next_step="ask the operators: a proposal that restores the script, or a RETURN record",
)


def judge_deposit(deposit: Deposit, info: PegInfo, *, committed_is_active: bool) -> Ripeness:
    """Whether every member would accept a claim of this deposit at the committed block.

    Args:
        committed_is_active: the committed Bitcoin block is on the best chain that `deposit` was
            found on.
    Source: peg:C2, peg:C3 (size), peg:C4, peg:C6.
    """
    if deposit.height is None:
        return Ripeness(False, "the deposit is in no Bitcoin block")
    limit = info.csv - info.w_sweep
    if deposit.value_sats < info.min_pegin_sats:
        return _lost(
            f"the deposit is below the minimum of {info.min_pegin_sats} sat",
            f"no member claims it; when it is more than {limit + info.reset_depth} Bitcoin blocks "
            "old the operators may return it (RETURN record), if it pays for that",
        )
    if len(deposit.tx) == 64:
        return _lost("64-byte transactions cannot be claimed", "ask the operators")
    if not committed_is_active:
        return Ripeness(False, "the federation has not followed a Bitcoin reorganisation yet")
    age = info.committed_height - deposit.height
    if age > limit:
        reason = f"the deposit is {age} blocks old, claims end at {limit}"
        return _lost(reason, _late_step(age, info))
    if age < 0 or age + info.commit_depth < info.required_depth(deposit):
        return Ripeness(False, "waiting for Bitcoin confirmations the federation has committed to")
    return Ripeness(True)


def _lost(reason: str, next_step: str) -> Ripeness:
    return Ripeness(is_ripe=False, reason=reason, is_lost=True, next_step=next_step)


def _late_step(age: int, info: PegInfo) -> str:
    """What can be done about a deposit that is too old. Source: peg:C9."""
    earliest = info.csv - info.w_sweep + info.reset_depth
    if age <= earliest:
        return (
            f"wait until it is more than {earliest} Bitcoin blocks old: then the operators may "
            "return it (RETURN record)"
        )
    if age < info.csv:
        return (
            "ask the operators to return it (RETURN record); from "
            f"{info.csv} blocks on the emergency keys can take it too"
        )
    return "ask the operators to return it (RETURN record); the emergency keys can take it too"


def encode_address(address: DepositAddress) -> bytes:
    """A deposit address as stored."""
    return _dump(_address_fields(address))


def decode_address(data: bytes) -> DepositAddress:
    """Read what `encode_address` wrote."""
    return _address(json.loads(data))


def encode_pegin(pegin: Pegin) -> bytes:
    """A peg-in as stored."""
    deposit = pegin.deposit
    return _dump(
        {
            "number": pegin.number,
            "target": _address_fields(pegin.target),
            "amount_sats": pegin.amount_sats,
            "own": pegin.is_own,
            "funding_tx_hex": pegin.funding_tx.hex(),
            "deposit": None if deposit is None else _deposit_fields(deposit),
            "claim_txid_hex": pegin.claim_txid.hex(),
            "final_height": pegin.final_height,
            "reported": pegin.is_reported,
            "entropy_hex": pegin.entropy.hex(),
        }
    )


def decode_pegin(data: bytes) -> Pegin:
    """Read what `encode_pegin` wrote."""
    fields = json.loads(data)
    return Pegin(
        number=fields["number"],
        target=_address(fields["target"]),
        amount_sats=fields["amount_sats"],
        is_own=fields["own"],
        funding_tx=bytes.fromhex(fields["funding_tx_hex"]),
        deposit=None if fields["deposit"] is None else _deposit(fields["deposit"]),
        claim_txid=bytes.fromhex(fields["claim_txid_hex"]),
        final_height=fields["final_height"],
        is_reported=fields["reported"],
        entropy=bytes.fromhex(fields.get("entropy_hex", "")),
    )


def encode_pegout(pegout: Pegout) -> bytes:
    """A peg-out as stored."""
    return _dump(
        {
            "number": pegout.number,
            "wallet": pegout.wallet,
            "address": pegout.address,
            "amount_sats": pegout.amount_sats,
            "burn_hex": pegout.burn.serialize().hex(),
            "fee_sats": pegout.fee_sats,
            "final_height": pegout.final_height,
            "failure": pegout.failure,
            "reported": pegout.is_reported,
        }
    )


def decode_pegout(data: bytes) -> Pegout:
    """Read what `encode_pegout` wrote."""
    fields = json.loads(data)
    return Pegout(
        number=fields["number"],
        wallet=fields["wallet"],
        address=fields["address"],
        amount_sats=fields["amount_sats"],
        burn=_outpoint(fields["burn_hex"]),
        fee_sats=fields["fee_sats"],
        final_height=fields["final_height"],
        failure=fields["failure"],
        is_reported=fields["reported"],
    )


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _address_fields(address: DepositAddress) -> dict[str, Any]:
    return {
        "wallet": address.wallet,
        "address": address.address,
        "claim_index": address.claim_index,
        "claim_script_hex": address.claim_script.hex(),
        "deposit_script_hex": address.deposit_script.hex(),
        "pay_to": address.pay_to,
        "covenant_hex": ""
        if address.covenant is None
        else encode_registration(address.covenant).hex(),
    }


def _address(fields: dict[str, Any]) -> DepositAddress:
    return DepositAddress(
        wallet=fields["wallet"],
        address=fields["address"],
        claim_index=fields["claim_index"],
        claim_script=bytes.fromhex(fields["claim_script_hex"]),
        deposit_script=bytes.fromhex(fields["deposit_script_hex"]),
        pay_to=fields.get("pay_to", ""),
        covenant=_covenant(fields.get("covenant_hex", "")),
    )


def _covenant(registration_hex: str) -> CovenantTerms | None:
    return decode_registration(bytes.fromhex(registration_hex)) if registration_hex else None


def _deposit_fields(deposit: Deposit) -> dict[str, Any]:
    return {
        "outpoint_hex": deposit.outpoint.serialize().hex(),
        "value_sats": deposit.value_sats,
        "tx_hex": deposit.tx.hex(),
        "coinbase": deposit.is_coinbase,
        "height": deposit.height,
        "block_hash_hex": deposit.block_hash.hex(),
        "proof_hex": deposit.proof.hex(),
    }


def _deposit(fields: dict[str, Any]) -> Deposit:
    return Deposit(
        outpoint=_outpoint(fields["outpoint_hex"]),
        value_sats=fields["value_sats"],
        tx=bytes.fromhex(fields["tx_hex"]),
        is_coinbase=fields["coinbase"],
        height=fields["height"],
        block_hash=bytes.fromhex(fields["block_hash_hex"]),
        proof=bytes.fromhex(fields["proof_hex"]),
    )


def _outpoint(serialized_hex: str) -> OutPoint:
    data = bytes.fromhex(serialized_hex)
    return OutPoint(data[:32], int.from_bytes(data[32:], "little"))
