"""A wallet nobody here wrote on a live federation: paid, pegged in to, paying, a member lost."""

import json
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import lwk
import pytest

from tests.e2e.local import Local
from tests.e2e.rpc import sats
from tests.e2e.waiting import wait_for
from tests.lwk_wallet import LwkWallet

pytestmark = pytest.mark.e2e

UP = ("-n", "4", "-k", "3", "--block-time", "0")


def open_wallet(local: Local) -> LwkWallet:
    """A new lwk wallet on what `fedpeg env` tells a shell."""
    words = shlex.split(local.run("env").stdout)
    named = dict(word.split("=", 1) for word in words if word != "export")
    assert named == local.run("env", "--json").json
    return LwkWallet.open(
        named["ESPLORA"],
        policy_asset=named["POLICY"],
        genesis_hash=named["GENESIS"],
        parent_genesis_hash=named["PARENT"],
        words=str(lwk.Mnemonic.from_random(12)),
    )


def wait_balance(wallet: LwkWallet, value_sats: int) -> None:
    wait_for(lambda: wallet.balance_sats() == value_sats, f"lwk has {value_sats} sat")


def wait_mined(local: Local, wallet: LwkWallet, txid: str) -> None:
    def look() -> bool:
        wallet.balance_sats()
        return wallet.heights().get(txid) is not None

    wait_for(look, f"{txid} is in a block for lwk")
    local.wait_agreed()


def ask(url: str) -> Any:
    with urlopen(url, timeout=10) as reply:
        return json.loads(reply.read())


def test_lwk_when_paid_pegged_in_and_paying_then_every_balance_is_right(local: Local) -> None:
    local.fund("alice", "1")
    wallet = open_wallet(local)
    assert wallet.balance_sats() == 0

    address = wallet.address()
    paid = local.run("pay", "alice", address, "0.25", "--wait", "--json").json["txid"]
    wait_balance(wallet, 25_000_000)
    wait_mined(local, wallet, paid)

    address = wallet.address()
    pegin = local.run("peg", "in", "0.1", "--to", address, "--wait", "--json").json
    assert pegin["stage"] == "final" and pegin["amount_sats"] == 10_000_000
    minted = claimed_sats(local, pegin)
    wait_balance(wallet, 25_000_000 + minted)
    wait_mined(local, wallet, pegin["claim_txid"])

    local.kill("m3")  # lwk asks m0; three of four go on
    before = local.available("alice")
    to_alice = local.wallets.call("getnewaddress", "alice")
    txid = wallet.pay(to_alice, 30_000_000)
    wait_mined(local, wallet, txid)
    fee_sats = wallet.fee_sats(txid)
    assert 0 < fee_sats < 100
    wait_balance(wallet, 25_000_000 + minted - 30_000_000 - fee_sats)
    wait_for(lambda: local.available("alice") == before + 30_000_000, "alice has it")
    local.start("m3")
    check_members_agree(local, txid)
    assert local.audit()["equal"]


def claimed_sats(local: Local, pegin: dict[str, Any]) -> int:
    """What a claim gave: the deposit less the fee, all of it hidden."""
    block = local.ask("getblockhash", pegin["height"])
    claim = local.ask("getrawtransaction", pegin["claim_txid"], True, block)
    (fee,) = [output for output in claim["vout"] if output["scriptPubKey"]["type"] == "fee"]
    assert sum("valuecommitment" in output for output in claim["vout"]) == 2
    return int(pegin["amount_sats"]) - sats(fee["value"])


def check_members_agree(local: Local, txid: str) -> None:
    """Every member serves the same transaction at its own address."""
    status = local.run("status", "--json").json
    urls = [member["esplora_url"] for member in status["members"]]
    assert len(set(urls)) == 4
    shown = [ask(f"{url}/tx/{txid}") for url in urls]
    assert all(tx == shown[0] for tx in shown)
    assert shown[0]["status"]["confirmed"]


def test_index_when_folder_is_lost_then_made_anew_at_the_next_start(local: Local) -> None:
    local.make_wallets("bob")
    address = local.wallets.call("getnewaddress", "bob")
    pegin = local.run("peg", "in", "0.2", "--to", "bob", "--wait", "--json").json
    local.kill("m1")
    index = local.folder("m1") / "index"
    for file in index.iterdir():
        file.unlink()
    (index / "CURRENT").write_text("no database\n")
    local.start("m1")
    (url,) = [
        member["esplora_url"]
        for member in local.run("status", "--json").json["members"]
        if member["name"] == "m1"
    ]
    claim = ask(f"{url}/tx/{pegin['claim_txid']}")
    spent = ask(f"{url}/scripthash/{script_hash(claim)}/txs/chain")
    assert [tx["txid"] for tx in spent] == [pegin["claim_txid"]]
    assert ask(f"{url}/address/{address}/utxo") == []
    assert Path(index / "CURRENT").read_text() != "no database\n"


def script_hash(claim: dict[str, Any]) -> str:
    """Name of the script that a claim's first output pays."""
    return sha256(bytes.fromhex(claim["vout"][0]["scriptpubkey"])).hexdigest()
