"""Least amount and subsidy of peg-ins, the fees they are computed from, and authorised peg-outs."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.parent_rpc import ParentError, ParentNode
from sidechain.policy.pegins import ParentFee, check_pegin_subsidy
from sidechain.policy.pegouts import check_pegouts
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import push
from sidechain.validation.pegins import FedpegPair
from tests.factories import ALICE, SignedChain, StaticFacts, output

KEYS = [bytes([2]) + bytes([n]) * 32 for n in range(1, 17)]
T_OF_N = b"\x52" + b"".join(map(push, KEYS[:3])) + b"\x53\xae"


class Fees(StaticFacts):
    """Facts that know what deposits paid."""

    def __init__(self, *fees: ParentFee) -> None:
        super().__init__()
        self.fees = list(fees)

    def parent_fee(self, txid: bytes, block_hash: bytes) -> ParentFee | None:
        return self.fees.pop(0) if self.fees else None


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


def claim(signed: SignedChain, amount_sats: int, burn_sats: int = 0) -> Transaction:
    """A claim that burns something."""
    tx = signed.claim(signed.deposit(ALICE.script, amount_sats), ALICE)
    outputs = list(tx.outputs)
    if burn_sats:
        outputs.insert(0, output(signed.params, b"\x6a", burn_sats))
    return Transaction.build(inputs=tx.inputs, outputs=outputs, input_witnesses=tx.input_witnesses)


def said(
    tx: Transaction,
    params: ChainParams,
    height: int,
    facts: object = None,
    script: bytes | None = T_OF_N,
) -> str:
    pairs: Sequence[FedpegPair] = [] if script is None else [FedpegPair(b"", script)]
    try:
        check_pegin_subsidy(tx, params, height, pairs, facts)
    except InvalidTransaction as error:
        return str(error) or "no reason"
    return ""


def test_amount_when_below_the_minimum_then_refused_from_the_height_on(
    signed: SignedChain,
) -> None:
    params = replace(signed.params, pegin_min_height=10, pegin_min_sats=10**7)
    low, enough = claim(signed, 10**7 - 1), claim(signed, 10**7)
    assert said(low, params, 9) == said(enough, params, 10) == ""
    assert said(low, params, 10) == (
        "pegin-value-too-low, peg-in value: 0.09999999, minimum peg-in value: 0.10"
    )
    assert said(low, signed.params, 10**6) == "", "off by default"


def subsidised(signed: SignedChain) -> ChainParams:
    return replace(
        signed.params,
        pegin_subsidy_height=5,
        pegin_subsidy_threshold_sats=10**8,
        validate_pegin=True,
    )


# weight of an input that spends a deposit: 4 × 41 + 2 × 72 + 105
VBYTES = -(-(4 * 41 + 2 * 72 + len(T_OF_N)) // 4)


def test_burn_when_below_the_way_back_then_refused(signed: SignedChain) -> None:
    params = subsidised(signed)
    assert VBYTES == 104
    low, enough = claim(signed, 10**6, VBYTES - 1), claim(signed, 10**6, VBYTES)
    assert said(enough, params, 5) == said(low, params, 4) == ""
    assert said(low, params, 5) == (
        "pegin-subsidy-too-low, peg-in value: 0.01, subsidy threshold: 1.00, subsidy value: "
        "0.00000103, expected subsidy: 0.00000104, parent feerate: 0.00001000 BTC/kvB"
    )
    assert said(claim(signed, 10**8), params, 5) == "", "large ones burn nothing"


def test_burn_when_the_parent_is_dear_then_its_rate_counts(signed: SignedChain) -> None:
    params = subsidised(signed)
    needed = VBYTES * 5
    fee = ParentFee(fee_sats=1_000, vsize=200)
    assert said(claim(signed, 10**6, needed), params, 5, Fees(fee)) == ""
    low = claim(signed, 10**6, needed - 1)
    assert "parent feerate: 0.00005000 BTC/kvB" in said(low, params, 5, Fees(fee))
    cheap = Fees(ParentFee(fee_sats=1, vsize=200))
    assert said(claim(signed, 10**6, VBYTES), params, 5, cheap) == ""
    unknown = "pegin-subsidy-mainchain-error, parent transaction not found"
    assert said(low, params, 5, Fees()) == unknown
    unasked = replace(params, validate_pegin=False)
    assert said(claim(signed, 10**6, VBYTES), unasked, 5, Fees(fee)) == ""


@pytest.mark.parametrize(
    ("script", "is_usable"),
    [
        (b"\x51", True),
        (T_OF_N, True),
        (T_OF_N + b"\x61", True),
        (b"\x00", False),
        (b"", False),
        (b"\x54" + T_OF_N[1:], False),
        (T_OF_N[:-2] + b"\x52\xae", False),
        (T_OF_N[:-1] + b"\xac", False),
        (b"\x51" + b"".join(map(push, KEYS)) + b"\x60\xae", True),
        (b"\x63" + T_OF_N, False),
    ],
)
def test_fedpegscript_when_no_plain_multisig_then_refused_without_a_reason(
    signed: SignedChain, script: bytes, is_usable: bool
) -> None:
    tx = claim(signed, 10**6, 10**5)
    assert said(tx, subsidised(signed), 5, script=script) == ("" if is_usable else "no reason")
    assert said(tx, subsidised(signed), 5, script=None) == "no reason"


def test_payment_when_it_claims_nothing_then_not_looked_at(signed: SignedChain) -> None:
    tx = signed.payment(ALICE, [signed.mint(ALICE, 10**6)], [(ALICE.script, 5_000)])
    assert said(tx, subsidised(signed), 10**6, script=None) == ""


# --- what the parent's node says ------------------------------------------------------------------


class FakeRpc:
    """Answers of a parent's node."""

    def __init__(self, transaction: Any) -> None:
        self.transaction = transaction
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, method: str, *params: Any) -> Any:
        self.calls.append((method, *params))
        if method == "getblockheader":
            return {"confirmations": 9, "nTx": 1}
        if isinstance(self.transaction, Exception):
            raise self.transaction
        return self.transaction


