"""Checks that need nothing but their own fields, who runs them, and which were run before.

Signatures and proofs are nearly all the time validation takes, and none of them depends on
another. So whoever validates only lists them, in the order one after the other would take, and a
`Verifier` runs them: here and in turn, on several cores, or only those not verified before. The
verdict is that of the first in the list that fails, whoever ran them.

Source: elements/transactions.md 6.2; incidents 1 for what a cache must bind.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidBlock, InvalidTransaction, InvariantError
from sidechain.primitives.transaction import Transaction
from sidechain.script.flags import POLICY_FLAGS, Flags
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import RangeProofCheck, SurjectionProofCheck
from sidechain.validation.tx_verify import check_scripts

CACHE_ENTRIES_MAX = 32_768
"""Checks a cache remembers; the oldest are forgotten first. About 4 MB when full."""

SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class ScriptsCheck:
    """The scripts of all inputs of a transaction accept it.

    Attributes:
        spent: the coin of every input, in order.
        genesis_hash: of the chain.
        direct: whether plain spends may take the short cut that leaves out the interpreter.
    """

    tx: Transaction
    spent: tuple[Coin, ...]
    flags: Flags
    genesis_hash: bytes
    direct: bool = True

    def fault(self) -> InvalidTransaction | None:
        """What is wrong with it, or None."""
        try:
            check_scripts(self.tx, self.spent, self.flags, self.genesis_hash, direct=self.direct)
        except InvalidTransaction as fault:
            return fault
        return None


Check = RangeProofCheck | SurjectionProofCheck | ScriptsCheck
"""All have `fault()`; equal fields give equal answers, always and everywhere."""


class Pending(Protocol):
    """Checks that were started."""

    def fault(self) -> InvalidTransaction | None:
        """The fault of the first check that fails, None when all hold; waits for the answer."""
        ...

    def cancel(self) -> None:
        """The answer is not needed any more."""
        ...


class Verifier(Protocol):
    """Whoever runs checks."""

    def start(self, checks: Sequence[Check]) -> Pending:
        """Begin to run checks; when, where and how many at a time is free."""
        ...


class _InTurn:
    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = checks

    def fault(self) -> InvalidTransaction | None:
        found = (check.fault() for check in self._checks)
        return next((fault for fault in found if fault is not None), None)

    def cancel(self) -> None:
        self._checks = ()


class SequentialVerifier:
    """Runs checks one after the other, when the answer is asked for."""

    def start(self, checks: Sequence[Check]) -> Pending:
        """Note the checks; nothing runs yet."""
        return _InTurn(checks)


def run_checks(verifier: Verifier, checks: Sequence[Check]) -> None:
    """Run checks and wait.

    Raises:
        InvalidTransaction: of the first that fails.
    """
    fault = verifier.start(checks).fault() if checks else None
    if fault is not None:
        raise fault


class BlockChecks:
    """The checks of one block that are under way, in the order of its transactions."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._pending: deque[tuple[int, Pending]] = deque()

    def add(self, position: int, checks: Sequence[Check]) -> None:
        """Start checks of the transaction at a position."""
        if checks:
            self._pending.append((position, self._verifier.start(checks)))

    def settle(self) -> None:
        """Wait for all checks started so far.

        Call it before anything that would be wrong only after them is reported.

        Raises:
            InvalidBlock: of the first that failed.
        """
        while self._pending:
            position, pending = self._pending.popleft()
            fault = pending.fault()
            if fault is not None:
                self.cancel()
                raise at_position(fault, position) from fault

    def cancel(self) -> None:
        """Give up what is under way."""
        while self._pending:
            self._pending.popleft()[1].cancel()


def at_position(fault: InvalidTransaction, position: int) -> InvalidBlock:
    """What a block is refused with for a fault of one of its transactions."""
    where = f"transaction {position}"
    return InvalidBlock(fault.reason, f"{fault.detail}, {where}" if fault.detail else where)


