"""RPC methods about the chain as a whole: its state, its parameters, its branches, its figures.

Source: elements/interfaces.md 3, elements/peg.md 8.
"""

from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any

from sidechain.api.arguments import hash_argument, integer_argument
from sidechain.api.block_stats import block_stats
from sidechain.api.json_text import coins
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.script_json import script_asm
from sidechain.chain import Chain
from sidechain.params import (
    GENESIS_BITS,
    GENESIS_TARGET,
    NEVER_ACTIVE,
    ChainParams,
    Deployment,
)
from sidechain.storage.block_tree import Node, NodeFlags
from sidechain.storage.leveldb import CACHE_BYTES
from sidechain.validation.deployments import (
    DeploymentState,
    StateCache,
    deployment_state,
    deployments,
    dynafed_active,
    signal_count,
    state_since,
)
from sidechain.validation.headers import HeaderChain, median_time_past

IBD_AGE_S = 24 * 3600
BLOCK_SPACING_S = 600
MONTH_BLOCKS = 30 * 24 * 3600 // BLOCK_SPACING_S
VERIFY_LEVEL_DEFAULT = 3
VERIFY_BLOCKS_DEFAULT = 6

_DIGITS = Context(prec=16)
_GENESIS_DIFFICULTY = Decimal("4.656542373906925e-10")
_SHOWN_ORDER = ("dynafed", "testdummy", "taproot", "simplicity")
_VOTING = (DeploymentState.STARTED, DeploymentState.LOCKED_IN)


