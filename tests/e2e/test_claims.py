"""Claims of deposits through a member's own RPC, and deposits whose blocks Bitcoin replaces."""

from typing import Any

import pytest

from sidechain.crypto.hashes import sha256d
from tests.e2e.claimant import Changes, Claimant, proof_of, refusal
from tests.e2e.local import PEGIN_DEPTH, RESET_DEPTH, Local
from tests.e2e.rpc import Refused, sats
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("-n", "2", "-k", "2", "--block-time", "0")
TOO_SHALLOW = ("bad-pegin-witness", "bad-pegin-witness, Needs more confirmations.")
ELSEWHERE = b"\x00\x14" + b"\x03" * 20


def test_claim_when_too_early_or_twice_is_refused_as_elements_does(local: Local) -> None:
    claimant = Claimant(local, "early and twice", 50_000_000)
    local.mine(PEGIN_DEPTH - 1)
    wait_for(lambda: _sees(local, local.parent_height()), "members see the new blocks")
    assert refusal(local, claimant.claim()) == TOO_SHALLOW

    local.mine()
    local.wait_committed()
    claim = claimant.claim()
    with local.paused("m1"):  # nobody can make a block, so that the claim stays where it is
        txid = wait_for(lambda: local.ask("sendrawtransaction", claim), "the claim is taken")
        assert local.ask("sendrawtransaction", claim) == txid
        verdict = local.ask("testmempoolaccept", [claim])[0]
        assert verdict["reject-reason"] == "txn-already-in-mempool"
        same_fee = refusal(local, claimant.claim(to_script=ELSEWHERE))
        assert same_fee[0] == "insufficient fee"

    wait_for(lambda: local.ask("getdeposit", claimant.outpoint)["claimed"], "the claim is final")
    local.wait_agreed()
    assert refusal(local, claimant.claim(fee_factor=3))[0] == "pegin-already-claimed"
    with pytest.raises(Refused) as again:
        local.ask("sendrawtransaction", claim)
    assert again.value.code == -27
    assert local.audit()["equal"]


def _sees(local: Local, height: int) -> bool:
    infos = [local.member(name).call("getpeginfo") for name in local.running()]
    return all(info["parent_height"] == height for info in infos)


def test_claim_when_its_witness_lies_is_refused_as_elements_does(local: Local) -> None:
    claimant = Claimant(local, "liar", 60_000_000)
    other = Claimant(local, "honest", 70_000_000)
    local.mine(PEGIN_DEPTH)
    local.wait_committed()
    height = local.bitcoind().call("getblockcount") - PEGIN_DEPTH
    elsewhere = local.bitcoind().call("getblock", local.bitcoind().call("getblockhash", height))
    value, proof = claimant.value_sats, claimant.proof()
    lies = (
        (Changes(proof=other.proof()), "Merkle proof and txid mismatch."),
        (Changes(proof=proof_of(local, elsewhere["tx"][0])), "Merkle proof and txid mismatch."),
        (Changes(proof=_without_work(proof)), "Parent proof of work is invalid or insufficient."),
        (Changes(proof=proof[:-1]), "Could not extract block and tx from merkleblock."),
        (Changes(value_sats=value + 1), "Peg-in tx is invalid."),
        (Changes(value_sats=value - 1), "Peg-in tx is invalid."),
        (Changes(value_sats=2**63), "Value was not in valid value range."),
        (Changes(parent_genesis=b"\x01" * 32), "Parent genesis block mismatch."),
        (Changes(claim_script=ELSEWHERE), "Peg-in tx is invalid."),
        (Changes(asset=bytes(32)), "no peg-in witness attached"),
        (Changes(items=5), "Not enough stack items."),
    )
    for changes, text in lies:
        expected = ("pegin-no-witness", f"pegin-no-witness, {text}")
        assert refusal(local, claimant.claim(changes)) == expected
    # A header of the test's own making has the work regtest asks for, but nobody mined on it.
    forged = Changes(proof=_with_work(bytes(4) + proof[4:]))
    assert refusal(local, claimant.claim(forged)) == TOO_SHALLOW
    assert not local.ask("getdeposit", claimant.outpoint)["claimed"]

    local.ask("sendrawtransaction", claimant.claim())
    wait_for(lambda: local.ask("getdeposit", claimant.outpoint)["claimed"], "the claim is final")


def _with_work(proof: bytes) -> bytes:
    return _searched(proof, wanted=True)


def _without_work(proof: bytes) -> bytes:
    return _searched(proof, wanted=False)


def _searched(proof: bytes, *, wanted: bool) -> bytes:
    for nonce in range(1_000):
        header = proof[:76] + nonce.to_bytes(4, "little")
        if (sha256d(header)[31] < 0x80) == wanted:
            return header + proof[80:]
    raise AssertionError("no such nonce")


@pytest.mark.parametrize("depth", [1, 3])
def test_unclaimed_deposit_when_bitcoin_reorganises_then_claim_follows(
    local: Local, depth: int
) -> None:
    local.make_wallets("alice")
    before = local.available("alice")
    pegin = local.pegin("alice", "0.3")
    local.mine(depth)
    local.wait_committed()
    first = local.wait_pegin(pegin["id"], "confirming")
    old_block = local.invalidate(local.parent_height() - depth + 1)
    local.mine_empty(depth + 1)  # the new branch wins without the deposit
    local.wait_pegin(pegin["id"], "funded")
    local.mine(RESET_DEPTH)
    final = local.finish_pegin(pegin["id"])

    assert final["deposit"] == first["deposit"]
    _check_claimed_once(local, final, before, not_in=old_block)


def test_claim_in_the_mempool_when_its_deposit_moves_then_a_new_one_replaces_it(
    local: Local,
) -> None:
    local.make_wallets("alice")
    before = local.available("alice")
    pegin = local.pegin("alice", "0.3")
    with local.paused("wallet"):
        local.mine(PEGIN_DEPTH)
        local.wait_committed()
        local.kill("m1")  # no more blocks
    old = local.wait_pegin(pegin["id"], "claim_sent")
    assert local.ask("getrawmempool") == [old["claim_txid"]]

    old_block = local.invalidate(local.parent_height() - PEGIN_DEPTH + 1)
    local.mine_empty(PEGIN_DEPTH)
    local.wait_pegin(pegin["id"], "funded")
    local.start("m1")
    local.mine(RESET_DEPTH)
    final = local.finish_pegin(pegin["id"])

    assert final["claim_txid"] != old["claim_txid"]
    _check_claimed_once(local, final, before, not_in=old_block)


def _check_claimed_once(
    local: Local, pegin: dict[str, Any], before_sats: int, *, not_in: str
) -> None:
    """One claim, with a proof of the block that is on the best chain now."""
    claims = local.claims(pegin["deposit"])
    assert [claim["txid"] for claim in claims] == [pegin["claim_txid"]]
    proof = bytes.fromhex(claims[0]["vin"][0]["pegin_witness"][5])
    assert proof == proof_of(local, pegin["deposit"].split(":")[0])
    assert sha256d(proof[:80])[::-1].hex() != not_in
    fees = [o["value"] for o in claims[0]["vout"] if o["scriptPubKey"]["type"] == "fee"]
    hidden = [o for o in claims[0]["vout"] if "valuecommitment" in o]
    minted = pegin["amount_sats"] - sats(fees[0])
    assert len(fees) == 1 and len(hidden) == 2
    assert local.available(pegin["wallet"]) == before_sats + minted
    assert local.received(pegin["address"]) == [pegin["amount_sats"]]
    assert local.audit()["equal"]
