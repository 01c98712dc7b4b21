"""One node's way to validate: caches, threads, and the second, cold validation (incidents 1)."""

from collections.abc import Iterator, Sequence

import pytest

from sidechain.errors import InvalidBlock, InvalidEncoding, InvariantError, Stalled
from sidechain.parallel import ThreadedVerifier
from sidechain.primitives.block import Block
from sidechain.validation.checks import (
    Check,
    CheckCache,
    Pending,
    ScriptsCheck,
    SequentialVerifier,
)
from sidechain.validation.connect import BlockDelta, HowToVerify, connect_block, validate_block
from sidechain.validation.proofs import RangeProofCheck
from sidechain.validation.validator import Validator
from tests.sidechain.example_chain import build_block
from tests.sidechain.recorded_chain import (
    RecordedFacts,
    RecordedHeaders,
    RecordedView,
    parent_height_at,
)
from tests.sidechain.test_connect_checks import BAD_PROOF, BAD_SCRIPT, GOOD, PARAMS, _setup
from tests.vectors import case_bytes, chain_json, recorded_params

SALT = bytes(range(32))


class Counting(SequentialVerifier):
    """Notes what is run."""

    def __init__(self) -> None:
        self.run: list[Check] = []

    def start(self, checks: Sequence[Check]) -> Pending:
        self.run += checks
        return super().start(checks)


def _judge(validator: Validator, block: Block, *, proposal: bool = False) -> BlockDelta:
    chain, view = _setup()

    def validate(block: Block, *, how: HowToVerify) -> BlockDelta:
        return connect_block(block, view, chain, PARAMS, facts=None, how=how)

    return validator.judge(block, PARAMS, validate, proposal=proposal)


def _block(*transactions: object) -> Block:
    return build_block(_setup()[0], list(transactions), [])  # type: ignore[arg-type]


def _poison(cache: CheckCache, block: Block, *, hits: type) -> None:
    """Have the cache say that every check of a kind that the block needs was found to hold."""
    noting = Counting()
    with pytest.raises(InvalidBlock):
        _judge(Validator(verifier=noting), block)
    for check in noting.run:
        if isinstance(check, hits):
            cache.remember(check, cache.key(check))


@pytest.mark.parametrize(
    ("tx", "kind", "reason"),
    [
        (BAD_PROOF, RangeProofCheck, "bad-txns-in-ne-out, range proof does not hold"),
        (BAD_SCRIPT, ScriptsCheck, "mandatory-script-verify-flag-failed"),
    ],
)
def test_poisoned_cache_when_a_second_validation_runs_then_the_node_stops(
    tx: object, kind: type, reason: str
) -> None:
    """The 2026 incident: a bad proof that hits a cached "valid"."""
    block = _block(tx)
    poisoned = CheckCache(SALT)
    _poison(poisoned, block, hits=kind)
    # Alone, a warm node is taken in: this is what the second validation is for.
    assert _judge(Validator(cache=poisoned), block).height == 4
    with pytest.raises(InvariantError) as caught:
        _judge(Validator(cache=poisoned, second_validation=True), block)
    text = str(caught.value)
    assert "disagree: the first says valid (1 coins spent" in text
    assert f"the second, cold, invalid ({reason}" in text
    for cold in (Validator(), Validator(second_validation=True), Validator(cache=None)):
        with pytest.raises(InvalidBlock):
            _judge(cold, block)
    fresh = CheckCache(SALT[::-1])
    fresh._known.update(poisoned._known)
    with pytest.raises(InvalidBlock):
        _judge(Validator(cache=fresh), block)


def test_validations_when_the_first_refuses_and_the_second_does_not_then_the_node_stops() -> None:
    class Refusing(SequentialVerifier):
        def start(self, checks: Sequence[Check]) -> Pending:
            return super().start([_broken(check) for check in checks])

    chain, view = _setup()

    def validate(block: Block, *, how: HowToVerify) -> BlockDelta:
        verifier = Refusing() if how.direct else SequentialVerifier()
        changed = HowToVerify(verifier=verifier, direct=how.direct)
        return connect_block(block, view, chain, PARAMS, facts=None, how=changed)

    block = _block(GOOD)
    with pytest.raises(InvariantError, match="the first says invalid .* cold, valid"):
        Validator(second_validation=True).judge(block, PARAMS, validate)
    with pytest.raises(InvalidBlock):
        Validator().judge(block, PARAMS, validate)


