"""The trailer says what an object is, and nothing that is damaged passes for one."""

from __future__ import annotations

import hashlib
import json

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import trailer
from headrace.compression import PAYLOAD_BYTES, TRAILER_BYTES, Compression, Gzip, Zstd
from headrace.errors import ConfigError, CorruptSegmentError, MissingExtraError
from headrace.records import Partition
from headrace.segment import Trailer

GZIP = Gzip()
TICKS = Trailer(
    dataset_id="0123456789abcdef0123456789abcdef",
    partition=Partition("ticks", 3),
    start=40,
    end=57,
    first=42,
    records=15,
    min_ms=-1,
    max_ms=1_400_000_000_000,
    digest="ab" * 32,
    leader_epoch=7,
    writer="host:4711",
)
BIG = 2**63 - 1


def _all() -> list[Compression]:
    try:
        return [GZIP, Zstd()]
    except MissingExtraError:
        return [GZIP]


compressions = pytest.mark.parametrize("compression", _all(), ids=lambda c: c.name)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: len(name.encode()) <= 249)
trailers = st.builds(
    lambda start, skip, span, few, low, high, **more: Trailer(
        start=start,
        first=start + skip,
        end=start + skip + span,
        records=min(few, span),
        min_ms=min(low, high),
        max_ms=max(low, high),
        **more,
    ),
    start=st.integers(0, 2**60),
    skip=st.integers(0, 2**60),
    span=st.integers(1, 2**60),
    few=st.integers(1, 2**60),
    low=st.integers(-(2**63), BIG),
    high=st.integers(-(2**63), BIG),
    dataset_id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    partition=st.builds(Partition, names, st.integers(0, 2**31 - 1)),
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    leader_epoch=st.none() | st.integers(-1, 2**31 - 1),
    writer=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)


def forged(text: bytes, *, magic: bytes = b"headrace segment 1 ") -> bytes:
    """Make a trailer with a right checksum over wrong content."""
    text = text.ljust(PAYLOAD_BYTES - len(magic) - 65)
    return GZIP.frame(magic + hashlib.sha256(text).hexdigest().encode() + b" " + text)


def fields(**changes: object) -> bytes:
    found = json.loads(trailer.encode(TICKS, GZIP)[16 + 84 :].split(b"\n")[0])
    return json.dumps({name: value for name, value in (found | changes).items() if value != "gone"}).encode()


@settings(deadline=None)
@given(trailers, st.sampled_from(_all()))
def test_round_trip(found, compression):
    """Every trailer has the one size and is read back as it was."""
    tail = trailer.encode(found, compression)

    assert TRAILER_BYTES == len(tail)
    assert found == trailer.decode(tail, compression, key="k")


