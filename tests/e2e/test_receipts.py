"""Receipts of real peg-ins and peg-outs, checked offline, through a reorganisation (peg:12)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from federation.audit import RpcBlocks, read_state
from federation.cli_receipts import read_headers_file
from federation.config import FederationFile
from federation.receipts import ReceiptMaker, check_receipt
from federation.stranger import Stranger
from peg.bitcoind import BitcoindClient
from peg.canonical import canonical_json
from peg.status import parse_outpoint
from sidechain.api.client import RpcClient
from sidechain.errors import Unavailable
from sidechain.primitives.block import Block
from tests.e2e.local import COMMIT_DEPTH, PEG_OUT_FEE_SATS, PEGIN_DEPTH, RESET_DEPTH, Local
from tests.receipt_changes import check_every_leaf

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")
PAID_SATS = 4_000_000 - PEG_OUT_FEE_SATS


@pytest.fixture
def paid(local: Local) -> str:
    """A peg-out that is paid on the committed chain, after another one."""
    local.make_wallets("alice")
    if local.available("alice") < 20_000_000:
        local.fund("alice", "0.5")
        first = local.pegout("alice", local.payout_address(), "0.03")
        local.finish_pegout(first["id"])
    pegout: str = local.pegout("alice", local.payout_address(), "0.04")["id"]
    return pegout


def receipt(local: Local, name: str, path: Path) -> dict[str, Any]:
    done = local.answer("peg", "status", name, "--receipt", str(path))
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def verify(local: Local, path: Path, *words: str) -> Any:
    done = local.answer("receipt", "verify", str(path), *words, "--json")
    assert done.code == (0 if done.json["proved"] else 1)
    return done.json


def test_receipt_before_and_after_the_payment_and_after_a_reorganisation(
    local: Local, paid: str, tmp_path: Path
) -> None:
    stranger = Stranger.of(FederationFile.load(local.data / "federation.json"))
    before = tmp_path / "before.json"
    assert "payment" not in receipt(local, paid, before)
    told = verify(local, before)
    assert told["payment"] is None and told["amount_sats"] == 4_000_000 and told["trusted"]
    status = local.answer("peg", "status", paid)
    assert "likely paid and committed: Bitcoin block" in status.stdout

    view = local.finish_pegout(paid)["payout"]
    after, headers = tmp_path / "after.json", tmp_path / "headers"
    plain = receipt(local, paid, after)
    told = verify(local, after)
    assert (told["payment"]["txid"], told["payment"]["vout"]) == (view["txid"], view["vout"])
    assert told["payment"]["payout_sats"] == PAID_SATS and told["payment"]["index"] > 0
    assert told["bitcoin"]["depth"] >= 1 and any("--headers" in each for each in told["trusted"])
    assert local.answer("receipt", "headers", "-o", str(headers)).code == 0
    trusting = verify(local, after, "--headers", str(headers))
    assert trusting["bitcoin"]["depth"] == view["depth"]
    block = local.bitcoind().call("getblockheader", told["bitcoin"]["hash"])
    assert block["height"] == told["bitcoin"]["height"]
    check_every_leaf(plain, stranger)
    by_others = local.answer("peg", "status", told["outpoint"], "--json")
    assert by_others.json["burn"] == told["outpoint"]

    local.invalidate(block["height"])
    local.mine_empty(COMMIT_DEPTH + RESET_DEPTH + 2)
    local.wait_committed()
    assert local.answer("receipt", "headers", "-o", str(headers)).code == 0
    gone = verify(local, after, "--headers", str(headers))
    assert not gone["proved"] and "is not among your headers" in gone["reason"]
    assert verify(local, after)["proved"]  # the members did commit to that block
    assert "payment" not in receipt(local, paid, tmp_path / "unpaid.json")

    local.finish_pegout(paid)
    local.mine(PEGIN_DEPTH)
    local.wait_committed()
    new = tmp_path / "new.json"
    plain = receipt(local, paid, new)
    assert local.answer("receipt", "headers", "-o", str(headers)).code == 0
    told = verify(local, new, "--headers", str(headers))
    assert told["proved"] and told["bitcoin"]["hash"] != block["hash"]
    assert told["bitcoin"]["depth"] >= PEGIN_DEPTH
    check_receipt(plain, stranger, read_headers_file(headers))


def test_receipt_of_a_claim(local: Local, tmp_path: Path) -> None:
    stranger = Stranger.of(FederationFile.load(local.data / "federation.json"))
    local.make_wallets("alice")
    pegin = local.pegin("alice", "0.2")
    path = tmp_path / "in.json"
    done = local.answer("peg", "status", pegin["id"], "--receipt", str(path))
    assert done.code == 1 and "has no receipt yet" in done.stderr
    local.finish_pegin(pegin["id"])
    plain = receipt(local, pegin["id"], path)
    told = verify(local, path)
    assert told["proved"] and (told["kind"], told["amount_sats"]) == ("peg-in", 20_000_000)
    check_every_leaf(plain, stranger)
    headers = tmp_path / "headers"
    assert local.answer("receipt", "headers", "-o", str(headers)).code == 0
    assert verify(local, path, "--headers", str(headers))["proved"]
    assert local.answer("receipt", "headers", "--from", "1000000", "-o", str(headers)).code == 1


def test_receipt_when_refused_then_with_the_reason(local: Local, tmp_path: Path) -> None:
    for words, reason in (
        (("peg", "status", "--receipt", "x"), "needs the ID"),
        (("peg", "status", "out-999", "--receipt", "x"), "there is no peg-in and no peg-out"),
        (("peg", "status", "00" * 32 + ":0"), "there is no peg-in and no peg-out"),
    ):
        done = local.answer(*words)
        assert done.code and reason in done.stderr
    path = tmp_path / "wrong.json"
    for content in (b"", b"{}", b"[]", b'{"kind":"peg-out"}', canonical_json({"kind": 1})):
        path.write_bytes(content)
        done = local.answer("receipt", "verify", str(path))
        assert done.code == 1 and "proves nothing" in done.stderr


def test_receipt_of_a_lane_too_long_to_show_rests_on_a_signed_report(
    local: Local, paid: str, tmp_path: Path
) -> None:
    """peg:12: a k-signed checkpoint of section 11 instead of the anchor's whole path."""
    stranger = Stranger.of(FederationFile.load(local.data / "federation.json"))
    local.wait_committed()
    kept = local.answer("audit", "report", "--json").json
    batches = len(kept["report"]["batches"])
    view = local.finish_pegout(paid)
    local.wait_committed()
    burn = view["burn"]
    made = asyncio.run(made_with(local, stranger, burn, kept))
    assert "open" not in made["payment"] and made["payment"]["index"] >= batches
    assert made["payment"]["checkpoint"] == kept
    found = check_receipt(made, stranger)
    assert found.paid is not None and found.paid.checkpoint == kept["report"]["height"]
    assert any("k members' word" in each for each in found.trusted)
    check_every_leaf(made, stranger)
    with pytest.raises(Unavailable, match="no reserves report"):
        asyncio.run(made_with(local, stranger, burn, None))


