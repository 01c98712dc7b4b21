"""Payouts that Bitcoin takes back: whatever the chain does, each burn is paid exactly once."""

import pytest

from tests.e2e.auditor import recompute
from tests.e2e.local import COMMIT_DEPTH, PEG_OUT_FEE_SATS, PEGIN_DEPTH, RESET_DEPTH, Local
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")
PAID = [4_000_000 - PEG_OUT_FEE_SATS]


@pytest.fixture
def payout(local: Local) -> tuple[str, str]:
    """A peg-out whose batch is in Bitcoin's mempool: its id, and where it is to be paid."""
    local.make_wallets("alice")
    if local.available("alice") < 20_000_000:
        local.fund("alice", "0.5")
        local.fund("alice", "0.5")  # two coins: with one no wrong replacement could be seen
    address = local.payout_address()
    pegout = local.pegout("alice", address, "0.04")
    local.mine_until_batched(pegout["id"])
    return pegout["id"], address


def place(local: Local, pegout_id: str) -> int:
    """Height of the Bitcoin block that pays a peg-out."""
    payment = local.pegout_view(pegout_id)["payout"]
    shown = local.bitcoind().call("getrawtransaction", payment["txid"], True)
    return int(local.bitcoind().call("getblockheader", shown["blockhash"])["height"])


def check_paid_once(local: Local, pegout_id: str, address: str) -> None:
    """Paid exactly once on the best chain, in every member's books, deep and for good."""
    local.finish_pegout(pegout_id)
    local.mine(PEGIN_DEPTH)
    local.wait_committed()
    wait_for(lambda: local.pegout_view(pegout_id)["stage"] == "SETTLED", "the payout is settled")
    assert local.received(address) == PAID
    audit = local.audit()
    assert audit["equal"] and audit["solvent"] and audit["halts"] == [] and not audit["unpaid_sats"]
    recompute(local)
    for name in local.names:
        info = local.member(name).call("getfederationinfo")
        assert (info["mode"], info["evidence"], info["alarms"]) == ("VOTING", 0, [])


