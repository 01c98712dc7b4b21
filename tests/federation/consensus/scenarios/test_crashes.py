"""Crashes at every byte and between every pair of effects, and restarts of everybody at once.

Source: consensus:10.1.4, 10.1.5, 10.1.15, 10.1.16, 10.1.18, C36, C40, C42, C73, J5, J6.
"""

from collections.abc import Callable

import pytest

from federation.consensus import effects as fx
from federation.consensus.encoding import NIL
from federation.consensus.height_state import Step
from federation.consensus.records import (
    Birth,
    BlockSigRecord,
    VoteRecord,
    decode_record,
    encode_record,
)
from federation.consensus.votes import BlockMessage, Proposal, Vote
from federation.journal_format import (
    JournalCorrupt,
    Verdict,
    file_header,
    scan_file,
)
from federation.journal_format import (
    encode_record as encode_framed,
)
from tests.federation.consensus.bench import PRECOMMIT, PREVOTE, PROPOSAL
from tests.federation.consensus.net import Net, Process
from tests.federation.consensus.test_restart import FULL, expected, restarted

IDENTITY = b"FCJOURN1" + (1).to_bytes(4, "little") + bytes(32) + b"k" * 32


def journal_file() -> tuple[bytes, list[int]]:
    """The journal of an eventful height as file 1, and where each record ends."""
    data = file_header(IDENTITY, 1)
    crc, ends = int.from_bytes(data[-4:], "little"), [len(data)]
    for sequence, record in enumerate(FULL.journal, start=1):
        kind, body = encode_record(record)
        framed, crc = encode_framed(kind, sequence, body, crc)
        data += framed
        ends.append(len(data))
    return data, ends


def test_crash_at_every_journal_offset() -> None:
    """Cut anywhere, the file says exactly its whole records; position, lock, decision follow."""
    data, ends = journal_file()
    known = -1
    for size in range(ends[0], len(data) + 1):
        scan = scan_file(data[:size], IDENTITY, 1)
        whole = sum(end <= size for end in ends) - 1
        assert scan.verdict is (Verdict.SOUND if size in ends else Verdict.TORN)
        assert len(scan.records) == whole
        if whole == known or whole == 0:
            continue
        known = whole
        records = [decode_record(r.kind, r.body) for r in scan.records]
        assert records == FULL.journal[:whole]
        a = restarted(whole).agreement
        found = (a.round, a.step, a.locked_hash, a.locked_round, a.decided_hash)
        assert found == expected(records)


@pytest.mark.slow
def test_flip_of_every_journal_bit_is_never_intact_with_different_records() -> None:
    data, ends = journal_file()
    in_last = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            scan = scan_file(bytes(flipped), IDENTITY, 1)
        except JournalCorrupt:
            continue
        assert scan.verdict is Verdict.DOUBTFUL  # neither sound nor cut without a word
        assert bit // 8 >= ends[-2]
        in_last += 1
    assert in_last == 8 * (ends[-1] - ends[-2] - 17)  # body and its CRC, not the record's header


def crash_run(key: int, at: int, *, after_write: bool) -> bool:
    """Crash a member before its effect number `at`; answers whether it had so many."""
    net = Net()
    process = net[key]
    process.crash_at, process.crash_after_write = at, after_write
    net.pass_ms(200, lambda: process.driver is None)
    crashed = process.driver is None
    if crashed:
        net.pass_ms(30)
        process.start()
    net.until_height(process.height + 3)
    return crashed


@pytest.mark.parametrize("after_write", [False, True])
def test_crash_between_every_pair_of_effects_of_the_proposer(after_write: bool) -> None:
    """Before an effect, or after the write that nobody heard of and half of the sends (C40)."""
    assert [crash_run(1, at, after_write=after_write) for at in range(0, 36, 5)] == [True] * 8


@pytest.mark.slow
@pytest.mark.parametrize("after_write", [False, True])
@pytest.mark.parametrize("key", [0, 1])
def test_crash_between_every_pair_of_effects_for_two_heights(key: int, after_write: bool) -> None:
    assert all(crash_run(key, at, after_write=after_write) for at in range(90))


# --- all at once


def restart_all(net: Net) -> None:
    """Power is cut and comes back: everybody restarts on what was written."""
    for process in net:
        process.crash()
    net.pass_ms(20)
    for process in net:
        process.start()


STATES: dict[str, Callable[[Net], bool]] = {
    "wait": lambda net: all(p.agreement.step is Step.WAIT and p.height == 2 for p in net),
    "propose": lambda net: all(p.agreement.step >= Step.PROPOSE for p in net),
    "prevote": lambda net: sum(bool(p.said(PREVOTE)) for p in net) >= 2,
    "precommit": lambda net: sum(p.agreement.locked_round == 0 for p in net) >= 2,
    "some released": lambda net: sum(bool(net.signed_blocks.get((p.key, 1))) for p in net) == 2,
    "one is final": lambda net: max(p.height for p in net) > min(p.height for p in net),
}


@pytest.mark.parametrize("state", STATES)
def test_all_members_restart_at_once(state: str) -> None:
    net = Net()
    # Links of unequal length, so that members are apart.
    net.delay_ms = lambda source, to, message: 2 + 3 * source.key + to.key
    net.until(lambda: STATES[state](net))
    restart_all(net)
    net.until_height(5)
    assert net.accused == []