async def made_with(
    local: Local, stranger: Stranger, burn: str, kept: dict[str, Any] | None
) -> dict[str, Any]:
    """A receipt that may show no batch from OPEN on, with one report at hand or none."""
    bitcoind, member = local.bitcoind(), local.member("m0")
    async with (
        BitcoindClient(f"http://127.0.0.1:{bitcoind.port}", cookie_path=bitcoind.cookie) as client,
        RpcClient(f"http://127.0.0.1:{member.port}", member.cookie) as rpc,
    ):
        own = RpcBlocks(rpc)
        height = local.height()
        ledger = await read_state(height, stranger, bitcoind=client, blocks=own)
        read = [await own.block(at) for at in range(1, height + 1)]
        maker = ReceiptMaker(
            stranger,
            ledger=ledger,
            reserves=OneReport(kept),  # type: ignore[arg-type]
            block=lambda at: Block.decode(read[at - 1], stranger.params),
            path_max=-1,
        )
        found = await maker.make(parse_outpoint(burn))
    assert found is not None
    return found


class OneReport:
    """A desk that keeps one report."""

    def __init__(self, kept: dict[str, Any] | None) -> None:
        self._kept = kept

    def heights(self) -> list[int]:
        return [] if self._kept is None else [self._kept["report"]["height"]]

    def kept(self, height: int) -> dict[str, Any] | None:
        return self._kept
