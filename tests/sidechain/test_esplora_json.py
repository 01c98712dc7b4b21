"""What Esplora shows of the recorded chain against what elementsd said about it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

from sidechain.api.esplora_json import output_json, script_asm, transaction_json
from sidechain.params import ChainParams
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.script.script import push
from tests.sidechain.esplora_world import Served, served
from tests.sidechain.index_world import UnjudgedChain
from tests.vectors import chain_json, internal, recorded_blocks, recorded_params

HIDDEN_OR_SHOWN = (("asset", "assetcommitment"), ("value", "valuecommitment"))
TYPES = {
    "fee": "fee",
    "nulldata": "op_return",
    "pubkey": "p2pk",
    "pubkeyhash": "p2pkh",
    "scripthash": "p2sh",
    "witness_v0_keyhash": "v0_p2wpkh",
    "witness_v0_scripthash": "v0_p2wsh",
    "witness_v1_taproot": "v1_p2tr",
}


def coins(amount_sats: int) -> Decimal:
    return Decimal(amount_sats).scaleb(-8)


def check_output(shown: dict[str, Any], told: dict[str, Any], params: ChainParams) -> None:
    script = told["scriptPubKey"]
    assert shown["scriptpubkey"] == script["hex"]
    assert shown.get("scriptpubkey_address") == script.get("address")
    if script["type"] in TYPES:
        assert shown["scriptpubkey_type"] == TYPES[script["type"]]
    if "valuecommitment" in told:
        assert shown["valuecommitment"] == told["valuecommitment"] and "value" not in shown
    else:
        assert coins(shown["value"]) == Decimal(str(told["value"])).quantize(Decimal("1e-8"))
    for name in ("asset", "assetcommitment"):
        assert shown.get(name) == told.get(name)
    pegout = shown.get("pegout")
    if pegout is not None:
        assert pegout["genesis_hash"] == script["pegout_chain"]
        assert pegout["scriptpubkey"] == script["pegout_hex"]
        assert pegout.get("scriptpubkey_address") == script.get("pegout_address")
    elif "pegout_chain" in script:
        # elementsd shows any asset's; only an explicit amount of the pegged one is paid out
        assert "valuecommitment" in told or told["asset"] != params.pegged_asset[::-1].hex()


def check_input(shown: dict[str, Any], told: dict[str, Any]) -> None:
    assert shown["is_coinbase"] == ("coinbase" in told)
    assert shown["sequence"] == told["sequence"]
    assert shown.get("witness", []) == told.get("txinwitness", [])
    if "coinbase" in told:
        assert shown["scriptsig"] == told["coinbase"] and shown["prevout"] is None
        return
    assert (shown["txid"], shown["vout"]) == (told["txid"], told["vout"])
    assert shown["scriptsig"] == told["scriptSig"]["hex"]
    assert shown["is_pegin"] == told["is_pegin"]
    assert (shown["prevout"] is None) == told["is_pegin"]
    issued = shown.get("issuance")
    assert (issued is None) == ("issuance" not in told)
    if issued is not None:
        theirs = told["issuance"]
        assert issued["asset_id"] == theirs["asset"]
        assert issued["asset_entropy"] == theirs["assetEntropy"]
        assert issued["is_reissuance"] == theirs["isreissuance"]
        for name in ("asset", "token"):
            commitment = f"{name}amountcommitment"
            assert issued.get(commitment) == theirs.get(commitment)
            if f"{name}amount" in theirs:
                amount = Decimal(str(theirs[f"{name}amount"])).quantize(Decimal("1e-8"))
                assert coins(issued[f"{name}amount"]) == amount


async def check_block(node: Served, entry: dict[str, Any]) -> int:
    told, base = entry["json"], f"/block/{entry['hash']}"
    shown = await node.get(base)
    for ours, theirs in (
        ("id", "hash"),
        ("height", "height"),
        ("version", "version"),
        ("timestamp", "time"),
        ("tx_count", "nTx"),
        ("size", "size"),
        ("weight", "weight"),
        ("merkle_root", "merkleroot"),
        ("mediantime", "mediantime"),
    ):
        assert shown[ours] == told[theirs]
    assert shown["previousblockhash"] == told.get("previousblockhash")
    assert entry["hex"].startswith(await node.text(f"{base}/header"))
    if entry["verbosity"] < 2:
        assert await node.get(f"{base}/txids") == told["tx"]
        return 0
    compared = 0
    for start in range(0, len(told["tx"]), 25):
        for tx in await node.get(f"{base}/txs/{start}"):
            decoded = told["tx"][compared]
            assert tx["status"]["block_hash"] == entry["hash"]
            for name in ("txid", "locktime", "size", "weight"):
                assert tx[name] == decoded[name]
            assert tx["discount_vsize"] == decoded["discountvsize"]
            for vin, item in zip(tx["vin"], decoded["vin"], strict=True):
                check_input(vin, item)
            for vout, item in zip(tx["vout"], decoded["vout"], strict=True):
                check_output(vout, item, recorded_params())
            compared += 1
    return compared


async def test_recorded_chain_when_served_then_agrees_with_elementsd(tmp_path: Path) -> None:
    world = UnjudgedChain(tmp_path / "chain")
    for block in recorded_blocks()[1:]:
        world.connect(block)
    async with served(world.chain, tmp_path / "index") as node:
        compared = 0
        for entry in chain_json("blocks.json"):
            compared += await check_block(node, entry)
        await check_assets(node)
        await check_prevouts(node)
        assert node.faults == []
    world.chain.close()
    print(f"transactions compared with elementsd: {compared}")
    assert compared


async def check_prevouts(node: Served) -> None:
    """What elementsd says every recorded kind of transaction spends, hidden or shown."""
    for entry in chain_json("txs_valid.json"):
        shown = await node.get(f"/tx/{entry['txid']}")
        for vin, item in zip(shown["vin"], entry["spent"], strict=True):
            if vin["is_pegin"]:
                continue
            spent = TxOut.decode(bytes.fromhex(item))
            assert vin["prevout"] == output_json(spent, recorded_params()), entry["label"]


async def check_assets(node: Served) -> None:
    """Every asset issued anywhere in the recorded chain, by what elementsd showed of it."""
    issuances: dict[str, list[dict[str, Any]]] = {}
    pegins = 0
    for entry in chain_json("blocks.json"):
        for tx in entry["json"]["tx"] if entry["verbosity"] == 2 else ():
            pegins += sum(1 for txin in tx["vin"] if txin.get("is_pegin"))
            for txin in tx["vin"]:
                if "issuance" in txin:
                    issuances.setdefault(txin["issuance"]["asset"], []).append(txin["issuance"])
    assert issuances
    for asset, events in issuances.items():
        shown = await node.get(f"/asset/{asset}")
        stats, made = shown["chain_stats"], [e for e in events if not e["isreissuance"]]
        assert [e["token"] for e in made] == [shown["reissuance_token"]]
        assert stats["issuance_count"] == len(events)
        known = [Decimal(str(e["assetamount"])) for e in events if "assetamount" in e]
        assert coins(stats["issued_amount"]) == sum(known)
        assert stats["has_blinded_issuances"] == any("assetamountcommitment" in e for e in events)
    pegged = recorded_params().pegged_asset[::-1].hex()
    counted = (await node.get(f"/asset/{pegged}"))["chain_stats"]["peg_in_count"]
    big = [
        b
        for b, e in zip(recorded_blocks(), chain_json("blocks.json"), strict=True)
        if e["verbosity"] < 2
    ]
    rest = sum(txin.is_pegin for block in big for tx in block.transactions for txin in tx.inputs)
    assert counted == pegins + rest


def test_asm_when_opcodes_and_pushes_then_words_of_the_reference_server() -> None:
    script = bytes.fromhex("00514f60b1b27604") + b"\1\2\3\4" + bytes.fromhex("4c0101ac")
    assert script_asm(script) == (
        "OP_0 OP_PUSHNUM_1 OP_PUSHNUM_NEG1 OP_PUSHNUM_16 OP_CLTV OP_CSV OP_DUP "
        "OP_PUSHBYTES_4 01020304 OP_PUSHDATA1 01 OP_CHECKSIG"
    )
    assert script_asm(b"\x05\1") == "<push past end>"
    assert script_asm(b"") == ""


def test_input_when_script_is_nested_then_inner_scripts_are_shown() -> None:
    shown_kinds = set()
    for entry in chain_json("txs_valid.json"):
        tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        spent = [TxOut.decode(bytes.fromhex(item)) for item in entry["spent"]]
        prevouts: dict[OutPoint, TxOut] = {
            txin.prevout: output for txin, output in zip(tx.inputs, spent, strict=True)
        }
        assert internal(entry["txid"]) == tx.txid
        shown = transaction_json(tx, recorded_params(), prevouts, {"confirmed": False})
        for vin in shown["vin"]:
            redeem = vin.get("inner_redeemscript_asm")
            witness = vin.get("inner_witnessscript_asm")
            if vin["prevout"] is None:
                assert redeem is None and witness is None
                continue
            assert (redeem is not None) == (vin["prevout"]["scriptpubkey_type"] == "p2sh")
            kind = vin["prevout"]["scriptpubkey_type"]
            shown_kinds.add((kind, redeem is not None, witness is not None))
    assert {("p2sh", True, True), ("p2sh", True, False), ("v0_p2wsh", False, True)} <= shown_kinds


def test_output_when_script_cannot_be_read_then_shown_all_the_same() -> None:
    params = recorded_params()
    for script in (b"\x6a\x4c", push(b"\1" * 600), b"\xff" * 40):
        tx = Transaction.build(
            inputs=[], outputs=[TxOut(b"\1" + bytes(32), b"\1" + bytes(8), b"\0", script)]
        )
        shown = transaction_json(tx, params, {}, {"confirmed": False})
        assert shown["vout"][0]["scriptpubkey"] == script.hex()