@pytest.mark.parametrize("times", [2, 5])
def test_all_members_restart_at_once_again_and_again(times: int) -> None:
    net = Net()
    for number in range(times):
        net.pass_ms(35 + 9 * number)
        restart_all(net)
    net.until_height(5)


def is_said(source: Process, to: Process, message: object) -> bool:
    return isinstance(message, Vote | Proposal | BlockMessage)


def net_with_mixed_locks() -> tuple[Net, bytes, bytes]:
    """Member 0 locked v in round 0, member 1 locked w in round 1, each with the liar's help."""
    net = Net(keys=(0, 1, 2))

    def no_block_for_2(source: Process, to: Process, message: object) -> bool:
        return isinstance(message, Vote) or (to.key != 2 and is_said(source, to, message))

    net.link = no_block_for_2
    net.until(lambda: bool(net[0].said(PREVOTE) and net[1].said(PREVOTE)))
    v = net[1].said(PREVOTE)[0].block_hash
    net.inject(net.vote(PREVOTE, 1, 0, v, 3), 0)
    net.until(lambda: net[0].agreement.locked_round == 0)
    net.link = is_said
    net.until(lambda: all(p.agreement.round == 1 for p in net))
    net.until(lambda: all(p.said(PREVOTE)[-1].round == 1 for p in net))
    w = net[2].said(PREVOTE)[-1].block_hash
    net.inject(net.vote(PREVOTE, 1, 1, w, 3), 1)
    net.until(lambda: net[1].agreement.locked_round == 1)
    assert v != w and NIL not in (v, w)
    assert [p.agreement.locked_hash for p in net] == [v, w, NIL]
    return net, v, w


def test_all_members_restart_with_mixed_locks_at_different_rounds() -> None:
    """Each lock's POL is in its owner's journal (4.6): the newer one wins and all go on."""
    net, _, w = net_with_mixed_locks()
    net.link = lambda source, to, message: True
    restart_all(net)
    net.until_height(3)
    assert net.finals[1] == {w}


# --- one knows the decision


def net_with_one_decider(*, crashes: bool) -> tuple[Net, bytes]:
    """Member 0 alone holds the COMMIT: the liar's precommit came to it only."""
    net = Net(keys=(0, 1, 2))
    net.link = lambda source, to, message: 2 not in (source.key, to.key)
    net.until(lambda: bool(net[0].said(PREVOTE) and net[1].said(PREVOTE)))
    block = net[1].said(PROPOSAL)[0].block_hash
    net.inject(net.vote(PREVOTE, 1, 0, block, 3), 0, 1)
    net.until(lambda: bool(net[0].said(PRECOMMIT) and net[1].said(PRECOMMIT)))
    net.pass_ms(5)
    if crashes:
        net[0].crash_after = lambda effect: (
            isinstance(effect, fx.Persist)
            and any(isinstance(record, BlockSigRecord) for record in effect.records)
        )
    net.link = lambda source, to, message: False
    net.inject(net.vote(PRECOMMIT, 1, 0, block, 3), 0)
    assert (net[0].driver is None) == crashes
    return net, block


def test_decided_member_alone_holds_the_commit_crashes_and_restarts() -> None:
    """The others finish through its journal, although nothing of the decision was ever sent."""
    net, block = net_with_one_decider(crashes=True)
    net.link = lambda source, to, message: True
    net.pass_ms(1_000)
    assert [p.height for p in net] == [1, 1, 1]  # two are no quorum
    net[0].crash_after = lambda effect: False
    net[0].start()
    net.until_height(3)
    assert net.finals[1] == {block}


def test_block_signature_withheld_by_a_byzantine_precommitter() -> None:
    """Its precommit is in the COMMIT, its BLOCKSIG never comes: the others' k are enough."""
    net, block = net_with_one_decider(crashes=False)
    net.link = lambda source, to, message: True
    net.until_height(3)
    assert net.finals[1] == {block}
    signers = {s.member for s in net[1].disk.chain[0].signatures}
    assert signers == {0, 1, 2}


# --- positions apart


def test_positions_apart_two_members_a_round_ahead_of_three_go_on() -> None:
    """C13: n = 7, k = 5; 0 and 1 were helped into round 2 by 5 and 6, which are silent now.

    They never voted in round 1, where 2, 3 and 4 have precommitted. Counting votes of the exact
    round alone (B27) nobody could go on.
    """
    net = positions_apart()
    for process in net:
        process.start()
    net.until_height(3)


def positions_apart(**options: object) -> Net:
    net = Net(7, 5, keys=range(5), started=False, **options)  # type: ignore[arg-type]
    for process in net:
        ahead = process.key in (0, 1)
        places = [(2, PREVOTE)] if ahead else [(1, PREVOTE), (1, PRECOMMIT)]
        records = [
            VoteRecord(net.vote(kind, 1, round_, NIL, process.key), None) for round_, kind in places
        ]
        process.disk.journal = [encode_record(record) for record in (Birth(), *records)]
        process.life = 1
    return net