class ChainMethods:
    """Reads a chain; changes nothing."""

    def __init__(
        self, chain: Chain, unix_time_s: Callable[[], int], max_tip_age_s: int = IBD_AGE_S
    ) -> None:
        """
        Args:
            max_tip_age_s: a tip older than this is not the newest there is.
        """
        self._chain = chain
        self._unix_time_s = unix_time_s
        self._max_tip_age_s = max_tip_age_s
        self._caught_up = False

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getblockchaininfo", self.getblockchaininfo, "State of the chain.")
        add("getsidechaininfo", self.getsidechaininfo, "Parameters of the peg.")
        add("getdeploymentinfo", self.getdeploymentinfo, "States of rules that votes switch on.")
        add("getchaintips", self.getchaintips, "The tip, and the ends of all other branches.")
        add("getchaintxstats", self.getchaintxstats, "Number and rate of transactions.")
        add("getblockstats", self.getblockstats, "Figures of one block.")
        add("verifychain", self.verifychain, "Check the newest blocks again.")
        add("getdifficulty", self.getdifficulty, "Of the genesis block; others have none.")
        add("getchainstates", self.getchainstates, "States of the chain: there is one.")
        add("pruneblockchain", self.pruneblockchain, "An error: nothing is ever pruned.")

    def getdifficulty(self) -> Decimal:
        """Difficulty of the genesis block; elementsd has the same error for signed ones."""
        if self._chain.tip_height:
            raise RpcError(MISC_ERROR, "The string 'inf' is not a valid JSON number")
        return _GENESIS_DIFFICULTY

    def getchainstates(self) -> dict[str, Any]:
        """States of the chain: there is one, and it is validated."""
        chain = self._chain
        tip = chain.header(chain.tip_height)
        shown: dict[str, Any] = {
            "blocks": chain.tip_height,
            "bestblockhash": tip.hash[::-1].hex(),
            "bits": f"{0 if chain.tip_height else GENESIS_BITS:08x}",
        }
        if not chain.tip_height:
            shown |= {"difficulty": _GENESIS_DIFFICULTY, "target": f"{GENESIS_TARGET:064x}"}
        shown |= {
            "verificationprogress": self._progress(tip.time),
            "coins_db_cache_bytes": CACHE_BYTES,
            "coins_tip_cache_bytes": 0,
            "validated": True,
        }
        return {"headers": chain.branches.best_header_height(), "chainstates": [shown]}

    def getblockchaininfo(self) -> dict[str, Any]:
        """State of the chain; the parameters shown are the next block's."""
        chain, params = self._chain, self._chain.params
        tip = chain.header(chain.tip_height)
        shown = {
            "chain": params.name,
            "blocks": chain.tip_height,
            "headers": chain.branches.best_header_height(),
            "bestblockhash": chain.tip_hash[::-1].hex(),
            "time": tip.time,
            "mediantime": chain.median_time_s,
            "verificationprogress": self._progress(tip.time),
            "initialblockdownload": self._is_behind(tip.time),
            "size_on_disk": chain.disk_bytes(),
            "pruned": False,
            "trim_headers": False,
        }
        return shown | self._federation() | {"warnings": []}

    def _federation(self) -> dict[str, Any]:
        chain, params = self._chain, self._chain.params
        if not dynafed_active(chain, chain.tip_height, params):
            return {
                "current_signblock_asm": script_asm(params.signblockscript),
                "current_signblock_hex": params.signblockscript.hex(),
                "max_block_witness": params.max_block_sig_size,
                "extension_space": [item.hex() for item in params.pak],
            }
        entry = chain.full_current()
        return {
            "current_params_root": entry.root()[::-1].hex(),
            "current_signblock_asm": script_asm(entry.signblockscript),
            "current_signblock_hex": entry.signblockscript.hex(),
            "max_block_witness": entry.witness_limit,
            "current_fedpeg_program": entry.fedpeg_program.hex(),
            "current_fedpeg_script": entry.fedpegscript.hex(),
            "extension_space": [item.hex() for item in entry.extension_space],
            "epoch_length": params.dynamic_epoch_length,
            "total_valid_epochs": params.total_valid_epochs,
            "epoch_age": chain.tip_height % params.dynamic_epoch_length,
        }

    def _progress(self, tip_time_s: int) -> Decimal | int:
        """Share of the blocks that there should be by now, rounded up to three digits."""
        height = self._chain.tip_height
        if not height:
            return 0
        missing = max(self._unix_time_s() - tip_time_s, 0) // BLOCK_SPACING_S
        thousandths = -(-1000 * height // (height + missing))
        return 1 if thousandths >= 1000 else (Decimal(thousandths) / 1000).normalize()

    def _is_behind(self, tip_time_s: int) -> bool:
        """True until the tip was once younger than a day, as in elementsd."""
        if tip_time_s > self._unix_time_s() - self._max_tip_age_s:
            self._caught_up = True
        return not self._caught_up

    def getsidechaininfo(self) -> dict[str, Any]:
        """Parameters of the peg; fedpegscripts are those the next block allows."""
        params, pairs = self._chain.params, self._chain.fedpegscripts()
        parent_script = params.parent_chain_signblockscript
        shown: dict[str, Any] = {
            "fedpegscript": params.fedpegscript.hex(),
            "current_fedpeg_programs": [pair.program.hex() for pair in pairs],
            "current_fedpegscripts": [pair.script.hex() for pair in pairs],
            "pegged_asset": params.pegged_asset[::-1].hex(),
            "min_peg_diff": f"{params.parent_pow_limit:064x}",
            "parent_blockhash": params.parent_genesis_hash[::-1].hex(),
            "parent_chain_has_pow": not parent_script,
            "enforce_pak": params.enforce_pak,
            "pegin_confirmation_depth": params.pegin_confirmation_depth,
        }
        if parent_script:
            shown["parent_chain_signblockscript_asm"] = script_asm(parent_script)
            shown["parent_chain_signblockscript_hex"] = parent_script.hex()
            shown["parent_pegged_asset"] = params.parent_pegged_asset[::-1].hex()
        return shown | _pegin_bounds(params, self._chain.tip_height)

    def getdeploymentinfo(self, blockhash: Any = None) -> dict[str, Any]:
        """States of rules for a block of the chain or beside it, by default the tip."""
        chain = self._chain
        wanted = chain.tip_hash
        if blockhash is not None:
            wanted = hash_argument(blockhash, "blockhash")
            if not chain.branches.knows(wanted):
                raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        headers = chain.branches.headers_to(wanted)
        voted = dict(deployments(chain.params))
        shown = _buried(headers.tip_height, chain.params)
        for name in _SHOWN_ORDER:
            if voted[name].start != NEVER_ACTIVE:
                shown[name] = _voted(headers, voted[name], chain.params, chain.deployment_states)
        return {
            "hash": wanted[::-1].hex(),
            "height": headers.tip_height,
            "deployments": shown,
        }

    def getchaintips(self) -> list[dict[str, Any]]:
        """The tip, and the ends of all other branches, highest first."""
        chain = self._chain
        active = {
            "height": chain.tip_height,
            "hash": chain.tip_hash[::-1].hex(),
            "branchlen": 0,
            "status": "active",
        }
        others = [
            {
                "height": node.height,
                "hash": node.hash[::-1].hex(),
                "branchlen": chain.branches.branch_length(node.hash),
                "status": _branch_status(node),
            }
            for node in chain.branches.tips()
        ]
        return sorted([active, *others], key=lambda tip: tip["height"], reverse=True)

    def getchaintxstats(self, nblocks: Any = None, blockhash: Any = None) -> dict[str, Any]:
        """Number of transactions up to a block, and their rate in a window of blocks."""
        chain = self._chain
        height = chain.tip_height if blockhash is None else self._active_height(blockhash)
        if nblocks is None:
            window = max(0, min(MONTH_BLOCKS, height - 1))
        else:
            window = integer_argument(nblocks)
            if window < 0 or (window > 0 and window >= height):
                raise RpcError(
                    INVALID_PARAMETER,
                    "Invalid block count: should be between 0 and the block's height - 1",
                )
        total = chain.place(height).total_tx_count
        header = chain.header(height)
        shown: dict[str, Any] = {
            "time": header.time,
            "txcount": total,
            "window_final_block_hash": header.hash[::-1].hex(),
            "window_final_block_height": height,
            "window_block_count": window,
        }
        if window:
            before = height - window
            interval_s = median_time_past(chain, height) - median_time_past(chain, before)
            count = total - chain.place(before).total_tx_count
            shown |= {"window_interval": interval_s, "window_tx_count": count}
            if interval_s > 0:
                shown["txrate"] = _DIGITS.divide(Decimal(count), Decimal(interval_s))
        return shown

    def _active_height(self, blockhash: Any) -> int:
        wanted = hash_argument(blockhash, "blockhash")
        if not self._chain.branches.knows(wanted):
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        height = self._chain.height_of(wanted)
        if height is None:
            raise RpcError(INVALID_PARAMETER, "Block is not in main chain")
        return height

    def getblockstats(self, hash_or_height: Any, stats: Any = None) -> dict[str, Any]:
        """Figures of one block; amounts are satoshis of the asset that fees are paid in."""
        return block_stats(self._chain, hash_or_height, stats)

    def verifychain(self, checklevel: Any = None, nblocks: Any = None) -> bool:
        """Check the newest blocks again, at levels 0 to 4."""
        level = VERIFY_LEVEL_DEFAULT if checklevel is None else integer_argument(checklevel)
        blocks = VERIFY_BLOCKS_DEFAULT if nblocks is None else integer_argument(nblocks)
        return self._chain.verify(level=level, blocks=blocks)

    def pruneblockchain(self, height: Any) -> None:
        """An error: nothing is ever pruned."""
        integer_argument(height)
        raise RpcError(MISC_ERROR, "Cannot prune blocks because node is not in prune mode.")


def _branch_status(node: Node) -> str:
    if node.has_failed:
        return "invalid"
    if not node.is_linked:
        return "headers-only"
    return "valid-fork" if node.flags & NodeFlags.VALIDATED else "valid-headers"


def _buried(height: int, params: ChainParams) -> dict[str, Any]:
    """Rules that start at a height; each counts as active from the block before."""
    heights = {
        "bip34": params.bip34_height,
        "bip66": params.bip66_height,
        "bip65": params.bip65_height,
        "csv": params.csv_height,
        "segwit": params.segwit_height,
    }
    return {
        name: {"type": "buried", "active": height + 1 >= since, "height": since}
        for name, since in heights.items()
    }


def _voted(
    headers: HeaderChain, deployment: Deployment, params: ChainParams, cache: StateCache
) -> dict[str, Any]:
    height = headers.tip_height
    state = deployment_state(headers, height - 1, deployment, params, cache)
    following = deployment_state(headers, height, deployment, params, cache)
    voting = state in _VOTING
    bip9: dict[str, Any] = {"bit": deployment.bit} if voting else {}
    bip9 |= {
        "start_time": deployment.start,
        "timeout": deployment.timeout,
        "min_activation_height": deployment.min_activation_height,
        "status": state.value,
        "since": state_since(headers, height - 1, deployment, params, cache),
        "status_next": following.value,
    }
    if voting:
        bip9 |= _votes(headers, height, deployment, params, state)
    shown: dict[str, Any] = {"type": "bip9"}
    if following is DeploymentState.ACTIVE:
        shown["height"] = state_since(headers, height, deployment, params, cache)
    return shown | {"active": following is DeploymentState.ACTIVE, "bip9": bip9}


def _votes(
    headers: HeaderChain,
    height: int,
    deployment: Deployment,
    params: ChainParams,
    state: DeploymentState,
) -> dict[str, Any]:
    count = signal_count(headers, height, deployment, params)
    figures: dict[str, Any] = {
        "period": count.period,
        "elapsed": len(count.signals),
        "count": count.count,
    }
    if state is not DeploymentState.LOCKED_IN:
        figures |= {"threshold": count.threshold, "possible": count.possible}
    signalling = "".join("#" if vote else "-" for vote in count.signals)
    return {"statistics": figures, "signalling": signalling}


def _pegin_bounds(params: ChainParams, tip_height: int) -> dict[str, Any]:
    """Least amount and subsidy of peg-ins, where they are set."""
    shown: dict[str, Any] = {}
    if params.pegin_min_sats > 0:
        shown["pegin_min_amount"] = _money(params.pegin_min_sats)
    if params.pegin_min_height is not None:
        shown["pegin_min_height"] = params.pegin_min_height
        shown["pegin_min_active"] = tip_height >= params.pegin_min_height
    if params.pegin_subsidy_threshold_sats > 0:
        shown["pegin_subsidy_threshold"] = _money(params.pegin_subsidy_threshold_sats)
    if params.pegin_subsidy_height is not None:
        shown["pegin_subsidy_height"] = params.pegin_subsidy_height
        shown["pegin_subsidy_active"] = tip_height >= params.pegin_subsidy_height
    return shown


def _money(amount_sats: int) -> str:
    """An amount as text, with two digits behind the point at least."""
    whole, _, part = format(coins(amount_sats), "f").partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"