class CheckCache:
    """Which checks were found to hold, by a keyed hash of everything they depend on.

    Only what holds is remembered. Nothing else of the program keeps verdicts on signatures or
    proofs, so a validation without this object starts from nothing.

    Args:
        salt: 32 random bytes of this process, so that nobody outside can search for two checks
            with one key.
        entries_max: 0 remembers nothing.
    """

    def __init__(self, salt: bytes, entries_max: int = CACHE_ENTRIES_MAX) -> None:
        if len(salt) != SALT_BYTES:
            raise InvariantError("a check cache needs a salt of 32 bytes")
        self._salt = salt
        self._entries_max = entries_max
        self._known: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def key(self, check: Check) -> bytes:
        """What a check is remembered by: any difference in any field gives another key."""
        return sha256(self._salt + framed(check_parts(check)))

    def holds(self, key: bytes) -> bool:
        """Whether the check with this key was found to hold."""
        return key in self._known

    def remember(self, check: Check, key: bytes) -> None:
        """Note that a check, whose key this is, was found to hold.

        Scripts that held under policy are remembered as a block will ask for them.
        """
        if isinstance(check, ScriptsCheck) and check.flags & POLICY_FLAGS:
            key = self.key(without_policy(check))
        self._known[key] = None
        if len(self._known) > self._entries_max:
            del self._known[next(iter(self._known))]


def without_policy(check: ScriptsCheck) -> ScriptsCheck:
    """The check under the flags that are left when those of policy are taken off.

    Flags of policy only ever refuse more, so what holds with them holds without.
    """
    return ScriptsCheck(
        tx=check.tx,
        spent=check.spent,
        flags=check.flags & ~POLICY_FLAGS,
        genesis_hash=check.genesis_hash,
        direct=check.direct,
    )


def check_parts(check: Check) -> tuple[bytes, ...]:
    """Everything a check depends on, its kind first."""
    if isinstance(check, RangeProofCheck):
        return b"range", check.proof, check.commitment, check.generator, check.script
    if isinstance(check, SurjectionProofCheck):
        return b"surjection", check.proof, check.generator, *check.targets
    parts = [
        b"scripts",
        # Of all bytes of the transaction, witnesses included.
        check.tx.wtxid,
        check.flags.value.to_bytes(8, "little"),
        check.genesis_hash,
        b"direct" if check.direct else b"interpreted",
    ]
    for coin in check.spent:
        place = coin.height.to_bytes(8, "little") + bytes((coin.coinbase,))
        parts += (coin.asset, coin.value, coin.script, place)
    return tuple(parts)


def framed(parts: Sequence[bytes]) -> bytes:
    """The parts in one string, with their number and each one's length before it.

    Without lengths, bytes could move from one part to the next and give the same string.
    """
    pieces = [len(parts).to_bytes(8, "little")]
    for part in parts:
        pieces += (len(part).to_bytes(8, "little"), part)
    return b"".join(pieces)


class CachingVerifier:
    """Lets another verifier run only what a cache does not know to hold.

    Args:
        remember: whether what is found to hold goes into the cache.
    """

    def __init__(self, inner: Verifier, cache: CheckCache, *, remember: bool) -> None:
        self._inner = inner
        self._cache = cache
        self._remember = remember

    def start(self, checks: Sequence[Check]) -> Pending:
        """Start those checks that are not known to hold."""
        cache = self._cache
        if not (self._remember or len(cache)):
            return self._inner.start(checks)
        keyed = [(check, cache.key(check)) for check in checks]
        left = [(check, key) for check, key in keyed if not cache.holds(key)]
        pending = self._inner.start([check for check, _ in left])
        return _Remembering(pending, cache, left) if self._remember else pending


class _Remembering:
    def __init__(
        self, pending: Pending, cache: CheckCache, left: Sequence[tuple[Check, bytes]]
    ) -> None:
        self._pending = pending
        self._cache = cache
        self._left = left

    def fault(self) -> InvalidTransaction | None:
        fault = self._pending.fault()
        if fault is None:
            for check, key in self._left:
                self._cache.remember(check, key)
        return fault

    def cancel(self) -> None:
        self._pending.cancel()
