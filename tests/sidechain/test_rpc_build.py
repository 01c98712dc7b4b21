"""Making, combining and signing transactions over JSON-RPC; texts as elementsd's (compared)."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.api.signing import KeyStore, sign_transaction
from sidechain.chain import Chain
from sidechain.crypto.keys import public_key
from sidechain.primitives.address import encode_address, encode_secret
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.transaction import Transaction
from sidechain.script.flags import STANDARD_FLAGS
from sidechain.script.interpreter import verify_input
from sidechain.script.script import multisig_script, p2pkh, p2sh, p2wpkh, p2wsh
from sidechain.script.sighash import SighashCache

PARAMS = chain_params(
    name="build",
    initial_free_coins_sats=2_100_000_000_000_000,
    validate_pegin=False,
    anyone_can_spend_standard=True,
)
SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]
PUBKEYS = [public_key(secret) for secret in SECRETS]
KEYS = [encode_secret(secret, PARAMS.prefixes) for secret in SECRETS]


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Any]:
    registry = Registry()
    chain = Chain.open(tmp_path / "chain", PARAMS)

    async def nothing(tx: Transaction) -> None:
        return None

    register_chain_methods(
        registry,
        chain,
        facts_for=nothing,
        on_accepted=nothing,
        hooks=NodeHooks(unix_time_s=lambda: 0),
    )

    async def run(method: str, *params: Any) -> Any:
        return await registry.call(method, params)

    yield run
    chain.close()


async def refused(call: Any, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as error:
        await call(method, *params)
    return error.value.code, error.value.message


def spend(script: bytes, amount: Decimal = Decimal(5)) -> tuple[dict[str, Any], dict[str, Any]]:
    """An input, and what is said about the coin it spends."""
    place = {"txid": "ab" * 32, "vout": 1}
    return place, {**place, "scriptPubKey": script.hex(), "amount": amount}


def address(script: bytes) -> str:
    return encode_address(script, PARAMS.prefixes)


NESTED = p2wpkh(PUBKEYS[0])
MULTISIG = multisig_script(2, PUBKEYS)


@pytest.mark.parametrize(
    ("script", "inner"),
    [
        (p2pkh(PUBKEYS[0]), {}),
        (b"\x21" + PUBKEYS[0] + b"\xac", {}),
        (NESTED, {}),
        (p2sh(NESTED), {"redeemScript": NESTED.hex()}),
        (MULTISIG, {}),
        (p2sh(MULTISIG), {"redeemScript": MULTISIG.hex()}),
        (p2wsh(MULTISIG), {"witnessScript": MULTISIG.hex()}),
        (p2sh(p2wsh(MULTISIG)), {"redeemScript": MULTISIG.hex()}),
        (
            p2sh(p2wsh(MULTISIG)),
            {"redeemScript": p2wsh(MULTISIG).hex(), "witnessScript": MULTISIG.hex()},
        ),
    ],
)
@pytest.mark.parametrize("hash_type", [None, "ALL|RANGEPROOF", "SINGLE|ANYONECANPAY", "NONE"])
async def test_signature_when_made_with_keys_then_the_input_is_valid(
    call: Any, script: bytes, inner: dict[str, str], hash_type: str | None
) -> None:
    place, coin = spend(script)
    raw = await call("createrawtransaction", [place], [{address(NESTED): Decimal("4.9")}])
    done = await call("signrawtransactionwithkey", raw, KEYS, [coin | inner], hash_type)
    assert done["complete"] and "errors" not in done
    signed = Transaction.decode(bytes.fromhex(done["hex"]))
    again = await call("signrawtransactionwithkey", done["hex"], [], [coin | inner])
    assert again["complete"] and again["hex"] == done["hex"]
    assert signed.txid == Transaction.decode(bytes.fromhex(raw)).txid or signed.inputs[0].script_sig


async def test_genesis_coin_when_signed_then_nothing_is_needed(call: Any) -> None:
    genesis = await call("getblock", await call("getblockhash", 0))
    raw = await call(
        "createrawtransaction",
        [{"txid": genesis["tx"][1], "vout": 0}],
        [{address(NESTED): Decimal(1)}, {"fee": Decimal("0.1")}],
    )
    done = await call("signrawtransactionwithkey", raw, [])
    assert done == {"hex": raw, "complete": True}
    assert await call("combinerawtransaction", [raw, raw]) == raw


async def test_multisig_when_signed_one_by_one_then_the_rest_is_missed(call: Any) -> None:
    place, coin = spend(p2wsh(MULTISIG))
    coin |= {"witnessScript": MULTISIG.hex()}
    raw = await call("createrawtransaction", [place], [{address(NESTED): Decimal("4.9")}])
    first = await call("signrawtransactionwithkey", raw, [KEYS[2]], [coin])
    assert not first["complete"]
    assert first["errors"][0]["error"] in (
        "CHECK(MULTI)SIG failing with non-zero signature (possibly need more signatures)",
        "Unable to sign input, invalid stack size (possibly missing key)",
    )
    both = await call("signrawtransactionwithkey", first["hex"], [KEYS[0]], [coin])
    assert both["complete"]
    tx = Transaction.decode(bytes.fromhex(both["hex"]))
    # Signatures stand in the order of the keys, whoever came first.
    stack = tx.input_witnesses[0].script
    assert len(stack) == 4 and stack[0] == b"" and stack[3] == MULTISIG


async def test_output_kinds_when_made_then_in_order_with_the_fee_last(call: Any) -> None:
    key = PUBKEYS[0].hex()
    blinded = await call("createblindedaddress", address(NESTED), key)
    raw = await call(
        "createrawtransaction",
        [],
        [
            {address(NESTED): 1, "asset": "11" * 32},
            {"fee": Decimal("0.5")},
            {blinded: 2},
            {"vdata": ["01", "0203"]},
            {"burn": 3},
            {"data": "ff"},
        ],
        7,
    )
    shown = await call("decoderawtransaction", raw)
    assert shown["locktime"] == 7
    assert [out["scriptPubKey"]["type"] for out in shown["vout"]] == [
        "witness_v0_keyhash",
        "witness_v0_keyhash",
        "nulldata",
        "nulldata",
        "nulldata",
        "fee",
    ]
    assert shown["vout"][0]["asset"] == "11" * 32
    assert shown["vout"][1]["commitmentnonce"] == key
    assert shown["vout"][2]["scriptPubKey"]["hex"] == "6a0101020203"
    assert shown["fee"] == {PARAMS.pegged_asset[::-1].hex(): Decimal("0.5")}


@pytest.mark.parametrize(
    ("inputs", "outputs", "code", "text"),
    [
        ([{"txid": "ab" * 32}], [], -8, "Invalid parameter, missing vout key"),
        ([{"txid": "ab" * 32, "vout": -1}], [], -8, "vout cannot be negative"),
        ([{"txid": "x", "vout": 0}], [], -8, "txid must be of length 64 (not 1, for 'x')"),
        ([{"vout": 0}], [], -3, "JSON value of type null is not of expected type string"),
        ([{"txid": "ab" * 32, "vout": 0, "sequence": -1}], [], -8, "out of range"),
        ([], [{"x": 1}], -5, "Invalid Bitcoin address: x"),
        ([], [{"data": "00"}, {"data": "01"}], -8, "duplicate key: data"),
        ([], [{"data": "zz"}], -8, "Data must be hexadecimal string (not 'zz')"),
        ([], [{"burn": 1}, {"burn": 2}], -8, "duplicated address and asset"),
        ([], [{"fee": -1}], -3, "Amount out of range"),
        ([], [{"fee": "x"}], -3, "Invalid amount"),
        ([], [{"fee": 21_000_001}], -3, "Amount out of range"),
        ([], {"fee": 1}, -3, 'Wrong type passed:\n{\n    "Position 2 (outputs)"'),
        (
            [{"txid": "ab" * 32, "vout": 0, "pegin_bitcoin_tx": "00"}],
            [],
            -8,
            "Some but not all pegin_ arguments provided",
        ),
    ],
)
async def test_transaction_when_parameters_are_wrong_then_elementsds_error(
    call: Any, inputs: Any, outputs: Any, code: int, text: str
) -> None:
    error = await refused(call, "createrawtransaction", inputs, outputs)
    assert error[0] == code and text in error[1]


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"redeemScript": None, "witnessScript": None}, -8, "Missing redeemScript"),
        ({"witnessScript": "51"}, -8, "does not match scriptPubKey"),
        ({"redeemScript": "51"}, -8, "redeemScript does not correspond to witnessScript"),
        ({"amount": None}, -3, "Missing amount"),
        ({"vout": -1}, -22, "vout cannot be negative"),
        ({"txid": None}, -3, "Missing txid"),
    ],
)
async def test_coin_when_described_wrongly_then_refused(
    call: Any, changes: dict[str, Any], code: int, text: str
) -> None:
    place, coin = spend(p2wsh(MULTISIG))
    coin |= {"witnessScript": MULTISIG.hex()}
    raw = await call("createrawtransaction", [place], [{address(NESTED): 1}])
    wrong = {key: value for key, value in (coin | changes).items() if value is not None}
    error = await refused(call, "signrawtransactionwithkey", raw, KEYS, [wrong])
    assert error[0] == code and text in error[1]


async def test_issuance_when_added_then_outputs_pay_what_was_asked(call: Any) -> None:
    place, _ = spend(NESTED)
    raw = await call("createrawtransaction", [place], [{address(NESTED): 4}, {"fee": 1}])
    wanted = {
        "asset_amount": 7,
        "asset_address": address(NESTED),
        "token_amount": 2,
        "token_address": address(p2sh(NESTED)),
        "blind": False,
    }
    (made,) = await call("rawissueasset", raw, [wanted])
    ids = await call("calculateasset", place["txid"], place["vout"], None, False)
    assert (made["asset"], made["token"]) == (ids["asset_tag"], ids["reissuance_asset_tag"])
    assert (made["vin"], made["entropy"]) == (0, ids["final_asset_entropy"])
    shown = await call("decoderawtransaction", made["hex"])
    amounts = {out["asset"]: out["value"] for out in shown["vout"] if out["n"] < 3}
    assert amounts[made["asset"]] == 7 and amounts[made["token"]] == 2
    assert shown["vout"][-1]["scriptPubKey"]["type"] == "fee"
    assert (await refused(call, "rawissueasset", made["hex"], [wanted]))[0] == -8
    again = {
        "asset_amount": 1,
        "asset_address": address(NESTED),
        "input_index": 0,
        "asset_blinder": "01" * 32,
        "entropy": made["entropy"],
    }
    more = await call("decoderawtransaction", (await call("rawreissueasset", raw, [again]))["hex"])
    assert more["vin"][0]["issuance"]["isreissuance"]
    assert more["vin"][0]["issuance"]["asset"] == made["asset"]


async def test_message_when_signed_then_only_its_key_verifies(call: Any) -> None:
    signature = await call("signmessagewithprivkey", KEYS[0], "a message")
    own, other = address(p2pkh(PUBKEYS[0])), address(p2pkh(PUBKEYS[1]))
    assert await call("verifymessage", own, signature, "a message")
    assert not await call("verifymessage", own, signature, "another message")
    assert not await call("verifymessage", other, signature, "a message")
    assert (await refused(call, "verifymessage", address(NESTED), signature, "x"))[0] == -3


async def test_descriptors_when_read_then_addresses_and_coins_are_found(call: Any) -> None:
    info = await call("getdescriptorinfo", f"wpkh({PUBKEYS[0].hex()})")
    assert await call("deriveaddresses", info["descriptor"]) == [address(NESTED)]
    private = await call("getdescriptorinfo", f"wpkh({KEYS[0]})")
    assert private["descriptor"] == info["descriptor"] and private["hasprivatekeys"]
    found = await call("scantxoutset", "start", ["raw(51)", f"combo({PUBKEYS[0].hex()})"])
    assert found["success"] and found["txouts"] == 1
    assert found["unspents"][0]["scriptPubKey"] == "51"
    assert found["total_unblinded_bitcoin_amount"] == 21_000_000
    assert await call("scantxoutset", "status") is None
    wrong = info["descriptor"][:-1] + "!"
    assert (await refused(call, "deriveaddresses", wrong))[0] == -5
    assert (await refused(call, "deriveaddresses", "wpkh(x)"))[1] == "Missing checksum"


async def test_taproot_when_signed_by_its_internal_key_then_valid(call: Any) -> None:
    described = await call("getdescriptorinfo", f"tr({PUBKEYS[0].hex()[2:]})")
    (paid,) = await call("deriveaddresses", described["descriptor"])
    script = (await call("validateaddress", paid))["scriptPubKey"]
    genesis = await call("getblock", await call("getblockhash", 0))
    raw = await call(
        "createrawtransaction",
        [{"txid": genesis["tx"][1], "vout": 0}],
        [{paid: 1}, {"fee": Decimal("20999999")}],
    )
    output = Transaction.decode(bytes.fromhex(raw)).outputs[0]
    assert output.script.hex() == script
    # The chain does not have this coin; the library signs and the interpreter judges.
    keys = KeyStore()
    keys.add_secret(SECRETS[0])
    spending = Transaction.decode(
        bytes.fromhex(await call("createrawtransaction", [spend(NESTED)[0]], [{paid: 1}]))
    )
    done = sign_transaction(spending, [output], keys, hash_type=0, genesis_hash=PARAMS.genesis_hash)
    assert not done.faults and len(done.tx.input_witnesses[0].script[0]) == 64
    cache = SighashCache(done.tx, [output], PARAMS.genesis_hash)
    verify_input(done.tx, 0, output, STANDARD_FLAGS, cache)


async def test_proof_when_made_then_it_proves_the_transactions(call: Any) -> None:
    best = await call("getblockhash", 0)
    txids = (await call("getblock", best))["tx"]
    proof = await call("gettxoutproof", txids)
    assert await call("verifytxoutproof", proof) == txids
    one = await call("gettxoutproof", txids[1:], best)
    assert await call("verifytxoutproof", one) == txids[1:]
    assert (await refused(call, "gettxoutproof", ["00" * 32]))[0] == -5
    assert (await refused(call, "gettxoutproof", []))[0] == -8
    assert (await refused(call, "verifytxoutproof", "00"))[0] == -1


async def test_outputs_when_blinded_then_amounts_are_hidden_and_balance(call: Any) -> None:
    blinded = [
        await call("createblindedaddress", address(script), PUBKEYS[1].hex())
        for script in (NESTED, p2sh(NESTED))
    ]
    genesis = await call("getblock", await call("getblockhash", 0))
    place = {"txid": genesis["tx"][1], "vout": 0}
    outputs = [{blinded[0]: 20_000_000}, {blinded[1]: 999_999}, {"fee": 1}]
    raw = await call("createrawtransaction", [place], outputs)
    none, pegged = "00" * 32, PARAMS.pegged_asset[::-1].hex()
    about = [[none], [21_000_000], [pegged], [none]]
    hidden = await call("rawblindrawtransaction", raw, *about)
    shown = await call("decoderawtransaction", hidden)
    assert ["valuecommitment" in out for out in shown["vout"]] == [True, True, False]
    (verdict,) = await call("testmempoolaccept", [hidden], 0)
    assert verdict["allowed"], verdict
    # Without blinded inputs one output alone has nothing to hide behind.
    one = await call("createrawtransaction", [place], [{blinded[0]: 20_999_999}, {"fee": 1}])
    plain = await call("decoderawtransaction", await call("rawblindrawtransaction", one, *about))
    assert plain["vout"][0]["commitmentnonce"] == ""
    refusal = await refused(call, "rawblindrawtransaction", one, *about, None, False)
    assert refusal[0] == -8 and "Add another output to blind" in refusal[1]
    assert (await refused(call, "rawblindrawtransaction", raw, [], [], [], []))[0] == -8
