"""Record batches written by hand, byte by byte, and put into Kafka as they are.

A client library refuses to make most of what a hostile (or merely odd) producer can send: a
message without key and value, timestamps that are no times, header names that are no UTF-8,
lengths that lie, a gigabyte squeezed into a megabyte. The broker is asked for its own verdict.
"""

import asyncio
import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import cramjam
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

CODECS: Final = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "unknown": 7}
MAGIC: Final = 2

_AFTER_LENGTH: Final = struct.Struct(">ibI")
_CHECKED: Final = struct.Struct(">hiqqqhii")
_ACKS_ALL: Final = -1
_TIMEOUT_MS: Final = 60_000
_NOT_LEADER: Final = 6


@dataclass(frozen=True)
class Raw:
    """A record as it is to lie in its batch. Header names are bytes."""

    value: bytes | None = field(repr=False)
    key: bytes | None = field(default=None, repr=False)
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    timestamp_delta: int = 0
    header_count: int | None = None
    value_length: int | None = None


def varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _sized(data: bytes | None, length: int | None = None) -> bytes:
    if data is None:
        return varint(-1)
    return varint(len(data) if length is None else length) + data


def encoded(record: Raw, offset_delta: int) -> bytes:
    """Return one record of a batch."""
    count = len(record.headers) if record.header_count is None else record.header_count
    body = b"".join(
        (
            b"\0",
            varint(record.timestamp_delta),
            varint(offset_delta),
            _sized(record.key),
            _sized(record.value, record.value_length),
            varint(count),
            *(_sized(name) + _sized(value) for name, value in record.headers),
        )
    )
    return varint(len(body)) + body


def batch(
    records: Sequence[Raw], *, codec: str = "none", timestamp_ms: int = 0, damage: bool = False
) -> bytes:
    """Return a batch of these records. `damage` breaks its compressed payload, not its checksum."""
    payload = b"".join(encoded(record, n) for n, record in enumerate(records))
    packed = _PACK[codec](payload)
    if damage:
        packed = packed[: len(packed) // 2]
    deltas = [record.timestamp_delta for record in records]
    return sealed(
        packed, len(records), codec, timestamp_ms, newest_ms=timestamp_ms + max(deltas, default=0)
    )


def sealed(
    packed: bytes, count: int, codec: str, timestamp_ms: int = 0, newest_ms: int | None = None
) -> bytes:
    """Put the header with a right checksum before a payload, whatever that is."""
    newest = timestamp_ms if newest_ms is None else newest_ms
    checked = _CHECKED.pack(CODECS[codec], count - 1, timestamp_ms, newest, -1, -1, -1, count)
    content = checked + packed
    head = _AFTER_LENGTH.pack(0, MAGIC, calc_crc32c(content))
    return struct.pack(">qi", 0, len(head) + len(content)) + head + content


def bomb(size: int, codec: str) -> bytes:
    """Return a batch of one well-formed record whose value is `size` zeros."""
    value = varint(size)
    body = 1 + len(varint(0)) * 2 + len(varint(-1)) + len(value) + size + len(varint(0))
    head = varint(body) + b"\0" + varint(0) + varint(0) + varint(-1) + value
    return sealed(_STREAM[codec](_chunks(head, size, varint(0))), 1, codec)


def _chunks(head: bytes, size: int, tail: bytes) -> Iterator[bytes]:
    yield head
    chunk = bytes(1 << 20)
    for start in range(0, size, len(chunk)):
        yield chunk[: size - start]
    yield tail


def _gzip_stream(chunks: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*map(packer.compress, chunks), packer.flush()])


def _zstd_stream(chunks: Iterable[bytes]) -> bytes:
    packer = cramjam.zstd.Compressor(19)
    for chunk in chunks:
        packer.compress(chunk)
    return bytes(packer.finish())


_STREAM: Final[dict[str, Callable[[Iterable[bytes]], bytes]]] = {
    "gzip": _gzip_stream,
    "zstd": _zstd_stream,
}


def _lz4(payload: bytes) -> bytes:
    packer = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    packer.compress(payload)
    return bytes(packer.finish())


_PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "unknown": bytes,
    "gzip": gzip.compress,
    "snappy": lambda payload: bytes(cramjam.snappy.compress_raw(payload)),
    "lz4": _lz4,
    "zstd": lambda payload: bytes(cramjam.zstd.compress(payload)),
}


async def produce(bootstrap: str, topic: str, batches: Iterable[tuple[int, bytes]]) -> list[int]:
    """Put batches into partitions, in order; return the base offset of each.

    Of a batch that the broker refuses, minus its error code: 1 is an error it did not expect, 87
    INVALID_RECORD, 10 too large, 2 a wrong checksum.
    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=_TIMEOUT_MS)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        await client.force_metadata_update()
        results = []
        for partition, content in batches:
            node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            request = ProduceRequest(
                None, _ACKS_ALL, _TIMEOUT_MS, [(topic, [(partition, content)])]
            )
            code, offset = _NOT_LEADER, 0
            while code == _NOT_LEADER:  # a Kafka topic that was only just made
                response = await client.send(node, request)
                ((_, ((_, code, offset, *_),)),) = response.topics
                await asyncio.sleep(0.2 if code == _NOT_LEADER else 0)
            results.append(-abs(code) if code else offset)
        return results
    finally:
        await client.close()
