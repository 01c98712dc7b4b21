"""`getblocktemplate`: the next block in parts, for miners of other makes, and their proposals.

Nobody mines a chain whose blocks are signed, but its tools ask. There is no long polling: an
answer comes at once.

Source: elements/interfaces.md 2, elements/blocks.md 5.3, BIP 22, BIP 23; fields as elementsd's.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sidechain.api.arguments import object_argument, text_argument
from sidechain.api.registry import INVALID_PARAMETER, TYPE_ERROR, Registry, RpcError
from sidechain.api.rpc_submit import Submission, decode_block
from sidechain.chain import Chain
from sidechain.errors import InvalidBlock
from sidechain.params import GENESIS_BITS, GENESIS_TARGET, MAX_BLOCK_WEIGHT_WU
from sidechain.primitives.block import Block
from sidechain.validation.block_check import MAX_BLOCK_SIGOP_COST, WITNESS_COMMITMENT_PREFIX
from sidechain.validation.deployments import DeploymentState, deployment_state, deployments

_NO_SEGWIT = (
    'getblocktemplate must be called with the segwit rule set (call with {"rules": ["segwit"]})'
)


class TemplateMethods:
    """Offers what `make` makes; changes nothing."""

    def __init__(
        self,
        chain: Chain,
        submission: Submission,
        make: Callable[[], Awaitable[Block]],
        *,
        unix_time_s: Callable[[], int],
    ) -> None:
        """
        Args:
            make: the next block of what waits in the mempool.
        """
        self._chain = chain
        self._submission = submission
        self._make = make
        self._unix_time_s = unix_time_s

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            "getblocktemplate", self.getblocktemplate, "The next block in parts, or a proposal."
        )

    async def getblocktemplate(self, template_request: Any) -> Any:
        """The next block in parts; of a proposal BIP22's answer."""
        request = object_argument(template_request)
        mode = request.get("mode", "template")
        mode = "template" if mode is None else mode
        if mode == "proposal":
            return await self._judge(request.get("data"))
        rules = request.get("rules")
        client_rules = {text_argument(rule) for rule in rules} if isinstance(rules, list) else set()
        if mode != "template":
            raise RpcError(INVALID_PARAMETER, "Invalid mode")
        if "segwit" not in client_rules:
            raise RpcError(INVALID_PARAMETER, _NO_SEGWIT)
        return self._shown(await self._make())

    async def _judge(self, data: Any) -> str | None:
        if not isinstance(data, str):
            raise RpcError(TYPE_ERROR, "Missing data String key for proposal")
        chain = self._chain
        block = decode_block(data, chain)
        if chain.branches.knows(block.hash):
            return "duplicate" if chain.is_active(block.hash) else "duplicate-inconclusive"
        if block.header.prev_hash != chain.tip_hash:
            return "inconclusive-not-best-prevblk"
        claims = [tx for tx in block.transactions if any(item.is_pegin for item in tx.inputs)]
        facts = await self._submission.facts(claims)
        try:
            chain.test_proposal(block, facts=facts, now_s=self._unix_time_s())
        except InvalidBlock as fault:
            return fault.reason
        return None

    def _shown(self, block: Block) -> dict[str, Any]:
        chain, header = self._chain, block.header
        rules, available = self._rules()
        coinbase = block.transactions[0]
        # Only the genesis block of a signed chain says how hard it was to find.
        follows_genesis = chain.tip_height == 0
        shown: dict[str, Any] = {
            "capabilities": ["proposal"],
            "version": header.version,
            "rules": rules,
            "vbavailable": available,
            "vbrequired": 0,
            "previousblockhash": header.prev_hash[::-1].hex(),
            "transactions": self._transactions(block),
            "coinbaseaux": {},
            "coinbasevalue": coinbase.outputs[0].value_sats or 0,
            "longpollid": f"{chain.tip_hash[::-1].hex()}{len(chain.mempool)}",
            "target": f"{GENESIS_TARGET:064x}" if follows_genesis else "0" * 64,
            "mintime": chain.median_time_s + 1,
            "mutable": ["time", "transactions", "prevblock"],
            "noncerange": "00000000ffffffff",
            "sigoplimit": MAX_BLOCK_SIGOP_COST,
            "sizelimit": MAX_BLOCK_WEIGHT_WU,
            "weightlimit": MAX_BLOCK_WEIGHT_WU,
            "curtime": header.time,
            "bits": f"{GENESIS_BITS if follows_genesis else 0:08x}",
            "height": chain.tip_height + 1,
        }
        for output in coinbase.outputs:
            if output.script.startswith(WITNESS_COMMITMENT_PREFIX):
                shown["default_witness_commitment"] = output.script.hex()
        return shown

    def _rules(self) -> tuple[list[str], dict[str, int]]:
        """Rules in force, and those that blocks vote on, with their bits."""
        chain = self._chain
        rules, available = ["csv", "!segwit"], {}
        for name, deployment in deployments(chain.params):
            state = deployment_state(chain, chain.tip_height, deployment, chain.params)
            if state is DeploymentState.ACTIVE:
                rules.append(name)
            elif state in (DeploymentState.STARTED, DeploymentState.LOCKED_IN):
                available[name] = deployment.bit
        return rules, available

    def _transactions(self, block: Block) -> list[dict[str, Any]]:
        positions = {tx.txid: at for at, tx in enumerate(block.transactions)}
        shown = []
        for tx in block.transactions[1:]:
            entry = self._chain.mempool.get(tx.txid)
            depends = [
                positions[item.prevout.txid] for item in tx.inputs if item.prevout.txid in positions
            ]
            part: dict[str, Any] = {
                "data": tx.raw.hex(),
                "txid": tx.txid[::-1].hex(),
                "hash": tx.wtxid[::-1].hex(),
                "depends": depends,
            }
            if entry is not None:
                part |= {"fee": entry.fee_sats, "sigops": entry.sigop_cost}
            shown.append(part | {"weight": tx.weight_wu})
        return shown
