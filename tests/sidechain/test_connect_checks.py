"""What a block is refused for when scripts and proofs are verified later than the rest."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sidechain.errors import InvalidBlock, InvalidTransaction
from sidechain.primitives.transaction import OutPoint, OutputWitness, Transaction
from sidechain.validation.checks import (
    CachingVerifier,
    Check,
    CheckCache,
    Pending,
    ScriptsCheck,
    SequentialVerifier,
)
from sidechain.validation.coins import Coin
from sidechain.validation.connect import HowToVerify, connect_block
from tests.hidden import Opening, hidden_transaction
from tests.sidechain.example_chain import (
    DictView,
    ListedHeaders,
    build_block,
    coin,
    example_params,
    output,
    spend,
)

PARAMS = example_params()
POINTS = [OutPoint(bytes([n]) * 32, n) for n in range(1, 6)]
REFUSING = b"\x00"
"""A script that leaves false."""


class BackwardsVerifier:
    """Runs all checks it was ever given, last first, when asked for the first answer."""

    def __init__(self) -> None:
        self.queue: list[tuple[Check, dict[int, InvalidTransaction | None], int]] = []

    def start(self, checks: Sequence[Check]) -> Pending:
        answers: dict[int, InvalidTransaction | None] = {}
        verifier = self
        self.queue += [(check, answers, index) for index, check in enumerate(checks)]

        class Waiting:
            def fault(self) -> InvalidTransaction | None:
                while verifier.queue:
                    check, where, index = verifier.queue.pop()
                    where[index] = check.fault()
                found = (answers[index] for index in range(len(checks)))
                return next((fault for fault in found if fault is not None), None)

            def cancel(self) -> None:
                return

        return Waiting()


def _hidden(point: int, *, valid: bool) -> Transaction:
    """Spends a coin of 100, hiding the amount of one of two outputs."""
    source = Opening(asset_id=PARAMS.pegged_asset, amount=100)
    hidden = replace(source, amount=60, bits=4).hidden(f"{point}")
    rest = replace(source, amount=40, bits=4).hidden(f"rest {point}")
    tx = hidden_transaction(spend(POINTS[point], outputs=[]).inputs, [source], [hidden, rest])
    if valid:
        return tx
    first, second = tx.output_witnesses
    wrong = OutputWitness(first.surjection_proof, second.range_proof)
    return Transaction.build(inputs=tx.inputs, outputs=tx.outputs, output_witnesses=[wrong, second])


def _setup() -> tuple[ListedHeaders, DictView]:
    chain, view = ListedHeaders(PARAMS), DictView()
    chain.grow(3)
    view.coins = {point: coin(PARAMS, 100) for point in POINTS}
    view.coins[POINTS[4]] = coin(PARAMS, 100, script=REFUSING)
    return chain, view


SCRIPT_REASON = (
    "mandatory-script-verify-flag-failed (Script evaluated without error but finished "
    "with a false/empty top stack element)"
)
GOOD = _hidden(0, valid=True)
BAD_PROOF = _hidden(1, valid=False)
MISSING = spend(OutPoint(bytes(32), 5), outputs=[output(PARAMS, 100)])
UNBALANCED = spend(POINTS[2], outputs=[output(PARAMS, 101)])
BAD_SCRIPT = spend(POINTS[4], outputs=[output(PARAMS, 100)])
LOCKED = replace(spend(POINTS[3], outputs=[output(PARAMS, 100)]).inputs[0], sequence=50)
TOO_EARLY = Transaction.build(inputs=[LOCKED], outputs=[output(PARAMS, 100)])

CASES = {
    "all right": ([GOOD], ""),
    "proof": ([GOOD, BAD_PROOF], "bad-txns-in-ne-out, range proof does not hold, transaction 2"),
    "proof before a missing coin": ([BAD_PROOF, MISSING], "transaction 1"),
    "missing coin before a proof": ([MISSING, BAD_PROOF], "bad-txns-inputs-missingorspent"),
    "proof before a balance": ([BAD_PROOF, UNBALANCED], "range proof does not hold"),
    "balance before a proof": ([UNBALANCED, BAD_PROOF], "value in != value out, transaction 1"),
    "script before a balance": ([BAD_SCRIPT, UNBALANCED], SCRIPT_REASON),
    "script before a lock": ([BAD_SCRIPT, TOO_EARLY], SCRIPT_REASON),
    "lock before a script": ([TOO_EARLY, BAD_SCRIPT], "bad-txns-nonfinal"),
    "proof before a script": ([BAD_PROOF, BAD_SCRIPT], "range proof does not hold"),
    "script before a proof": ([BAD_SCRIPT, BAD_PROOF], SCRIPT_REASON),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["in turn", "backwards", "cached", "cached before"])
def test_block_when_checks_run_in_any_order_then_refused_for_the_first_fault(
    case: str, way: str
) -> None:
    transactions, expected = CASES[case]
    chain, view = _setup()
    cache = CheckCache(bytes(32))
    verifiers = {
        "in turn": SequentialVerifier(),
        "backwards": BackwardsVerifier(),
        "cached": CachingVerifier(SequentialVerifier(), cache, remember=True),
        "cached before": CachingVerifier(BackwardsVerifier(), cache, remember=True),
    }
    block = build_block(chain, transactions, [])
    for _ in range(2 if way == "cached before" else 1):
        found = ""
        try:
            how = HowToVerify(verifier=verifiers[way])
            connect_block(block, view, chain, PARAMS, facts=None, how=how)
        except InvalidBlock as fault:
            found = str(fault)
        assert expected in found if expected else not found


def test_block_when_its_coinbase_takes_too_much_then_proofs_come_first() -> None:
    chain, view = _setup()
    for tx, reason in ((GOOD, "bad-cb-amount"), (BAD_PROOF, "bad-txns-in-ne-out")):
        block = build_block(chain, [tx], [output(PARAMS, 1)])
        with pytest.raises(InvalidBlock) as caught:
            connect_block(block, view, chain, PARAMS, facts=None)
        assert caught.value.reason == reason


def test_block_when_scripts_are_left_out_then_proofs_are_not() -> None:
    chain, view = _setup()
    for tx, valid in ((BAD_SCRIPT, True), (BAD_PROOF, False)):
        block = build_block(chain, [tx], [])
        if valid:
            connect_block(block, view, chain, PARAMS, facts=None, check_scripts=False)
        else:
            with pytest.raises(InvalidBlock, match="range proof does not hold"):
                connect_block(block, view, chain, PARAMS, facts=None, check_scripts=False)


def test_scripts_when_interpreted_then_judged_as_directly() -> None:
    """The same block through the interpreter alone, and what a check of it holds."""
    chain, view = _setup()
    started: list[Check] = []

    class Noting(SequentialVerifier):
        def start(self, checks: Sequence[Check]) -> Pending:
            started.extend(checks)
            return super().start(checks)

    block = build_block(chain, [GOOD], [])
    for direct in (True, False):
        how = HowToVerify(verifier=Noting(), direct=direct)
        connect_block(block, view, chain, PARAMS, facts=None, how=how)
        last = started[-1]
        assert isinstance(last, ScriptsCheck)
        assert last.direct == direct
        assert last.spent == (Coin.of(output(PARAMS, 100), height=1, coinbase=False),)
        assert last.genesis_hash == PARAMS.genesis_hash
