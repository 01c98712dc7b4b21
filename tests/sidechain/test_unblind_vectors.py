"""What recipients must recover from the recorded range proofs, and how it was hidden."""

from typing import Any

from coincurve import PublicKey

from sidechain.crypto import zkp
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import public_key
from sidechain.primitives.confidential import explicit_asset
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import Transaction
from tests.hidden import Opening
from tests.vectors import case_bytes, chain_json, internal


def _nonce(secret: bytes, point: bytes) -> bytes:
    """elements/transactions.md 8.1: two hashes of the shared point."""
    shared = PublicKey(point).multiply(secret).format(compressed=True)
    return sha256(sha256(shared))


def _generator(asset: bytes) -> bytes:
    if asset[0] != 1:
        return asset
    return zkp.serialize_generator(zkp.asset_generator(asset[1:]))


def _opening(entry: dict[str, Any], script: bytes) -> Opening:
    blinder = internal(entry["asset_blinder"])
    return Opening(
        asset_id=internal(entry["asset"]),
        amount=entry["amount_sat"],
        script=script,
        asset_blinder=blinder if any(blinder) else None,
        value_blinder=internal(entry["amount_blinder"]),
    )


def _rewound(proof: bytes, hidden: Opening, nonce: bytes) -> zkp.Rewound:
    generator = _generator(hidden.asset_field)
    found = zkp.rewind_range_proof(proof, hidden.value_field, generator, hidden.script, nonce)
    assert found is not None
    assert found.amount_sats == hidden.amount
    assert found.value_blinder == hidden.value_blinder
    assert found.message[:64] == hidden.asset_id + (hidden.asset_blinder or bytes(32))
    return found


def test_recorded_outputs_when_rewound_by_either_side_then_amount_and_blinders() -> None:
    opened = 0
    for case in chain_json("txs_valid.json"):
        tx = Transaction.decode(case_bytes(case))
        for entry in case["unblind"] or ():
            if entry["kind"] != "output":
                continue
            output = tx.outputs[entry["vout"]]
            hidden = _opening(entry, output.script)
            assert (output.asset, output.value) == (hidden.asset_field, hidden.value_field)
            proof = tx.output_witnesses[entry["vout"]].range_proof
            secret = bytes.fromhex(entry["blinding_private_key"])
            ephemeral = bytes.fromhex(entry["ephemeral_private_key"])
            assert public_key(ephemeral) == output.nonce
            nonce = _nonce(secret, output.nonce)
            assert nonce == _nonce(ephemeral, public_key(secret))
            _rewound(proof, hidden, nonce)
            opened += 1
    print(f"\n{opened} recorded outputs opened")
    assert opened


def test_recorded_issuances_when_rewound_with_their_key_then_amount_and_blinder() -> None:
    opened = 0
    for case in chain_json("txs_valid.json"):
        tx = Transaction.decode(case_bytes(case))
        for entry in case["unblind"] or ():
            if entry["kind"] == "output":
                continue
            item, witness = tx.inputs[entry["input"]], tx.input_witnesses[entry["input"]]
            ids = issued_ids(item)
            assert ids is not None and item.issuance is not None
            amounts = entry["kind"] == "issuance_amount"
            hidden = _opening(entry, b"")
            assert hidden.asset_id == (ids.asset if amounts else ids.token)
            assert hidden.asset_field == explicit_asset(hidden.asset_id)
            field = item.issuance.amount if amounts else item.issuance.inflation_keys
            assert hidden.value_field == field
            proof = witness.issuance_range_proof if amounts else witness.inflation_range_proof
            _rewound(proof, hidden, bytes.fromhex(entry["blinding_private_key"]))
            opened += 1
    print(f"\n{opened} recorded issued amounts opened")
    assert opened
