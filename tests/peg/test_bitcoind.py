"""The Bitcoin client: transport against a server of the test's own, calls against a real node."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from peg.bitcoind import (
    BitcoindClient,
    BitcoindError,
    amount_sats,
    amount_text,
    from_hex,
    to_hex,
)
from sidechain.errors import Unavailable
from sidechain.primitives.parent import parse_merkle_block, parse_parent_block, parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.conftest import RegtestNode

WALLET = "tests"


class FakeNode:
    """Answers each request by the next of its scripted answers."""

    def __init__(self) -> None:
        self.answers: list[Callable[[Any], web.StreamResponse]] = []
        self.requests: list[Any] = []
        self.credentials: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        body = await request.json()
        self.requests.append(body)
        shown = request.headers["Authorization"].removeprefix("Basic ")
        self.credentials.append(base64.b64decode(shown).decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(body)


def result(value: Any) -> Callable[[Any], web.StreamResponse]:
    """A plain answer."""
    return lambda body: web.json_response({"id": body["id"], "result": value, "error": None})


def error(code: int, status: int = 500) -> Callable[[Any], web.StreamResponse]:
    """An RPC error."""
    return lambda body: web.json_response(
        {"id": body["id"], "result": None, "error": {"code": code, "message": "no"}}, status=status
    )


def status(number: int, text: str = "") -> Callable[[Any], web.StreamResponse]:
    """An answer without JSON."""
    return lambda _: web.Response(status=number, text=text)


@pytest.fixture
async def fake() -> AsyncIterator[FakeNode]:
    """A scripted node."""
    node = FakeNode()
    app = web.Application()
    app.router.add_post("/{rest:.*}", node.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    node.url = f"http://{host}:{port}"
    yield node
    await runner.cleanup()


@pytest.fixture
async def client(fake: FakeNode, tmp_path: Path) -> AsyncIterator[BitcoindClient]:
    """A client of the scripted node."""
    (tmp_path / ".cookie").write_text("__cookie__:first")
    async with BitcoindClient(fake.url, cookie_path=tmp_path / ".cookie", retry_ms=2_000) as found:
        yield found


async def test_call_when_cookie_was_renewed_then_it_is_read_again(
    fake: FakeNode, client: BitcoindClient, tmp_path: Path
) -> None:
    fake.answers = [result(1), status(401), result(2)]
    assert await client.block_count() == 1
    (tmp_path / ".cookie").write_text("__cookie__:second")
    assert await client.block_count() == 2
    assert fake.credentials == ["__cookie__:first", "__cookie__:first", "__cookie__:second"]


async def test_call_when_credentials_stay_wrong_then_unavailable(
    fake: FakeNode, client: BitcoindClient
) -> None:
    fake.answers = [status(401)]
    with pytest.raises(Unavailable, match="credentials"):
        await client.block_count()


async def test_call_when_node_warms_up_or_is_busy_then_repeated(
    fake: FakeNode, client: BitcoindClient
) -> None:
    fake.answers = [error(-28), status(503), result(7)]
    assert await client.block_count() == 7
    assert len(fake.requests) == 3


async def test_call_when_node_refuses_then_error_at_once(
    fake: FakeNode, client: BitcoindClient
) -> None:
    fake.answers = [error(-8)]
    with pytest.raises(BitcoindError) as caught:
        await client.block_hash(5)
    assert caught.value.code == -8
    assert len(fake.requests) == 1


async def test_call_when_not_repeatable_and_answer_is_lost_then_sent_once(
    fake: FakeNode, client: BitcoindClient
) -> None:
    fake.answers = [status(500, "<html>")]
    with pytest.raises(Unavailable):
        await client.call("generatetoaddress", 1, "x", repeatable=False)
    assert len(fake.requests) == 1


async def test_call_when_nobody_listens_then_unavailable(tmp_path: Path) -> None:
    (tmp_path / ".cookie").write_text("a:b")
    async with BitcoindClient(
        "http://127.0.0.1:1", cookie_path=tmp_path / ".cookie", retry_ms=0
    ) as client:
        with pytest.raises(Unavailable, match="reached"):
            await client.block_count()


async def test_call_when_cookie_is_missing_then_unavailable(tmp_path: Path) -> None:
    async with BitcoindClient(
        "http://127.0.0.1:1", cookie_path=tmp_path / "none", retry_ms=0
    ) as client:
        with pytest.raises(Unavailable, match="cookie"):
            await client.block_count()


async def test_call_when_node_is_silent_then_unavailable_in_time(tmp_path: Path) -> None:
    finished = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await finished.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with BitcoindClient(
        f"http://127.0.0.1:{port}", user="u", password="p", timeout_ms=50, retry_ms=0
    ) as client:
        with pytest.raises(Unavailable, match="within"):
            await client.block_count()
    finished.set()
    server.close()
    await server.wait_closed()


async def test_batch_when_replies_come_in_any_order_then_results_in_order_of_calls(
    fake: FakeNode, client: BitcoindClient
) -> None:
    def backwards(body: Any) -> web.StreamResponse:
        replies = [{"id": one["id"], "result": one["params"][0], "error": None} for one in body]
        return web.json_response(list(reversed(replies)))

    fake.answers = [backwards]
    assert await client.batch([("echo", (i,)) for i in range(5)]) == list(range(5))


async def test_estimate_when_rate_is_fractional_then_rounded_up(
    fake: FakeNode, client: BitcoindClient
) -> None:
    def raw(body: Any) -> web.StreamResponse:
        text = f'{{"id": {body["id"]}, "error": null, "result": {{"feerate": 0.000010001}}}}'
        return web.Response(text=text, content_type="application/json")

    fake.answers = [raw]
    assert await client.estimate_fee_sats_per_kvb() == 1_001


def test_amounts_when_exact_then_no_satoshi_is_lost() -> None:
    assert amount_sats(json.loads("20999999.9769", parse_float=Decimal)) == 2_099_999_997_690_000
    assert amount_sats(Decimal("-0.00000001")) == -1
    assert amount_text(2_099_999_997_690_000) == "20999999.97690000"
    assert amount_text(-5) == "-0.00000005"
    with pytest.raises(ValueError, match="finer"):
        amount_sats(Decimal("0.000000001"))


def test_hex_when_shown_then_reversed() -> None:
    assert to_hex(bytes(range(32))) == bytes(range(31, -1, -1)).hex()
    assert from_hex(to_hex(bytes(range(32)))) == bytes(range(32))


@pytest.mark.e2e
async def test_node_when_paid_and_mined_then_all_calls_agree(bitcoind: BitcoindClient) -> None:
    await bitcoind.create_wallet(WALLET)
    await bitcoind.create_wallet(WALLET)
    address = await bitcoind.new_address(WALLET)
    await bitcoind.generate(101, address)
    script = b"\x00\x20" + bytes(range(32))
    outpoint = await bitcoind.send_to_script(WALLET, script, 1_234_567)

    waiting = await bitcoind.find_transaction(outpoint.txid)
    assert waiting is not None
    assert waiting.block_hash is None
    parsed = parse_parent_tx(waiting.raw)
    assert parsed.txid == outpoint.txid
    assert parsed.outputs[outpoint.index] == (1_234_567, script)
    entry = await bitcoind.mempool_entry(outpoint.txid)
    assert entry is not None
    assert entry.vsize == parsed.vsize
    assert await bitcoind.mempool_txids() == (outpoint.txid,)
    assert await bitcoind.spending_txid(parsed.inputs[0]) == outpoint.txid
    assert await bitcoind.spending_txid(outpoint) is None
    assert await bitcoind.tx_out(outpoint, include_mempool=False) is None

    (block_hash,) = await bitcoind.generate(1, address)
    mined = await bitcoind.find_transaction(outpoint.txid)
    assert mined is not None
    assert (mined.block_hash, mined.confirmations) == (block_hash, 1)
    block = parse_parent_block(await bitcoind.raw_block(block_hash))
    assert [tx.txid for tx in block.transactions][1] == outpoint.txid
    header = await bitcoind.header(block_hash)
    assert (header.height, header.ntx, header.confirmations) == (102, 2, 1)
    assert header.prev_hash == await bitcoind.block_hash(101)
    assert await bitcoind.raw_header(block_hash) == (await bitcoind.raw_block(block_hash))[:80]
    proof = parse_merkle_block(await bitcoind.tx_out_proof([outpoint.txid], block_hash))
    assert proof.tx_count == 2
    assert outpoint.txid in [txid for _, txid in proof.matches]
    unspent = await bitcoind.tx_out(outpoint)
    assert unspent is not None
    assert (unspent.value_sats, unspent.script) == (1_234_567, script)


@pytest.mark.e2e
async def test_node_when_asked_for_unknown_things_then_none_or_error(
    bitcoind: BitcoindClient,
) -> None:
    nothing = OutPoint(bytes(32), 0)
    assert await bitcoind.tx_out(nothing) is None
    assert await bitcoind.find_transaction(bytes(32)) is None
    assert await bitcoind.mempool_entry(bytes(32)) is None
    assert await bitcoind.address_script("nonsense") is None
    assert await bitcoind.estimate_fee_sats_per_kvb() is None
    with pytest.raises(BitcoindError):
        await bitcoind.header(bytes(32))
    with pytest.raises(BitcoindError):
        await bitcoind.block_hash(10**6)
    with pytest.raises(BitcoindError):
        await bitcoind.send_raw_transaction(b"\x00" * 60)


@pytest.mark.e2e
async def test_node_when_transaction_is_bad_then_verdict_has_its_reason(
    bitcoind: BitcoindClient,
) -> None:
    coinbase_hash = await bitcoind.block_hash(0)
    spent_nothing = bytes.fromhex(
        "02000000"
        "01" + "11" * 32 + "00000000"
        "00"
        "ffffffff"
        "01"
        "1027000000000000"
        "16"
        "0014" + "22" * 20 + "00000000"
    )
    verdict = await bitcoind.test_mempool_accept(spent_nothing)
    assert (verdict.allowed, verdict.reason) == (False, "missing-inputs")
    assert len(coinbase_hash) == 32


@pytest.mark.e2e
async def test_node_when_asked_what_it_is_then_indexed_regtest(bitcoind: BitcoindClient) -> None:
    info = await bitcoind.chain_info()
    assert (info.chain, info.pruned) == ("regtest", False)
    assert await bitcoind.subversion()
    assert await bitcoind.has_transaction_index()


@pytest.mark.e2e
async def test_client_when_node_restarts_then_goes_on_with_new_cookie(
    regtest_node: RegtestNode, bitcoind: BitcoindClient
) -> None:
    before = regtest_node.cookie.read_text()
    await bitcoind.block_count()
    regtest_node.kill()
    async with regtest_node.client(retry_ms=0) as impatient:
        with pytest.raises(Unavailable):
            await impatient.block_count()
    regtest_node.start()
    await bitcoind.wait_until_ready(30_000)
    assert await bitcoind.block_count() >= 0
    assert regtest_node.cookie.read_text() != before
