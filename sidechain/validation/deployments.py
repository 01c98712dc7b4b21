"""Rules that the version bits of blocks switch on: states by height, and what a template signals.

Start and timeout are heights. A state holds for a whole period of blocks and is found from the
blocks of the periods before; nothing but headers is asked.

Source: elements/blocks.md 8.1.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from enum import Enum

from sidechain.params import ALWAYS_ACTIVE, NEVER_ACTIVE, ChainParams, Deployment
from sidechain.validation.headers import HeaderChain

VERSION_TOP_BITS = 0x20000000
VERSION_TOP_MASK = 0xE0000000


class DeploymentState(Enum):
    """How far a deployment has come; the value is the name that interfaces show."""

    DEFINED = "defined"
    STARTED = "started"
    LOCKED_IN = "locked_in"
    ACTIVE = "active"
    FAILED = "failed"


StateCache = MutableMapping[tuple[bytes, int], DeploymentState]
"""States by the hash of a period's last block and the deployment's bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalCount:
    """Votes in the current period up to one block: one flag a block in `signals`."""

    period: int
    threshold: int
    signals: tuple[bool, ...]

    @property
    def count(self) -> int:
        """Blocks that voted."""
        return sum(self.signals)

    @property
    def possible(self) -> bool:
        """Whether the threshold can still be reached in this period."""
        return self.period - self.threshold >= len(self.signals) - self.count


def deployments(params: ChainParams) -> tuple[tuple[str, Deployment], ...]:
    """Every deployment with its name, in the order in which the reference keeps them."""
    return (
        ("testdummy", params.testdummy),
        ("taproot", params.taproot),
        ("dynafed", params.dynafed),
        ("simplicity", params.simplicity),
    )


def deployment_state(
    chain: HeaderChain,
    prev_height: int,
    deployment: Deployment,
    params: ChainParams,
    cache: StateCache | None = None,
) -> DeploymentState:
    """State for the block after `prev_height`, which is -1 for the genesis block.

    Args:
        cache: states found earlier, kept by the caller; it may hold those of other branches.
    """
    if deployment.start == ALWAYS_ACTIVE:
        return DeploymentState.ACTIVE
    if deployment.start == NEVER_ACTIVE:
        return DeploymentState.FAILED
    known: StateCache = {} if cache is None else cache
    last = prev_height - (prev_height + 1) % period_blocks(deployment, params)
    state, waiting = _nearest_known(chain, last, deployment, params, known)
    for height in reversed(waiting):
        state = _next_state(state, chain, height, deployment, params)
        known[chain.header(height).hash, deployment.bit] = state
    return state


def state_since(
    chain: HeaderChain,
    prev_height: int,
    deployment: Deployment,
    params: ChainParams,
    cache: StateCache,
) -> int:
    """Height of the first block to which the state for the block after `prev_height` applies."""
    if deployment.start in (ALWAYS_ACTIVE, NEVER_ACTIVE):
        return 0
    state = deployment_state(chain, prev_height, deployment, params, cache)
    if state is DeploymentState.DEFINED:
        return 0
    period = period_blocks(deployment, params)
    last = prev_height - (prev_height + 1) % period
    while last >= period and state is deployment_state(
        chain, last - period, deployment, params, cache
    ):
        last -= period
    return last + 1


def signal_count(
    chain: HeaderChain, height: int, deployment: Deployment, params: ChainParams
) -> SignalCount:
    """Votes of the period that the block at `height` is in, up to that block."""
    period = period_blocks(deployment, params)
    first = height - height % period
    return SignalCount(
        period=period,
        threshold=threshold_blocks(deployment, params),
        signals=tuple(_signals(chain, h, deployment) for h in range(first, height + 1)),
    )


def period_blocks(deployment: Deployment, params: ChainParams) -> int:
    """Blocks of one count."""
    return deployment.period or params.miner_confirmation_window


def threshold_blocks(deployment: Deployment, params: ChainParams) -> int:
    """Votes in one period that lock a deployment in."""
    if deployment.threshold is not None:
        return deployment.threshold
    return params.rule_change_activation_threshold


def template_version(
    chain: HeaderChain, prev_height: int, params: ChainParams, cache: StateCache | None = None
) -> int:
    """Version of a new block after `prev_height`: it votes for whatever is being voted on.

    Source: elements/blocks.md 5.3.
    """
    version = VERSION_TOP_BITS
    for _, deployment in deployments(params):
        state = deployment_state(chain, prev_height, deployment, params, cache)
        if state in (DeploymentState.STARTED, DeploymentState.LOCKED_IN):
            version |= 1 << deployment.bit
    if not params.signal_dynafed:
        version &= ~(1 << params.dynafed.bit)
    return version


def dynafed_active(chain: HeaderChain, prev_height: int, params: ChainParams) -> bool:
    """Whether the block after `prev_height` must have the dynamic-federation form.

    Once active the rule stays, and every header shows it by its form; so only the first block of
    a period needs a count of votes.
    """
    if params.dynafed.start in (ALWAYS_ACTIVE, NEVER_ACTIVE):
        return params.dynafed.start == ALWAYS_ACTIVE
    if prev_height >= 0 and chain.header(prev_height).is_dynafed and params.signblockscript:
        return True
    if (prev_height + 1) % period_blocks(params.dynafed, params) and params.signblockscript:
        return False
    state = deployment_state(chain, prev_height, params.dynafed, params)
    return state is DeploymentState.ACTIVE


def _nearest_known(
    chain: HeaderChain, last: int, deployment: Deployment, params: ChainParams, known: StateCache
) -> tuple[DeploymentState, list[int]]:
    """The latest state at or below `last` that needs no count, and the period ends after it."""
    waiting: list[int] = []
    for height in _period_ends(last, period_blocks(deployment, params)):
        if height < deployment.start:
            break
        found = known.get((chain.header(height).hash, deployment.bit))
        if found is not None:
            return found, waiting
        waiting.append(height)
    return DeploymentState.DEFINED, waiting


def _period_ends(last: int, period: int) -> Iterator[int]:
    return iter(range(last, -1, -period))


def _next_state(
    state: DeploymentState,
    chain: HeaderChain,
    height: int,
    deployment: Deployment,
    params: ChainParams,
) -> DeploymentState:
    """State of the period after the one that ends with the block at `height`."""
    match state:
        case DeploymentState.DEFINED if height >= deployment.start:
            return DeploymentState.STARTED
        case DeploymentState.STARTED:
            votes = signal_count(chain, height, deployment, params)
            if votes.count >= votes.threshold:
                return DeploymentState.LOCKED_IN
            if height >= deployment.timeout:
                return DeploymentState.FAILED
        case DeploymentState.LOCKED_IN if height + 1 >= deployment.min_activation_height:
            return DeploymentState.ACTIVE
    return state


def _signals(chain: HeaderChain, height: int, deployment: Deployment) -> bool:
    version = chain.header(height).version
    return version & VERSION_TOP_MASK == VERSION_TOP_BITS and bool(version >> deployment.bit & 1)
