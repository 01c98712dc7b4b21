"""The peg's sums over transactions that hide amounts: only what is shown counts (peg:3.4)."""

from dataclasses import replace

import pytest

from peg.commitments import Commitment
from peg.history import PegHistory
from peg.limits import BurnCode
from peg.parameters import LOCAL
from sidechain.crypto.hashes import sha256
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.wallet.blinding import Opened, blind, throwaway_key
from sidechain.wallet.builder import burn_script
from sidechain.wallet.keys import Branch, PrivateAccount
from tests.peg.world import Sidechain, federation, p2wpkh_script, sidechain_params

SCRIPT = federation()
PARAMS = sidechain_params(SCRIPT)
PEGGED = PARAMS.pegged_asset
ACCOUNT = PrivateAccount.from_seed(bytes(range(32))).public
HOME = ACCOUNT.script(Branch.RECEIVE, 0)
KEY = ACCOUNT.blinding_public_key(HOME)
ENTROPY = sha256(b"entropy")
DESTINATION = p2wpkh_script("bitcoin address")
BURN = burn_script(PARAMS.parent_genesis_hash, DESTINATION)
COMMITMENT = Commitment(
    reset=False, height=10, block_hash=sha256(b"bitcoin"), feerate_sats_per_kvb=2_000
)
BURNED_SATS = 400_000
FEE_SATS = 300


def output(value_sats: int, script: bytes) -> TxOut:
    return TxOut(explicit_asset(PEGGED), explicit_value(value_sats), NULL, script)


def spend(outputs: list[TxOut], receivers: list[bytes | None]) -> Transaction:
    """A blinded spend of one hidden coin; it pays `FEE_SATS`."""
    total = sum(item.value_sats or 0 for item in outputs) + FEE_SATS
    plain = Transaction.build(
        inputs=[TxIn(OutPoint(sha256(b"coin"), 0))], outputs=[*outputs, output(FEE_SATS, b"")]
    )
    coin = Opened(asset=PEGGED, value_sats=total, abf=sha256(b"abf"), vbf=sha256(b"vbf"))
    return blind(plain, [coin], [*receivers, None], entropy=ENTROPY)


def history(*transactions: Transaction) -> PegHistory:
    side = Sidechain(PARAMS, SCRIPT)
    found = PegHistory(PARAMS, LOCAL, frozenset([SCRIPT.program]))
    found.apply(side.extend(COMMITMENT, transactions))
    return found


def sums(found: PegHistory) -> tuple[int, int, int]:
    tip = found.tip
    assert tip is not None
    return tip.burned_sats, tip.suspense_sats, tip.feeburn_sats


def test_payment_when_hidden_then_only_its_fee_counts() -> None:
    found = history(
        spend([output(70_000, HOME), output(0, b"\x6a")], [KEY, throwaway_key(ENTROPY)])
    )
    assert sums(found) == (0, 0, FEE_SATS) and found.burns == []


def test_pegout_when_its_change_is_hidden_then_paid_in_full() -> None:
    tx = spend([output(BURNED_SATS, BURN), output(70_000, HOME)], [None, KEY])
    found = history(tx)
    assert sums(found) == (BURNED_SATS, 0, FEE_SATS)
    (burn,) = found.burns
    assert (burn.code, burn.amount_sats) == (BurnCode.OK, BURNED_SATS)
    assert burn.burn_id == OutPoint(tx.txid, 0).serialize()


def test_pegout_when_hidden_then_never_paid_and_counted_as_nothing() -> None:
    tx = spend([output(BURNED_SATS, BURN), output(70_000, HOME)], [KEY, KEY])
    found = history(tx)
    assert sums(found) == (0, 0, FEE_SATS)
    (burn,) = found.burns
    assert (burn.code, burn.amount_sats) == (BurnCode.BLINDED, 0)
    assert found.schedule.released_count(1) == 0


@pytest.mark.parametrize("shown", ["asset", "value"])
def test_pegout_when_half_hidden_then_never_paid(shown: str) -> None:
    tx = spend([output(BURNED_SATS, BURN), output(70_000, HOME)], [KEY, KEY])
    plain = output(BURNED_SATS, BURN)
    half = replace(
        tx.outputs[0],
        asset=plain.asset if shown == "asset" else tx.outputs[0].asset,
        value=plain.value if shown == "value" else tx.outputs[0].value,
    )
    changed = Transaction.build(
        inputs=tx.inputs, outputs=[half, *tx.outputs[1:]], output_witnesses=tx.output_witnesses
    )
    found = history(changed)
    assert [burn.code for burn in found.burns] == [BurnCode.BLINDED]
    assert sums(found)[0] == 0 and sums(found)[1] == 0