@pytest.mark.parametrize(
    ("answer", "fee"),
    [
        ({"vsize": 200, "fee": Decimal("0.00001234")}, ParentFee(1_234, 200)),
        ({"vsize": 200}, ParentFee(0, 200)),
        ({"vsize": 200, "fee": {"07" * 32: Decimal("0.5")}}, ParentFee(50_000_000, 200)),
        ({"vsize": 200, "fee": {"08" * 32: Decimal("0.5")}}, ParentFee(0, 200)),
        ({"fee": Decimal("0.5")}, None),
        ([], None),
        (ParentError(-5, "no such transaction"), None),
    ],
)
async def test_fee_when_asked_of_the_parent_then_read_or_unknown(
    signed: SignedChain, answer: Any, fee: ParentFee | None
) -> None:
    deposit = signed.deposit(ALICE.script, 10**6)
    tx = signed.claim(deposit, ALICE)
    params = replace(signed.params, parent_pegged_asset=b"\x07" * 32)
    rpc = FakeRpc(answer)
    node = ParentNode(rpc, params, needs_fees=True)  # type: ignore[arg-type]
    facts = await node.facts_for([tx, tx])
    assert facts.block_facts(deposit.block_hash) == (9, 1)
    assert facts.parent_fee(deposit.txid, deposit.block_hash) == fee
    shown = deposit.txid[::-1].hex(), deposit.block_hash[::-1].hex()
    assert rpc.calls[1] == ("getrawtransaction", shown[0], 2, shown[1])
    quiet = FakeRpc(answer)
    facts = await ParentNode(quiet, params, needs_fees=False).facts_for([tx])  # type: ignore[arg-type]
    assert len(quiet.calls) == 1
    assert facts.parent_fee(deposit.txid, deposit.block_hash) is None


# --- peg-outs -------------------------------------------------------------------------------------


def test_pegout_when_the_list_is_empty_then_refused_in_elements_words(
    signed: SignedChain,
) -> None:
    params = signed.params
    burn = b"\x6a" + push(params.parent_genesis_hash) + push(ALICE.script)
    point = signed.mint(ALICE, 10**6)
    tx = signed.payment(ALICE, [point], [(burn, 5_000)])
    with pytest.raises(InvalidTransaction) as refused:
        check_pegouts(tx, (), params)
    assert str(refused.value) == "invalid-pegout-proof"
    check_pegouts(signed.payment(ALICE, [point], [(ALICE.script, 5_000)]), (), params)
    check_pegouts(signed.payment(ALICE, [point], [(b"\x6a\x01\x02", 5_000)]), (), params)


def test_pegout_when_pak_is_enforced_then_the_mempool_asks_for_a_proof(tmp_path: Path) -> None:
    signed = SignedChain.open(tmp_path / "pak", enforce_pak=True)
    point = signed.mint(ALICE, 10**6)
    burn = b"\x6a" + push(signed.params.parent_genesis_hash) + push(ALICE.script)
    tx = signed.payment(ALICE, [point], [(burn, 5_000)])
    with pytest.raises(InvalidTransaction, match="^invalid-pegout-proof$"):
        signed.chain.submit_tx(tx, None, signed.next_time_s())
