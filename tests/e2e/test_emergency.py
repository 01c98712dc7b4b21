"""Emergency holders take the coins of a federation that is gone, and it goes on afterwards."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.config import FederationFile
from federation.emergency_file import PlanFile
from peg.emergency import signed_spend
from tests.e2e.local import PEG_OUT_FEE_SATS, Local

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

UP = ("--block-time", "0")
CSV = 288


class Holders:
    """A machine with bitcoind, federation.json and the file of `export`; no sidechain."""

    def __init__(self, local: Local, folder: Path) -> None:
        self.local = local
        self.folder = folder
        self.file = folder / "federation.json"
        self.claims = folder / "claims.json"
        self.plan_file = folder / "plan.json"

    def prepare(self) -> None:
        """What holders have beforehand."""
        shutil.copy(self.local.data / "federation.json", self.file)
        self.local.run("emergency", "export", str(self.claims))

    def run(self, *words: str, code: int = 0) -> Any:
        """A command that knows no local federation; its JSON, or its reason."""
        elsewhere = ("--federation", str(self.file), "--data", str(self.folder / "none"))
        done = self.local.run("emergency", *words, *elsewhere, "--json", code=code)
        return done.json if code == 0 else done.stderr

    @property
    def node(self) -> tuple[str, ...]:
        """Where bitcoind is."""
        url = f"http://127.0.0.1:{self.local.state['bitcoind']['rpc_port']}"
        return ("--bitcoind", url, "--cookie", str(self.local.data / "bitcoind" / ".cookie"))

    def plan(self, *words: str) -> Any:
        """Coins back to the federation itself: the drill of peg:10."""
        return self.run("plan", str(self.plan_file), "--to", str(self.file), *words, *self.node)

    def sign(self, number: int, out: Path) -> None:
        """One holder signs a copy."""
        key = self.local.data / "emergency" / f"e{number}.key"
        words = ("--key", str(key), "--to", str(self.file), "--out", str(out))
        self.run("sign", str(self.plan_file), *words)

    def send(self, *files: Path, code: int = 0) -> Any:
        """Send."""
        return self.run("send", *map(str, files), *self.node, code=code)


def raw_of(holders: Holders, first: Path, second: Path) -> str:
    """The transaction with the anchor, signed, whether its time has come or not."""
    plans = [PlanFile.load(first), PlanFile.load(second)]
    plain = FederationFile.load(holders.file).fed_script()
    shares = {**plans[0].signatures[0], **plans[1].signatures[0]}
    return signed_spend(plans[0].spends[0], plain, shares).hex()


def test_emergency_handover_keeps_paid_set(local: Local, tmp_path: Path) -> None:
    """peg:10, peg:3.6: refused before csv, then any two of three; the lane goes on, paid once."""
    local.fund("alice", "0.5")
    address = local.payout_address()
    local.finish_pegout(local.pegout("alice", address, "0.04")["id"])
    local.fund("alice", "0.3")
    before = local.audit()
    lane = local.ask("getpeginfo")["lane"]
    assert {coin["kind"] for coin in before["coins"]} >= {"anchor", "deposit"}
    holders = Holders(local, tmp_path)
    holders.prepare()
    local.kill(*local.running())  # the federation is gone

    planned = holders.plan("--claim-scripts", str(holders.claims))
    coins = [coin for tx in planned["transactions"] for coin in tx["coins"]]
    assert {c["outpoint"] for c in coins} >= {c["outpoint"] for c in before["coins"]}
    assert coins[0]["outpoint"] == lane["anchor"] and coins[0]["tweak"] is None
    assert {c["csv"] for c in coins} == {CSV} and any(c["tweak"] for c in coins)
    assert planned["left_out"] == []
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    holders.sign(1, one)
    assert "two of the three" in holders.send(one, code=1)
    holders.sign(3, two)
    wait = planned["transactions"][0]["blocks_to_wait"]
    assert f"not yet: {wait} more" in holders.send(one, two, code=1)
    local.mine(wait - 1)
    assert "not yet: 1 more" in holders.send(one, two, code=1)
    verdict = local.bitcoind().call("testmempoolaccept", [raw_of(holders, one, two)])[0]
    assert verdict["reject-reason"] == "non-BIP68-final"
    local.mine()
    sent = holders.send(one, two)["transactions"]
    assert sent[0]["status"] == "SENT"
    waits = max(tx["blocks_to_wait"] for tx in planned["transactions"]) - wait
    local.mine(1 + waits)
    again = holders.send(two, one)["transactions"]
    assert again[0]["status"] == "SENT_BEFORE"
    assert all(row["status"] != "WAITS" for row in again)

    local.mine(7)  # what came without the anchor counts at depth 6
    local.up()
    local.mine(2)
    after = local.audit()
    moved = local.ask("getpeginfo")["lane"]
    assert moved["anchor"] == f"{sent[0]['txid']}:0"
    assert (moved["index"], moved["paid"]) == (lane["index"] + 1, lane["paid"])
    assert moved["broken_by"] is None and after["equal"] and after["halts"] == []
    second = local.payout_address()
    local.finish_pegout(local.pegout("alice", second, "0.05")["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    assert local.received(second) == [5_000_000 - PEG_OUT_FEE_SATS]

    # a batch of the members spent the coin of an old plan: whoever comes late is told so
    late = holders.folder / "late.json"
    plain = holders.run("plan", str(late), "--to", str(holders.file), *holders.node)
    assert "deposits are left out" in plain["left_out"][0]
    assert (
        plain["transactions"][0]["coins"][0]["outpoint"]
        == local.ask("getpeginfo")["lane"]["anchor"]
    )


def test_members_win_the_race_when_they_live(local: Local, tmp_path: Path) -> None:
    """peg:10: k of n still works after csv, and the holders' plan is refused as spent."""
    local.make_wallets("alice")
    if local.available("alice") < 10_000_000:
        local.fund("alice", "0.5")
    holders = Holders(local, tmp_path)
    holders.prepare()
    local.kill(*local.running())
    holders.plan("--claim-scripts", str(holders.claims))
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    holders.sign(2, one)
    holders.sign(3, two)
    local.mine(CSV)
    local.up()
    lane = local.ask("getpeginfo")["lane"]

    def is_swept() -> bool:
        return bool(local.ask("getpeginfo")["lane"]["index"] > lane["index"])

    local.mine_until(is_swept, "the members have swept the expired coins")
    assert "is already spent" in holders.send(one, two, code=1)
    assert local.audit()["equal"]


