"""Elements' JSON-RPC methods on one chain: what a node offers, put together.

Source: elements/interfaces.md 1 and 3, clients.md 2.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sidechain.api.arguments import integer_argument, text_argument
from sidechain.api.json_text import coins
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.api.rpc_blocks import BlockMethods
from sidechain.api.rpc_mempool import MempoolMethods
from sidechain.api.rpc_scripts import ScriptMethods
from sidechain.api.rpc_submit import Submission, SubmitMethods
from sidechain.api.rpc_transactions import TransactionMethods
from sidechain.chain import Chain
from sidechain.policy import INCREMENTAL_RELAY_FEE_SATS_PER_KVB
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

PROTOCOL_VERSION = 70016
VERSION = 10_000
SUBVERSION = "/fedpeg:0.1.0/"
MAX_MOCK_TIME_S = (2**63 - 1) // 10**9

FactsFor = Callable[[Transaction], Awaitable[ParentFacts | None]]
OnAccepted = Callable[[Transaction], Awaitable[None]]


def register_chain_methods(
    registry: Registry,
    chain: Chain,
    *,
    facts_for: FactsFor,
    on_accepted: OnAccepted,
    unix_time_s: Callable[[], int],
    stop: Callable[[], None] | None = None,
    connections: Callable[[], int] = lambda: 0,
    set_time: Callable[[int], None] | None = None,
    takes_blocks: bool = False,
) -> None:
    """Offer the methods of a chain.

    Args:
        facts_for: learns what a transaction's peg-ins need from the parent chain.
        on_accepted: told of every transaction that `sendrawtransaction` took, for gossip.
        unix_time_s: this node's clock.
        stop: ends the process in an orderly way; without it there is no method `stop`.
        connections: number of peers.
        set_time: makes `unix_time_s` stand still at a time, 0 lets it go on; without it there is
            no method `setmocktime`.
        takes_blocks: whether blocks come in by these methods; a member has them from its peers.
    """
    node = NodeMethods(
        chain=chain,
        registry=registry,
        unix_time_s=unix_time_s,
        connections=connections,
        started_s=unix_time_s(),
        stop_hook=stop,
        set_time=set_time,
    )
    BlockMethods(chain, unix_time_s).register(registry)
    TransactionMethods(chain).register(registry)
    ScriptMethods(chain).register(registry)
    MempoolMethods(
        chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=unix_time_s
    ).register(registry)
    if takes_blocks:
        submission = Submission(chain, facts_for, unix_time_s)
        SubmitMethods(chain, submission, unix_time_s=unix_time_s).register(registry)
    registry.add("getnetworkinfo", node.getnetworkinfo, "Version and connections.")
    registry.add("uptime", node.uptime, "Seconds since the start.")
    registry.add("help", node.help, "List the methods, or explain one.")
    if stop is not None:
        registry.add("stop", node.stop, "Stop this process.")
    if set_time is not None:
        registry.add("setmocktime", node.setmocktime, "Set the node's clock, for tests.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMethods:
    """Methods about the process."""

    chain: Chain
    registry: Registry
    unix_time_s: Callable[[], int]
    connections: Callable[[], int]
    started_s: int
    stop_hook: Callable[[], None] | None
    set_time: Callable[[int], None] | None

    def getnetworkinfo(self) -> dict[str, Any]:
        """Version and connections."""
        return {
            "version": VERSION,
            "subversion": SUBVERSION,
            "protocolversion": PROTOCOL_VERSION,
            "localservices": "0000000000000000",
            "localservicesnames": [],
            "localrelay": True,
            "timeoffset": 0,
            "networkactive": True,
            "connections": self.connections(),
            "networks": [],
            "relayfee": coins(self.chain.params.min_relay_fee_sats_per_kvb),
            "incrementalfee": coins(INCREMENTAL_RELAY_FEE_SATS_PER_KVB),
            "localaddresses": [],
            "warnings": [],
        }

    def uptime(self) -> int:
        """Seconds since the start."""
        return max(self.unix_time_s() - self.started_s, 0)

    def help(self, command: Any = None) -> str:
        """List the methods, or explain one."""
        return self.registry.help(None if command is None else text_argument(command))

    def stop(self) -> str:
        """Stop this process."""
        if self.stop_hook is not None:
            self.stop_hook()
        return "fedpeg stopping"

    def setmocktime(self, timestamp: Any) -> None:
        """Let the clock stand still at a time in seconds since 1970; 0 lets it go on."""
        time_s = integer_argument(timestamp)
        if not 0 <= time_s <= MAX_MOCK_TIME_S:
            raise RpcError(
                INVALID_PARAMETER,
                f"Mocktime must be in the range [0, {MAX_MOCK_TIME_S}], not {time_s}.",
            )
        if self.set_time is not None:
            self.set_time(time_s)
