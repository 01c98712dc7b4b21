"""Federation parameters by height."""

from dataclasses import replace

import pytest

from sidechain.errors import InvalidBlock
from sidechain.params import DEFAULT_PAK_LIST
from sidechain.primitives.block import FULL_KIND, NULL_ENTRY, ParamEntry
from sidechain.script.script import p2sh, p2wsh
from sidechain.validation.dynafed import (
    ExtendedChain,
    check_dynafed_header,
    current_entry,
    fedpegscript_may_change,
    full_current,
    median_time_past,
    nested_program,
    pak_list,
    valid_fedpegscripts,
)
from sidechain.validation.pegins import FedpegPair
from tests.sidechain.example_chain import (
    FEDPEGSCRIPT,
    PEG_KEYS,
    SIGNBLOCKSCRIPT,
    ListedHeaders,
    example_params,
)
from tests.sidechain.recorded_chain import RecordedHeaders
from tests.vectors import chain_json, internal, recorded_blocks, recorded_params

PROPOSAL = ParamEntry(
    kind=FULL_KIND,
    signblockscript=p2wsh(b"\x51"),
    witness_limit=500,
    fedpeg_program=p2wsh(b"\x52"),
    fedpegscript=b"\x52",
    extension_space=(),
)


def test_first_parameters_are_those_of_the_specification() -> None:
    entry = full_current(ListedHeaders(example_params()), 0, example_params())
    assert entry.signblockscript == p2wsh(SIGNBLOCKSCRIPT)
    assert entry.signblockscript.hex() == (
        "002012c2ffbc6ec1cf5d746dfbd49b1063356212ea55f43023ffc0145934af20c572"
    )
    assert entry.witness_limit == 300
    assert entry.fedpeg_program.hex() == "a914fd7e69c8650207ae2c96d6946e79ce885c688cd987"
    assert entry.fedpegscript == FEDPEGSCRIPT
    assert entry.extension_space == DEFAULT_PAK_LIST
    root = "ef8102627bd4f4f3a4defd9766ac0db865bb8eac79a94158c49dafbd0057fc59"
    extra = "3349eef713fd3e4f25b2c05c7aaf2accbb8827d78c20c266109a2567cab9d428"
    assert entry.root() == internal(root)
    assert entry.extra_root() == internal(extra)


def test_first_parameters_with_native_program_are_those_of_the_specification() -> None:
    params = example_params(start_p2wsh_script=True)
    entry = full_current(ListedHeaders(params), 0, params)
    root = "a6da034b0a4f576aabeba534806be1ec2f7d4dcb3b2d34752b71cfae7797de1c"
    assert entry.root() == internal(root)


def test_recorded_headers_publish_what_is_computed() -> None:
    params = recorded_params()
    for height in range(1, len(recorded_blocks())):
        chain = RecordedHeaders(height - 1)
        header = recorded_blocks()[height].header
        expected = current_entry(chain, height - 1, params)
        assert replace(header.current, elided_root=bytes(32)) == replace(
            expected, elided_root=bytes(32)
        )
        assert full_current(chain, height - 1, params).kind == FULL_KIND
        check_dynafed_header(header, chain, params)


def test_recorded_transitions_are_found_where_they_were_voted() -> None:
    params = recorded_params()
    changes = []
    for height in range(2, len(recorded_blocks())):
        before = full_current(RecordedHeaders(height - 2), height - 2, params)
        after = full_current(RecordedHeaders(height - 1), height - 1, params)
        if before != after:
            changes.append(height)
    assert changes == [entry["height"] for entry in chain_json("params.json")["transitions"]]


def test_compact_entry_follows_the_full_one_until_the_next_epoch() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(25)
    kinds = [header.current.kind for header in chain.headers]
    length = params.dynamic_epoch_length
    full = {1, *range(length, 26, length)}
    assert [height for height in range(26) if kinds[height] == FULL_KIND] == sorted(full)
    elided = {header.current.elided_root for header in chain.headers[2:10]}
    assert elided == {chain.headers[1].current.extra_root()}


@pytest.mark.parametrize(("votes", "wins"), [(7, False), (8, True), (10, True)])
def test_proposal_needs_four_fifths_of_an_epoch(votes: int, wins: bool) -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(9)
    chain.grow(votes, PROPOSAL)
    chain.grow(10 - votes)
    before = full_current(chain, 18, params)
    assert before.signblockscript == p2wsh(SIGNBLOCKSCRIPT)
    assert (full_current(chain, 19, params) == PROPOSAL) is wins
    chain.grow(11)
    assert (full_current(chain, 30, params) == PROPOSAL) is wins


