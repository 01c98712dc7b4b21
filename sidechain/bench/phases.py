"""What is measured, one function a figure. Times are seconds, rates are transactions a second."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidechain.bench.daemon import Daemon
from sidechain.bench.hidden_payments import PAYMENT_PROOFS
from sidechain.bench.load import COIN_SATS, Load, genesis_hash_hex
from sidechain.bench.wire import RequestFailed, Wire, batch_request, post_all, request
from sidechain.primitives.block import Block
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.transaction import Transaction
from sidechain.validation.amounts import check_amounts
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import ProofCheck

BATCH = 50
PROOF_REPEATS = 3
REINDEX_TIMEOUT_S = 600
REINDEX_POLL_S = 0.02
ACCEPT_PHASES = (
    ("single_1_client", 1, 1),
    ("single_8_clients", 8, 1),
    ("batch_1_client", 1, BATCH),
    ("batch_8_clients", 8, BATCH),
)
"""Name, clients, transactions in one request; `Load.accepted` has a list for each."""

Tell = Callable[[str], None]


def measure(command: str, load: Load, folder: Path, tell: Tell) -> dict[str, Any]:
    """Everything about one daemon.

    Args:
        command: of the daemon, see `Daemon`.
        folder: for its data, removed by the caller.
    Raises:
        RequestFailed: it does not start, or refuses what is valid.
    """
    report: dict[str, Any] = {}
    with Daemon(command, folder / "accept") as daemon:
        _fund(daemon, load, tell)
        report["accept_tx_per_s"] = _accept(daemon, load, tell)
        report["memory"] = {
            "mempool_transactions": sum(map(len, load.accepted)),
            "rss_mib": round(daemon.rss_kib() / 1024, 1),
        }
    with Daemon(command, folder / "connect") as daemon:
        _fund(daemon, load, tell)
        report["connect"] = _connect(daemon, load, tell)
        report["hidden_connect"] = _connect_hidden(daemon, load, tell)
        report["memory"]["rss_mib_after_blocks"] = round(daemon.rss_kib() / 1024, 1)
    report["reindex"] = _reindex(command, load, folder / "connect", tell)
    return report


def _fund(daemon: Daemon, load: Load, tell: Tell) -> None:
    tell(f"funding: {len(load.funding)} blocks")
    with Wire(daemon.port) as wire:
        genesis = wire.call("getblockhash", 0)
        if genesis != genesis_hash_hex(load.params):
            raise RequestFailed(f"the daemon's genesis block is another one: {genesis}")
        for block in load.funding:
            _submit(wire, block)


def _submit(wire: Wire, block_hex: str) -> float:
    body = request("submitblock", block_hex)
    begun_s = time.perf_counter()
    reply = wire.post(body)
    took_s = time.perf_counter() - begun_s
    if b'"result":null,"error":null' not in reply.replace(b" ", b""):
        raise RequestFailed(f"submitblock: {reply[:300].decode(errors='replace')}")
    return took_s


def _accept(daemon: Daemon, load: Load, tell: Tell) -> dict[str, Any]:
    found = {}
    for (name, clients, batch), payments in zip(ACCEPT_PHASES, load.accepted, strict=True):
        tell(f"accept: {name}, {len(payments)} payments")
        if batch == 1:
            bodies = [request("sendrawtransaction", each) for each in payments]
        else:
            bodies = [
                batch_request("sendrawtransaction", payments[at : at + batch])
                for at in range(0, len(payments), batch)
            ]
        took_s = post_all(daemon.port, clients, bodies)
        found[name] = round(len(payments) / took_s)
    with Wire(daemon.port) as wire:
        waiting = wire.call("getmempoolinfo")["size"]
    if waiting != sum(map(len, load.accepted)):
        raise RequestFailed(f"the mempool has {waiting} transactions")
    return found


def _connect(daemon: Daemon, load: Load, tell: Tell) -> dict[str, Any]:
    rows = []
    with Wire(daemon.port) as wire:
        for count, block in zip(load.block_payments, load.blocks, strict=True):
            tell(f"connect: {count} payments never seen before")
            cpu_s = daemon.cpu_s()
            took_s = _submit(wire, block)
            rows.append(
                {
                    "payments": count,
                    "tx_per_s": round(count / took_s),
                    "us_per_tx": round(took_s / count * 1e6, 1),
                    "processors_busy": round((daemon.cpu_s() - cpu_s) / took_s, 2),
                }
            )
    rates = sorted(row["tx_per_s"] for row in rows)
    by_size: dict[int, list[float]] = {}
    for row in rows:
        by_size.setdefault(int(row["payments"]), []).append(float(row["us_per_tx"]))
    least = {size: min(times) for size, times in sorted(by_size.items())}
    smallest, largest = (least[min(least)], least[max(least)]) if least else (1.0, 1.0)
    return {
        "blocks": rows,
        "tx_per_s_median": rates[len(rates) // 2] if rates else 0,
        "tx_per_s_best": rates[-1] if rates else 0,
        "us_per_tx_largest_to_smallest_block": round(largest / smallest, 2),
    }


def _connect_hidden(daemon: Daemon, load: Load, tell: Tell) -> dict[str, Any]:
    proofs_s = _proof_seconds(load)
    cores = os.cpu_count() or 1
    rows = []
    with Wire(daemon.port) as wire:
        for count, block in zip(load.hidden_payments, load.hidden_blocks, strict=True):
            tell(f"connect: {count} payments that hide amounts and assets")
            cpu_s = daemon.cpu_s()
            took_s = _submit(wire, block)
            busy = (daemon.cpu_s() - cpu_s) / took_s
            rows.append(
                {
                    "payments": count,
                    "proofs": count * PAYMENT_PROOFS,
                    "tx_per_s": round(count / took_s, 1),
                    "processors_busy": round(busy, 2),
                    "share_of_all_cores_in_proofs": round(count * proofs_s / (took_s * cores), 3),
                }
            )
    return {"cores": cores, "proof_ms_per_payment": round(proofs_s * 1e3, 2), "blocks": rows}


def _proof_seconds(load: Load) -> float:
    """What the proofs of one hidden payment cost on one core, measured here and alone."""
    if not load.hidden_blocks:
        return 0.0
    block = Block.decode(bytes.fromhex(load.hidden_blocks[0]), load.params)
    measured = block.transactions[1:4]
    checks = [check for tx in measured for check in _checks_of(load, tx)]
    best_s = float("inf")
    for _ in range(PROOF_REPEATS):
        # Of this process alone, so that other work on the machine does not count.
        begun_s = time.process_time()
        for check in checks:
            if check.fault() is not None:
                raise RequestFailed("a proof of the load does not hold")
        best_s = min(best_s, time.process_time() - begun_s)
    return best_s / len(measured)


def _checks_of(load: Load, tx: Transaction) -> Sequence[ProofCheck]:
    coin = Coin(
        asset=explicit_asset(load.params.pegged_asset),
        value=explicit_value(COIN_SATS),
        script=b"",
        height=1,
        coinbase=False,
    )
    return check_amounts(tx, [coin], load.params.pegged_asset)


def _reindex(command: str, load: Load, folder: Path, tell: Tell) -> dict[str, Any]:
    """Start again and validate all stored blocks once more."""
    tell("re-index: all blocks again")
    expected = len(load.funding) + len(load.blocks) + len(load.hidden_blocks)
    payments = sum(load.block_payments) + sum(load.hidden_payments)
    begun_s = time.perf_counter()
    again = Daemon(command, folder, ["-reindex"], start_timeout_s=REINDEX_TIMEOUT_S)
    with again as daemon, Wire(daemon.port) as wire:
        while wire.call("getblockcount") < expected:
            if time.perf_counter() - begun_s > REINDEX_TIMEOUT_S:
                raise RequestFailed("the re-index does not end")
            time.sleep(REINDEX_POLL_S)
        took_s = time.perf_counter() - begun_s
    return {"seconds_with_start": round(took_s, 2), "tx_per_s": round(payments / took_s)}
