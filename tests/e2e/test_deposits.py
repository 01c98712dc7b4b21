"""Deposits from a real bitcoind wallet that replaces, conflicts and mines them to an address."""

from typing import Any

import pytest

from tests.e2e.local import FAUCET, PEGIN_DEPTH, Local
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("-n", "2", "-k", "2", "--block-time", "0")


def address_of(local: Local, wallet: str) -> str:
    """A fresh deposit address by the command."""
    found = local.answer("peg", "address", "--to", wallet, "--json").json
    assert found["claim_before_height"] > local.height()
    address: str = found["address"]
    return address


def views(local: Local, address: str) -> list[dict[str, Any]]:
    """What `peg status` lists of an address."""
    found = local.answer("peg", "status", "--json").json["pegins"]
    return [view for view in found if view["address"] == address]


def wait_stages(local: Local, address: str, *stages: str) -> list[dict[str, Any]]:
    """Wait for the peg-ins of an address to be in these stages."""

    def look() -> list[dict[str, Any]] | None:
        found = views(local, address)
        return found if sorted(view["stage"] for view in found) == sorted(stages) else None

    return wait_for(look, f"{address}: {stages}")


def test_deposit_when_its_fee_is_raised_then_replaced_and_the_new_one_claimed(
    local: Local,
) -> None:
    local.make_wallets("alice")
    before = local.available("alice")
    address = address_of(local, "alice")
    faucet = local.bitcoind(FAUCET)
    old = faucet.call("sendtoaddress", address, "0.4")
    wait_stages(local, address, "funded")
    new = faucet.call("bumpfee", old)["txid"]
    found = wait_stages(local, address, "conflicted", "funded")
    by_txid = {view["deposit"].split(":")[0]: view for view in found}
    assert "replaced it" in by_txid[old]["reason"]
    assert by_txid[new]["stage"] == "funded"
    local.mine(PEGIN_DEPTH)
    local.mine_until(
        lambda: any(view["stage"] == "final" for view in views(local, address)), "it is claimed"
    )
    final = {view["deposit"].split(":")[0]: view for view in views(local, address)}
    assert (final[old]["stage"], final[new]["stage"]) == ("conflicted", "final")
    assert "in a block" in final[old]["reason"]
    text = local.answer("peg", "status").stdout
    assert "was replaced" in text and "listed by itself" in text
    gained = local.available("alice") - before
    assert 39_990_000 < gained < 40_000_000
    assert local.audit()["equal"]


def test_deposit_when_mined_to_the_address_then_it_waits_for_a_hundred_blocks(
    local: Local,
) -> None:
    local.make_wallets("bob")
    address = address_of(local, "bob")
    local.bitcoind().call("generatetoaddress", 1, address)
    local.mine(PEGIN_DEPTH + 1)
    local.wait_committed()
    (view,) = wait_stages(local, address, "confirming")
    assert view["required"] == 100
    local.mine(100 - view["confirmations"])
    local.mine_until(
        lambda: any(view["stage"] == "final" for view in views(local, address)), "it is claimed"
    )
    assert local.audit()["equal"]


def test_deposit_when_in_no_block_any_more_then_said_and_claimed_after_it_returns(
    local: Local,
) -> None:
    local.make_wallets("carol")
    address = address_of(local, "carol")
    txid = local.bitcoind(FAUCET).call("sendtoaddress", address, "0.2")
    local.mine(2)
    wait_stages(local, address, "confirming")
    local.invalidate(local.parent_height() - 1)
    local.mine_empty(3)
    (view,) = wait_stages(local, address, "funded")
    assert view["deposit"].startswith(txid) and view["confirmations"] == 0
    local.mine(PEGIN_DEPTH)
    local.mine_until(
        lambda: any(view["stage"] == "final" for view in views(local, address)), "it is claimed"
    )
    assert len(local.claims(view["deposit"])) == 1
