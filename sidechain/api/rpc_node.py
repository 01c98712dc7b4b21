"""RPC methods about the process: control, memory, peers that there are none of.

Source: elements/interfaces.md 3; fields as elementsd's.
"""

import asyncio
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    integer_argument,
    number_argument,
    text_argument,
)
from sidechain.api.json_text import coins
from sidechain.api.registry import INVALID_PARAMETER, MISC_ERROR, Registry, RpcError
from sidechain.chain import Chain

PROTOCOL_VERSION = 70016
VERSION = 10_000
SUBVERSION = "/fedpeg:0.1.0/"
MAX_SCHEDULER_STEP_S = 3600
MAX_MOCK_TIME_S = (2**63 - 1) // 10**9
MAX_FEE_TARGET_BLOCKS = 1008
_NETWORKS = ("ipv4", "ipv6", "onion", "i2p", "cjdns")
_ABSENT = object()
_NO_ESTIMATE = "Insufficient data or no feerate found"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHooks:
    """What the owner of the process lets its RPC do.

    Attributes:
        unix_time_s: this node's clock.
        stop: ends the process in an orderly way; without it there is no method `stop`.
        set_time: makes the clock stand still at a time, 0 lets it go on; without it there is no
            method `setmocktime`.
        connections: number of peers.
        indexed: whether transactions of blocks are found by txid alone.
        log_path: where the log goes, empty for nowhere.
        max_tip_age_s: a tip older than this is not the newest there is.
    """

    unix_time_s: Callable[[], int]
    stop: Callable[[], None] | None = None
    set_time: Callable[[int], None] | None = None
    connections: Callable[[], int] = field(default=lambda: 0)
    indexed: bool = True
    log_path: str = ""
    max_tip_age_s: int = 24 * 3600