def test_refusals_of_wrong_input(local: Local, tmp_path: Path) -> None:
    """Each wrong input is named, and nothing is written."""
    holders = Holders(local, tmp_path)
    holders.prepare()
    assert "another chain" in _with_other_genesis(holders)
    claims = json.loads(holders.claims.read_text())
    holders.claims.write_text(json.dumps(claims | {"parameter_hash": "00" * 32}))
    words = ("plan", str(holders.plan_file), "--to", str(holders.file), *holders.node)
    reason = holders.run(*words, "--claim-scripts", str(holders.claims), code=1)
    assert "another federation" in reason
    assert "neither a file nor" in holders.run(*words[:3], "nonsense", *words[4:], code=1)
    assert not holders.plan_file.exists()
    holders.plan("--anchor", local.ask("getpeginfo")["lane"]["anchor"])
    assert "exists already" in holders.run(*words, code=1)


def _with_other_genesis(holders: Holders) -> str:
    """The reason when the federation file names another parent chain."""
    plain = json.loads(holders.file.read_text())
    plain["params"]["chain"]["parentgenesisblockhash"] = "11" * 32
    other = holders.folder / "other.json"
    other.write_text(json.dumps(plain))
    done = holders.local.run(
        "emergency",
        "plan",
        str(holders.folder / "p.json"),
        "--to",
        str(holders.file),
        "--federation",
        str(other),
        *holders.node,
        code=1,
    )
    return done.stderr