def _broken(check: Check) -> Check:
    if not isinstance(check, RangeProofCheck):
        return check
    return RangeProofCheck(b"", check.commitment, check.generator, check.script)


def test_second_validation_when_the_bytes_do_not_decode_then_the_node_stops() -> None:
    class Shortened(Block):
        def serialize(self) -> bytes:
            return super().serialize()[:-1]

    block = _block(GOOD)
    changed = Shortened(block.header, block.transactions)
    with pytest.raises(InvariantError, match="cold, invalid"):
        _judge(Validator(second_validation=True), changed)


def test_second_validation_when_on_then_everything_is_run_again_by_the_interpreter() -> None:
    for cache in (None, CheckCache(SALT)):
        noting = Counting()
        validator = Validator(verifier=noting, cache=cache, second_validation=True)
        _judge(validator, _block(GOOD), proposal=True)
        once = len(noting.run) // 2
        scripts = [check for check in noting.run if isinstance(check, ScriptsCheck)]
        assert [check.direct for check in scripts] == [True, False]
        _judge(validator, _block(GOOD))
        # Known checks are left out the first time, never the second.
        expected = 2 * once if cache is None else once
        assert len(noting.run) == 2 * once + expected


def test_proposal_when_judged_then_its_checks_are_known_when_it_is_connected() -> None:
    noting = Counting()
    validator = Validator(verifier=noting, cache=CheckCache(SALT))
    _judge(validator, _block(GOOD))
    count = len(noting.run)
    _judge(validator, _block(GOOD), proposal=True)
    assert len(noting.run) == 2 * count
    _judge(validator, _block(GOOD))
    assert len(noting.run) == 2 * count


def test_transaction_when_its_checks_held_alone_then_its_block_runs_them_not_again() -> None:
    noting = Counting()
    _judge(Validator(verifier=noting), _block(GOOD))
    checks = tuple(noting.run)
    validator = Validator(verifier=noting, cache=CheckCache(SALT))
    validator.run(checks)
    count = len(noting.run)
    _judge(validator, _block(GOOD))
    assert len(noting.run) == count


def _ways() -> Iterator[tuple[str, Validator, ThreadedVerifier | None]]:
    threads = ThreadedVerifier(2)
    cached = Validator(verifier=threads, cache=CheckCache(SALT))
    yield "nothing kept", Validator(), None
    yield "cached", cached, None
    yield "twice", Validator(cache=CheckCache(SALT), second_validation=True), None
    yield "threads", cached, threads


def _verdict(validator: Validator, raw: bytes, tip: int, facts: RecordedFacts) -> str:
    params = recorded_params()

    def validate(block: Block, *, how: HowToVerify) -> BlockDelta:
        return validate_block(
            block,
            RecordedView(tip),
            RecordedHeaders(tip),
            params,
            now_s=block.header.time + 30,
            facts=facts,
            how=how,
        )

    try:
        block = Block.decode(raw, params)
        delta = validator.judge(block, params, validate, proposal=True)
    except InvalidEncoding:
        return "undecodable"
    except Stalled:
        return "stalled"
    except InvalidBlock as fault:
        return str(fault)
    return f"{len(delta.created)} made, {len(delta.spent)} spent"


@pytest.mark.slow
def test_recorded_blocks_when_judged_in_every_way_then_equal_verdicts() -> None:
    """Valid and invalid blocks, with caches on and off, in threads, and twice."""
    cases = [
        (case_bytes(entry), entry["height"] - 1, parent_height_at(entry["height"]))
        for entry in chain_json("blocks.json")
        if entry["height"] > 0 and len(entry["labels"]) > 0
    ]
    cases += [
        (case_bytes(entry), entry["tip_height"], parent_height_at(entry["tip_height"]))
        for entry in chain_json("invalid_blocks.json")
        if entry["submitblock"] != "duplicate"
    ]
    seen: dict[str, list[str]] = {}
    for name, validator, threads in _ways():
        # Twice, so that the second round finds its own answers in the cache.
        for _ in range(2 if name == "cached" else 1):
            verdicts = [
                _verdict(validator, raw, tip, RecordedFacts(parent)) for raw, tip, parent in cases
            ]
            seen[name] = verdicts
            assert verdicts == seen["nothing kept"], name
        if threads is not None:
            threads.close()
    print(f"\n{len(cases)} recorded blocks, valid and invalid, judged in {len(seen)} ways alike")
    assert len(set(seen["nothing kept"])) > 20
