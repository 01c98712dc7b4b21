"""The Esplora server over a real socket: histories, pages, the mempool, sending, limits."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain.api import esplora_reads, esplora_scripts
from sidechain.api.esplora import EsploraServer, Limits
from sidechain.api.esplora_blocks import merkle_branch
from sidechain.api.esplora_mempool import Rate, histogram, rate_for
from sidechain.crypto.hashes import merkle_root, sha256, sha256d
from sidechain.crypto.keys import public_key
from sidechain.errors import InvariantError
from sidechain.index.follower import ChainIndex
from sidechain.index.rows import script_prefix
from sidechain.index.store import IndexDamaged
from sidechain.primitives.address import encode_address
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.factories import ALICE, BOB, SignedChain, Wallet, secret
from tests.sidechain.esplora_world import NOW_S, Served, served
from tests.vectors import display

CAROL = Wallet("carol")


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


@pytest.fixture
async def node(signed: SignedChain, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(signed.chain, tmp_path / "index") as running:
        yield running
    signed.chain.close()
    assert running.faults == []


def address(signed: SignedChain, owner: Wallet, blinding_key: bytes | None = None) -> str:
    return encode_address(owner.script, signed.params.prefixes, blinding_key)


def pay_bob(signed: SignedChain, count: int) -> list[Transaction]:
    """So many payments of one coin of ALICE, two in every block."""
    point, paid = signed.mint(ALICE, 10**8), []
    for _ in range(count // 2):
        pair = []
        for _ in range(2):
            made = {point: signed.chain.coin(point)}
            if made[point] is None:
                signed.chain.submit_tx(pair[-1], None, NOW_S)
            pair.append(signed.payment(ALICE, [point], [(BOB.script, 1_000)]))
            point = OutPoint(pair[-1].txid, 1)
        signed.extend(pair)
        paid += pair
    return paid


# --- the routes lwk asks for -------------------------------------------------------------------


async def test_tip_and_headers_when_asked_then_as_stored(signed: SignedChain, node: Served) -> None:
    signed.extend()
    tip = await node.text("/blocks/tip/hash")
    assert tip == display(signed.chain.tip_hash)
    assert await node.text("/blocks/tip/height") == "1"
    header = bytes.fromhex(await node.text(f"/block/{tip}/header"))
    assert BlockHeader.read(Reader(header), signed.params) == signed.chain.header(1)
    assert await node.text("/block-height/0") == display(signed.params.genesis_hash)
    assert await node.reply("/block-height/2") == (404, "Block not found")
    assert await node.reply("/block-height/x") == (400, "Invalid number")
    assert (await node.reply(f"/block/{'0' * 64}/header"))[0] == 404
    assert await node.reply("/block/xyz/header") == (400, "Invalid hash string")


async def test_history_when_paged_then_newest_first_until_an_empty_page(
    signed: SignedChain, node: Served
) -> None:
    paid = pay_bob(signed, 60)
    base, seen = f"/address/{address(signed, BOB)}/txs/chain", []
    path, sizes = base, []
    while page := await node.get(path):
        sizes.append(len(page))
        seen += [tx["txid"] for tx in page]
        path = f"{base}/{seen[-1]}"
    assert sizes == [25, 25, 10]
    assert seen == [display(tx.txid) for tx in reversed(paid)]
    by_script = await node.get(f"/scripthash/{sha256(BOB.script).hex()}/txs/chain")
    assert by_script == await node.get(base)
    place = by_script[0]["status"]
    assert (place["confirmed"], place["block_height"]) == (True, 31)
    assert place["block_hash"] == display(signed.chain.tip_hash)
    assert await node.get(f"{base}/{'0' * 64}") == []
    strange = signed.chain.block(5).transactions[0].txid
    assert await node.get(f"{base}/{display(strange)}") == []


async def test_address_when_confidential_then_means_its_script(
    signed: SignedChain, node: Served
) -> None:
    pay_bob(signed, 2)
    key = public_key(secret("blinding"))
    hidden, plain = address(signed, BOB, key), address(signed, BOB)
    assert hidden != plain
    assert await node.get(f"/address/{hidden}/txs") == await node.get(f"/address/{plain}/txs")
    assert (await node.get(f"/address/{hidden}"))["address"] == hidden
    status, text = await node.reply("/address/ert1nonsense/txs")
    assert status == 400 and text
    assert (await node.reply(f"/address/{'q' * 300}/txs"))[0] == 400
    assert (await node.reply("/scripthash/00/txs"))[0] == 400


async def test_mempool_when_payment_waits_then_shown_until_it_is_mined(
    signed: SignedChain, node: Served
) -> None:
    point = signed.mint(ALICE, 10**8)
    tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    base, txid = f"/address/{address(signed, BOB)}", display(tx.txid)
    assert await node.get(f"{base}/txs/mempool") == []
    assert await node.post(tx.raw.hex() + "\n") == (200, txid)
    assert node.relayed == [tx]
    (waiting,) = await node.get(f"{base}/txs/mempool")
    assert (waiting["txid"], waiting["status"]) == (txid, {"confirmed": False})
    assert await node.get(f"{base}/txs/chain") == []
    async with node.session.get(f"{node.server.url}/tx/{txid}/raw") as response:
        assert await response.read() == tx.raw
        assert response.content_type == "application/octet-stream"
    assert await node.get(f"/tx/{txid}/status") == {"confirmed": False}
    signed.extend([tx])
    assert await node.get(f"{base}/txs/mempool") == []
    (mined,) = await node.get(f"{base}/txs/chain")
    assert mined["status"] == await node.get(f"/tx/{txid}/status")
    assert await node.text(f"/tx/{txid}/hex") == tx.raw.hex()


async def test_send_when_refused_then_reason_is_the_text_of_a_400(
    signed: SignedChain, node: Served
) -> None:
    point = signed.mint(ALICE, 10**8)
    cheap = signed.payment(ALICE, [point], [(BOB.script, 5_000)], fee_sats=1)
    status, text = await node.post(cheap.raw.hex())
    assert status == 400 and text.startswith("min relay fee not met, 1 < ")
    orphan = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    signed.chain.disconnect_tip(NOW_S)
    assert await node.post(orphan.raw.hex()) == (400, "bad-txns-inputs-missingorspent")
    for wrong in ("", "zz", "00", orphan.raw.hex()[:-2]):
        status, text = await node.post(wrong)
        assert status == 400 and text.startswith("TX decode failed")
    assert await node.reply("/tx", "POST", data=b"\xff\xfe") == (400, "the body is not text")
    assert signed.chain.mempool.txids() == [] and node.relayed == []


# --- what explorers ask for --------------------------------------------------------------------


async def test_summary_and_coins_when_received_and_spent_then_counted(
    signed: SignedChain, node: Served
) -> None:
    paid = pay_bob(signed, 4)
    coins = [OutPoint(tx.txid, 0) for tx in paid]
    onward = signed.payment(BOB, coins[:2], [(CAROL.script, 1_500)], fee_sats=500)
    signed.extend([onward])
    pending = signed.payment(BOB, coins[2:3], [(BOB.script, 400)], fee_sats=600)
    assert (await node.post(pending.raw.hex()))[0] == 200
    base = f"/address/{address(signed, BOB)}"
    assert await node.get(base) == {
        "address": address(signed, BOB),
        "chain_stats": {"tx_count": 5, "funded_txo_count": 4, "spent_txo_count": 2},
        "mempool_stats": {"tx_count": 1, "funded_txo_count": 1, "spent_txo_count": 1},
    }
    unspent = await node.get(f"{base}/utxo")
    assert [(c["txid"], c["vout"], c["value"], c["status"]["confirmed"]) for c in unspent] == [
        (display(pending.txid), 0, 400, False),
        (display(paid[3].txid), 0, 1_000, True),
    ]
    assert unspent[0]["asset"] == display(signed.params.pegged_asset)
    both = [tx["txid"] for tx in await node.get(f"{base}/txs")]
    expected = [pending.txid, onward.txid, *[tx.txid for tx in reversed(paid)]]
    assert both == [display(txid) for txid in expected]

    spent = await node.get(f"/tx/{display(paid[0].txid)}/outspends")
    assert spent[0] == {
        "spent": True,
        "txid": display(onward.txid),
        "vin": 0,
        "status": await node.get(f"/tx/{display(onward.txid)}/status"),
    }
    assert spent[0] == await node.get(f"/tx/{display(paid[0].txid)}/outspend/0")
    waiting = await node.get(f"/tx/{display(paid[2].txid)}/outspend/0")
    assert (waiting["txid"], waiting["status"]) == (display(pending.txid), {"confirmed": False})
    assert await node.get(f"/tx/{'0' * 64}/outspend/7") == {"spent": False}
    assert (await node.reply(f"/tx/{'0' * 64}/outspends"))[0] == 404


async def test_reorganisation_when_tip_is_replaced_then_the_new_chain_is_shown(
    signed: SignedChain, node: Served
) -> None:
    point = signed.mint(ALICE, 10**8)
    first = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    signed.extend([first])
    old = await node.text("/blocks/tip/hash")
    base = f"/address/{address(signed, BOB)}/txs"
    assert (await node.get(base))[0]["status"]["block_hash"] == old
    signed.chain.disconnect_tip(NOW_S)
    assert [tx["status"] for tx in await node.get(base)] == [{"confirmed": False}]
    second = signed.payment(ALICE, [point], [(CAROL.script, 7_000)], fee_sats=2_000)
    signed.extend([second])
    signed.extend()
    assert await node.get(base) == []
    spender = await node.get(f"/tx/{display(point.txid)}/outspend/{point.index}")
    assert spender["txid"] == display(second.txid)
    assert await node.get(f"/block/{old}/status") == {"in_best_chain": False}
    assert (await node.reply(f"/block/{old}"))[0] == 404
    assert await node.get(f"/tx/{display(first.txid)}/status") == {"confirmed": False}
    assert (await node.reply(f"/tx/{display(first.txid)}"))[0] == 404


async def test_blocks_when_listed_then_ten_from_a_height_down(
    signed: SignedChain, node: Served
) -> None:
    for _ in range(12):
        signed.extend()
    assert [block["height"] for block in await node.get("/blocks")] == list(range(12, 2, -1))
    low = await node.get("/blocks/4")
    assert [block["height"] for block in low] == [4, 3, 2, 1, 0]
    assert low[-1]["previousblockhash"] is None
    assert low[0]["previousblockhash"] == low[1]["id"]
    assert (await node.reply("/blocks/13"))[0] == 404
    block = await node.get(f"/block/{low[0]['id']}")
    ext = block.pop("ext")
    assert block == low[0] and ext["proposed"] == {} and len(ext["signblock_witness"]) == 5
    status = await node.get(f"/block/{low[1]['id']}/status")
    assert status == {"in_best_chain": True, "height": 3, "next_best": low[0]["id"]}


async def test_block_when_paged_then_all_its_transactions_and_proofs(
    signed: SignedChain, node: Served
) -> None:
    point = signed.mint(ALICE, 10**8)
    fan = signed.payment(ALICE, [point], [(ALICE.script, 100_000)] * 30)
    signed.extend([fan])
    signed.extend(
        [signed.payment(ALICE, [OutPoint(fan.txid, i)], [(BOB.script, 9_000)]) for i in range(30)]
    )
    block = signed.chain.block(3)
    base = f"/block/{display(block.hash)}"
    txids = await node.get(f"{base}/txids")
    assert txids == [display(tx.txid) for tx in block.transactions]
    pages = [await node.get(f"{base}/txs"), await node.get(f"{base}/txs/25")]
    assert [tx["txid"] for page in pages for tx in page] == txids
    assert [len(page) for page in pages] == [25, 6]
    assert (await node.reply(f"{base}/txs/24"))[0] == 400
    assert (await node.reply(f"{base}/txs/50"))[0] == 400
    assert await node.text(f"{base}/txid/30") == txids[30]
    assert (await node.reply(f"{base}/txid/31"))[0] == 404
    async with node.session.get(f"{node.server.url}{base}/raw") as response:
        assert await response.read() == block.serialize()
    proof = await node.get(f"/tx/{txids[17]}/merkle-proof")
    digest, position = block.transactions[17].txid, proof["pos"]
    assert (proof["block_height"], position) == (3, 17)
    for sibling in proof["merkle"]:
        pair = [digest, bytes.fromhex(sibling)[::-1]]
        digest = sha256d(b"".join(pair if position % 2 == 0 else pair[::-1]))
        position //= 2
    assert digest == block.header.merkle_root


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_merkle_branch_when_any_count_then_leads_to_the_root(count: int) -> None:
    txids = [sha256(bytes([number])) for number in range(count)]
    for position in range(count):
        digest, at = txids[position], position
        for sibling in merkle_branch(txids, position):
            digest = sha256d(sibling + digest) if at % 2 else sha256d(digest + sibling)
            at //= 2
        assert digest == merkle_root(txids)[0]


async def test_asset_when_pegged_then_its_supply_is_told(signed: SignedChain, node: Served) -> None:
    point = signed.mint(ALICE, 10**6)
    burn = signed.payment(ALICE, [point], [(b"\x6a", 5_000)], fee_sats=1_000)
    signed.chain.submit_tx(burn, None, NOW_S)
    asset = display(signed.params.pegged_asset)
    shown = await node.get(f"/asset/{asset}")
    # FEE_SATS of the claim went through the coinbase's burn of fees
    assert shown["chain_stats"] == {
        "tx_count": 2,
        "peg_in_count": 1,
        "peg_in_amount": 10**6 + 1_000,
        "peg_out_count": 0,
        "peg_out_amount": 0,
        "burn_count": 1,
        "burned_amount": 1_000,
    }
    assert shown["mempool_stats"]["burned_amount"] == 5_000
    history = await node.get(f"/asset/{asset}/txs")
    claim = signed.chain.block(1).transactions[1]
    coinbase = signed.chain.block(1).transactions[0]
    expected = [burn.txid, claim.txid, coinbase.txid]
    assert [tx["txid"] for tx in history] == [display(txid) for txid in expected]
    assert [t["txid"] for t in await node.get(f"/asset/{asset}/txs/mempool")] == [
        display(burn.txid)
    ]
    behind = await node.get(f"/asset/{asset}/txs/chain/{display(claim.txid)}")
    assert [tx["txid"] for tx in behind] == [display(coinbase.txid)]
    assert await node.reply(f"/asset/{'0' * 64}") == (404, "Asset id not found")


async def test_backlog_when_payments_wait_then_sizes_fees_and_rates(
    signed: SignedChain, node: Served
) -> None:
    point = signed.mint(ALICE, 10**8)
    assert (await node.get("/fee-estimates"))["2"] == Decimal("0.1")
    tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)], fee_sats=4_000)
    signed.chain.submit_tx(tx, None, NOW_S)
    entry = signed.chain.mempool.get(tx.txid)
    assert entry is not None
    backlog = await node.get("/mempool")
    assert (backlog["count"], backlog["total_fee"]) == (1, 4_000)
    assert backlog["vsize"] == entry.discount_vsize == backlog["fee_histogram"][0][1]
    assert await node.get("/mempool/txids") == [display(tx.txid)]
    (recent,) = await node.get("/mempool/recent")
    assert (recent["txid"], recent["fee"], recent["vsize"]) == (display(tx.txid), 4_000, tx.vsize)


def test_rates_when_blocks_are_full_then_better_than_what_is_left_out() -> None:
    rates = [Rate(9_000, 600_000), Rate(5_000, 600_000), Rate(200, 900_000)]
    assert [rate_for(rates, blocks, 100) for blocks in (1, 2, 3)] == [5_001, 201, 100]
    assert rate_for(rates, 1, 7_000) == 7_000
    assert histogram([Rate(101, 40_000)] * 3) == [[Decimal("0.101"), 120_000]]
    assert [size for _, size in histogram(rates)] == [600_000, 600_000, 900_000]


# --- the server --------------------------------------------------------------------------------


async def test_replies_when_any_then_browsers_may_read_and_nothing_is_kept(
    signed: SignedChain, node: Served
) -> None:
    for method, path, status in (
        ("GET", "/blocks/tip/hash", 200),
        ("HEAD", "/blocks/tip/hash", 200),
        ("OPTIONS", "/tx", 204),
        ("GET", "/nowhere", 404),
        ("DELETE", "/tx", 405),
        ("GET", f"/tx/{'0' * 64}", 404),
    ):
        async with node.session.request(method, node.server.url + path) as response:
            assert response.status == status, path
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Cache-Control"] == "no-store"
            assert method != "HEAD" or await response.read() == b""
    assert await node.reply("/nowhere") == (404, "endpoint /nowhere not found")


TIP, FIRST, BOBS = "the-tip", "the-first-transaction", "bobs-address"
SEGMENTS = (
    *(TIP, FIRST, BOBS),
    *("blocks", "block", "block-height", "tx", "address", "scripthash", "asset", "mempool"),
    *("fee-estimates", "txs", "txid", "txids", "chain", "utxo", "outspend", "outspends"),
    *("status", "header", "raw", "hex", "merkle-proof", "recent", "tip", "hash", "height"),
    *("0", "1", "25", "-1", "4294967295", "4294967296", "9" * 40, "0x1", "\u0661"),
    *("0" * 64, "f" * 64, "g" * 64, "F" * 64, " " * 64, "\u0661" * 64, "%00", "..", ""),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.lists(st.sampled_from(SEGMENTS) | st.text(max_size=8), max_size=5),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT"]),
    body=st.sampled_from([b"", b"00", b"\xff"]),
)
async def test_request_when_it_is_anything_then_answered_without_a_fault(
    signed: SignedChain, node: Served, path: list[str], method: str, body: bytes
) -> None:
    known = {
        TIP: display(signed.chain.tip_hash),
        FIRST: display(signed.chain.block(0).transactions[0].txid),
        BOBS: address(signed, BOB),
    }
    asked = "/" + "/".join(quote(known.get(word, word), safe="%") for word in path)
    status, _ = await node.reply(asked, method, data=body, allow_redirects=False)
    assert status in (200, 400, 404, 405), (method, asked)
    assert node.faults == []


def test_server_when_not_on_loopback_then_refused(signed: SignedChain, tmp_path: Path) -> None:
    async def send(tx_hex: str) -> str:
        return tx_hex

    index = ChainIndex.open(tmp_path / "index", signed.chain)
    with pytest.raises(ValueError, match="loopback"):
        EsploraServer(signed.chain, index, send=send, host="0.0.0.0")
    server = EsploraServer(signed.chain, index, send=send, host="::1")
    with pytest.raises(RuntimeError):
        _ = server.port
    index.close()
    signed.chain.close()


async def test_limits_when_reached_then_refused(signed: SignedChain, tmp_path: Path) -> None:
    limits = Limits(body_bytes=1_000, connections=2, concurrent_requests=1, waiting_requests=1)
    async with served(signed.chain, tmp_path / "index", limits=limits) as node:
        assert (await node.post("00" * 1_000))[0] == 413
        node.server._waiting = 1
        assert await node.reply("/blocks/tip/hash") == (503, "too many requests")
        node.server._waiting = 0
        port, opened = node.server.port, []
        for _ in range(3):
            opened.append(await asyncio.open_connection("127.0.0.1", port))
        reader, _ = opened[-1]
        assert await reader.read() == b""
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()
    signed.chain.close()


async def test_index_when_behind_then_asked_to_come_again(
    signed: SignedChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(esplora_reads, "CATCH_UP_WAIT_S", 0)
    async with served(signed.chain, tmp_path / "index") as node:
        assert await node.index.reach_tip(60)
        monkeypatch.setattr(ChainIndex, "is_at_tip", property(lambda self: False))
        status, text = await node.reply(f"/address/{address(signed, BOB)}/txs/chain")
        assert status == 503 and "not at the tip" in text
        assert (await node.reply("/blocks/tip/hash"))[0] == 200
    signed.chain.close()


async def test_history_when_very_long_then_pages_but_no_summary(
    signed: SignedChain, node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    pay_bob(signed, 6)
    monkeypatch.setattr(esplora_scripts, "HISTORY_ROWS_MAX", 5)
    base = f"/address/{address(signed, BOB)}"
    assert (await node.reply(base))[0] == 400
    assert (await node.reply(f"{base}/utxo"))[0] == 400
    assert len(await node.get(f"{base}/txs/chain")) == 6
    monkeypatch.setattr(esplora_scripts, "HISTORY_ROWS_MAX", 6)
    monkeypatch.setattr(esplora_scripts, "UNSPENT_MAX", 5)
    assert (await node.reply(f"{base}/utxo"))[0] == 400
    assert (await node.get(base))["chain_stats"]["tx_count"] == 6


async def test_page_when_transactions_are_large_then_shorter_but_never_empty(
    signed: SignedChain, node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    paid = pay_bob(signed, 6)
    base = f"/address/{address(signed, BOB)}/txs/chain"
    for limit, count in ((1, 1), (paid[0].total_size * 2 + 10, 2)):
        monkeypatch.setattr(esplora_reads, "PAGE_BYTES_MAX", limit)
        seen: list[str] = []
        path = base
        while page := await node.get(path):
            assert len(page) == count
            seen += [tx["txid"] for tx in page]
            path = f"{base}/{seen[-1]}"
        assert seen == [display(tx.txid) for tx in reversed(paid)]


async def test_handler_when_broken_then_500_and_the_owner_is_told(
    signed: SignedChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(signed.chain, tmp_path / "index") as node:
        assert await node.index.reach_tip(60)

        def broken(height: int) -> Any:
            raise InvariantError("our bug")

        monkeypatch.setattr(signed.chain, "header", broken)
        assert await node.reply("/block-height/0") == (500, "internal error: InvariantError")
        assert [str(fault) for fault in node.faults] == ["our bug"]
    signed.chain.close()


async def test_index_when_damaged_then_made_anew_and_served_again(
    signed: SignedChain, tmp_path: Path
) -> None:
    async with served(signed.chain, tmp_path / "index") as node:
        pay_bob(signed, 2)
        base = f"/address/{address(signed, BOB)}/txs/chain"
        before = await node.get(base)
        (row, _) = node.index.store.history(sha256(BOB.script))
        key = script_prefix(sha256(BOB.script)) + row.place.pack()
        node.index.store._database.write({key: b"damaged"})
        assert await node.reply(base) == (503, "the index is made anew")
        assert [type(fault) for fault in node.faults] == [IndexDamaged]
        while (await node.reply(base))[0] == 503:
            await node.index.reach_tip(60)
        assert await node.get(base) == before
    signed.chain.close()


async def test_connections_when_server_stops_then_closed(
    signed: SignedChain, tmp_path: Path
) -> None:
    async with served(signed.chain, tmp_path / "index") as node:
        url = node.server.url
        assert (await node.reply("/blocks/tip/hash"))[0] == 200
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url)
    signed.chain.close()
