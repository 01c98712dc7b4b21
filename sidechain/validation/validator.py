"""How one node validates: who runs checks, what it remembers, and whether it does so twice.

A second validation reads the block again from its bytes and judges it with nothing remembered:
no cache of checks, no short cut around the interpreter. Both must agree; if they do not, one of
them is wrong and nobody can say which, so the node stops.

Source: incidents 1 (2026).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sidechain.errors import Invalid, InvalidBlock, InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.validation.checks import (
    CachingVerifier,
    Check,
    CheckCache,
    SequentialVerifier,
    Verifier,
    run_checks,
)
from sidechain.validation.connect import BlockDelta, HowToVerify


class ValidateBlock(Protocol):
    """`connect.validate_block` or one like it, with everything given but block and way."""

    def __call__(self, block: Block, *, how: HowToVerify) -> BlockDelta:
        """Judge a block against the coins below it, or raise; nothing is changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """Runs the checks of transactions and blocks of one chain.

    Attributes:
        verifier: runs what has to be run.
        cache: remembers between mempool and block what held; None remembers nothing.
        second_validation: whether every block is judged a second time, cold.
    """

    verifier: Verifier = field(default_factory=SequentialVerifier)
    cache: CheckCache | None = None
    second_validation: bool = False

    def run(self, checks: Sequence[Check]) -> None:
        """Run checks of a transaction on its own, and remember those that hold.

        Raises:
            InvalidTransaction: of the first that fails.
        """
        run_checks(self._warm(remember=True), checks)

    @property
    def keeps_verdicts(self) -> bool:
        """Whether the verdict on a whole block may be taken over later."""
        return self.cache is not None and not self.second_validation

    def judge(
        self,
        block: Block,
        params: ChainParams,
        validate: ValidateBlock,
        *,
        proposal: bool = False,
        again: ValidateBlock | None = None,
    ) -> BlockDelta:
        """Judge a block by `validate`, twice if this node does so.

        Args:
            proposal: remember its checks, as the block is still to be connected.
            again: the second validation, where `validate` leaves out what was checked before.
        Raises:
            InvalidBlock: as `validate`.
            Stalled: as `validate`.
            InvariantError: two validations disagree.
        """
        first = _verdict(validate, block, HowToVerify(verifier=self._warm(remember=proposal)))
        if self.second_validation:
            second = self._judge_again(block, params, again or validate)
            if not _agree(first, second):
                raise InvariantError(
                    f"two validations of block {block.hash[::-1].hex()} disagree: "
                    f"the first says {_words(first)}, the second, cold, {_words(second)}"
                )
        if isinstance(first, Invalid):
            raise first
        return first

    def _judge_again(
        self, block: Block, params: ChainParams, validate: ValidateBlock
    ) -> "BlockDelta | Invalid":
        try:
            again = Block.decode(block.serialize(), params)
        except Invalid as fault:
            return fault
        return _verdict(validate, again, HowToVerify(verifier=self.verifier, direct=False))

    def _warm(self, *, remember: bool) -> Verifier:
        if self.cache is None:
            return self.verifier
        return CachingVerifier(self.verifier, self.cache, remember=remember)


def _verdict(
    validate: ValidateBlock, block: Block, how: HowToVerify
) -> "BlockDelta | InvalidBlock":
    try:
        return validate(block, how=how)
    except InvalidBlock as fault:
        return fault


def _agree(first: "BlockDelta | Invalid", second: "BlockDelta | Invalid") -> bool:
    if isinstance(first, InvalidBlock) and isinstance(second, InvalidBlock):
        return first.reason == second.reason
    return isinstance(first, BlockDelta) and first == second


def _words(verdict: "BlockDelta | Invalid") -> str:
    if isinstance(verdict, Invalid):
        return f"invalid ({verdict})"
    made, gone = len(verdict.created), len(verdict.spent)
    return f"valid ({gone} coins spent, {made} made, {len(verdict.pegins)} claims)"
