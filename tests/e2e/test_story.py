"""The main job as one story on real parts: in by proof, paid, a member lost, out by three."""

from typing import Any

import pytest

from tests.e2e.local import ANCHOR_SATS, PEG_OUT_FEE_SATS, Local
from tests.e2e.rpc import sats
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")
TRIAL_SATS = 20_000
MOMENTS = ("funded", "claim_sent", "burned", "batched")


def claim_of(local: Local, view: dict[str, Any]) -> dict[str, Any]:
    """The claim transaction of a peg-in that is final."""
    block = local.ask("getblockhash", view["height"])
    found: dict[str, Any] = local.ask("getrawtransaction", view["claim_txid"], True, block)
    return found


def check_books(local: Local, *wallets: str) -> dict[str, Any]:
    """The audit, checked against the coins on Bitcoin and against what the wallets hold."""
    audit = local.audit()
    assert audit["equal"] and audit["solvent"] and audit["difference_sats"] == 0
    assert audit["halts"] == [] and audit["unpaid_sats"] == 0
    held = 0
    for coin in audit["coins"]:
        txid, _, index = coin["outpoint"].partition(":")
        output = local.bitcoind().call("gettxout", txid, int(index), False)
        assert sats(output["value"]) == coin["value_sats"]
        held += coin["value_sats"]
    assert held == audit["reserve_sats"]
    balances = [local.wallets.call("getbalances", name) for name in wallets]
    assert sum(b["confirmed_sats"] for b in balances) == audit["circulating_sats"]
    return audit


def test_story_from_deposit_to_audit_is_exact(local: Local) -> None:
    local.run("wallet", "create", "alice")
    local.run("wallet", "create", "bob")
    pegin = local.run("peg", "in", "1", "--to", "alice", "--wait", "--json").json
    assert pegin["stage"] == "final" and pegin["amount_sats"] == 100_000_000
    _check_minted_against_proof(local, pegin)

    address = local.run("wallet", "address", "bob").stdout.strip()
    local.run("pay", "alice", address, "0.25", "--wait")
    assert local.available("bob") == 25_000_000

    before = local.height()
    local.kill("m2")
    local.run("pay", "alice", address, "0.05", "--wait")
    local.run("pay", "alice", address, "0.05", "--wait")
    without = local.signers(before + 2, local.height())
    assert without and all(signers == [0, 1, 3] for signers in without.values())
    local.start("m2")
    local.wait_mode("m2", "VOTING")

    target = local.payout_address()
    pegout = local.run("peg", "out", "alice", target, "0.4", "--wait", "--json").json
    assert pegout["payout_sats"] == 40_000_000 - PEG_OUT_FEE_SATS
    assert local.received(target) == [pegout["payout_sats"]]
    local.finish_pegout(pegout["id"])

    audit = check_books(local, "alice", "bob")
    fee = sats(local.bitcoind().call("getrawtransaction", pegout["payout"]["txid"], 2)["fee"])
    assert audit["bitcoin_fee_sats"] == fee
    earned = PEG_OUT_FEE_SATS + audit["feeburn_sats"]
    assert audit["pool_sats"] == ANCHOR_SATS + TRIAL_SATS + earned - fee
    _check_signers_table(local)
    assert "equal to the satoshi" in local.run("audit").stdout


def _check_minted_against_proof(local: Local, pegin: dict[str, Any]) -> None:
    """The claim carries Bitcoin's own proof of exactly this deposit."""
    claim = claim_of(local, pegin)
    witness = claim["vin"][0]["pegin_witness"]
    txid, _, index = pegin["deposit"].partition(":")
    assert (claim["vin"][0]["txid"], claim["vin"][0]["vout"]) == (txid, int(index))
    assert local.bitcoind().call("verifytxoutproof", witness[5]) == [txid]
    assert int.from_bytes(bytes.fromhex(witness[0]), "little") == 100_000_000
    assert local.ask("getdeposit", pegin["deposit"])["claimed"]


def _check_signers_table(local: Local) -> None:
    height = local.height()
    for signers in local.signers(1, height).values():
        assert len(signers) == 3
    table = local.run("blocks", "--signers", "-n", str(height), "--json").json["blocks"]
    assert [row["height"] for row in table] == list(range(1, height + 1))
    proposers = {row["proposer"] for row in table}
    assert proposers == {0, 1, 2, 3}


@pytest.mark.timeout(240)
def test_story_when_each_member_is_killed_in_turn_then_three_finish_it(local: Local) -> None:
    local.fund("carol", "1")
    for victim, moment in zip(local.names, MOMENTS, strict=True):
        _tell_story_without(local, victim, moment)
    audit = local.audit()
    assert audit["equal"] and audit["unpaid_sats"] == 0 and audit["halts"] == []
    for name in local.names:
        info = local.member(name).call("getfederationinfo")
        assert (info["mode"], info["evidence"], info["alarms"]) == ("VOTING", 0, [])


def _tell_story_without(local: Local, victim: str, moment: str) -> None:
    """One deposit, payment and peg-out, the victim killed at one moment and back at the end."""
    pegin = local.pegin("carol", "0.1")
    if moment == "funded":
        local.kill(victim)
    local.mine(4)
    if moment == "claim_sent":
        local.mine_until(lambda: local.pegin_view(pegin["id"])["claim_txid"], "a claim")
        local.kill(victim)
    local.finish_pegin(pegin["id"])
    local.make_wallets("dave")
    local.pay("carol", "dave", "0.01")

    target = local.payout_address()
    pegout = local.pegout("carol", target, "0.05")
    if moment == "burned":
        local.kill(victim)
    local.mine_until_batched(pegout["id"])
    if moment == "batched":
        local.kill(victim)
    local.finish_pegout(pegout["id"])
    assert local.received(target) == [5_000_000 - PEG_OUT_FEE_SATS]
    assert local.ask("getdeposit", pegin["deposit"])["claimed"]

    assert victim not in local.running()
    before = local.height()
    local.start(victim)
    local.wait_mode(victim, "VOTING")
    index = local.names.index(victim)

    def signs() -> bool:
        local.pay("carol", "dave", "0.001")
        signed = local.signers(before + 1, local.height()).values()
        return any(index in signers for signers in signed)

    wait_for(signs, f"{victim} signs again")
