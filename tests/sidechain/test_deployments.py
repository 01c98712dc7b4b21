"""Version bits: states by height, what templates vote for, and the step to dynamic federations."""

from dataclasses import replace

import pytest

from sidechain.errors import InvalidBlock
from sidechain.params import ALWAYS_ACTIVE, NEVER_ACTIVE, ChainParams, Deployment
from sidechain.policy.template import build_template
from sidechain.primitives.block import NULL_ENTRY, BlockHeader
from sidechain.script.flags import Flags
from sidechain.script.script import p2wsh
from sidechain.validation.block_check import check_contextual_header
from sidechain.validation.connect import block_script_flags
from sidechain.validation.deployments import (
    VERSION_TOP_BITS,
    DeploymentState,
    StateCache,
    deployment_state,
    dynafed_active,
    signal_count,
    state_since,
    template_version,
)
from tests.sidechain.example_chain import SIGNBLOCKSCRIPT, ListedHeaders, example_params

WINDOW, THRESHOLD = 12, 9
DYNAFED_VOTE = VERSION_TOP_BITS | 1 << 25
FAR_FUTURE_S = 10**10


def voting_params(**changes: object) -> ChainParams:
    """A chain on which dynamic federations are voted on from the start."""
    fields: dict[str, object] = {
        "miner_confirmation_window": WINDOW,
        "rule_change_activation_threshold": THRESHOLD,
        "dynafed": Deployment(bit=25, start=0),
    }
    return example_params(**(fields | changes))


class VotingHeaders(ListedHeaders):
    """Headers of the form that is due, with a version that the test chooses."""

    def due(self, version: int = DYNAFED_VOTE) -> BlockHeader:
        """The next header."""
        block = build_template(
            self,
            self.params,
            time_s=self.headers[-1].time + 60,
            coinbase_scripts=(),
            transactions=(),
            proposed=NULL_ENTRY,
            version=version,
        )
        return block.header

    def vote(self, count: int, version: int = DYNAFED_VOTE) -> None:
        """Append `count` headers, all found valid."""
        for _ in range(count):
            voting = not dynafed_active(self, self.tip_height, self.params)
            header = self.due(version if voting else VERSION_TOP_BITS)
            check_contextual_header(header, self, self.params, FAR_FUTURE_S)
            self.headers.append(header)


def state_at(chain: ListedHeaders, height: int) -> DeploymentState:
    """State for the block at `height`."""
    return deployment_state(chain, height - 1, chain.params.dynafed, chain.params)


