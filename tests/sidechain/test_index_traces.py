"""What single transactions leave in the index: scripts, spends, asset events."""

from dataclasses import replace

from sidechain.crypto.hashes import sha256
from sidechain.index.rows import (
    Place,
    UndoEntry,
    pack_issuance,
    pack_sums,
    pack_undo,
    unpack_issuance,
    unpack_sums,
    unpack_undo,
)
from sidechain.index.traces import AssetActivity, ScriptTrace, trace
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import Issuance, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.script import push
from tests.factories import ALICE, BOB, SignedChain, federation_params, output

PARAMS = federation_params()
COIN = OutPoint(b"\1" * 32, 3)


def transaction(*outputs: TxOut, inputs: tuple[TxIn, ...] = (TxIn(COIN),)) -> Transaction:
    return Transaction.build(inputs=inputs, outputs=outputs)


def burn(amount_sats: int, script: bytes = b"\x6a") -> TxOut:
    return output(PARAMS, script, amount_sats)


def test_trace_when_scripts_repeat_then_one_entry_each() -> None:
    other = OutPoint(b"\2" * 32, 0)
    tx = transaction(
        output(PARAMS, BOB.script, 1),
        output(PARAMS, b"", 2),
        output(PARAMS, ALICE.script, 3),
        output(PARAMS, BOB.script, 4),
        inputs=(TxIn(COIN), TxIn(other)),
    )
    found = trace(tx, {COIN: ALICE.script, other: ALICE.script}, PARAMS)
    assert found.scripts == {
        sha256(ALICE.script): ScriptTrace([2], 2),
        sha256(BOB.script): ScriptTrace([0, 3], 0),
    }
    assert found.spends == [(COIN, 0), (other, 1)]
    assert trace(tx, {}, PARAMS).scripts[sha256(ALICE.script)] == ScriptTrace([2], 0)


def test_trace_when_outputs_are_many_then_all_are_listed() -> None:
    count = 20_000
    tx = transaction(*[output(PARAMS, BOB.script, 1)] * count)
    found = trace(tx, {}, PARAMS)
    assert found.scripts == {sha256(BOB.script): ScriptTrace(list(range(count)), 0)}


def test_trace_when_peg_in_then_claim_script_without_a_spent_coin(tmp_path: object) -> None:
    signed = SignedChain.open(tmp_path / "chain")  # type: ignore[operator]
    deposit = signed.deposit(ALICE.script, 50_000)
    tx = signed.unsigned_claim(deposit, BOB.script, 700)
    found = trace(tx, {}, signed.params)
    assert found.scripts[sha256(ALICE.script)] == ScriptTrace([], 0)
    assert found.spends == []
    pegged = signed.params.pegged_asset
    assert found.assets == {pegged: AssetActivity(tx_count=1, peg_in_count=1, peg_in_sats=50_000)}
    signed.chain.close()


def test_trace_when_burned_or_pegged_out_then_counted_apart() -> None:
    pegout = b"\x6a" + push(PARAMS.parent_genesis_hash) + push(b"\x51")
    elsewhere = b"\x6a" + push(bytes(32)) + push(b"\x51")
    tx = transaction(burn(5), burn(0), burn(70, pegout), burn(9, elsewhere), burn(11, b""))
    pegged = PARAMS.pegged_asset
    assert trace(tx, {}, PARAMS).assets == {
        pegged: AssetActivity(
            tx_count=1, burn_count=2, burned_sats=14, peg_out_count=1, peg_out_sats=70
        )
    }
    assert trace(tx, {}, PARAMS).scripts == {}
    apart = replace(PARAMS, has_parent_chain=False)
    assert trace(tx, {}, apart).assets[pegged].burned_sats == 84
    foreign = TxOut(explicit_asset(b"\7" * 32), explicit_value(70), NULL, pegout)
    found = trace(transaction(foreign), {}, PARAMS).assets
    assert found == {b"\7" * 32: AssetActivity(tx_count=1, burn_count=1, burned_sats=70)}
    hidden = TxOut(b"\x0a" + b"\2" * 32, b"\x08" + b"\2" * 32, NULL, b"\x6a")
    assert trace(transaction(hidden), {}, PARAMS).assets == {}


def test_trace_when_issued_then_asset_token_and_contract() -> None:
    issuance = Issuance(
        blinding_nonce=bytes(32),
        entropy=b"\5" * 32,
        amount=explicit_value(1_000),
        inflation_keys=b"\x08" + b"\2" * 32,
    )
    txin = TxIn(COIN, issuance=issuance)
    ids = issued_ids(txin)
    assert ids is not None
    found = trace(transaction(burn(0), inputs=(txin,)), {}, PARAMS)
    assert found.assets == {
        ids.asset: AssetActivity(
            tx_count=1, issuance_count=1, issued_sats=1_000, blinded_token_count=1
        )
    }
    (issued,) = found.issued
    assert (issued.prevout, issued.vin, issued.contract_hash) == (COIN, 0, b"\5" * 32)
    assert issued.token == ids.token
    assert unpack_issuance(ids.asset, pack_issuance(issued)) == issued
    again = replace(issuance, blinding_nonce=b"\3" * 32, amount=b"\x09" + b"\2" * 32)
    more = trace(transaction(burn(0), inputs=(TxIn(COIN, issuance=again),)), {}, PARAMS)
    (activity,) = more.assets.values()
    assert (activity.blinded_issuance_count, activity.issued_sats) == (1, 0)
    assert more.issued == []


def test_rows_when_packed_then_newest_first_and_read_back() -> None:
    places = [Place(7, 3), Place(7, 0), Place(6, 9), Place(0, 0)]
    assert sorted(place.pack() for place in places) == [place.pack() for place in places]
    assert [Place.unpack(place.pack()) for place in places] == places
    sums = AssetActivity(tx_count=2**40, issued_sats=2**90, burned_sats=-1)
    assert unpack_sums(pack_sums(sums)) == sums
    entries = [UndoEntry(b"key", b""), UndoEntry(b"t" + b"\1" * 300, b"before")]
    assert unpack_undo(pack_undo(b"\4" * 32, entries)) == (b"\4" * 32, entries)
