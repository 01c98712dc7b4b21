"""PSETs over JSON-RPC; the texts were compared with elementsd's byte for byte."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.pset_transaction import read_pset, unsigned_transaction
from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc_psbt import PsbtMethods
from sidechain.api.rpc_pset import PsetMethods
from sidechain.chain import Chain
from sidechain.crypto.keys import public_key
from sidechain.primitives.address import encode_address
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import p2wpkh
from sidechain.wallet.pset import view_pset

PARAMS = chain_params(name="ps", initial_free_coins_sats=2_100_000_000_000_000)
KEY = public_key(bytes([1]) * 32)
ADDRESS = encode_address(p2wpkh(KEY), PARAMS.prefixes)
BLINDED = encode_address(p2wpkh(KEY), PARAMS.prefixes, KEY)
PLACE = {"txid": genesis_block(PARAMS).transactions[1].txid[::-1].hex(), "vout": 0}


@pytest.fixture
async def call(tmp_path: Path) -> AsyncIterator[Any]:
    registry = Registry()
    chain = Chain.open(tmp_path / "chain", PARAMS)
    PsbtMethods(chain).register(registry)
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
    assert await call("utxoupdatepsbt", text) == text
    assert await call("finalizepsbt", text) == {"psbt": text, "complete": False}


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