def test_payout_in_the_last_block_when_that_is_replaced_then_paid_once(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    local.mine()
    assert local.received(address) == PAID
    local.invalidate(local.parent_height())
    local.mine_empty(2)
    assert local.received(address) == []
    check_paid_once(local, pegout_id, address)


def test_payout_that_is_committed_when_the_committed_block_is_replaced_then_reset_and_paid_once(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    local.mine(COMMIT_DEPTH + 1)
    local.finish_pegout(pegout_id)
    before = local.ask("getpeginfo")["committed_height"]
    local.invalidate(place(local, pegout_id))
    assert local.received(address) == []

    local.mine_empty(COMMIT_DEPTH + 2)  # longer than what it replaces, too short for a RESET
    wait_for(lambda: local.ask("getpeginfo")["reset_pending"], "members see the reorganisation")
    assert local.ask("getpeginfo")["committed_height"] == before
    local.pay("alice", "alice", "0.001")  # blocks go on meanwhile

    local.mine_empty(RESET_DEPTH)
    local.wait_committed()
    assert _has_reset(local)
    status = local.pegout_view(pegout_id)["stage"]
    assert status.startswith(("RELEASED", "BATCHED")), status  # unpaid again on this chain
    check_paid_once(local, pegout_id, address)


def _has_reset(local: Local) -> bool:
    """Whether one of the newest blocks commits with RESET."""
    for height in range(local.height(), local.height() - 20, -1):
        block = local.ask("getblock", local.ask("getblockhash", height), 2)
        for output in block["tx"][0]["vout"]:
            script = output["scriptPubKey"]["hex"]
            if script.startswith("6a2d46504301") and int(script[12:14], 16) & 1:
                return True
    return False


def test_payout_when_the_old_branch_returns_after_the_reset_then_paid_once(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    local.mine(COMMIT_DEPTH)
    local.finish_pegout(pegout_id)
    local.kill("m3")  # the other three decide all of it
    old = local.invalidate(place(local, pegout_id))
    local.mine_empty(RESET_DEPTH + 1)
    local.wait_committed()
    local.mine_until_batched(pegout_id)
    local.start("m3")
    local.mine()  # paid on the new branch too, by a version of its own or the old one
    assert local.received(address) == PAID
    _bring_back(local, old)
    assert local.received(address) == PAID
    check_paid_once(local, pegout_id, address)


def _bring_back(local: Local, old: str) -> None:
    """Make the branch of an invalidated block win against the present one."""
    present = local.bitcoind().call("getblockhash", _height_of(local, old))
    local.bitcoind().call("invalidateblock", present)
    local.bitcoind().call("reconsiderblock", old)
    local.mine_empty(RESET_DEPTH + 4)
    local.bitcoind().call("reconsiderblock", present)
    assert local.bitcoind().call("getblockheader", old)["confirmations"] > 0


def _height_of(local: Local, block_hash: str) -> int:
    return int(local.bitcoind().call("getblockheader", block_hash)["height"])


def test_two_batches_in_a_row_when_both_are_taken_back_then_each_paid_once(
    local: Local, payout: tuple[str, str]
) -> None:
    first, address = payout
    local.mine(COMMIT_DEPTH)
    local.finish_pegout(first)
    fork = place(local, first)
    other_address = local.payout_address()
    second = local.pegout("alice", other_address, "0.04")["id"]
    local.mine_until_batched(second)
    local.mine(COMMIT_DEPTH)
    local.finish_pegout(second)

    depth = local.parent_height() - fork + 1
    local.invalidate(fork)
    local.mine_empty(depth + 1)
    local.wait_committed()
    assert local.received(address) == local.received(other_address) == []
    check_paid_once(local, first, address)
    check_paid_once(local, second, other_address)


def test_payout_when_bitcoin_forgets_it_unmined_then_members_send_it_again(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    local.run("down")
    (local.data / "bitcoind" / "regtest" / "mempool.dat").unlink()
    local.up()
    local.mine_until_batched(pegout_id)
    check_paid_once(local, pegout_id, address)


def test_claimed_deposit_when_it_vanishes_then_payouts_halt_until_it_is_back(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    check_paid_once(local, pegout_id, address)
    pegin = local.pegin("alice", "3")  # more than the fee pool could make good
    height = local.finish_pegin(pegin["id"])["height"]
    assert height
    deposit_height = _deposit_height(local, pegin["deposit"])
    local.invalidate(deposit_height)
    local.mine_empty(local.parent_height() + PEGIN_DEPTH + RESET_DEPTH - deposit_height)
    local.wait_committed()
    audit = local.audit()
    assert audit["vanished_sats"] == 300_000_000 and audit["equal"] and not audit["solvent"]
    assert audit["halts"]
    assert recompute(local).vanished_sats == 300_000_000

    second = local.pegout("alice", other := local.payout_address(), "0.04")["id"]
    _mine_empty_and_settle(local, 4)
    assert local.received(other) == []
    assert "HALTED" in local.pegout_view(second)["reason"]

    local.mine()  # the deposit is still in the mempool
    local.mine_until(lambda: not local.audit()["vanished_sats"], "the deposit is back")
    check_paid_once(local, second, other)
    assert len(local.claims(pegin["deposit"])) == 1


def _deposit_height(local: Local, deposit: str) -> int:
    shown = local.bitcoind().call("getrawtransaction", deposit.split(":")[0], True)
    return _height_of(local, shown["blockhash"])


def test_member_when_wiped_after_a_reset_then_its_books_agree_with_the_others(
    local: Local, payout: tuple[str, str]
) -> None:
    pegout_id, address = payout
    local.mine(COMMIT_DEPTH)
    local.finish_pegout(pegout_id)
    local.invalidate(place(local, pegout_id))
    local.mine_empty(RESET_DEPTH + 1)
    local.wait_committed()
    local.kill("m2")
    local.wipe("m2")
    local.start("m2")
    audit = local.audit()  # the same digest of the peg's state at all
    assert audit["equal"] and audit["unpaid_sats"] == PAID[0]
    _pay_until_voting(local, "m2")
    check_paid_once(local, pegout_id, address)


def _pay_until_voting(local: Local, name: str) -> None:
    def votes() -> bool:
        local.pay("alice", "alice", "0.001")
        return bool(local.member(name).call("getfederationinfo")["mode"] == "VOTING")

    wait_for(votes, f"{name} votes again")


def _mine_empty_and_settle(local: Local, count: int) -> None:
    for _ in range(count):
        local.mine_empty()
        local.wait_committed()
