"""PSETs over JSON-RPC; the texts were compared with elementsd's byte for byte."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.pset_transaction import read_pset, unsigned_transaction
from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc_descriptors import DescriptorMethods
from sidechain.api.rpc_mempool import MempoolMethods
from sidechain.api.rpc_psbt import PsbtMethods
from sidechain.api.rpc_pset import PsetMethods
from sidechain.api.rpc_submission import SubmissionMethods
from sidechain.chain import Chain
from sidechain.crypto.keys import public_key
from sidechain.primitives.address import encode_address, encode_secret
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import p2wpkh
from sidechain.wallet.pset import view_pset

PARAMS = chain_params(
    name="ps", initial_free_coins_sats=2_100_000_000_000_000, anyone_can_spend_standard=True
)
KEY = public_key(bytes([1]) * 32)
ADDRESS = encode_address(p2wpkh(KEY), PARAMS.prefixes)
BLINDED = encode_address(p2wpkh(KEY), PARAMS.prefixes, KEY)
PLACE = {"txid": genesis_block(PARAMS).transactions[1].txid[::-1].hex(), "vout": 0}


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Any]:
    registry = Registry()
    chain = Chain.open(tmp_path / "chain", PARAMS)

    async def nothing(tx: Transaction) -> None:
        return None

    PsbtMethods(chain, DescriptorMethods(chain)).register(registry)
    MempoolMethods(chain, facts_for=nothing, unix_time_s=lambda: 0, file=None).register(registry)
    DescriptorMethods(chain).register(registry)
    SubmissionMethods(
        chain, facts_for=nothing, on_accepted=nothing, unix_time_s=lambda: 0
    ).register(registry)
    PsetMethods(chain, {PARAMS.pegged_asset_name: PARAMS.pegged_asset}).register(registry)

    async def run(method: str, *params: Any) -> Any:
        return await registry.call(method, params)

    yield run
    chain.close()


async def refused(call: Any, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as error:
        await call(method, *params)
    return error.value.code, error.value.message


def transaction_of(text: str) -> Transaction:
    return unsigned_transaction(read_pset(text, PARAMS))


async def test_pset_when_made_then_it_holds_the_transaction(call: Any) -> None:
    text = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": Decimal("0.5")}], 7, False)
    view = view_pset(text)
    assert view.tx.locktime == 7 and view.tx.inputs[0].sequence == 0xFFFFFFFE
    assert [output.value_sats for output in view.tx.outputs] == [100_000_000, 50_000_000]
    assert await call("combinepsbt", [text, text]) == text
    assert await call("finalizepsbt", text) == {"psbt": text, "complete": False}
    updated = await call("utxoupdatepsbt", text)
    shown = await call("decodepsbt", updated)
    assert shown["inputs"][0]["non_witness_utxo"]["txid"] == PLACE["txid"]
    assert await call("combinepsbt", [text, updated]) == updated


async def test_pset_when_an_address_is_blinded_then_it_names_the_key(call: Any) -> None:
    text = await call("createpsbt", [PLACE], [{BLINDED: 1, "blinder_index": 0}, {"fee": 1}])
    plain = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": 1}])
    assert text != plain and view_pset(text).tx.txid == view_pset(plain).tx.txid


async def test_transaction_when_converted_then_signatures_are_refused_or_dropped(
    call: Any,
) -> None:
    text = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": 1}])
    bare = transaction_of(text)
    converted = transaction_of(await call("converttopsbt", bare.raw.hex()))
    assert converted.txid == bare.txid
    signed = Transaction.build(
        inputs=[type(bare.inputs[0])(bare.inputs[0].prevout, script_sig=b"\x51")],
        outputs=bare.outputs,
    )
    assert (await refused(call, "converttopsbt", signed.raw.hex()))[0] == -22
    dropped = transaction_of(await call("converttopsbt", signed.raw.hex(), True))
    assert dropped.inputs[0].script_sig == b""


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("combinepsbt", [[]], -8),
        ("combinepsbt", [["xx"]], -22),
        ("finalizepsbt", ["xx"], -22),
        ("utxoupdatepsbt", ["cHNidP8="], -22),
        ("converttopsbt", ["00"], -22),
        ("createpsbt", [[], [], 0, False, 0], -8),
    ],
)
async def test_pset_when_wrong_then_elementsds_code(
    call: Any, method: str, params: list[Any], code: int
) -> None:
    assert (await refused(call, method, *params))[0] == code


async def test_psets_when_of_different_transactions_then_not_combined(call: Any) -> None:
    one = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": 1}])
    two = await call("createpsbt", [PLACE], [{ADDRESS: 2}, {"fee": 1}])
    error = await refused(call, "combinepsbt", [one, two])
    assert error == (-8, "PSBTs not compatible (different transactions)")


SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]
KEYS = [public_key(secret).hex() for secret in SECRETS]
WIFS = [encode_secret(secret, PARAMS.prefixes) for secret in SECRETS]
XPRV = (
    "tprv8ZgxMBicQKsPd7Uf69XL1XwhmjHopUGep8GuEiJDZmbQz6o58LninorQAfcKZWARbtRtfnLcJ5MQ2AtHcQJCCRUcMRv"
    "mDUjyEmNUWwx8UbK"
)
FORMS = [
    "wpkh({0})",
    "pkh({1})",
    "sh(wpkh({0}))",
    "wsh(multi(2,{0},{1},{2}))",
    "sh(wsh(multi(1,{0},{2})))",
    "sh(multi(1,{2}))",
    "tr({0})",
    "wsh(pkh({1}))",
    f"wpkh([01020304/84h/1']{XPRV}/1h/*)",
]


async def fund(call: Any, form: str) -> str:
    """A PSET that spends a coin of the mempool."""
    described = await call("getdescriptorinfo", form.format(*KEYS))
    index = [[2, 2]] if described["isrange"] else []
    address = (await call("deriveaddresses", described["descriptor"], *index))[0]
    made = unsigned_transaction(
        read_pset(
            await call("createpsbt", [PLACE], [{address: 1}, {"fee": Decimal(20999999)}]), PARAMS
        )
    )
    txid = await call("sendrawtransaction", made.raw.hex(), 0, 0)
    place = {"txid": txid, "vout": 0}
    return str(await call("createpsbt", [place], [{ADDRESS: Decimal("0.9")}, {"fee": "0.1"}]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hash_type", [None, "NONE|ANYONECANPAY", "ALL|RANGEPROOF"])
async def test_input_when_signed_with_a_descriptor_then_final_and_valid(
    call: Any, form: str, hash_type: str | None
) -> None:
    text = await fund(call, form)
    signed = await call("descriptorprocesspsbt", text, [form.format(*WIFS)], hash_type)
    if form.startswith("tr(") and hash_type == "ALL|RANGEPROOF":
        # Taproot has no such hash type.
        assert not signed["complete"]
        return
    assert signed["complete"]
    (answer,) = await call("testmempoolaccept", [signed["hex"]], 0)
    assert answer["allowed"] or hash_type == "ALL|RANGEPROOF", answer
    partial = await call(
        "descriptorprocesspsbt", text, [form.format(*WIFS)], hash_type, True, False
    )
    assert not partial["complete"] and "hex" not in partial
    assert await call("finalizepsbt", partial["psbt"]) == {
        "hex": signed["hex"],
        "complete": True,
    }


@pytest.mark.parametrize("form", FORMS)
async def test_input_when_only_public_keys_are_known_then_its_signer_comes_next(
    call: Any, form: str
) -> None:
    text = await fund(call, form)
    bare = await call("utxoupdatepsbt", text)
    first = await call("analyzepsbt", bare)
    assert first["next"] == "updater" and first["inputs"][0]["has_utxo"]
    known = await call("utxoupdatepsbt", text, [form.format(*KEYS)])
    second = await call("analyzepsbt", known)
    assert second["fee"] == Decimal("0.1") and second["estimated_vsize"] > 150
    # Of taproot elementsd, too, names nothing that is missing.
    assert second["next"] == ("updater" if form.startswith("tr(") else "signer")


async def test_multisig_when_signed_one_by_one_then_combined_and_final(call: Any) -> None:
    form = FORMS[3]
    text = await fund(call, form)
    halves = []
    for own in ((WIFS[0], KEYS[1], KEYS[2]), (KEYS[0], KEYS[1], WIFS[2])):
        done = await call("descriptorprocesspsbt", text, [form.format(*own)])
        assert not done["complete"]
        halves.append(done["psbt"])
    analysed = await call("analyzepsbt", halves[0])
    assert len(analysed["inputs"][0]["missing"]["signatures"]) == 2
    final = await call("finalizepsbt", await call("combinepsbt", halves))
    assert final["complete"]
    assert (await call("testmempoolaccept", [final["hex"]], 0))[0]["allowed"]


async def test_analysis_when_there_is_no_fee_then_the_creator_must_begin_again(call: Any) -> None:
    text = await call("createpsbt", [PLACE], [{ADDRESS: 1}])
    assert await call("analyzepsbt", text) == {
        "outputs": [{"blind": False, "status": "done"}],
        "next": "creator",
        "error": "PSBT missing required fee output",
    }


async def test_descriptors_when_wrong_then_elementsds_code(call: Any) -> None:
    text = await call("createpsbt", [PLACE], [{ADDRESS: 1}, {"fee": 1}])
    for items, code in (
        ([5], -8),
        ([{}], -8),
        (["xx(1)"], -5),
        ([{"desc": FORMS[8], "range": [2, 1]}], -8),
    ):
        assert (await refused(call, "utxoupdatepsbt", text, items))[0] == code
        assert (await refused(call, "descriptorprocesspsbt", text, items))[0] == code