class NodeMethods:
    """Methods about the process."""

    def __init__(self, chain: Chain, registry: Registry, hooks: NodeHooks) -> None:
        self._chain = chain
        self._registry = registry
        self._hooks = hooks
        self._started_s = hooks.unix_time_s()

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getnetworkinfo", self.getnetworkinfo, "Version and connections.")
        add("getconnectioncount", self.getconnectioncount, "Number of peers.")
        add("getpeerinfo", self.getpeerinfo, "Peers of elementsd's network: none.")
        add("getnettotals", self.getnettotals, "Traffic with such peers: none.")
        add("listbanned", self.getpeerinfo, "Peers that are banned: none.")
        add("getaddednodeinfo", self.getaddednodeinfo, "Peers that were added: none.")
        add("getnodeaddresses", self.getnodeaddresses, "Addresses of peers: none.")
        add("getzmqnotifications", self.getpeerinfo, "ZeroMQ notifications: none.")
        add("getrpcinfo", self.getrpcinfo, "What JSON-RPC does now.")
        add("getmemoryinfo", self.getmemoryinfo, "Memory of the process.")
        add("getindexinfo", self.getindexinfo, "Indexes and how far they are.")
        add("logging", self.logging, "Categories of the log: all of them, always.")
        add("estimatesmartfee", self.estimatesmartfee, "Fee rate: no estimate is made.")
        add("estimaterawfee", self.estimaterawfee, "Fee rates: no estimate is made.")
        add("uptime", self.uptime, "Seconds since the start.")
        add("help", self.help, "List the methods, or explain one.")
        add("echo", self.echo, "Give back the parameters.")
        add("echojson", self.echo, "Give back the parameters.")
        add(
            "syncwithvalidationinterfacequeue",
            self.syncwithvalidationinterfacequeue,
            "Wait until everybody was told of the newest block: always so here.",
        )
        if self._hooks.stop is not None:
            add("stop", self.stop, "Stop this process.")
        if self._hooks.set_time is not None:
            add("mockscheduler", self.mockscheduler, "Advance timed work, for tests.")
            add("setmocktime", self.setmocktime, "Set the node's clock, for tests.")

    def getnetworkinfo(self) -> dict[str, Any]:
        """Version and connections."""
        params = self._chain.params
        count = self._hooks.connections()
        return {
            "version": VERSION,
            "subversion": SUBVERSION,
            "protocolversion": PROTOCOL_VERSION,
            "localservices": "0000000000000000",
            "localservicesnames": [],
            "localrelay": True,
            "timeoffset": 0,
            "networkactive": True,
            "connections": count,
            "connections_in": 0,
            "connections_out": count,
            "networks": [
                {
                    "name": name,
                    "limited": name not in ("ipv4", "ipv6"),
                    "reachable": name in ("ipv4", "ipv6"),
                    "proxy": "",
                    "proxy_randomize_credentials": False,
                }
                for name in _NETWORKS
            ],
            "relayfee": coins(params.min_relay_fee_sats_per_kvb),
            "incrementalfee": coins(params.incremental_relay_fee_sats_per_kvb),
            "localaddresses": [],
            "warnings": [],
        }

    def getconnectioncount(self) -> int:
        """Number of peers."""
        return self._hooks.connections()

    def getpeerinfo(self) -> list[Any]:
        """Peers of elementsd's network: none."""
        return []

    def getaddednodeinfo(self, node: Any = None) -> list[Any]:
        """Peers that were added: none."""
        if node is not None:
            text_argument(node)
            raise RpcError(-24, "Error: Node has not been added.")
        return []

    def getnodeaddresses(self, count: Any = None, network: Any = None) -> list[Any]:
        """Addresses of peers: none."""
        if count is not None and integer_argument(count) < 0:
            raise RpcError(INVALID_PARAMETER, "Address count out of range")
        if network is not None and text_argument(network) not in _NETWORKS:
            raise RpcError(INVALID_PARAMETER, f"Network not recognized: {network}")
        return []

    def getnettotals(self) -> dict[str, Any]:
        """Traffic with peers of elementsd's network: none."""
        return {
            "totalbytesrecv": 0,
            "totalbytessent": 0,
            "timemillis": self._hooks.unix_time_s() * 1000,
            "uploadtarget": {
                "timeframe": 86_400,
                "target": 0,
                "target_reached": False,
                "serve_historical_blocks": True,
                "bytes_left_in_cycle": 0,
                "time_left_in_cycle": 0,
            },
        }

    def getrpcinfo(self) -> dict[str, Any]:
        """What JSON-RPC does now: this call; durations are in microseconds."""
        return {
            "active_commands": [{"method": "getrpcinfo", "duration": 0}],
            "logpath": self._hooks.log_path,
        }

    def getmemoryinfo(self, mode: Any = None) -> Any:
        """Memory of the process: no secret is locked into it; its largest size so far."""
        kind = "stats" if mode is None else text_argument(mode)
        if kind == "mallocinfo":
            raise RpcError(INVALID_PARAMETER, "mallocinfo mode not available")
        if kind != "stats":
            raise RpcError(INVALID_PARAMETER, f"unknown mode {kind}")
        locked = ("used", "free", "total", "locked", "chunks_used", "chunks_free")
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"locked": dict.fromkeys(locked, 0), "peak_rss": peak_bytes}

    def getindexinfo(self, index_name: Any = None) -> dict[str, Any]:
        """Indexes and how far they are; that of transactions is written with each block."""
        wanted = "" if index_name is None else text_argument(index_name)
        if not self._hooks.indexed or wanted not in ("", "txindex"):
            return {}
        return {"txindex": {"synced": True, "best_block_height": self._chain.tip_height}}

    def logging(self, include: Any = None, exclude: Any = None) -> dict[str, bool]:
        """Categories of the log; there are none to choose."""
        for value in (include, exclude):
            for category in [] if value is None else array_argument(value):
                raise RpcError(
                    INVALID_PARAMETER, f"unknown logging category {text_argument(category)}"
                )
        return {}

    def estimatesmartfee(self, conf_target: Any, estimate_mode: Any = None) -> dict[str, Any]:
        """No estimate: blocks of a federation are not full, so the floor is enough."""
        _fee_target(conf_target)
        mode = "economical" if estimate_mode is None else text_argument(estimate_mode)
        if mode.lower() not in ("unset", "economical", "conservative"):
            raise RpcError(
                INVALID_PARAMETER,
                'Invalid estimate_mode parameter, must be one of: "unset", "economical",'
                ' "conservative"',
            )
        return {"errors": [_NO_ESTIMATE], "blocks": 0}

    def estimaterawfee(self, conf_target: Any, threshold: Any = None) -> dict[str, Any]:
        """No estimate, for any horizon."""
        _fee_target(conf_target)
        if threshold is not None and not 0 <= number_argument(threshold) <= 1:
            raise RpcError(INVALID_PARAMETER, "Invalid threshold")
        return {
            horizon: {"decay": 0, "scale": 0, "errors": [_NO_ESTIMATE]}
            for horizon in ("short", "medium", "long")
        }

    def uptime(self) -> int:
        """Seconds since the start."""
        return max(self._hooks.unix_time_s() - self._started_s, 0)

    def help(self, command: Any = None) -> str:
        """List the methods, or explain one."""
        if command is None:
            return self._registry.help()
        name = text_argument(command)
        if name and name not in self._registry.methods:
            return f"help: unknown command: {name}"
        return self._registry.help(name)

    def echo(
        self,
        arg0: Any = _ABSENT,
        arg1: Any = _ABSENT,
        arg2: Any = _ABSENT,
        arg3: Any = _ABSENT,
        arg4: Any = _ABSENT,
        arg5: Any = _ABSENT,
        arg6: Any = _ABSENT,
        arg7: Any = _ABSENT,
        arg8: Any = _ABSENT,
        arg9: Any = _ABSENT,
    ) -> list[Any]:
        """Give back the parameters."""
        given = [arg0, arg1, arg2, arg3, arg4, arg5, arg6, arg7, arg8, arg9]
        return [value for value in given if value is not _ABSENT]

    def syncwithvalidationinterfacequeue(self) -> None:
        """Nothing: listeners are told of a block before the call that brought it returns."""

    async def stop(self, wait: Any = None) -> str:
        """Stop this process; the reply comes `wait` milliseconds later (for tests)."""
        delay_ms = integer_argument(wait) if wait is not None else 0
        if self._hooks.stop is not None:
            self._hooks.stop()
        if delay_ms > 0:
            await asyncio.sleep(delay_ms / 1000)
        return "fedpeg stopping"

    def mockscheduler(self, delta_time: Any) -> None:
        """Advance timed work by seconds; all such work here follows `setmocktime`."""
        if not 0 < integer_argument(delta_time) <= MAX_SCHEDULER_STEP_S:
            raise RpcError(MISC_ERROR, "delta_time must be between 1 and 3600 seconds (1 hr)")

    def setmocktime(self, timestamp: Any) -> None:
        """Let the clock stand still at a time in seconds since 1970; 0 lets it go on."""
        time_s = integer_argument(timestamp)
        if not 0 <= time_s <= MAX_MOCK_TIME_S:
            raise RpcError(
                INVALID_PARAMETER,
                f"Mocktime must be in the range [0, {MAX_MOCK_TIME_S}], not {time_s}.",
            )
        if self._hooks.set_time is not None:
            self._hooks.set_time(time_s)


def _fee_target(value: Any) -> None:
    target = integer_argument(value)
    if not 1 <= target <= MAX_FEE_TARGET_BLOCKS:
        raise RpcError(
            INVALID_PARAMETER,
            f"Invalid conf_target, must be between 1 and {MAX_FEE_TARGET_BLOCKS}",
        )