def test_script_when_a_proposal_can_still_win_then_it_may_change() -> None:
    """peg:4: no deposit address in the last epoch before a script change."""
    params = example_params()
    other = replace(PROPOSAL, fedpeg_program=p2wsh(b"\x51"), fedpegscript=b"\x51")
    chain = ListedHeaders(params)
    chain.grow(9)
    assert not fedpegscript_may_change(chain, chain.tip_height, params)
    chain.grow(1, other)  # the first block of an epoch: one vote, nine to come
    assert fedpegscript_may_change(chain, chain.tip_height, params)
    chain.grow(2)
    assert fedpegscript_may_change(chain, chain.tip_height, params)
    chain.grow(1)  # one vote and six to come: eight are not possible any more
    assert not fedpegscript_may_change(chain, chain.tip_height, params)
    chain.grow(6)
    chain.grow(8, other)
    chain.grow(1)
    assert fedpegscript_may_change(chain, 28, params)
    chain.grow(1)
    assert not fedpegscript_may_change(chain, 29, params)  # block 30 has it: it is in force


def test_script_when_only_other_parameters_are_proposed_then_it_stays() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(9)
    full = full_current(chain, 9, params)
    chain.grow(9, replace(full, witness_limit=full.witness_limit + 1))
    assert not fedpegscript_may_change(chain, chain.tip_height, params)


def test_proposals_when_both_have_enough_votes_then_the_later_one_wins() -> None:
    """Epochs of one or two blocks, where a single vote is four fifths, rounded down."""
    later = replace(PROPOSAL, witness_limit=501)
    for length, votes in ((1, [PROPOSAL]), (2, [PROPOSAL, later]), (3, [PROPOSAL] * 2)):
        params = replace(example_params(), dynamic_epoch_length=length)
        chain = ListedHeaders(params)
        chain.grow(length - 1)
        for proposal in votes:
            chain.grow(1, proposal)
        chain.grow(length - len(votes))
        assert full_current(chain, chain.tip_height, params) == votes[-1]


def test_votes_are_counted_within_one_epoch_only() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(14)
    chain.grow(10, PROPOSAL)
    chain.grow(5)
    assert full_current(chain, 19, params) != PROPOSAL
    assert full_current(chain, 29, params) != PROPOSAL


def test_genesis_counts_as_a_vote_for_nothing() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(8, PROPOSAL)
    chain.grow(1)
    assert full_current(chain, 9, params) == PROPOSAL


def test_native_start_shows_its_kinds_in_the_recorded_order() -> None:
    params = example_params(start_p2wsh_script=True)
    chain = ListedHeaders(params)
    chain.grow(40)
    native = FedpegPair(p2wsh(FEDPEGSCRIPT), FEDPEGSCRIPT)
    nested = FedpegPair(p2sh(p2wsh(FEDPEGSCRIPT)), FEDPEGSCRIPT)
    expected = {0: (nested,), 8: (nested,), 9: (native, nested), 18: (native, nested)}
    expected |= {19: (native, native), 25: (native, native)}
    for tip, pairs in expected.items():
        assert valid_fedpegscripts(chain, tip, params, next_block=True) == pairs
    for height, pairs in {9: (nested,), 10: (native, nested), 20: (native, native)}.items():
        assert valid_fedpegscripts(chain, height, params, next_block=False) == pairs


def test_replaced_fedpegscript_counts_for_one_more_epoch() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(9)
    chain.grow(10, PROPOSAL)
    chain.grow(25)
    old = FedpegPair(nested_program(FEDPEGSCRIPT), FEDPEGSCRIPT)
    new = FedpegPair(PROPOSAL.fedpeg_program, PROPOSAL.fedpegscript)
    assert valid_fedpegscripts(chain, 18, params, next_block=True) == (old, old)
    assert valid_fedpegscripts(chain, 19, params, next_block=True) == (new, old)
    assert valid_fedpegscripts(chain, 19, params, next_block=False) == (old, old)
    assert valid_fedpegscripts(chain, 20, params, next_block=False) == (new, old)
    assert valid_fedpegscripts(chain, 29, params, next_block=False) == (new, old)
    assert valid_fedpegscripts(chain, 29, params, next_block=True) == (new, new)


def test_recorded_fedpegscripts_are_those_elementsd_shows() -> None:
    shown = chain_json("params.json")["getsidechaininfo_at_genesis"]
    pairs = valid_fedpegscripts(RecordedHeaders(0), 0, recorded_params(), next_block=True)
    assert [pair.script.hex() for pair in pairs] == shown["current_fedpegscripts"]
    assert [pair.program.hex() for pair in pairs] == shown["current_fedpeg_programs"]


@pytest.mark.parametrize("bit", range(31))
def test_version_bits_23_to_26_are_forbidden(bit: int) -> None:
    params = example_params()
    chain = ListedHeaders(params)
    header = replace(chain.next_header(), version=1 << bit | 4)
    if 23 <= bit <= 26:
        with pytest.raises(InvalidBlock, match="invalid-dyna-fed"):
            check_dynafed_header(header, chain, params)
    else:
        check_dynafed_header(header, chain, params)


