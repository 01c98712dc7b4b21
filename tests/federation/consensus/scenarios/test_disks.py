"""Lost and exchanged disks (consensus:10.1.6, 10.1.7, 10.1.13, C70 to C75).

`Net.check` holds everything that was ever said under a key against what is said after the loss:
a member that votes again too early contradicts itself there.
"""

import pytest

from federation.consensus.events import OperatorResumed, StartMode
from federation.consensus.height_state import Step
from federation.consensus.records import Amnesia, Mode, Resume, decode_record
from federation.consensus.votes import VoteType
from tests.federation.consensus.net import Net, NetDisk, Process

STEPS = [Step.WAIT, Step.PROPOSE, Step.PREVOTE, Step.PRECOMMIT, Step.DECIDED]


def net_at(step: Step, key: int, **options: object) -> Net:
    """A net whose member `key` is in this step of height 3 or above."""
    net = Net(**options)  # type: ignore[arg-type]
    net.delay_ms = lambda source, to, message: 2 + source.key  # so that steps last
    process = net[key]
    net.until(lambda: process.height >= 3 and process.agreement.step is step)
    return net


def signed_heights(process: Process) -> int:
    """The highest height at which anything was said under the key."""
    heights = [vote.height for vote in process.said()]
    heights += [height for key, height in process.net.signed_blocks if key == process.key]
    return max(heights)


def wipe_and_return(net: Net, key: int, *, chain_too: bool, down_ms: int = 40) -> int:
    """Lose the disk, come back; returns what the theorem says: votes only above this height."""
    process = net[key]
    final_height, signed = process.height - 1, signed_heights(process)
    assert signed <= final_height + 1
    process.wipe(chain_too=chain_too)
    net.pass_ms(down_ms)
    process.start()
    assert process.mode is Mode.ABSTAINING
    assert decode_record(*process.disk.journal[0]) == Amnesia()
    return final_height + 1


def votes_again(net: Net, key: int, above: int) -> None:
    """The member votes again, and only above the height it may have signed at."""
    process = net[key]
    known = len(process.said())
    net.until(lambda: process.mode is Mode.VOTING and len(process.said()) > known)
    assert min(vote.height for vote in process.said()[known:]) > above
    resumes = [decode_record(*entry) for entry in process.disk.journal]
    assert [r.height > above for r in resumes if isinstance(r, Resume)] == [True]
    net.until_height(process.height + 3)


