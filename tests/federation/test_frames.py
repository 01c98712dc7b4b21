"""Splitting a byte stream into frames (consensus:2.2, N15)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.consensus.encoding import FRAME_LIMITS_BYTES
from federation.frames import FrameDecoder, FrameError, Hello, encode_frame

LIMITS = {1: 4, 2: 0, 9: 300}
frames_of_limits = st.lists(
    st.sampled_from(sorted(LIMITS)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.binary(max_size=LIMITS[kind]))
    ),
    max_size=20,
)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(frames_of_limits, st.lists(st.integers(0, 10_000), max_size=30))
def test_stream_when_cut_anywhere_then_same_frames(
    frames: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(kind, body, LIMITS) for kind, body in frames)
    decoder = FrameDecoder(LIMITS)
    found = [frame for chunk in chunks(stream, cuts) for frame in decoder.feed(chunk)]
    assert found == frames
    assert not decoder.is_mid_frame


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_garbage_when_fed_then_frames_or_frame_error_whatever_the_cuts(
    data: bytes, cuts: list[int]
) -> None:
    def outcome(parts: list[bytes]) -> str | None:
        decoder = FrameDecoder(LIMITS)
        try:
            for part in parts:
                decoder.feed(part)
        except FrameError as error:
            return error.reason
        return None

    assert outcome([data]) == outcome(chunks(data, cuts))


def test_oversize_when_header_is_in_then_refused_before_the_body() -> None:
    for kind, limit in LIMITS.items():
        header = (limit + 1).to_bytes(4, "little") + bytes((kind,))
        decoder = FrameDecoder(LIMITS)
        assert decoder.feed(header[:-1]) == []
        with pytest.raises(FrameError, match="oversize"):
            decoder.feed(header[-1:])


def test_decoder_when_failed_then_says_so_for_ever_and_holds_nothing() -> None:
    decoder = FrameDecoder(LIMITS)
    with pytest.raises(FrameError, match="unknown kind"):
        decoder.feed(b"\0\0\0\0\x07" + bytes(1_000))
    assert not decoder.is_mid_frame
    with pytest.raises(FrameError, match="unknown kind"):
        decoder.feed(encode_frame(2, b"", LIMITS))


def test_encoder_when_body_breaks_its_limit_then_refused() -> None:
    assert encode_frame(1, b"abcd", LIMITS) == b"\x04\0\0\0\x01abcd"
    for kind, body in ((1, b"abcde"), (2, b"x"), (3, b"")):
        with pytest.raises(FrameError):
            encode_frame(kind, body, LIMITS)


def test_mid_frame_when_a_frame_has_begun_then_true() -> None:
    decoder = FrameDecoder(LIMITS)
    assert not decoder.is_mid_frame
    decoder.feed(b"\x04\0\0\0\x01abc")
    assert decoder.is_mid_frame
    assert decoder.feed(b"d") == [(1, b"abcd")]
    assert not decoder.is_mid_frame


HELLO = Hello(
    protocol_version=1,
    genesis=b"\x01" * 32,
    parameter_hash=b"\x02" * 32,
    block_key=b"\x03" * 33,
    tip_height=7,
    block_interval_ms=1_000,
    timeout_base_ms=500,
    timeout_cap_ms=10_000,
    future_limit_s=30,
)


def test_hello_when_encoded_then_fields_in_order_and_read_back() -> None:
    body = HELLO.encode()
    assert len(body) == 121 <= FRAME_LIMITS_BYTES[14]
    assert body[:4] == b"\x01\0\0\0" and body[4:36] == HELLO.genesis
    assert body[101:105] == b"\x07\0\0\0" and body[-4:] == b"\x1e\0\0\0"
    assert Hello.decode(body) == HELLO


def test_hello_when_not_exactly_its_size_then_refused() -> None:
    for body in (b"", HELLO.encode()[:-1], HELLO.encode() + b"\0"):
        with pytest.raises(FrameError, match="hello"):
            Hello.decode(body)
