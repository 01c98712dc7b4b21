"""Elements' JSON-RPC methods on one chain: what a node offers, put together.

Source: elements/interfaces.md 1 and 3, clients.md 2.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidechain.api.arguments import text_argument
from sidechain.api.json_text import coins
from sidechain.api.registry import Registry
from sidechain.api.rpc_blocks import BlockMethods
from sidechain.api.rpc_mempool import MempoolMethods
from sidechain.api.rpc_scripts import ScriptMethods
from sidechain.api.rpc_submission import SubmissionMethods
from sidechain.api.rpc_transactions import TransactionMethods
from sidechain.chain import Chain
from sidechain.mempool_file import FactsFor
from sidechain.primitives.transaction import Transaction

PROTOCOL_VERSION = 70016
VERSION = 10_000
SUBVERSION = "/fedpeg:0.1.0/"

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
    mempool_file: Path | None = None,
) -> None:
    """Offer the methods of a chain.

    Args:
        facts_for: learns what a transaction's peg-ins need from the parent chain.
        on_accepted: told of every transaction that `sendrawtransaction` took, for gossip.
        unix_time_s: this node's clock.
        stop: ends the process in an orderly way; without it there is no method `stop`.
        connections: number of peers.
        mempool_file: where `savemempool` writes; without it that method fails.
    """
    node = NodeMethods(
        chain=chain,
        registry=registry,
        unix_time_s=unix_time_s,
        connections=connections,
        started_s=unix_time_s(),
        stop_hook=stop,
    )
    BlockMethods(chain, unix_time_s).register(registry)
    TransactionMethods(chain).register(registry)
    ScriptMethods(chain).register(registry)
    MempoolMethods(
        chain, facts_for=facts_for, unix_time_s=unix_time_s, file=mempool_file
    ).register(registry)
    SubmissionMethods(
        chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=unix_time_s
    ).register(registry)
    registry.add("getnetworkinfo", node.getnetworkinfo, "Version and connections.")
    registry.add("uptime", node.uptime, "Seconds since the start.")
    registry.add("help", node.help, "List the methods, or explain one.")
    if stop is not None:
        registry.add("stop", node.stop, "Stop this process.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMethods:
    """Methods about the process."""

    chain: Chain
    registry: Registry
    unix_time_s: Callable[[], int]
    connections: Callable[[], int]
    started_s: int
    stop_hook: Callable[[], None] | None

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
            "incrementalfee": coins(self.chain.params.incremental_relay_fee_sats_per_kvb),
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