@pytest.mark.parametrize("chain_too", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_wiped_disk_during_each_step(step: Step, chain_too: bool) -> None:
    net = net_at(step, 0)
    above = wipe_and_return(net, 0, chain_too=chain_too)
    votes_again(net, 0, above)


@pytest.mark.parametrize("step", STEPS)
def test_wiped_disk_with_a_byzantine_member_that_under_reports(step: Step) -> None:
    net = net_at(step, 0)
    net[3].understates = True
    above = wipe_and_return(net, 0, chain_too=True)
    votes_again(net, 0, above)


@pytest.mark.parametrize("step", STEPS)
def test_wiped_disk_with_a_correct_laggard(step: Step) -> None:
    """The laggard's answer is true and low; the others' make the bound."""
    net = Net()
    net.delay_ms = lambda source, to, message: 2 + source.key
    net.until_height(2)
    net.link = lambda source, to, message: 2 not in (source.key, to.key)
    net.until(lambda: net[0].height >= 4 and net[0].agreement.step is step)
    assert net[2].height <= 3
    above = signed_heights(net[0])
    net[0].wipe()
    net.link = lambda source, to, message: {source.key, to.key} == {0, 2}
    net[0].start()
    net.pass_ms(200)
    assert net[0].mode is Mode.ABSTAINING
    net.link = lambda source, to, message: True
    votes_again(net, 0, above)


@pytest.mark.parametrize("step", STEPS)
def test_wiped_disk_with_laggard_and_liar_of_seven(step: Step) -> None:
    net = net_at(step, 0, n=7, k=5)
    net[6].understates = net[5].understates = True
    above = signed_heights(net[0])
    wipe_and_return(net, 0, chain_too=True)
    votes_again(net, 0, above)


def test_two_wiped_disks_of_four_abstain_until_an_operator_decides() -> None:
    """C76: more than n − k abstain for good, so nothing is decided, and nothing is risked."""
    net = net_at(Step.PRECOMMIT, 0)
    said = {key: len(net[key].said()) for key in (0, 1)}
    for key in (0, 1):
        net[key].wipe()
    net.pass_ms(40)
    for key in (0, 1):
        net[key].start()
    net.pass_ms(3_000)
    assert [net[key].mode for key in (0, 1)] == [Mode.ABSTAINING] * 2
    assert {key: len(net[key].said()) for key in (0, 1)} == said
    top = max(process.height for process in net)
    for key in (0, 1):
        # Nothing was signed at top + 1 yet; an operator who has looked can know that.
        net[key].feed(OperatorResumed(now_ms=net.now_ms, height=top + 1))
    net.pass_ms(3_000)
    assert {process.height for process in net} == {top}  # votes only from top + 1 on
    net[0].feed(OperatorResumed(now_ms=net.now_ms, height=top))
    net.until(lambda: all(process.height >= top + 3 for process in net))
    net.check(except_keys=[0])  # safety rests on the order now, not on the rules
    assert "operator" in net[0].alarms[0]


def test_two_wiped_disks_of_seven_vote_again() -> None:
    """f_l = 2: the five others go on, and their answers are enough for both."""
    net = net_at(Step.PREVOTE, 0, n=7, k=5)
    above = {key: signed_heights(net[key]) for key in (0, 1)}
    for key in (0, 1):
        net[key].wipe()
    net.pass_ms(40)
    for key in (0, 1):
        net[key].start()
    for key in (0, 1):
        votes_again(net, key, above[key])


def test_wiped_disk_again_before_it_may_vote() -> None:
    """Lost twice: the second roll-call has another nonce, and old answers count for nothing."""
    net = net_at(Step.PRECOMMIT, 0)
    above = signed_heights(net[0])
    for _ in range(3):
        net[0].wipe()
        net[0].start()
        net.pass_ms(7)
        assert net[0].mode is Mode.ABSTAINING
    votes_again(net, 0, above)


# --- restored from a backup


def restored(net: Net, backup: NetDisk) -> Process:
    """Member 0 comes back on an older disk and does not know it."""
    process = net[0]
    process.crash()
    process.disk = backup
    process.start(StartMode.INTACT)
    return process


def test_restored_old_disk_of_the_same_height() -> None:
    """The precommit is missing in the journal; those who saw it say so (C73, C75)."""
    net = net_at(Step.PREVOTE, 0)
    backup = net[0].disk.copy()
    height = net[0].height
    net.until(lambda: bool(net[0].said(VoteType.PRECOMMIT, height)))
    net.pass_ms(3)
    process = restored(net, backup)
    net.until(lambda: Mode.ABSTAINING in process.modes)
    votes_again(net, 0, height)


def test_restored_old_disk_one_height_back_ends_amnesiac() -> None:
    net = net_at(Step.PRECOMMIT, 0)
    backup = net[0].disk.copy()
    height = net[0].height
    net.until(lambda: net[0].height == height + 1 and bool(net[0].said(height=height + 1)))
    net.pass_ms(3)
    above = signed_heights(net[0])
    process = restored(net, backup)
    net.until(lambda: Mode.ABSTAINING in process.modes)
    votes_again(net, 0, above)


def test_restored_old_disk_a_thousand_heights_back_ends_amnesiac() -> None:
    """The own signatures in the final blocks tell it.

    When the chain is newer than the journal, the shell finds them before the start: see
    `test_c75_journal_when_older_than_the_own_signed_blocks_then_amnesiac`.
    """
    net = net_at(Step.PRECOMMIT, 0)
    backup = net[0].disk.copy()
    net.until_height(net[0].height + 1)
    net.pass_ms(30)
    for process in net:
        process.crash()
    longest = max(net, key=lambda p: p.height)
    level = longest.height
    for process in net:
        process.disk.chain = list(longest.disk.chain)
    net.extend(1_000, 0, 1, 2, 3)
    for process in net:
        process.start()
    net.until_height(level + 1_002)
    net.pass_ms(10)
    above = signed_heights(net[0])
    process = restored(net, backup)
    net.until(lambda: Mode.ABSTAINING in process.modes)
    votes_again(net, 0, above)


def test_member_returns_after_a_thousand_heights_and_votes_at_its_next_one() -> None:
    net = net_at(Step.PREVOTE, 0)
    for process in net:
        process.crash()
    longest = max(net, key=lambda p: p.height)
    for key in (1, 2, 3):
        net[key].disk.chain = list(longest.disk.chain)
    away = net[0].height
    net.extend(1_000, 1, 2, 3, signers=(1, 2, 3))
    for key in (1, 2, 3):
        net[key].start()
    net.until_height(away + 1_002, 1, 2, 3)
    known = len(net[0].said())
    net[0].start()
    net.until(lambda: len(net[0].said()) > known)
    votes = net[0].said()[known:]
    assert votes[0].height > away + 1_000
    assert Mode.ABSTAINING not in net[0].modes
    net.until_height(votes[0].height + 2)
