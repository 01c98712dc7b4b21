"""Elements' JSON-RPC methods on one chain: what a node offers, put together.

Source: elements/interfaces.md 1 and 3, clients.md 2.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sidechain.api.registry import Registry
from sidechain.api.rpc_assets import AssetMethods
from sidechain.api.rpc_blinding import BlindingMethods
from sidechain.api.rpc_blocks import BlockMethods
from sidechain.api.rpc_build import BuildMethods
from sidechain.api.rpc_chain import ChainMethods
from sidechain.api.rpc_coins import CoinMethods
from sidechain.api.rpc_descriptors import DescriptorMethods
from sidechain.api.rpc_keys import KeyMethods
from sidechain.api.rpc_mempool import MempoolMethods
from sidechain.api.rpc_mining import MiningMethods
from sidechain.api.rpc_node import NodeHooks, NodeMethods
from sidechain.api.rpc_proofs import ProofMethods
from sidechain.api.rpc_psbt import PsbtMethods
from sidechain.api.rpc_pset import PsetMethods
from sidechain.api.rpc_scripts import ScriptMethods
from sidechain.api.rpc_sketch import SketchMethods
from sidechain.api.rpc_submission import SubmissionMethods
from sidechain.api.rpc_submit import Submission, SubmitMethods
from sidechain.api.rpc_template import TemplateMethods
from sidechain.api.rpc_transactions import TransactionMethods
from sidechain.chain import Chain
from sidechain.mempool_file import FactsFor
from sidechain.policy.template import TemplateRules
from sidechain.primitives.transaction import Transaction

OnAccepted = Callable[[Transaction], Awaitable[None]]


def register_chain_methods(
    registry: Registry,
    chain: Chain,
    *,
    facts_for: FactsFor,
    on_accepted: OnAccepted,
    hooks: NodeHooks,
    labels: Mapping[str, bytes] | None = None,
    takes_blocks: bool = False,
    mempool_file: Path | None = None,
    template: TemplateRules | None = None,
) -> None:
    """Offer the methods of a chain.

    Args:
        facts_for: learns what a transaction's peg-ins need from the parent chain.
        on_accepted: told of every transaction that `sendrawtransaction` took, for gossip.
        hooks: clock, and what the process lets its RPC do.
        labels: asset id in internal order by label; by default that of the pegged asset.
        takes_blocks: whether blocks come in by these methods; a member has them from its peers.
        mempool_file: where `savemempool` writes; without it that method fails.
        template: how blocks are filled.
    """
    if labels is None:
        labels = {chain.params.pegged_asset_name: chain.params.pegged_asset}
    clock = hooks.unix_time_s
    NodeMethods(chain, registry, hooks).register(registry)
    ChainMethods(chain, clock, hooks.max_tip_age_s).register(registry)
    BlockMethods(chain).register(registry)
    CoinMethods(chain).register(registry)
    TransactionMethods(chain, indexed=hooks.indexed).register(registry)
    ProofMethods(chain, indexed=hooks.indexed).register(registry)
    ScriptMethods(chain).register(registry)
    KeyMethods(chain).register(registry)
    descriptors = DescriptorMethods(chain)
    descriptors.register(registry)
    BuildMethods(chain, facts_for).register(registry)
    AssetMethods(chain, labels).register(registry)
    BlindingMethods(chain).register(registry)
    PsbtMethods(chain, descriptors, indexed=hooks.indexed).register(registry)
    PsetMethods(chain, labels).register(registry)
    MempoolMethods(chain, facts_for=facts_for, unix_time_s=clock, file=mempool_file).register(
        registry
    )
    SubmissionMethods(
        chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=clock
    ).register(registry)
    if takes_blocks:
        submission = Submission(chain, facts_for, clock)
        SubmitMethods(chain, submission, unix_time_s=clock).register(registry)
        mining = MiningMethods(
            chain,
            submission,
            unix_time_s=clock,
            script_of=descriptors.script_of,
            rules=template,
        )
        mining.register(registry)
        TemplateMethods(chain, submission, mining.next_block, unix_time_s=clock).register(registry)
        SketchMethods(chain).register(registry)
