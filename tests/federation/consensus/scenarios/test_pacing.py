"""Empty blocks, slow verdicts and verdicts that come later (consensus:10.1.21, 10.1.22, N33).

Source: C20, C25, N8, N9.
"""

import pytest

from federation.consensus import effects as fx
from federation.consensus.driver import Driver
from federation.consensus.encoding import NIL
from federation.consensus.events import ConsensusTimes, Verdict, WorkAvailable
from federation.consensus.votes import BlockMessage, Proposal, Vote
from federation.sim.world import is_empty
from tests.federation.consensus.bench import PRECOMMIT, PREVOTE
from tests.federation.consensus.net import Net, Process

CALM = ConsensusTimes(
    block_interval_ms=60_000,
    min_interval_ms=6_000,
    timeout_base_ms=3_000,
    timeout_step_ms=1_000,
    timeout_cap_ms=60_000,
    gossip_interval_ms=1_000,
)
"""Production's times."""


def idle_net(minutes: int) -> tuple[Net, list[tuple[int, int]]]:
    """No work anywhere; returns the net and (time, height) of each block at member 0."""
    net = Net(times=CALM)
    net.has_work = lambda process, height: False
    times: list[tuple[int, int]] = []
    known = net.on_final

    def note(source: Process, block: object) -> None:
        known(source, block)  # type: ignore[arg-type]
        if source is net[0]:
            times.append((net.now_ms, source.height))

    net.on_final = note  # type: ignore[method-assign, assignment]
    for process in net:
        process.crash()
    for process in net:
        process.start()
    net.pass_ms(minutes * 60_000)
    net.check()
    return net, times


def check_idle(minutes: int, times: list[tuple[int, int]]) -> None:
    moments = [moment for moment, _ in times]
    assert minutes - 1 <= len(moments) <= minutes
    gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
    assert min(gaps) >= CALM.min_interval_ms


def test_empty_mempool_for_ten_minutes() -> None:
    net, times = idle_net(10)
    check_idle(10, times)
    assert all(is_empty(block.data) for block in net[0].disk.chain)


@pytest.mark.slow
def test_empty_mempool_for_an_hour() -> None:
    """At most 3600 / block_interval blocks, none within min_interval."""
    _, times = idle_net(60)
    check_idle(60, times)


def test_work_that_reached_everybody_gets_in_within_one_height() -> None:
    """What one member has is relayed to all (`test_transaction_when_submitted_...`): C20(a)."""
    net, times = idle_net(3)
    height = net[0].height
    net.has_work = lambda process, at: at == height
    for process in net:
        process.feed(WorkAvailable(now_ms=net.now_ms, height=height))
    start_ms = net.now_ms
    net.until(lambda: net[0].height > height, 10_000)
    assert net.now_ms - start_ms <= CALM.min_interval_ms + 100
    assert not is_empty(net[0].disk.chain[-1].data)


def test_work_at_one_member_that_does_not_propose_starts_the_height_for_nobody_else() -> None:
    """One member under way moves nobody (C20d, s = 2): it is relaying that brings work around."""
    net, _ = idle_net(2)
    net.pass_ms(3_000)
    height, lonely = net[0].height, net[(net[0].height + 2) % 4]
    lonely.feed(WorkAvailable(now_ms=net.now_ms, height=height))
    net.pass_ms(CALM.min_interval_ms + 100)
    assert lonely.agreement.round == 0
    assert {p.agreement.round for p in net if p is not lonely} == {-1}
    net.until_height(height + 1, within_ms=70_000)


def test_verdict_slower_than_the_timeout() -> None:
    """It counts as no proposal (C25); timeouts grow until it comes in time."""
    net = Net()
    net.verdict = lambda process, question: (Verdict.ACCEPTABLE, 300)
    net.until_height(2)
    assert net[0].said(PREVOTE, 1)[0].block_hash == NIL
    rounds = [v.round for v in net[0].said(PRECOMMIT, 1) if v.block_hash != NIL]
    base, step = net.times.timeout_base_ms, net.times.timeout_step_ms
    assert rounds and rounds[0] <= (300 - base) // step + 4
    net.verdict = lambda process, question: (Verdict.ACCEPTABLE, 0)
    net.until_height(4)


def test_verdict_not_yet_in_round_0_and_valid_in_round_2() -> None:
    """Judged anew at each proposal and every second (N8)."""
    net = Net()
    net.verdict = lambda process, question: (
        Verdict.NOT_YET if question.round < 2 else Verdict.ACCEPTABLE,
        0,
    )
    net.until_height(2)
    for process in net:
        by_round = {v.round: v.block_hash for v in process.said(PREVOTE, 1)}
        assert (by_round[0], by_round[1]) == (NIL, NIL)
        assert by_round[2] in net.finals[1]


def test_verdict_refused_by_all_ends_in_a_minimal_block() -> None:
    """N9: from round 2 on without validValue; opinions that differ for good stop nothing."""
    net = Net()
    net.verdict = lambda process, question: (
        Verdict.ACCEPTABLE if is_empty(question.data) else Verdict.REFUSED,
        0,
    )
    net.until_height(4)
    assert all(is_empty(block.data) for block in net[0].disk.chain)
    assert {v.round for v in net[0].said(PREVOTE) if v.block_hash != NIL} == {2}


# --- N33


def parent_reorganisation(driver_class: type[Driver] = Driver) -> Net:
    """Member 3 lies and is silent, 0 is locked, 1 restarts; then the parent chain reorganises.

    From then on nobody finds E true for the locked block: what was ACCEPTABLE is NOT_YET. Minimal
    blocks are acceptable always (N9).
    """
    net = Net(keys=(0, 1, 2), driver_class=driver_class)
    reorganised: list[bool] = []

    def verdict(process: Process, question: fx.CheckBlock) -> tuple[Verdict, int]:
        is_minimal = is_empty(question.data)
        return Verdict.NOT_YET if reorganised and not is_minimal else Verdict.ACCEPTABLE, 0

    net.verdict = verdict
    # Blocks reach everybody, votes of member 0 nobody: it alone sees the POL.
    net.link = lambda source, to, message: (
        (isinstance(message, Vote) and source.key != 0)
        or isinstance(message, Proposal | BlockMessage)
    )
    net.until(lambda: net[0].agreement.locked_round == 0)
    net.inject(net.vote(PREVOTE, 1, 0, NIL, 3), 1, 2)
    net.until(lambda: all(p.said(PRECOMMIT) for p in net))
    assert [p.agreement.locked_round for p in net] == [0, -1, -1]
    reorganised.append(True)
    net.link = lambda source, to, message: False
    net[1].crash()
    return net


def test_n33_parent_reorganisation_while_one_is_locked_one_restarts_and_one_is_silent() -> None:
    net = parent_reorganisation()
    net.pass_ms(60)
    net.link = lambda source, to, message: True
    net[1].start()
    net.until_height(4, within_ms=10_000)
