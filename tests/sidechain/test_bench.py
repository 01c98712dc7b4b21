"""The measuring tool: what it sends is valid, follows from its seed, and means one chain."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidechain.api.http import Login, Registry, RpcError, RpcServer
from sidechain.bench import wire
from sidechain.bench.__main__ import main, ratios, shape_of
from sidechain.bench.load import Load, Shape, bench_params, chain_options, make_load
from sidechain.bench.phases import ACCEPT_PHASES
from sidechain.chain import Chain
from sidechain.daemon.chain_options import params_from_options
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction

SHAPE = Shape(accepted=(2, 1), blocks=(3, 1), hidden_blocks=(1,), seed=7)


@pytest.fixture(scope="module")
def load() -> Load:
    return make_load(SHAPE)


def test_load_when_made_twice_then_the_same(load: Load) -> None:
    assert make_load(SHAPE) == load
    other = make_load(Shape(accepted=(1,), blocks=(), hidden_blocks=(), seed=8))
    assert other.accepted[0][0] not in load.accepted[0]


def test_load_when_sent_to_a_chain_then_all_of_it_is_taken(load: Load, tmp_path: Path) -> None:
    chain = Chain.open(tmp_path / "chain", bench_params())
    for block in load.funding:
        chain.connect(Block.decode(bytes.fromhex(block), chain.params))
    for payment in (each for part in load.accepted for each in part):
        tx = Transaction.decode(bytes.fromhex(payment))
        assert (len(tx.inputs), len(tx.outputs)) == (1, 3)
        chain.submit_tx(tx, None, 2_000_000_000)
    counts = (*load.block_payments, *load.hidden_payments)
    for count, text in zip(counts, load.blocks + load.hidden_blocks, strict=True):
        block = Block.decode(bytes.fromhex(text), chain.params)
        assert len(block.transactions) == count + 1
        chain.connect(block)
    hidden = block.transactions[1]
    assert [output.value_sats is None for output in hidden.outputs] == [True, True, False]
    assert len(chain.mempool) == 3
    assert json.dumps(load.shape())
    chain.close()


def test_options_when_read_as_a_daemon_does_then_the_same_chain() -> None:
    read, own = params_from_options(chain_options()), bench_params()
    assert read.genesis_hash == own.genesis_hash
    assert read.max_block_sig_size == own.max_block_sig_size


def test_shape_when_few_transactions_then_every_part_has_some() -> None:
    shape = shape_of(4, 1)
    assert shape.accepted == (1, 1, 1, 1)
    assert min((*shape.blocks, *shape.hidden_blocks)) == 1
    assert sum(shape_of(50_000, 1).accepted) == 50_000


def test_ratios_when_two_are_measured_then_the_first_to_the_second() -> None:
    def figures(factor: int) -> dict[str, object]:
        return {
            "accept_tx_per_s": {"single_1_client": 30 * factor},
            "connect": {"tx_per_s_median": 8 * factor},
            "hidden_connect": {"blocks": [{"tx_per_s": 5}, {"tx_per_s": 10 * factor}]},
            "reindex": {"tx_per_s": 100 * factor},
            "memory": {"rss_mib": 50},
        }

    assert ratios(figures(3), figures(1)) == {
        "accept_single_1_client": 3,
        "connect": 3,
        "hidden_connect": 3,
        "reindex": 3,
        "memory": 1,
    }


async def test_clients_when_they_send_then_each_request_once() -> None:
    seen: list[str] = []

    def note(value: str) -> str:
        if value == "bad":
            raise RpcError(-26, "no")
        seen.append(value)
        return value * 1_000

    registry = Registry()
    registry.add("note", note, "Note.")
    registry.add("getblockcount", lambda: 0, "None.")
    login = Login(user=wire.USER, password=wire.PASSWORD)
    server = RpcServer(registry, None, logins=[login])
    await server.start()
    bodies = [wire.request("note", str(n)) for n in range(20)]
    bodies.append(wire.batch_request("note", ["a", "b"]))
    assert await asyncio.to_thread(wire.post_all, server.port, 3, bodies) > 0
    assert sorted(seen) == sorted([*map(str, range(20)), "a", "b"])
    with pytest.raises(wire.RequestFailed, match="-26"):
        await asyncio.to_thread(wire.post_all, server.port, 1, [wire.request("note", "bad")])
    await server.stop()
    assert threading.active_count() < 20


@pytest.mark.parametrize("arguments", [["--transactions", "1"], ["--seed", "-1"]])
def test_command_when_arguments_are_wrong_then_said(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)


def test_command_when_the_daemon_does_not_start_then_its_words_and_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["--transactions", "4", "--daemon", "sh -c 'echo unwilling' x"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "did not start: unwilling" in shown.err


@pytest.mark.slow
def test_command_when_our_daemon_is_measured_then_every_figure_is_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["--transactions", "100"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert set(figures["accept_tx_per_s"]) == {name for name, _, _ in ACCEPT_PHASES}
    assert figures["memory"]["mempool_transactions"] == 100
    assert figures["connect"]["tx_per_s_median"] > 0
    assert figures["hidden_connect"]["blocks"][0]["proofs"] == 40
    assert figures["reindex"]["tx_per_s"] > 0


def test_command_when_interrupted_then_the_daemon_and_its_folder_are_gone(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    daemon = tmp_path / "daemon.py"
    daemon.write_text(
        "import os, pathlib, signal\n"
        f"pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sidechain.bench", "--transactions", "4"),
            *("--daemon", f"{sys.executable} {daemon}"),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    child = int(told.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not Path(f"/proc/{child}").exists()
    assert not list(tmp_path.glob("fedpeg-bench-*"))
