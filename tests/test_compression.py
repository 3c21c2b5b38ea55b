"""Blocks that know nothing of each other make one object that every reader takes."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.compression import (
    PAYLOAD_BYTES,
    TRAILER_BYTES,
    Block,
    Compression,
    Gzip,
    Zstd,
    compression,
    crc32_combine,
)
from headrace.errors import ConfigError, DataError, MissingExtraError

PAYLOAD = b"headrace".ljust(PAYLOAD_BYTES)
LINES = b"".join(b'{"offset":%d,"value":{"price":%d}}\n' % (i, i * i) for i in range(50_000))


def _all() -> list[Compression]:
    found: list[Compression] = [Gzip(zlib)]
    if Gzip() != found[0]:
        found.append(Gzip())
    try:
        return [*found, Zstd()]
    except MissingExtraError:
        return found


def _id(codec: Compression) -> str:
    return codec.deflate.__name__ if isinstance(codec, Gzip) else codec.name


@pytest.fixture(params=_all(), ids=_id)
def codec(request) -> Compression:
    return request.param


gzips = pytest.mark.parametrize("codec", [c for c in _all() if c.name == "gzip"], ids=_id)


def obj(codec: Compression, *raws: bytes) -> bytes:
    return codec.join([codec.block(raw) for raw in raws]) + codec.frame(PAYLOAD)


def noise(size: int) -> bytes:
    return hashlib.shake_128(b"headrace").digest(size)


@settings(deadline=None)
@given(st.data())
def test_round_trip(data):
    """Any blocks, empty ones too, come back in order, with the trailer and without it."""
    codec = data.draw(st.sampled_from(_all()))
    raws = data.draw(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
    whole = obj(codec, *raws)

    assert b"".join(raws) == b"".join(codec.decompress(whole))
    assert b"".join(raws) == b"".join(codec.decompress(whole[:-TRAILER_BYTES]))


@pytest.mark.parametrize("size", [65_500, 65_510, 65_526, 65_536, 131_072, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_round_trip_at_edges(codec, size):
    """Members and frames that end around the edges of what is fed at once come back whole."""
    raws = [noise(size), b"x" * size, LINES, noise(7)]

    assert b"".join(raws) == b"".join(codec.decompress(obj(codec, *raws)))


def test_pieces_are_bounded(codec):
    """However well an object compresses, what is decompressed comes in pieces, not at once."""
    whole = obj(codec, *[bytes(8 << 20)] * 4)
    tracemalloc.start()
    sizes = [len(piece) for piece in codec.decompress(whole)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 32 << 20 == sum(sizes)
    assert 1 << 20 >= max(sizes)
    assert 6 << 20 > peak


def test_block(codec):
    """A block says how long it was and what its checksum is, so that blocks can be joined without their raw bytes."""
    block = codec.block(LINES)

    assert (len(LINES), zlib.crc32(LINES)) == (block.raw_bytes, block.crc)
    assert len(LINES) / 3 > len(block.data)


def test_blocks_from_threads(codec):
    """Threads that compress at once do not disturb each other."""
    raws = [LINES[i * 1000 :] for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(codec.block, raws))

    assert [codec.block(raw) for raw in raws] == blocks


@gzips
def test_gzip_is_one_member(codec):
    """A reader that stops after the first member has seen every line: the rest is an empty member."""
    whole = obj(codec, LINES, b"", LINES)
    first = zlib.decompressobj(zlib.MAX_WBITS | 16)

    assert LINES + LINES == first.decompress(whole)
    assert first.eof
    assert codec.frame(PAYLOAD) == first.unused_data
    assert b"" == gzip.decompress(first.unused_data)


@gzips
def test_gzip_readers(codec):
    """Python's gzip, zcat and Arrow read the object and take no notice of its trailer."""
    whole = obj(codec, LINES, LINES)

    assert LINES + LINES == gzip.decompress(whole)
    if zcat := shutil.which("zcat"):
        assert LINES + LINES == subprocess.run([zcat], input=whole, capture_output=True, check=True).stdout


@gzips
def test_gzip_in_arrow(codec):
    """Arrow reads the object and takes no notice of its trailer."""
    pyarrow = pytest.importorskip("pyarrow")

    assert LINES == pyarrow.CompressedInputStream(io.BytesIO(obj(codec, LINES)), "gzip").read()


def test_zstd_reader():
    """The zstd tool reads the object and takes no notice of its trailer."""
    pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    zstd = shutil.which("zstd") or pytest.skip("zstd is not installed")
    whole = obj(Zstd(), LINES, LINES)

    assert LINES + LINES == subprocess.run([zstd, "-dc"], input=whole, capture_output=True, check=True).stdout