@pytest.mark.parametrize(
    "changes",
    [
        {"signblockscript": b"\x51"},
        {"signblockscript": p2sh(b"\x51")},
        {"fedpeg_program": p2sh(b"\x51")},
        {"fedpeg_program": p2wsh(b"\x51")},
        {"fedpegscript": b"\x53"},
        {"fedpegscript": b"\x74", "fedpeg_program": p2wsh(b"\x74")},
    ],
)
def test_proposals_that_break_a_rule_are_refused(changes: dict[str, bytes]) -> None:
    params = example_params()
    chain = ListedHeaders(params)
    good = chain.next_header(PROPOSAL)
    check_dynafed_header(good, chain, params)
    for proposed in (replace(PROPOSAL, **changes), PROPOSAL.compact()):
        with pytest.raises(InvalidBlock, match="invalid-dyna-fed"):
            check_dynafed_header(replace(good, proposed=proposed), chain, params)


@pytest.mark.parametrize(
    ("entries", "accepted"),
    [
        ((), True),
        ((PEG_KEYS[0] + PEG_KEYS[1],), True),
        ((PEG_KEYS[0] + PEG_KEYS[1],) * 256, False),
        ((PEG_KEYS[0],), False),
        ((b"\x05" * 66,), False),
    ],
)
def test_extension_space_is_judged_while_pegouts_need_an_authorisation(
    entries: tuple[bytes, ...], accepted: bool
) -> None:
    entry = replace(PROPOSAL, extension_space=entries)
    relaxed, strict = example_params(), example_params(enforce_pak=True)
    chain = ListedHeaders(relaxed)
    header = chain.next_header(entry)
    check_dynafed_header(header, chain, relaxed)
    assert bool(pak_list(entry)) == (accepted and bool(entries))
    if accepted:
        check_dynafed_header(header, chain, strict)
    else:
        with pytest.raises(InvalidBlock, match="invalid-dyna-fed"):
            check_dynafed_header(header, chain, strict)


def test_extension_space_when_of_255_entries_then_usable_and_of_one_more_not() -> None:
    """elements/peg.md 5.2."""
    params = example_params(enforce_pak=True)
    chain = ListedHeaders(params)
    chain.grow(1)
    entry = PEG_KEYS[0] + PEG_KEYS[1]
    for count, usable in ((255, True), (256, False)):
        full = replace(full_current(chain, 1, params), extension_space=(entry,) * count)
        assert len(pak_list(full)) == (count if usable else 0)
        header = chain.next_header(full)
        if usable:
            check_dynafed_header(header, chain, params)
            continue
        with pytest.raises(InvalidBlock, match="not list of valid PAK entries"):
            check_dynafed_header(header, chain, params)


def test_first_epoch_when_the_first_block_shows_parameters_then_they_count() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(1)
    shown = replace(chain.headers[1].current, witness_limit=77)
    chain.headers[1] = replace(chain.headers[1], current=shown)
    for prev_height in (1, 2):
        assert full_current(chain, prev_height, params) == shown
        chain.headers.append(replace(chain.headers[-1], current=NULL_ENTRY))
    voting = replace(params, dynafed=replace(params.dynafed, start=0))
    assert full_current(chain, 1, voting).witness_limit == params.max_block_sig_size


def test_epochs_when_of_one_block_then_none_is_before_genesis() -> None:
    params = example_params(dynamic_epoch_length=1, total_valid_epochs=3)
    chain = ListedHeaders(params)
    assert len(valid_fedpegscripts(chain, 0, params, next_block=False)) == 1


def test_header_when_it_shows_no_parameters_then_refused_for_that() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(1)
    header = replace(chain.next_header(PROPOSAL), current=NULL_ENTRY)
    with pytest.raises(InvalidBlock, match="must have non-empty current signblockscript"):
        check_dynafed_header(header, chain, params)


def test_elided_root_is_not_compared_but_everything_else_is() -> None:
    params = example_params()
    chain = ListedHeaders(params)
    chain.grow(3)
    header = chain.next_header()
    other = replace(header.current, elided_root=b"\x01" * 32)
    check_dynafed_header(replace(header, current=other), chain, params)
    for current in (
        replace(header.current, witness_limit=1),
        replace(header.current, signblockscript=p2wsh(b"\x51")),
        full_current(chain, 3, params),
        NULL_ENTRY,
    ):
        with pytest.raises(InvalidBlock, match="invalid-dyna-fed"):
            check_dynafed_header(replace(header, current=current), chain, params)


def test_median_time_past_is_the_middle_of_eleven() -> None:
    chain = ListedHeaders(example_params())
    chain.grow(20)
    times = [header.time for header in chain.headers]
    assert median_time_past(chain, 0) == times[0]
    assert median_time_past(chain, 1) == times[1]
    assert median_time_past(chain, 2) == times[1]
    assert median_time_past(chain, 20) == times[15]


def test_extended_chain_answers_for_the_added_header() -> None:
    chain = ListedHeaders(example_params())
    top = chain.next_header()
    extended = ExtendedChain(chain, top)
    assert (extended.tip_height, extended.header(1)) == (1, top)
    assert extended.header(0) == chain.header(0)
