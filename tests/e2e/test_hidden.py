"""Hidden amounts on a live federation: payments, assets, PSETs, and peg-ins to an address."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.local import Local
from tests.e2e.rpc import sats
from tests.e2e.test_story import check_books, claim_of
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("-n", "2", "-k", "2", "--block-time", "0")
WORDS = "abandon " * 11 + "about"


def transaction(local: Local, wallet: str, txid: str) -> dict[str, Any]:
    """A final transaction of a wallet, as a member decodes it."""

    def look() -> int | None:
        entries = local.wallets.call("listtransactions", wallet, 1_000)
        return next((e["height"] for e in entries if e["txid"] == txid), None)

    height = wait_for(look, f"{txid} is final")
    block = local.ask("getblockhash", height)
    found: dict[str, Any] = local.ask("getrawtransaction", txid, True, block)
    return found


def hidden(tx: dict[str, Any]) -> list[dict[str, Any]]:
    """Outputs whose amounts a transaction hides."""
    return [output for output in tx["vout"] if "valuecommitment" in output]


def held(local: Local, wallet: str, label: str) -> int:
    """What a wallet can spend of an asset."""
    assets = local.run("wallet", "balance", wallet, "--json").json["assets"]
    return sum(item["available_sats"] for item in assets if item["label"] == label)


def test_payment_when_to_a_confidential_address_then_hidden_and_the_books_are_exact(
    local: Local,
) -> None:
    local.fund("alice", "1")
    local.make_wallets("bob")
    address = local.run("wallet", "address", "bob").stdout.strip()
    assert address.startswith("el1qq")
    paid = local.run("pay", "alice", address, "0.25", "--wait", "--json").json
    tx = transaction(local, "alice", paid["txid"])
    assert len(hidden(tx)) == 2 and len(tx["vout"]) == 3
    plain = local.run("wallet", "address", "bob", "--explicit").stdout.strip()
    assert plain.startswith("ert1q")
    paid = local.run("pay", "alice", plain, "0.05", "--wait", "--json").json
    shown = [o for o in transaction(local, "alice", paid["txid"])["vout"] if "value" in o]
    assert sats(shown[0]["value"]) == 5_000_000
    assert local.available("bob") == 30_000_000

    target = local.payout_address()  # a burn shows what it burns, whatever the coins hide
    pegout = local.run("peg", "out", "bob", target, "0.1", "--wait", "--json").json
    burn = transaction(local, "bob", pegout["burn"].split(":")[0])["vout"][0]
    assert sats(burn["value"]) == 10_000_000
    local.finish_pegout(pegout["id"])
    check_books(local, "alice", "bob")


def test_asset_when_issued_paid_grown_and_burned_then_both_wallets_know_it(local: Local) -> None:
    local.fund("alice", "0.5")
    local.make_wallets("bob")
    issue = ("asset", "issue", "alice", "1000", "--tokens", "1", "--label", "gold", "--json")
    made = local.run(*issue).json
    tx = transaction(local, "alice", made["txid"])
    assert "assetamountcommitment" in tx["vin"][0]["issuance"] and made["blinded"]
    wait_for(lambda: held(local, "alice", "gold") == 1_000 * 10**8, "alice has gold")

    address = local.run("wallet", "address", "bob").stdout.strip()
    local.run("pay", "alice", address, "300", "--asset", "gold", "--wait")
    wait_for(lambda: held(local, "bob", "gold") == 300 * 10**8, "bob has gold")
    again = local.run("asset", "reissue", "alice", "gold", "50", "--json").json
    assert again["is_reissuance"] and again["token_sats"] == 0
    transaction(local, "alice", again["txid"])
    burned = local.run("asset", "burn", "alice", made["asset"], "20", "--json").json
    tx = transaction(local, "alice", burned["txid"])
    assert [sats(o["value"]) for o in tx["vout"] if o.get("asset") == made["asset"]] == [20 * 10**8]
    assert held(local, "alice", "gold") == 730 * 10**8
    listed = local.run("asset", "list", "alice", "--json").json["issuances"]
    assert sorted(item["asset_sats"] for item in listed) == [50 * 10**8, 1_000 * 10**8]
    assert "gold" in local.run("wallet", "balance", "bob").stdout
    assert local.audit()["equal"]


def test_watching_wallet_when_it_makes_a_pset_then_the_keys_elsewhere_sign_it(
    local: Local,
) -> None:
    local.fund("alice", "0.3")
    local.make_wallets("carol")
    descriptor = local.run("wallet", "descriptor", "alice").stdout.strip()
    local.run("wallet", "watch", "eye", descriptor)
    wait_for(lambda: local.available("eye") == local.available("alice"), "the watcher knows all")
    address = local.run("wallet", "address", "carol").stdout.strip()
    file = local.data / "payment.pset"
    file.write_text(local.run("wallet", "pset", "create", "eye", address, "0.1").stdout)
    assert "0 of 1 inputs signed" in local.run("wallet", "pset", "show", "eye", str(file)).stdout
    assert local.run("wallet", "pset", "send", str(file), code=1).stderr.startswith("fedpeg: ")
    signed = local.run("wallet", "pset", "sign", "alice", str(file)).stdout
    file.write_text(signed)
    assert local.run("wallet", "pset", "finalize", str(file)).stdout.startswith("02000000")
    txid = local.run("wallet", "pset", "send", str(file)).stdout.strip()
    assert len(hidden(transaction(local, "alice", txid))) == 2
    wait_for(lambda: local.available("carol") == 10_000_000, "carol is paid")


# ---- peg-in to an address ----


def funded(local: Local, pegin: str) -> None:
    local.wait_pegin(pegin, "funded")


def confirming(local: Local, pegin: str) -> None:
    local.mine(1)
    local.wait_pegin(pegin, "confirming")


def claimed(local: Local, pegin: str) -> None:
    def has_claim() -> bool:
        # The list, for asking after one peg-in tells its end to the user once and for all.
        listed = local.wallets.call("listpegins")
        return any(view["claim_txid"] for view in listed if view["id"] == pegin)

    local.mine_until(has_claim, "a claim")


@pytest.mark.parametrize("moment", [None, funded, confirming, claimed])
def test_pegin_to_an_address_when_the_wallet_process_is_killed_then_one_blinded_claim(
    local: Local, moment: Callable[[Local, str], None] | None
) -> None:
    name = "words" if moment is None else f"words {moment.__name__}"
    local.run("wallet", "restore", name, "--mnemonic-file", str(words_of(local)))
    address = local.run("wallet", "address", name).stdout.strip()
    begun = local.run("peg", "in", "0.1", "--to", address, "--json").json
    assert (begun["wallet"], begun["to"]) == (None, address)
    if moment is not None:
        moment(local, begun["id"])
    local.kill("wallet")
    local.up()
    again = local.run("peg", "in", "0.1", "--to", address, "--wait", "--json").json
    assert (again["id"], again["stage"]) == (begun["id"], "final")
    claims = local.claims(again["deposit"])
    assert [claim["txid"] for claim in claims] == [again["claim_txid"]]
    claim = claim_of(local, again)
    fee = next(o for o in claim["vout"] if o["scriptPubKey"]["type"] == "fee")
    assert len(hidden(claim)) == 2
    (entry,) = [
        e for e in local.wallets.call("listtransactions", name) if e["txid"] == again["claim_txid"]
    ]
    assert (entry["category"], entry["amount_sats"]) == ("pegin", 10_000_000 - sats(fee["value"]))
    assert local.audit()["equal"]


def words_of(local: Local) -> Any:
    """A file with the words of a mnemonic."""
    file = local.data / "words"
    file.write_text(WORDS)
    return file
