"""`fedpeg demo`: the main job told as a story, on real parts, from founding to audit.

Whatever ends it (its end, a failure, Ctrl-C, SIGTERM), no process is left, but with --keep and a
good end.
"""

import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from federation.ceremony import bring_up
from federation.cli_peg import newest_blocks
from federation.cli_session import Failed, Output, Session, print_json, show_btc
from federation.cli_tables import audit_text, blocks_table, is_exact
from federation.cli_wait import ParentMiner, Patience, wait_payment, wait_pegin, wait_pegout
from federation.local import LocalFederation
from federation.local_state import LOCK_NAME, LocalMember, LocalState, UpOptions
from federation.wallet.links import MemberLinks
from peg.bitcoind import BitcoindClient, amount_text
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

MEMBERS = 4
THRESHOLD = 3
BLOCK_TIME_MS = 0
DEPOSIT_SATS = 100_000_000
PAYMENT_SATS = 25_000_000
PAYMENT_DURING_OUTAGE_SATS = 5_000_000
PEGOUT_SATS = 40_000_000
VICTIM = 2
BLOCKS_SHOWN = 1_000
BLOCKS_DURING_OUTAGE = 2
CATCH_UP_TIMEOUT_S = 60
SETTLE_TIMEOUT_S = 60
POLL_S = 0.2
TRAVELLER = "traveller"
KEPT_COMMANDS = (
    "status",
    "wallet list",
    "peg in 0.5 --to bob --wait",
    "blocks --signers",
    "logs -f",
    "down",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What the acts of the story play with."""

    state: LocalState
    bitcoind: BitcoindClient
    wallets: RpcClient
    members: MemberLinks
    miner: ParentMiner
    patience: Patience


class Demo:
    """One showing."""

    def __init__(self, folder: Path | None, *, keep: bool, as_json: bool) -> None:
        """Prepare; `folder` None takes a new temporary one."""
        self._is_temporary = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="fedpeg-demo-"))
        self._keep = keep
        self._as_json = as_json
        self._output = _StoryOutput(as_json)
        self._federation = LocalFederation(self._folder, self._output.progress)

    async def run(self) -> None:
        """Tell the whole story.

        Raises:
            Failed, LocalError, RpcError, Unavailable: something did not go as told; what was
                written stays for inspection, no process does.
        """
        self._refuse_used_folder()
        is_good = False
        self._output.begin()
        try:
            with self._federation.folder.locked():
                await self._tell()
            is_good = True
        except asyncio.CancelledError:
            self._end(keep_data=False)
            raise
        except BaseException:
            self._end(keep_data=True)
            self._output.say(f"What the processes wrote is in {self._folder}")
            raise
        finally:
            self._output.close()
            if is_good:
                self._finish()

    def _refuse_used_folder(self) -> None:
        """A federation that is somebody's already must not be told about, still less stopped."""
        folder = self._folder
        if folder.is_dir() and any(path.name != LOCK_NAME for path in folder.iterdir()):
            raise Failed(f"{folder} is not empty: name a new folder with --data, or none")

    def _finish(self) -> None:
        if self._keep:
            self._output.table("The federation runs on. Talk to it:", _farewell(self._folder))
        else:
            self._end(keep_data=not self._is_temporary)
            self._output.say("Everything is stopped, no process is left.")

    def _end(self, *, keep_data: bool) -> None:
        self._federation.stop_all()
        if self._is_temporary and not keep_data:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---- the acts ----

    async def _tell(self) -> None:
        say = self._output.say
        say(
            f"Founding: {MEMBERS} members, any {THRESHOLD} of whom sign, each a process with its "
            "own keys and certificate, beside a regtest bitcoind."
        )
        options = UpOptions(n=MEMBERS, k=THRESHOLD, block_time_ms=BLOCK_TIME_MS)
        state = await bring_up(self._federation, options, self._output.progress)
        async with self._open(state) as stage:
            say(f"The peg is open. Parameter hash {self._parameter_hash(state)[:16]}…")
            await self._deposit(stage)
            await self._pay(stage)
            await self._lose_a_member(stage)
            await self._pegout(stage)
            await self._audit(stage)
            await self._show_signers(stage)

    def _parameter_hash(self, state: LocalState) -> str:
        return self._federation.load_federation(state).parameter_hash().hex()

    @asynccontextmanager
    async def _open(self, state: LocalState) -> AsyncIterator[_Stage]:
        async with AsyncExitStack() as stack:
            bitcoind = await stack.enter_async_context(self._federation.bitcoind_client(state))
            wallets = await stack.enter_async_context(self._federation.wallet_client(state))
            clients = [
                await stack.enter_async_context(self._federation.member_client(m))
                for m in state.members
            ]
            members = MemberLinks(clients)
            miner = ParentMiner(bitcoind, members, enabled=True)
            patience = Patience(Session(self._folder, self._output), wallets)
            yield _Stage(
                state=state,
                bitcoind=bitcoind,
                wallets=wallets,
                members=members,
                miner=miner,
                patience=patience,
            )

    async def _deposit(self, stage: _Stage) -> None:
        for name in ("alice", "bob"):
            await stage.wallets.call("createwallet", name)
        self._output.say(
            f"Alice deposits {show_btc(DEPOSIT_SATS)} BTC to an address that only the federation "
            "can spend and only her wallet can claim."
        )
        begun = await stage.wallets.call("pegin", "alice", amount_text(DEPOSIT_SATS))
        view = await wait_pegin(stage.patience, stage.miner, begun["id"])
        self._output.say(
            f"Her wallet proved the deposit {view['deposit'][:16]}… and minted it in block "
            f"{view['height']}."
        )

    async def _pay(self, stage: _Stage) -> None:
        height = await self._pay_bob(stage, PAYMENT_SATS)
        self._output.say(
            f"Alice paid Bob {show_btc(PAYMENT_SATS)}; final in block {height}, "
            "with no confirmations to wait for. Nobody else can see the amount."
        )

    async def _pay_bob(self, stage: _Stage, amount_sats: int) -> int:
        address = await stage.wallets.call("getnewaddress", "bob")
        txid = await stage.wallets.call("sendtoaddress", "alice", address, amount_text(amount_sats))
        return await wait_payment(stage.patience, "alice", txid)

    async def _lose_a_member(self, stage: _Stage) -> None:
        victim = stage.state.members[VICTIM]
        self._federation.stop_member(victim.name, kill=True)
        self._output.say(f"{victim.name} is killed with SIGKILL. Three are left, enough to sign.")
        for _ in range(BLOCKS_DURING_OUTAGE):
            height = await self._pay_bob(stage, PAYMENT_DURING_OUTAGE_SATS)
        self._output.say(f"The three went on to block {height} without it.")
        await self._federation.start_members([victim.name])
        await self._until_caught_up(stage, victim)
        self._output.say(f"{victim.name} is back, read its journal and caught up.")

    async def _until_caught_up(self, stage: _Stage, member: LocalMember) -> None:
        async def ask() -> bool:
            height = int(await stage.members.call("getblockcount"))
            block_hash = await stage.members.call("getblockhash", height)
            async with self._federation.member_client(member) as client:
                return bool(await client.call("getblockhash", height) == block_hash)

        self._output.progress("catch-up", f"{member.name} catches up")
        await _until(ask, CATCH_UP_TIMEOUT_S, f"{member.name} did not catch up")

    async def _pegout(self, stage: _Stage) -> None:
        await stage.bitcoind.create_wallet(TRAVELLER)
        address = await stage.bitcoind.new_address(TRAVELLER)
        self._output.say(
            f"Alice pegs {show_btc(PEGOUT_SATS)} out to {address}: burned first, then batched and "
            "signed by three members."
        )
        begun = await stage.wallets.call("pegout", "alice", address, amount_text(PEGOUT_SATS))
        view = await wait_pegout(stage.patience, stage.miner, begun["id"])
        received = await stage.bitcoind.wallet_balance_sats(TRAVELLER)
        if received != view["payout_sats"]:
            raise Failed(f"{received} sat arrived instead of {view['payout_sats']}")
        self._output.say(
            f"Bitcoin confirmed the payment of {show_btc(received)} in "
            f"{view['payout']['txid'][:16]}…, exactly the burn less the federation's fee."
        )

    async def _audit(self, stage: _Stage) -> None:
        found: dict[str, Any] = {}

        async def ask() -> bool:
            nonlocal found
            await stage.miner.advance()
            found = await stage.members.call("getaudit")
            return bool(found["is_current"]) and found["unpaid_sats"] == 0

        self._output.progress("audit", "the federation commits to the block with the payment")
        await _until(ask, SETTLE_TIMEOUT_S, "the payment did not reach the audit")
        self._output.table("The audit, from the coins on Bitcoin and the chain:", audit_text(found))
        if not is_exact(found):
            raise Failed("reserves and liabilities do not agree")

    async def _show_signers(self, stage: _Stage) -> None:
        blocks = await newest_blocks(self._federation, stage.state, BLOCKS_SHOWN)
        names = [member.name for member in stage.state.members]
        self._output.table(
            "Who proposed and who signed each block:", blocks_table(blocks, names, signers=True)
        )


async def _until(ask: Any, timeout_s: int, reason: str) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    last = ""
    while loop.time() < give_up_at:
        try:
            if await ask():
                return
        except (RpcError, Unavailable) as error:
            last = f": {error}"
        await asyncio.sleep(POLL_S)
    raise Failed(f"{reason} within {timeout_s} s{last}")


class _StoryOutput(Output):
    """Tells the story on standard output, with the time that has passed before each sentence."""

    def __init__(self, as_json: bool) -> None:
        super().__init__(as_json, streams=True)
        self._page = Console(highlight=False, soft_wrap=True)
        self._began_at_s = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._began_at_s = asyncio.get_running_loop().time()

    def say(self, text: str) -> None:
        """One sentence of the story."""
        self.close()
        passed_s = asyncio.get_running_loop().time() - self._began_at_s
        if self.as_json:
            print_json({"event": "story", "text": text, "passed_ms": int(passed_s * 1000)})
        elif self._page.is_terminal:
            self._page.print(f"[dim]{passed_s:5.1f} s[/]  [bold]{text}[/]")
        else:
            print(f"{passed_s:5.1f} s  {text}", flush=True)

    def table(self, title: str, text: str) -> None:
        """A sentence with a table below it."""
        self.say(title)
        if self.as_json:
            print_json({"event": "table", "text": text})
        else:
            print("\n".join(f"         {line}" for line in text.splitlines()), flush=True)

    def progress(self, step: str, text: str, **facts: Any) -> None:
        """As in `Output`, indented below the sentence it belongs to."""
        if self.as_json or self._page.is_terminal:
            super().progress(step, text, **facts)
        elif text != self._shown:
            print(f"         {text}", flush=True)
            self._shown = text


def _farewell(folder: Path) -> str:
    command = Path(sys.prefix) / "bin" / "fedpeg"
    return "\n".join(
        (
            f"export FEDPEG_DATA={shlex.quote(str(folder))}",
            *(f"{command} {words}" for words in KEPT_COMMANDS),
        )
    )
