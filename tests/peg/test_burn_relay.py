"""Burns that would never be paid stay out of mempools (peg:3.4)."""

from dataclasses import replace

import pytest

from peg.burn_relay import REASON, check_relayed_burns
from peg.parameters import LOCAL
from sidechain.errors import InvalidTransaction
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.wallet.builder import burn_script
from tests.peg.world import federation, sidechain_params

CHAIN = sidechain_params(federation())
FED = federation().program
ADDRESS = b"\x00\x14" + bytes(20)
PARAMETERS = replace(LOCAL, payout_cap_sats=5_000_000)


def burn(
    amount_sats: int = 1_000_000,
    destination: bytes = ADDRESS,
    *,
    asset: bytes = CHAIN.pegged_asset,
    parent: bytes = CHAIN.parent_genesis_hash,
) -> TxOut:
    script = burn_script(parent, destination)
    return TxOut(explicit_asset(asset), explicit_value(amount_sats), NULL, script)


def refusal(*outputs: TxOut) -> str:
    """What is said against a transaction with these outputs, "" for nothing."""
    tx = Transaction.build(inputs=[TxIn(OutPoint(bytes(32), 0))], outputs=outputs)
    try:
        check_relayed_burns(tx, chain=CHAIN, parameters=PARAMETERS, fed_programs=(FED,))
    except InvalidTransaction as error:
        assert error.reason == REASON
        return error.detail
    return ""


def test_burn_when_it_would_be_paid_then_relayed() -> None:
    assert refusal(burn()) == ""
    assert refusal(burn(PARAMETERS.min_pegout_sats)) == ""
    assert refusal(burn(PARAMETERS.payout_cap_sats)) == ""


@pytest.mark.parametrize(
    "output, reason",
    [
        (burn(PARAMETERS.min_pegout_sats - 1), "E4_MIN"),
        (burn(PARAMETERS.payout_cap_sats + 1), "OVER_PAYOUT_CAP"),
        (burn(destination=b"\x51"), "E3_SCRIPT"),
        (burn(destination=FED), "E5_FED"),
        (burn(asset=b"\x07" * 32), "E2_ASSET"),
        (replace(burn(), value=b"\x08" + bytes(32)), "E1_BLINDED"),
        (replace(burn(), asset=b"\x0a" + bytes(32)), "E1_BLINDED"),
    ],
)
def test_burn_when_it_would_never_be_paid_then_refused_with_its_code(
    output: TxOut, reason: str
) -> None:
    assert refusal(output) == reason
    assert refusal(burn(), output) == reason


def test_output_when_it_is_no_burn_of_this_peg_then_left_to_others() -> None:
    payment = TxOut(explicit_asset(CHAIN.pegged_asset), explicit_value(1), NULL, ADDRESS)
    note = replace(payment, script=b"\x6a\x04note")
    other_parent = burn(1, parent=b"\x09" * 32)
    assert refusal(payment, note, other_parent) == ""
