"""Receipts of real peg-ins and peg-outs, checked offline, through a reorganisation (peg:12)."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from federation.cli_receipts import read_headers_file
from federation.config import FederationFile
from federation.receipts import check_receipt
from federation.stranger import NotProved, Stranger
from peg.canonical import canonical_json
from tests.e2e.local import COMMIT_DEPTH, PEG_OUT_FEE_SATS, PEGIN_DEPTH, RESET_DEPTH, Local

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


def leaves(plain: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every number and text of a JSON document stands."""
    if isinstance(plain, dict | list):
        for key in plain if isinstance(plain, dict) else range(len(plain)):
            yield from leaves(plain[key], (*place, key))
    else:
        yield place


def changes(value: Any) -> Iterator[Any]:
    """Other values of one leaf: of hex the first, a middle and the last digit are changed."""
    if isinstance(value, int):
        yield value + 1
        return
    for at in {0, len(value) // 2, len(value) - 1} if value else ():
        yield value[:at] + ("1" if value[at] == "0" else "0") + value[at + 1 :]
    yield value + "00"
    yield value[:-2]


def check_every_leaf(plain: dict[str, Any], stranger: Stranger) -> None:
    """No number and no text of a receipt can be another."""
    check_receipt(plain, stranger)
    for place in leaves(plain):
        holder: Any = plain
        for key in place[:-1]:
            holder = holder[key]
        for other in changes(holder[place[-1]]):
            if other == holder[place[-1]]:
                continue
            forged = deepcopy(plain)
            inside: Any = forged
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = other
            with pytest.raises(NotProved):
                check_receipt(forged, stranger)
                print("not refused:", place, other)


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
