"""How much a proposal may hold under load (consensus:C25, C33)."""

from federation.block_room import LEAST_WU, MEASURED_WU, BlockRoom

PAYMENT_WU = 1_050


def test_room_when_judging_is_quick_then_grows_to_what_the_timer_allows() -> None:
    room = BlockRoom(500)
    first_wu = room.weight_wu(0)
    for _ in range(20):
        room.judged(1_000_000, 50)  # 50 µs a thousand weight units
    assert room.weight_wu(0) > 3 * first_wu
    assert room.weight_wu(0) * 50 // 1_000 <= 125_000 * 11 // 10


def test_room_when_the_machine_is_busy_then_shrinks_to_the_largest_transaction() -> None:
    room = BlockRoom(500)
    for _ in range(20):
        room.judged(1_000_000, 5_000)
    assert room.weight_wu(0) == LEAST_WU


def test_room_when_a_round_failed_then_half_of_it_in_the_next() -> None:
    room = BlockRoom(10_000)
    assert room.weight_wu(1) == room.weight_wu(0) // 2
    assert room.weight_wu(40) == LEAST_WU


def test_room_when_blocks_are_small_then_they_tell_nothing() -> None:
    """What an empty block costs is not its transactions."""
    room = BlockRoom(500)
    before_wu = room.weight_wu(0)
    for _ in range(20):
        room.judged(MEASURED_WU - 1, 500)
    assert room.weight_wu(0) == before_wu


def test_room_when_the_clock_shows_no_time_then_there_is_a_bound_all_the_same() -> None:
    room = BlockRoom(500)
    for _ in range(50):
        room.judged(4_000_000, 0)
    assert room.weight_wu(0) >= 4_000_000