@compressions
def test_every_bit(compression):
    """No single bit can flip anywhere in the trailer without being noticed."""
    tail = bytearray(trailer.encode(TICKS, compression))
    for bit in range(8 * len(tail)):
        tail[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptSegmentError, match=r"ticks/0\.jsonl"):
            trailer.decode(bytes(tail), compression, key="ticks/0.jsonl")
        tail[bit // 8] ^= 1 << bit % 8


@compressions
def test_layout(compression):
    """The trailer is a published format, readable in ``tail -c 1024``."""
    tail = trailer.encode(TICKS, compression)
    text = (
        b'{"dataset":"0123456789abcdef0123456789abcdef","partition":3,"start":40,"end":57,"first":42,"records":15,'
        b'"min_ms":-1,"max_ms":1400000000000,"sha256":"' + b"ab" * 32 + b'","leader_epoch":7,"writer":"host:4711",'
        b'"stream":"ticks"}'
    ).ljust(998 - 84 - 1) + b"\n"

    assert compression.frame(b"headrace segment 1 " + hashlib.sha256(text).hexdigest().encode() + b" " + text) == tail


@pytest.mark.parametrize("character", ["x", "\0", "\x1f", '"', "\\", "\x7f", "é", "東", "😀", "\u2028"])
@pytest.mark.parametrize("writer", ["", "\0" * 500, "w" * 5000, "\udcff"])
def test_longest_stream(character, writer):
    """The longest name fits whatever its characters; what does not fit is cut from the writer's."""
    size = len(character.encode())
    stream = character * (249 // size) + "x" * (249 % size)
    worst = attrs.evolve(
        TICKS,
        partition=Partition(stream, 2**31 - 1),
        start=BIG - 2,
        first=BIG - 1,
        end=BIG,
        records=1,
        min_ms=-(2**63),
        max_ms=-(2**63),
        leader_epoch=-(2**31),
        writer=writer,
    )
    found = trailer.decode(trailer.encode(worst, GZIP), GZIP, key="k")

    assert attrs.evolve(worst, writer="") == attrs.evolve(found, writer="")
    assert writer.replace("\udcff", "?").startswith(found.writer)


@pytest.mark.parametrize(("stream", "reason"), [("x" * 250, "250 bytes, expected at most 249"), ("\udcff", "UTF-8")])
def test_stream_that_does_not_fit(stream, reason):
    """A longer name, or one that is no text, is refused before anything is written."""
    with pytest.raises(ConfigError, match=reason):
        trailer.encode(attrs.evolve(TICKS, partition=Partition(stream, 0)), GZIP)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"", "found 0 bytes, expected 1024"),
        (b"short", "found 5 bytes, expected 1024"),
        (bytes(1024), "found other bytes around the trailer"),
        (GZIP.frame(b"pigz".ljust(PAYLOAD_BYTES)), "expected b'headrace segment '"),
        (forged(fields(), magic=b"headrace segment 2 "), "found format version b'2', expected b'1'; a newer headrace"),
        (trailer.encode(TICKS, GZIP).replace(b'"end":57', b'"end":58'), "its checksum says"),
        (forged(b""), "truncated"),
        (forged(b"[]"), "Expected `object`"),
        (forged(b"[" * 900), "Expected `object`"),
        (forged(fields(end="gone")), "missing required field `end`"),
        (forged(fields(end="57")), "Expected `int`, got `str`"),
        (forged(fields(more=1)), "unknown field `more`"),
        (forged(fields(stream="gone")), "expected one of stream and stream_b64"),
        (forged(fields(stream_b64="eA==")), "expected one of stream and stream_b64"),
        (forged(fields(stream="gone", stream_b64="/w==")), "can't decode byte 0xff"),
        (forged(fields(dataset="xyz")), "matching regex"),
        (forged(fields(sha256="AB" * 32)), "matching regex"),
        (forged(fields(records=0)), "`int` >= 1"),
        (forged(fields(records=16)), "contradict each other"),
        (forged(fields(first=39)), "contradict each other"),
        (forged(fields(first=57)), "contradict each other"),
        (forged(fields(start=43)), "contradict each other"),
        (forged(fields(max_ms=-2)), "contradict each other"),
    ],
)
def test_no_trailer(tail, reason):
    """What is not a trailer is refused with the object's key and the reason."""
    with pytest.raises(CorruptSegmentError, match=r"'ticks/partition=3/0\.jsonl\.gz' .*" + reason) as caught:
        trailer.decode(tail, GZIP, key="ticks/partition=3/0.jsonl.gz")

    assert "ticks/partition=3/0.jsonl.gz" == caught.value.key


def test_forged():
    """Control: the forgery used above is read where its content is right."""
    assert TICKS == trailer.decode(forged(fields()), GZIP, key="k")


def test_another_compression():
    """A trailer in another compression's frame is not taken for one."""
    for one, other in zip(_all(), reversed(_all()), strict=True):
        if one != other:
            with pytest.raises(CorruptSegmentError, match=f"than {other.name} objects"):
                trailer.decode(trailer.encode(TICKS, one), other, key="k")


def test_names():
    """Each of the trailer's fields is on disk: a field that is added must be written too."""
    assert len(attrs.fields(Trailer)) + 1 == len(msgspec.json.decode(fields()))