def test_state_when_enough_vote_then_active_two_periods_later() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(4 * WINDOW)
    found = [state_at(chain, height) for height in range(0, 4 * WINDOW, WINDOW)]
    assert found == [
        DeploymentState.DEFINED,
        DeploymentState.STARTED,
        DeploymentState.LOCKED_IN,
        DeploymentState.ACTIVE,
    ]
    for height in range(4 * WINDOW):
        assert state_at(chain, height) is found[height // WINDOW]
    forms = [header.is_dynafed for header in chain.headers]
    assert forms == [False] * (3 * WINDOW) + [True] * (WINDOW + 1)


@pytest.mark.parametrize(
    ("votes", "timeout", "expected"),
    [
        (THRESHOLD, 10**9, DeploymentState.LOCKED_IN),
        (THRESHOLD - 1, 10**9, DeploymentState.STARTED),
        (THRESHOLD - 1, 2 * WINDOW - 1, DeploymentState.FAILED),
        (THRESHOLD, 2 * WINDOW - 1, DeploymentState.LOCKED_IN),
        (THRESHOLD - 1, 2 * WINDOW, DeploymentState.STARTED),
    ],
)
def test_state_when_votes_are_counted_then_threshold_comes_before_timeout(
    votes: int, timeout: int, expected: DeploymentState
) -> None:
    chain = VotingHeaders(
        voting_params(dynafed=Deployment(bit=25, start=WINDOW - 1, timeout=timeout))
    )
    chain.vote(WINDOW - 1)
    chain.vote(votes)
    # Neither another bit nor other top bits are a vote.
    chain.vote(1, VERSION_TOP_BITS | 1 << 24)
    chain.vote(WINDOW - votes - 1, 1 << 25 | 1 << 28)
    assert state_at(chain, 2 * WINDOW) is expected


def test_state_when_other_bits_are_set_too_then_still_votes() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(2 * WINDOW, DYNAFED_VOTE | 1)
    assert state_at(chain, 2 * WINDOW) is DeploymentState.LOCKED_IN


def test_state_when_start_is_ahead_then_defined_until_a_period_ends_behind_it() -> None:
    chain = VotingHeaders(voting_params(dynafed=Deployment(bit=25, start=WINDOW)))
    chain.vote(3 * WINDOW)
    assert state_at(chain, 2 * WINDOW - 1) is DeploymentState.DEFINED
    assert state_at(chain, 2 * WINDOW) is DeploymentState.STARTED


@pytest.mark.parametrize(
    ("least", "active"),
    [
        (3 * WINDOW - 1, 3 * WINDOW),
        (3 * WINDOW, 3 * WINDOW),
        (3 * WINDOW + 1, 4 * WINDOW),
        (4 * WINDOW, 4 * WINDOW),
        (4 * WINDOW + 1, 5 * WINDOW),
    ],
)
def test_state_when_a_least_height_is_set_then_locked_in_until_there(
    least: int, active: int
) -> None:
    params = voting_params(dynafed=Deployment(bit=25, start=0, min_activation_height=least))
    chain = VotingHeaders(params)
    chain.vote(5 * WINDOW)
    assert state_at(chain, active - 1) is DeploymentState.LOCKED_IN
    assert state_at(chain, active) is DeploymentState.ACTIVE


def test_state_when_start_is_special_then_no_header_is_asked() -> None:
    chain = ListedHeaders(example_params())
    for start, expected in (
        (ALWAYS_ACTIVE, DeploymentState.ACTIVE),
        (NEVER_ACTIVE, DeploymentState.FAILED),
    ):
        deployment = Deployment(bit=3, start=start)
        assert deployment_state(chain, -1, deployment, chain.params) is expected
        assert state_since(chain, 10**6, deployment, chain.params, {}) == 0


def test_since_and_cache_when_asked_then_first_block_of_the_state() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(6 * WINDOW)
    cache: StateCache = {}
    dynafed = chain.params.dynafed
    since = [state_since(chain, h - 1, dynafed, chain.params, cache) for h in range(6 * WINDOW)]
    expected = [0, WINDOW, 2 * WINDOW, 3 * WINDOW, 3 * WINDOW, 3 * WINDOW]
    assert since == [height for height in expected for _ in range(WINDOW)]
    assert cache
    for height in range(6 * WINDOW):
        again = deployment_state(chain, height - 1, dynafed, chain.params, cache)
        assert again is state_at(chain, height)


def test_state_when_a_period_is_one_block_then_every_block_is_a_step() -> None:
    params = voting_params(miner_confirmation_window=1, rule_change_activation_threshold=1)
    chain = VotingHeaders(params)
    chain.vote(6)
    assert [state_at(chain, height) for height in range(5)] == [
        DeploymentState.DEFINED,
        DeploymentState.STARTED,
        DeploymentState.LOCKED_IN,
        DeploymentState.ACTIVE,
        DeploymentState.ACTIVE,
    ]
    dynafed = params.dynafed
    assert [state_since(chain, height - 1, dynafed, params, {}) for height in range(6)] == [
        *(0, 1, 2),
        *(3, 3, 3),
    ]
    undecided = VotingHeaders(params)
    undecided.vote(4, VERSION_TOP_BITS)
    since = [state_since(undecided, height - 1, dynafed, params, {}) for height in range(1, 5)]
    assert since == [1, 1, 1, 1]


def test_count_when_in_the_middle_of_a_period_then_what_is_still_possible() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(WINDOW + 1)
    chain.vote(3, VERSION_TOP_BITS)
    count = signal_count(chain, chain.tip_height, chain.params.dynafed, chain.params)
    assert count.signals == (True, True, False, False, False)
    assert (count.count, count.possible) == (2, True)
    chain.vote(1, VERSION_TOP_BITS)
    assert not signal_count(chain, chain.tip_height, chain.params.dynafed, chain.params).possible


def test_version_when_something_is_voted_on_then_its_bit_is_set() -> None:
    chain = VotingHeaders(voting_params())
    seen = []
    for _ in range(4):
        seen.append(template_version(chain, chain.tip_height, chain.params))
        chain.vote(WINDOW)
    both = DYNAFED_VOTE | 1 << 28
    # The test deployment has no votes and is voted on for ever.
    assert seen == [VERSION_TOP_BITS, both, both, VERSION_TOP_BITS | 1 << 28]
    silent = replace(chain.params, signal_dynafed=False)
    assert template_version(chain, WINDOW, silent) == VERSION_TOP_BITS | 1 << 28


def test_header_before_activation_when_of_the_other_form_then_bad_diffbits() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(3 * WINDOW - 2)
    legacy = chain.due()
    dynafed = replace(
        legacy, challenge=b"", current=replace(chain.next_header().current), proposed=NULL_ENTRY
    )
    for header in (dynafed, replace(legacy, challenge=b"\x51")):
        with pytest.raises(InvalidBlock, match="bad-diffbits"):
            check_contextual_header(header, chain, chain.params, FAR_FUTURE_S)
    chain.vote(1)
    first = chain.due()
    assert first.current.signblockscript == p2wsh(SIGNBLOCKSCRIPT)
    assert (first.height, first.current.kind) == (3 * WINDOW, 2)
    late = replace(legacy, prev_hash=chain.headers[-1].hash, height=3 * WINDOW)
    late = replace(late, time=chain.headers[-1].time + 60)
    with pytest.raises(InvalidBlock, match="invalid-dyna-fed"):
        check_contextual_header(late, chain, chain.params, FAR_FUTURE_S)


def test_full_entry_when_activation_is_inside_an_epoch_then_only_there_and_at_the_next() -> None:
    chain = VotingHeaders(voting_params())
    chain.vote(6 * WINDOW)
    kinds = {h: chain.headers[h].current.kind for h in range(3 * WINDOW, 6 * WINDOW)}
    assert [h for h, kind in kinds.items() if kind == 2] == [36, 40, 50, 60, 70]


@pytest.mark.parametrize(
    ("heights", "height", "least"),
    [
        ((0, 0, 0), 1, 4),
        ((0, 0, 5), 4, 3),
        ((0, 5, 5), 4, 2),
        ((5, 5, 5), 4, 0),
        ((5, 5, 5), 5, 4),
    ],
)
def test_version_when_buried_rules_start_then_least_version(
    heights: tuple[int, int, int], height: int, least: int
) -> None:
    bip34, bip66, bip65 = heights
    params = example_params(bip34_height=bip34, bip66_height=bip66, bip65_height=bip65)
    chain = ListedHeaders(params)
    chain.grow(height - 1)
    header = replace(chain.next_header(), version=least)
    check_contextual_header(header, chain, params, FAR_FUTURE_S)
    if least:
        with pytest.raises(InvalidBlock, match=rf"bad-version\(0x0000000{least - 1}\)"):
            check_contextual_header(replace(header, version=least - 1), chain, params, FAR_FUTURE_S)


def test_flags_when_rules_start_then_each_at_its_height() -> None:
    chain = VotingHeaders(
        voting_params(bip66_height=3, bip65_height=4, csv_height=5, segwit_height=6)
    )
    chain.vote(3 * WINDOW)
    starts = {
        Flags.DERSIG: 3,
        Flags.CHECKLOCKTIMEVERIFY: 4,
        Flags.CHECKSEQUENCEVERIFY: 5,
        Flags.NULLDUMMY: 6,
        Flags.SIGHASH_RANGEPROOF: 3 * WINDOW,
        Flags.P2SH: 0,
        Flags.WITNESS: 0,
        Flags.TAPROOT: 0,
    }
    for flag, since in starts.items():
        first = next(h for h in range(50) if block_script_flags(chain, h, chain.params) & flag)
        assert first == since
