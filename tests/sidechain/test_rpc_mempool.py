"""RPC methods on the mempool, without a socket: fields, forms and refusals."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.json_text import decode, encode
from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc_mempool import MempoolMethods
from sidechain.api.rpc_submission import SubmissionMethods
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxOut
from sidechain.script.script import push
from sidechain.validation.pegins import ParentFacts
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, output

NOW_S = FIRST_BLOCK_TIME_S + 10**6
Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


@pytest.fixture
def relayed() -> list[bytes]:
    return []


@pytest.fixture
def call(signed: SignedChain, relayed: list[bytes], tmp_path: Path) -> Call:
    async def facts_for(tx: Transaction) -> ParentFacts | None:
        return None

    async def on_accepted(tx: Transaction) -> None:
        relayed.append(tx.txid)

    registry = Registry()
    MempoolMethods(
        signed.chain, facts_for=facts_for, unix_time_s=lambda: NOW_S, file=tmp_path / "pool.dat"
    ).register(registry)
    SubmissionMethods(
        signed.chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=lambda: NOW_S
    ).register(registry)

    async def call(method: str, *params: Any) -> Any:
        return decode(encode(await registry.call(method, decode(encode(list(params))))))

    return call


async def refused(call: Call, method: str, *params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as error:
        await call(method, *params)
    return error.value.code, error.value.message


def shown(tx: Transaction) -> str:
    return tx.txid[::-1].hex()


def family(signed: SignedChain) -> tuple[Transaction, Transaction, Transaction]:
    """A transaction in the mempool with two generations behind it."""
    chain, point = signed.chain, signed.mint(ALICE, 10**8)
    made = []
    for number in range(3):
        tx = signed.payment(ALICE, [point], [(ALICE.script, 10**7 - number * 10**6)])
        chain.submit_tx(tx, None, NOW_S)
        made.append(tx)
        point = OutPoint(tx.txid, 0)
    return made[0], made[1], made[2]


async def test_entry_when_related_then_counts_sizes_and_fees(
    call: Call, signed: SignedChain
) -> None:
    first, middle, last = family(signed)
    await call("prioritisetransaction", shown(last), 0, 500)
    entry = await call("getmempoolentry", shown(middle))
    held = [signed.chain.mempool.get(tx.txid) for tx in (first, middle, last)]
    a, b, c = (each for each in held if each is not None)
    assert entry == {
        "vsize": b.vsize,
        "weight": middle.weight_wu,
        "time": NOW_S,
        "height": signed.chain.tip_height,
        "descendantcount": 2,
        "descendantsize": b.vsize + c.vsize,
        "ancestorcount": 2,
        "ancestorsize": a.vsize + b.vsize,
        "wtxid": middle.wtxid[::-1].hex(),
        "fees": {
            "base": Decimal(b.fee_sats).scaleb(-8),
            "modified": Decimal(b.fee_sats).scaleb(-8),
            "ancestor": Decimal(a.fee_sats + b.fee_sats).scaleb(-8),
            "descendant": Decimal(b.fee_sats + c.fee_sats + 500).scaleb(-8),
        },
        "depends": [shown(first)],
        "spentby": [shown(last)],
        "bip125-replaceable": True,
        "unbroadcast": False,
    }
    assert await call("getmempoolancestors", shown(last)) == sorted(
        (shown(first), shown(middle)), key=lambda text: bytes.fromhex(text)[::-1]
    )
    verbose = await call("getmempooldescendants", shown(first), True)
    assert set(verbose) == {shown(middle), shown(last)} and verbose[shown(middle)] == entry
    assert await call("getrawmempool") == [shown(first), shown(middle), shown(last)]
    sequence = await call("getrawmempool", False, True)
    assert sequence == {"txids": [shown(first), shown(middle), shown(last)], "mempool_sequence": 4}
    assert await refused(call, "getrawmempool", True, True) == (
        -8,
        "Verbose results cannot contain mempool sequence values.",
    )


async def test_info_when_asked_then_sums_and_bounds(call: Call, signed: SignedChain) -> None:
    txs = family(signed)
    info = await call("getmempoolinfo")
    pool = signed.chain.mempool
    assert (info["size"], info["bytes"]) == (3, sum(tx.vsize for tx in txs))
    assert info["usage"] == pool.usage_bytes and info["total_fee"] * 10**8 == pool.fees_sats
    assert (info["maxmempool"], info["fullrbf"]) == (300_000_000, False)
    assert info["mempoolminfee"] == info["minrelaytxfee"] == Decimal("0.00000100")


async def test_spenders_when_asked_then_named_or_left_out(call: Call, signed: SignedChain) -> None:
    first, middle, _ = family(signed)
    place = {"txid": shown(first), "vout": 0}
    other = {"txid": "00" * 32, "vout": 7}
    assert await call("gettxspendingprevout", [place, other]) == [
        place | {"spendingtxid": shown(middle)},
        other,
    ]


@pytest.mark.parametrize(
    ("outputs", "code", "message"),
    [
        ([], -8, "Invalid parameter, outputs are missing"),
        ([1], -3, "JSON value of type number is not of expected type object"),
        ([{"txid": "00" * 32}], -3, "Missing vout"),
        (
            [{"txid": 1, "vout": 1}],
            -3,
            "JSON value of type number for field txid is not of expected type string",
        ),
        ([{"txid": "00" * 32, "vout": 1, "x": 1}], -3, "Unexpected key x"),
        (
            [{"txid": "00" * 32, "vout": -1}],
            -8,
            "Invalid parameter, vout cannot be negative",
        ),
    ],
)
async def test_spenders_when_asked_wrongly_then_refused(
    call: Call, outputs: list[Any], code: int, message: str
) -> None:
    assert await refused(call, "gettxspendingprevout", outputs) == (code, message)


async def test_priority_when_set_then_listed(call: Call, signed: SignedChain) -> None:
    first, _, _ = family(signed)
    await call("prioritisetransaction", shown(first), 0, 300)
    await call("prioritisetransaction", "09" * 32, None, -7)
    entry = signed.chain.mempool.get(first.txid)
    assert entry is not None
    assert await call("getprioritisedtransactions") == {
        shown(first): {
            "fee_delta": 300,
            "in_mempool": True,
            "modified_fee": entry.fee_sats + 300,
        },
        "09" * 32: {"fee_delta": -7, "in_mempool": False},
    }
    code, message = await refused(call, "prioritisetransaction", shown(first), 1, 5)
    assert code == -8 and message.startswith("Priority is no longer supported")


async def test_file_when_saved_and_imported_then_named(
    call: Call, signed: SignedChain, tmp_path: Path
) -> None:
    first, _, _ = family(signed)
    saved = await call("savemempool")
    assert saved == {"filename": str(tmp_path / "pool.dat")}
    signed.chain.mempool.remove(first.txid)
    assert await call("importmempool", saved["filename"]) == {}
    assert len(signed.chain.mempool) == 3
    wrong = await refused(call, "importmempool", str(tmp_path / "none"))
    assert wrong == (-1, "Unable to import mempool file, see debug.log for details.")
    code, _ = await refused(call, "importmempool", saved["filename"], {"speed": True})
    assert code == -8
    assert await call("getorphantxs") == []
    assert (await refused(call, "getorphantxs", 3))[0] == -8


# --- judging and sending ------------------------------------------------------------------------


async def test_several_when_tested_then_each_in_turn(call: Call, signed: SignedChain) -> None:
    point = signed.mint(ALICE, 10**8)
    parent = signed.payment(ALICE, [point], [(ALICE.script, 10**7)])
    signed.chain.submit_tx(parent, None, NOW_S)
    child = signed.payment(ALICE, [OutPoint(parent.txid, 0)], [(BOB.script, 10**6)])
    signed.chain.mempool.clear()
    first, second = await call("testmempoolaccept", [parent.raw.hex(), child.raw.hex()])
    assert first["allowed"] and second["allowed"] and second["vsize"] == child.vsize
    assert second["fees"]["effective-includes"] == [child.wtxid[::-1].hex()]
    unsorted = await call("testmempoolaccept", [child.raw.hex(), parent.raw.hex()])
    assert [each["package-error"] for each in unsorted] == ["package-not-sorted"] * 2
    assert "allowed" not in unsorted[0]
    (missing,) = await call("testmempoolaccept", [child.raw.hex()])
    assert missing["reject-reason"] == "missing-inputs" and "reject-details" not in missing
    first, second = await call("testmempoolaccept", [parent.raw.hex(), child.raw.hex()], "0.00001")
    assert first["reject-reason"] == "max-fee-exceeded" and "reject-details" not in first
    assert "allowed" not in second


async def test_package_when_submitted_then_results_by_wtxid(
    call: Call, signed: SignedChain, relayed: list[bytes]
) -> None:
    point = signed.mint(ALICE, 10**8)
    parent = signed.payment(ALICE, [point], [(ALICE.script, 10**7)])
    signed.chain.submit_tx(parent, None, NOW_S)
    child = signed.payment(ALICE, [OutPoint(parent.txid, 0)], [(BOB.script, 10**6)])
    answer = await call("submitpackage", [parent.raw.hex(), child.raw.hex()])
    assert answer["package_msg"] == "success" and answer["replaced-transactions"] == []
    held, new = (answer["tx-results"][tx.wtxid[::-1].hex()] for tx in (parent, child))
    assert "effective-feerate" not in held["fees"] and "effective-feerate" in new["fees"]
    assert relayed == [parent.txid, child.txid]
    other = Transaction.build(
        inputs=parent.inputs,
        outputs=parent.outputs,
        input_witnesses=[InputWitness(script=(b"x",))],
    )
    answer = await call("submitpackage", [other.raw.hex()])
    result = answer["tx-results"][other.wtxid[::-1].hex()]
    assert result == {"txid": shown(parent), "other-wtxid": parent.wtxid[::-1].hex()}
    assert await refused(call, "submitpackage", [child.raw.hex(), parent.raw.hex()]) == (
        -25,
        "package topology disallowed. not child-with-parents or parents depend on each other.",
    )
    low = signed.payment(ALICE, [signed.mint(ALICE, 10**7)], [(BOB.script, 10**6)], fee_sats=1)
    answer = await call("submitpackage", [low.raw.hex()])
    assert answer["package_msg"] == "transaction failed"
    assert answer["tx-results"][low.wtxid[::-1].hex()]["error"].startswith("min relay fee not met")


async def test_sent_when_own_then_unbroadcast(
    call: Call, signed: SignedChain, relayed: list[bytes]
) -> None:
    tx = signed.payment(ALICE, [signed.mint(ALICE, 10**8)], [(BOB.script, 10**6)])
    assert await call("sendrawtransaction", tx.raw.hex()) == shown(tx)
    assert (await call("getmempoolentry", shown(tx)))["unbroadcast"]
    assert relayed == [tx.txid]


BURN = "Unspendable output exceeds maximum configured by user (maxburnamount)"


@pytest.mark.parametrize(
    ("script", "is_burnt"),
    [
        (b"\x6a\x01\x02", True),
        (b"\x51" * 10_001, True),
        (b"\xe5", True),
        (b"\xe4", False),
        (b"\x02\x01", True),
        (push(bytes(521)), True),
        (push(bytes(520)), False),
    ],
)
async def test_burn_when_nobody_could_spend_it_then_only_on_demand(
    call: Call, signed: SignedChain, script: bytes, is_burnt: bool
) -> None:
    tx = signed.payment(ALICE, [signed.mint(ALICE, 10**8)], [(script, 5_000)])
    failure = await refused(call, "sendrawtransaction", tx.raw.hex(), 0, "0.00004999")
    assert (failure == (-25, BURN)) is is_burnt
    if script != b"\x6a\x01\x02":
        failure = await refused(call, "sendrawtransaction", tx.raw.hex(), 0, "0.00005")
        assert failure == (-26, "scriptpubkey")
    if is_burnt:
        assert await refused(call, "submitpackage", [tx.raw.hex()]) == (-25, BURN)


async def test_nonce_when_output_is_explicit_then_refused(call: Call, signed: SignedChain) -> None:
    tx = signed.payment(ALICE, [signed.mint(ALICE, 10**8)], [(BOB.script, 5_000)])
    first = tx.outputs[0]
    odd = TxOut(first.asset, first.value, ALICE.pubkey, first.script)
    tx = Transaction.build(inputs=tx.inputs, outputs=[odd, *tx.outputs[1:]])
    code, message = await refused(call, "sendrawtransaction", tx.raw.hex())
    assert code == -25 and message.startswith("Transaction output has nonce, but is not blinded.")
    assert output(signed.params, b"", 1).is_fee


@pytest.mark.parametrize(
    ("maxfeerate", "code"), [("1", -8), ("0.99999999", None), (True, -3), ("x", -3)]
)
async def test_fee_limit_when_odd_then_refused(
    call: Call, signed: SignedChain, maxfeerate: Any, code: int | None
) -> None:
    tx = signed.payment(ALICE, [signed.mint(ALICE, 10**8)], [(BOB.script, 5_000)])
    if code is None:
        assert (await call("testmempoolaccept", [tx.raw.hex()], maxfeerate))[0]["allowed"]
    else:
        failure = await refused(call, "testmempoolaccept", [tx.raw.hex()], maxfeerate)
        assert failure[0] == code