def test_duckdb(codec, tmp_path):
    """DuckDB sees each line once, whatever the blocks."""
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / f"x.{codec.extension}"
    path.write_bytes(obj(codec, LINES, LINES, b""))
    query = (
        f"""select count(*), sum("offset") from read_json('{path}', format='newline_delimited', """
        "columns={'offset': 'BIGINT'})"
    )

    assert [(100_000, 2 * sum(range(50_000)))] == duckdb.execute(query).fetchall()


@gzips
def test_gzip_is_deterministic(codec):
    """No time and no name stand in the bytes: the same blocks make the same object."""
    assert obj(codec, LINES) == obj(codec, LINES)
    assert bytes.fromhex("1f8b08000000000000ff") == obj(codec, LINES)[:10]


def test_gzip_length_beyond_32_bits():
    """The length in a gzip trailer is modulo 2^32 (RFC 1952): longer objects are legal."""
    body = Gzip(zlib).join([Block(b"", 0, 2**32), Block(b"", 0, 5)])

    assert 5 == int.from_bytes(body[-4:], "little")


def test_zstd_frames():
    """Each frame carries its size and a checksum, so that a reader can plan and notices damage."""
    pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    codec = Zstd()
    data = codec.block(LINES).data

    assert len(LINES) == codec.zstd.get_frame_info(data).decompressed_size
    # RFC 8878, 3.1.1.1.1: bit 2 of the frame header's descriptor
    assert data[4] & 0b100


def test_damage(codec):
    """A changed byte anywhere in the lines' part is an error, never other lines without a word."""
    whole = bytearray(obj(codec, LINES[:2000]))
    for at in range(len(whole) - TRAILER_BYTES):
        whole[at] ^= 0x55
        try:
            found = b"".join(codec.decompress(bytes(whole)))
        except DataError:
            pass
        else:
            # header fields that say nothing about the lines
            assert LINES[:2000] == found
        whole[at] ^= 0x55


def test_cut_off(codec):
    """An object that ends early is an error wherever it ends."""
    raw = LINES[:2000]
    body = codec.join([codec.block(raw)])
    for end in range(1, len(body)):
        with pytest.raises(DataError, match=f"{codec.name} data"):
            list(codec.decompress(body[:end]))


def test_garbage(codec):
    """What is not compressed at all, or goes on after the trailer, is an error."""
    for body in (b"hello, world", obj(codec, LINES) + b"and more"):
        with pytest.raises(DataError, match=f"{codec.name} data"):
            list(codec.decompress(body))


def test_frame(codec):
    """The trailer's frame has a fixed size, gives its payload back, and holds no line."""
    tail = codec.frame(PAYLOAD)

    assert TRAILER_BYTES == len(tail)
    assert PAYLOAD == codec.unframe(tail)
    assert [] == list(codec.decompress(tail))


def test_frame_of_another_size(codec):
    """A payload of another size is a mistake of ours, not cut or padded."""
    with pytest.raises(ValueError, match="found a payload of 5 bytes, expected 998"):
        codec.frame(b"short")


def test_unframe_notices(codec):
    """Anything else than a frame is refused: a shorter tail, another object's, a changed byte around the payload."""
    tail = codec.frame(PAYLOAD)
    for wrong in (b"", tail[1:], tail + b"\0", bytes(TRAILER_BYTES), LINES[:TRAILER_BYTES]):
        with pytest.raises(ValueError, match="found"):
            codec.unframe(wrong)


def test_compression_by_name():
    """A pin's name leads to its compression."""
    assert ("gzip", "jsonl.gz") == (compression("gzip").name, compression("gzip").extension)


def test_compression_unknown():
    """A name that nobody knows is refused with those that are known."""
    with pytest.raises(ConfigError, match="found compression 'lz4', expected 'gzip' or 'zstd'"):
        compression("lz4")


def test_compression_without_its_library(monkeypatch):
    """zstd without its library says which extra to install; gzip works without any."""
    for name in ("backports.zstd", "compression.zstd", "isal", "isal.isal_zlib"):
        monkeypatch.setitem(sys.modules, name, None)

    assert zlib is compression("gzip").deflate
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[zstd\]'"):
        compression("zstd")


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 100_000))
def test_crc32_combine(first, second, zeros):
    """The checksum of two runs of bytes follows from the checksums of each."""
    second += bytes(zeros)

    assert zlib.crc32(first + second) == crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second))


def test_crc32_combine_agrees():
    """Beyond what fits into memory, it agrees with isal's."""
    isal_zlib = pytest.importorskip("isal.isal_zlib")
    for size in (0, 1, 2**20, 2**32 - 1, 2**32, 2**40 + 12345):
        assert isal_zlib.crc32_combine(0xDEADBEEF, 0x12345678, size) == crc32_combine(0xDEADBEEF, 0x12345678, size)
