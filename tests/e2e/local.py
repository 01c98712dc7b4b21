"""A real local federation as a test holds it: commands, RPC, Bitcoin blocks, signals."""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation import cli
from tests.e2e.processes import has_ended, kill_all, processes_of, send
from tests.e2e.rpc import Refused, Rpc, sats
from tests.e2e.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "federation.cli")
COMMAND_DEADLINE_S = 120
FAUCET = "faucet"
PEG_OUT_FEE_SATS = 2_500
PEGIN_DEPTH = 6
COMMIT_DEPTH = 2
RESET_DEPTH = 4
ANCHOR_SATS = 5_000_000
KEPT_AT_A_WIPE = ("keys", "member.json")
ADDRESS_KINDS = ("bech32", "bech32m", "p2sh-segwit", "legacy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The last line of its output."""
        return json.loads(self.stdout.strip().splitlines()[-1])


class Local:
    """One federation in one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self._kinds = itertools.cycle(ADDRESS_KINDS)

    # ---- commands ----

    def run(self, *words: str, code: int | None = 0) -> Done:
        """Run `fedpeg` to its end, and check its exit code unless None is given."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            check=False,
        )
        shown = f"fedpeg {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code is None or done.returncode == code, shown
        assert "Traceback" not in done.stderr, shown
        return Done(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def answer(self, *words: str) -> Done:
        """Run `fedpeg` inside this process: as `run`, without the start of another Python."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with redirect_stdout(stdout), redirect_stderr(stderr):
            code = cli.main([*words, "--data", str(self.data)])
        return Done(code=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())

    @contextmanager
    def begin(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Start `fedpeg` in a process group of its own, with its output to be read.

        It is killed at the end if it still runs.
        """
        with subprocess.Popen(
            [*COMMAND, *words],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def environment(self) -> dict[str, str]:
        """The environment of commands."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FEDPEG_")}
        return kept | {"FEDPEG_DATA": str(self.data), "PYTHONUNBUFFERED": "1"}

    def up(self) -> None:
        """Start whatever does not run, and wait until all members agree."""
        if not {*self.names, "bitcoind", "wallet"} <= set(self.processes()):
            self.run("up")
        missing = {*self.names, "bitcoind", "wallet"} - set(self.processes())
        assert not missing, f"{missing} do not run after `up`"
        self.wait_agreed()

    # ---- what there is ----

    @property
    def state(self) -> dict[str, Any]:
        """local.json."""
        found: dict[str, Any] = json.loads((self.data / "local.json").read_text())
        return found

    @property
    def names(self) -> list[str]:
        """The members' names."""
        return [member["name"] for member in self.state["members"]]

    def folder(self, name: str) -> Path:
        """Folder of a member."""
        return self.data / "members" / name

    def member(self, name: str) -> Rpc:
        """RPC of a member."""
        ports = {m["name"]: m["rpc_port"] for m in self.state["members"]}
        return Rpc(port=ports[name], cookie=self.folder(name) / ".cookie")

    @property
    def wallets(self) -> Rpc:
        """RPC of the wallet process."""
        port = self.state["wallet"]["rpc_port"]
        return Rpc(port=port, cookie=self.data / "wallet" / ".cookie")

    def bitcoind(self, wallet: str | None = None) -> Rpc:
        """RPC of the Bitcoin node, or of one of its wallets."""
        return Rpc(
            port=self.state["bitcoind"]["rpc_port"],
            cookie=self.data / "bitcoind" / ".cookie",
            path="/" if wallet is None else f"/wallet/{wallet}",
        )

    def processes(self) -> dict[str, int]:
        """Pids by name."""
        return {name: pid for pid, name in processes_of(self.data).items()}

    def running(self) -> list[str]:
        """Names of the members that run."""
        running = self.processes()
        return [name for name in self.names if name in running]

    def log(self, name: str) -> list[dict[str, Any]]:
        """What a member or the wallet has logged."""
        folder = self.data / "wallet" if name == "wallet" else self.folder(name)
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    # ---- processes ----

    def kill(self, *names: str) -> None:
        """SIGKILL, and wait until they are gone."""
        pids = [self.processes()[name] for name in names]
        for pid in pids:
            send(pid, signal.SIGKILL)
        wait_for(lambda: all(has_ended(pid) for pid in pids), f"{names} end")

    def kill_everything(self) -> None:
        """SIGKILL to every process."""
        kill_all(self.data)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """SIGSTOP a process for a while."""
        pid = self.processes()[name]
        send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            send(pid, signal.SIGCONT)

    def start(self, name: str) -> None:
        """Start a member, and wait until it has caught up."""
        self.run("member", "start", name)
        self.wait_agreed()

    def wipe(self, name: str) -> None:
        """Delete all a member has but its keys and its configuration."""
        for path in self.folder(name).iterdir():
            if path.name not in KEPT_AT_A_WIPE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def tune(self, name: str, **numbers: int) -> None:
        """Change numbers in the configuration of a member that does not run."""
        path = self.folder(name) / "member.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | numbers))

    # ---- the sidechain ----

    def height(self) -> int:
        """The highest final block that a running member knows."""
        return max(int(self.member(name).call("getblockcount")) for name in self.running())

    def wait_agreed(self) -> int:
        """Wait until all running members are at one height with one block hash."""

        def look() -> int:
            tips = {self.member(name).call("getbestblockhash") for name in self.running()}
            if len(tips) != 1:
                return 0
            header = self.member(self.running()[0]).call("getblockheader", tips.pop())
            return int(header["height"])

        return wait_for(look, "all members at one tip")

    def ask(self, method: str, *params: Any) -> Any:
        """Ask a running member."""
        return self.member(self.running()[0]).call(method, *params)

    def wait_mode(self, name: str, mode: str) -> None:
        """Wait until a member is in this mode of the agreement."""
        member = self.member(name)
        wait_for(lambda: member.call("getfederationinfo")["mode"] == mode, f"{name} {mode}")

    def signers(self, first: int, last: int) -> dict[int, list[int]]:
        """Who signed each block from `first` to `last`."""
        rows = self.ask("getblocksigners", first, last - first + 1)
        return {row["height"]: row["signers"] for row in rows}

    def claims(self, outpoint: str) -> list[dict[str, Any]]:
        """All final transactions that claim a deposit."""
        found = []
        for height in range(1, self.height() + 1):
            block = self.ask("getblock", self.ask("getblockhash", height), 2)
            for tx in block["tx"]:
                spent = [f"{i['txid']}:{i['vout']}" for i in tx["vin"] if i.get("is_pegin")]
                found += [tx] * spent.count(outpoint)
        return found

    # ---- Bitcoin ----

    def parent_height(self) -> int:
        """Height of the Bitcoin chain."""
        return int(self.bitcoind().call("getblockcount"))

    def mine(self, count: int = 1) -> None:
        """Mine Bitcoin blocks with what is in the mempool."""
        address = self.bitcoind(FAUCET).call("getnewaddress")
        self.bitcoind().call("generatetoaddress", count, address)

    def mine_empty(self, count: int = 1) -> None:
        """Mine Bitcoin blocks that leave the mempool as it is."""
        address = self.bitcoind(FAUCET).call("getnewaddress")
        for _ in range(count):
            self.bitcoind().call("generateblock", address, [])

    def invalidate(self, height: int) -> str:
        """Drop the Bitcoin block at a height and all above; returns its hash."""
        block_hash: str = self.bitcoind().call("getblockhash", height)
        self.bitcoind().call("invalidateblock", block_hash)
        return block_hash

    def wait_committed(self) -> int:
        """Wait until every running member's chain commits to the newest block deep enough.

        After a reorganisation this takes a RESET, for which the new branch must be deep.
        """
        wanted_height = self.parent_height() - COMMIT_DEPTH + 1
        wanted = self.bitcoind().call("getblockhash", wanted_height)

        def look() -> bool:
            infos = [self.member(name).call("getpeginfo") for name in self.running()]
            return all(info["committed_hash"] == wanted for info in infos)

        wait_for(look, f"Bitcoin block {wanted_height} is committed")
        return wanted_height

    def mine_until(self, condition: Callable[[], Any], what: str, *, blocks_max: int = 40) -> Any:
        """Mine one Bitcoin block after the other, each once the last is committed to."""
        for _ in range(blocks_max):
            self.wait_committed()
            try:
                found = condition()
            except Refused:
                found = None
            if found:
                return found
            self.mine()
        raise AssertionError(f"not within {blocks_max} Bitcoin blocks: {what}")

    def received(self, address: str) -> list[int]:
        """Values of all outputs on Bitcoin's best chain that pay an address, spent or not."""
        found = []
        bitcoind = self.bitcoind()
        for height in range(1, self.parent_height() + 1):
            block = bitcoind.call("getblock", bitcoind.call("getblockhash", height), 2)
            for tx in block["tx"]:
                for output in tx["vout"]:
                    if output["scriptPubKey"].get("address") == address:
                        found.append(sats(output["value"]))
        return found

    def payout_address(self) -> str:
        """A fresh Bitcoin address to peg out to, of each kind in turn."""
        kind = next(self._kinds)
        address: str = self.bitcoind(FAUCET).call("getnewaddress", "payout", kind)
        return address

    # ---- wallets and the peg ----

    def make_wallets(self, *names: str) -> None:
        """Create wallets that do not exist."""
        known = self.wallets.call("listwallets")
        for name in names:
            if name not in known:
                self.wallets.call("createwallet", name)

    def available(self, wallet: str) -> int:
        """Satoshis a wallet could spend."""
        return int(self.wallets.call("getbalances", wallet)["available_sats"])

    def pegin(self, wallet: str, amount: str) -> dict[str, Any]:
        """Begin a peg-in and return it once its deposit is in Bitcoin's mempool."""
        begun = self.wallets.call("pegin", wallet, amount, True)
        return self.wait_pegin(begun["id"], "funded")

    def pegin_view(self, pegin_id: str) -> dict[str, Any]:
        """A peg-in as the wallet process shows it."""
        found: dict[str, Any] = self.wallets.call("getpegin", pegin_id)
        return found

    def wait_pegin(self, pegin_id: str, *stages: str) -> dict[str, Any]:
        """Wait until a peg-in is at one of these stages."""

        def look() -> dict[str, Any] | None:
            view = self.pegin_view(pegin_id)
            return view if view["stage"] in stages else None

        found = wait_for(look, f"{pegin_id} {stages}")
        assert found is not None
        return found

    def finish_pegin(self, pegin_id: str) -> dict[str, Any]:
        """Mine until a peg-in is final."""

        def look() -> dict[str, Any] | None:
            view = self.pegin_view(pegin_id)
            return view if view["stage"] == "final" else None

        def is_deep() -> bool:
            view = self.pegin_view(pegin_id)
            assert view["stage"] != "failed", view
            return int(view["confirmations"]) >= PEGIN_DEPTH

        self.mine_until(is_deep, f"{pegin_id} is deep")
        found = wait_for(look, f"{pegin_id} is final")
        assert found is not None
        return found

    def fund(self, wallet: str, amount: str) -> None:
        """Give a wallet coins, by a whole peg-in."""
        self.make_wallets(wallet)
        self.finish_pegin(self.pegin(wallet, amount)["id"])

    def pay(self, payer: str, payee: str, amount: str) -> str:
        """Pay from wallet to wallet; returns the txid once the payment is final."""
        address = self.wallets.call("getnewaddress", payee)
        txid: str = self.wallets.call("sendtoaddress", payer, address, amount)

        def is_final() -> bool:
            entries = self.wallets.call("listtransactions", payer, 1_000)
            return any(e["txid"] == txid and e["height"] is not None for e in entries)

        wait_for(is_final, f"payment {txid} is final")
        return txid

    def pegout(self, wallet: str, address: str, amount: str) -> dict[str, Any]:
        """Begin a peg-out and return it once its burn is final."""
        begun = self.wallets.call("pegout", wallet, address, amount, True)

        def look() -> dict[str, Any] | None:
            view = self.pegout_view(begun["id"])
            return view if view["height"] is not None else None

        found = wait_for(look, f"{begun['id']} is burned")
        assert found is not None
        return found

    def pegout_view(self, pegout_id: str) -> dict[str, Any]:
        """A peg-out as the wallet process shows it."""
        found: dict[str, Any] = self.wallets.call("getpegout", pegout_id)
        return found

    def mine_until_batched(self, pegout_id: str) -> str:
        """Mine until a batch that pays it is in Bitcoin's mempool; its txid."""

        def look() -> str:
            batch = (self.pegout_view(pegout_id)["payout"] or {}).get("batch")
            return self.broadcast_version(batch) if batch else ""

        def is_open() -> bool:
            return bool((self.pegout_view(pegout_id)["payout"] or {}).get("batch"))

        self.mine_until(is_open, f"{pegout_id} is in a batch")
        return wait_for(look, f"the batch of {pegout_id} is sent")

    def broadcast_version(self, batch: dict[str, Any]) -> str:
        """Txid of the version of a batch that is in Bitcoin's mempool; "" when none is."""
        mempool = set(self.bitcoind().call("getrawmempool"))
        sent = [version["txid"] for version in batch["versions"] if version["txid"] in mempool]
        return sent[-1] if sent else ""

    def finish_pegout(self, pegout_id: str) -> dict[str, Any]:
        """Mine until a peg-out is paid on the committed chain."""

        def look() -> dict[str, Any] | None:
            view = self.pegout_view(pegout_id)
            assert view["stage"] != "failed", view
            return view if (view["payout"] or {}).get("committed") else None

        found: dict[str, Any] = self.mine_until(look, f"{pegout_id} is paid")
        return found

    def audit(self) -> dict[str, Any]:
        """The audit at the newest block, the same at every running member."""
        self.wait_committed()

        def look() -> dict[str, Any] | None:
            audits = [self.member(name).call("getaudit") for name in self.running()]
            is_same = len({(a["height"], a["state_digest"]) for a in audits}) == 1
            return audits[0] if is_same and all(a["is_current"] for a in audits) else None

        found = wait_for(look, "audits agree")
        assert found is not None
        return found
