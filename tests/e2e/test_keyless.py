"""Deposits of users who only send bitcoin: real members claim for them, also while being killed."""

from typing import Any

import pytest

from tests.e2e.local import FAUCET, PEGIN_DEPTH, Local
from tests.e2e.rpc import Refused
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("-n", "4", "-k", "3", "--block-time", "0")
MEMBERS = 4


def keyless(local: Local, *words: str) -> dict[str, Any]:
    """A keyless address by the command."""
    found: dict[str, Any] = local.answer("peg", "address", "--keyless", "--json", *words).json
    return found


def send(local: Local, address: str, amount: str) -> str:
    """Somebody's ordinary bitcoind wallet pays an address; the deposit as txid:vout."""
    txid = local.bitcoind(FAUCET).call("sendtoaddress", address, amount)
    shown = local.bitcoind().call("getrawtransaction", txid, True)
    index = next(o["n"] for o in shown["vout"] if o["scriptPubKey"].get("address") == address)
    return f"{txid}:{index}"


def first_member(deposit: str) -> str:
    """Whose turn a claim is first: (deposit txid mod n), the txid little-endian (N20)."""
    return f"m{int.from_bytes(bytes.fromhex(deposit[:64])[::-1], 'little') % MEMBERS}"


def wait_claimed(local: Local, deposit: str) -> None:
    """Mine until a final block claims a deposit, whoever answers."""
    local.mine_until(lambda: local.ask("getdeposit", deposit)["claimed"], "the deposit is claimed")


def test_sender_when_only_bitcoin_is_sent_then_the_wallet_has_coins_it_never_claimed(
    local: Local,
) -> None:
    local.make_wallets("alice")
    before = local.available("alice")
    found = keyless(local, "--to", "alice")
    local.kill("wallet")
    deposit = send(local, found["address"], "0.5")
    local.mine(PEGIN_DEPTH)
    wait_claimed(local, deposit)
    local.up()
    shown = local.answer("peg", "status", found["address"], "--json").json
    wait_for(
        lambda: local.answer("peg", "status", found["address"], "--json").json["stage"] == "final",
        "the wallet sees it",
    )
    assert shown["max_fee_sats"] == 2_000
    gained = local.available("alice") - before
    assert 50_000_000 - 2_000 <= gained < 50_000_000
    (claim,) = local.claims(deposit)
    assert claim["vin"][0]["txid"] == deposit[:64]
    assert local.audit()["equal"]


def test_claim_when_its_member_is_killed_and_all_restart_then_made_by_another(
    local: Local,
) -> None:
    local.make_wallets("bob")
    before = local.available("bob")
    found = keyless(local, "--to", "bob", "--max-fee", "3000")
    deposit = send(local, found["address"], "0.25")
    first = first_member(deposit)
    local.kill(first)
    local.mine(PEGIN_DEPTH)
    others = [name for name in local.names if name != first]
    for name in others:  # all that know of it restart, one after another
        local.kill(name)
        local.start(name)
    wait_claimed(local, deposit)
    local.start(first)
    local.wait_agreed()
    reply = wait_for(lambda: local.member(first).call("getdeposit", deposit), "it answers")
    assert reply["claimed"]
    wait_for(lambda: local.available("bob") - before >= 25_000_000 - 3_000, "bob has coins")
    assert len(local.claims(deposit)) == 1
    assert local.audit()["equal"]


def test_two_outputs_and_dust_when_paid_in_one_transaction_then_each_has_its_end(
    local: Local,
) -> None:
    local.make_wallets("carol")
    before = local.available("carol")
    addresses = [keyless(local, "--to", "carol")["address"] for _ in range(3)]
    amounts = dict(zip(addresses, ("0.1", "0.2", "0.0001"), strict=True))
    txid = local.bitcoind(FAUCET).call("sendmany", "", amounts)
    outputs = local.bitcoind().call("getrawtransaction", txid, True)["vout"]
    places = {o["scriptPubKey"].get("address"): f"{txid}:{o['n']}" for o in outputs}
    local.mine(PEGIN_DEPTH)
    for address in addresses[:2]:
        wait_claimed(local, places[address])
    dust = wait_for(
        lambda: _failed(local.answer("peg", "status", addresses[2], "--json").json), "dust is seen"
    )
    assert "below the minimum" in dust["reason"] and "RETURN" in dust["next"]
    wait_for(lambda: local.available("carol") - before >= 30_000_000 - 4_000, "carol has coins")


def _failed(view: dict[str, Any]) -> dict[str, Any] | None:
    return view if view["stage"] == "failed" else None


def test_registration_when_every_member_lost_it_then_told_again_and_claimed(local: Local) -> None:
    local.make_wallets("dave")
    found = keyless(local, "--to", "dave")
    local.kill("wallet")
    names = list(local.names)
    local.kill(*names)
    for name in names:
        for path in (local.folder(name) / "covenants").iterdir():
            path.unlink()
    for name in names:
        local.start(name)
    deposit = send(local, found["address"], "0.3")
    local.mine(PEGIN_DEPTH + 2)
    local.wait_committed()
    script = found["claim_script"]
    for name in names:
        with pytest.raises(Refused):
            local.member(name).call("getcovenant", script)
    local.up()
    again = local.answer("peg", "register", found["address"], "--json").json
    assert again["address"] == found["address"] and again["members"] == MEMBERS
    wait_claimed(local, deposit)


def test_registration_when_told_to_one_member_then_the_others_know_it(local: Local) -> None:
    reply = local.member("m1").call("registercovenant", "0014" + "5a" * 20, 1_500)
    for name in local.names:
        wait_for(lambda name=name: _has(local, name, reply["claim_script"]), f"{name} knows")


def test_address_when_a_member_is_frozen_then_shown_and_told_to_the_others(local: Local) -> None:
    local.make_wallets("erin")
    with local.paused("m3"):
        found = keyless(local, "--to", "erin")
        assert found["members"] == MEMBERS - 1
    wait_for(lambda: _has(local, "m3", found["claim_script"]), "m3 is told by the others")


def _has(local: Local, name: str, script: str) -> bool:
    try:
        return bool(local.member(name).call("getcovenant", script))
    except Refused:
        return False
