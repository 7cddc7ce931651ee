"""Batches of every codec are read as before, and none inflates past the limit."""

import resource
import struct

import cramjam
import pytest
from aiokafka.record import _crecords, default_records

from newsloom.adapters.kafka.consumer import _poll_errors
from newsloom.adapters.kafka.inflating import MAX_INFLATED_BYTES, bound_decoders, snappy_decode
from newsloom.ports import Unreadable
from tests.support.wire import Raw, batch, bomb

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
READERS = (_crecords.default_records.DefaultRecordBatch, default_records._DefaultRecordBatchPy)


@pytest.fixture(autouse=True)
def bounded() -> None:
    bound_decoders()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_what_is_within_the_limit_is_read(reader: type, codec: str, size: int) -> None:
    values = [b"x" * size, b"end"]
    read = reader(batch([Raw(value, b"k") for value in values], codec=codec))
    assert [record.value for record in read] == values


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_bomb_is_unreadable_and_takes_no_more_than_the_limit(reader: type, codec: str) -> None:
    content = bomb(1 << 30, codec)
    assert len(content) < 1_048_588, "it fits a Kafka topic with default limits"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable), _poll_errors():
        list(reader(content))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 4 * MAX_INFLATED_BYTES


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd", "unknown"])
def test_what_cannot_be_inflated_is_unreadable(codec: str) -> None:
    content = batch([Raw(b"x" * 5000)], codec=codec, damage=codec != "unknown")
    with pytest.raises(Unreadable), _poll_errors():
        list(READERS[0](content))


def test_blocks_of_snappy_are_read_and_bounded() -> None:
    head = struct.pack("!bccccccBii", -126, *(bytes([c]) for c in b"SNAPPY"), 0, 1, 1)
    block = bytes(cramjam.snappy.compress_raw(bytes(8 << 20)))
    framed = struct.pack("!i", len(block)) + block
    assert snappy_decode(head + framed * 2) == bytes(16 << 20)
    with pytest.raises(ValueError, match="too large"):
        snappy_decode(head + framed * 9)
