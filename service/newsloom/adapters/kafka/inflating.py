"""A limit for what a fetched batch may inflate to: a megabyte in Kafka can be a gigabyte of zeros.

aiokafka inflates a batch whole, at once, and without a limit. Limits of the operating system do not
help: where memory cannot be had, the decoder of zstd ends the process, and since the batch is
fetched again by whoever takes the partition over, it ends every process after it. So its decoders
are replaced by ones that stop at a limit; the partition then parks, and the others go on. See
docs/decisions/0009.
"""

import gzip
import io
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import cramjam
from aiokafka import codec

MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024
"""Of one batch. The largest batch that the Kafka topic takes, of text that repeats itself much."""

FOREIGN_ERRORS: Final = (EOFError, zlib.error, gzip.BadGzipFile, cramjam.DecompressionError)
"""What decoders raise for broken data, besides the usual; `BadGzipFile` is an OSError too."""

_MODULES: Final = ("aiokafka.record._crecords.default_records", "aiokafka.record.default_records")
_FIRST_GUESS: Final = 64 * 1024
_USUAL_RATIO: Final = 8
_GROWTH: Final = 4
_XERIAL_HEAD_BYTES: Final = 16


class InflatedTooLargeError(ValueError):
    """A batch holds more than `MAX_INFLATED_BYTES`."""


def bound_decoders() -> None:
    """Put the bounded decoders in aiokafka's place; again is harmless.

    Raises RuntimeError when this aiokafka keeps its decoders elsewhere: better no consumer than
    one without a limit.
    """
    for name in _MODULES:
        try:
            module = import_module(name)
        except ImportError:
            continue  # an aiokafka without its compiled part
        for decoder, bounded in _DECODERS.items():
            if not hasattr(module, decoder):
                message = f"{name} has no {decoder}: this version of aiokafka is not supported"
                raise RuntimeError(message)
            setattr(module, decoder, bounded)


def gzip_decode(payload: Any) -> bytes:
    """Inflate gzip, all its members."""
    with gzip.GzipFile(fileobj=io.BytesIO(payload)) as file:
        inflated = file.read(MAX_INFLATED_BYTES + 1)
    return _within(inflated)


def snappy_decode(payload: bytes) -> bytes:
    """Inflate snappy, raw or in xerial's blocks; each says how long it will be."""
    data = memoryview(payload)
    if not codec._detect_xerial_stream(payload):  # noqa: SLF001 - as aiokafka itself decides
        _refuse(cramjam.snappy.decompress_raw_len(payload))
        return bytes(cramjam.snappy.decompress_raw(payload))
    out = bytearray()
    at = _XERIAL_HEAD_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        block = bytes(data[at + 4 : at + 4 + size])
        _refuse(len(out) + cramjam.snappy.decompress_raw_len(block))
        out += cramjam.snappy.decompress_raw(block)
        at += 4 + size
    return bytes(out)


def lz4_decode(payload: bytes) -> bytes:
    """Inflate lz4 frames."""
    return _inflated(payload, cramjam.lz4.decompress_into)


def zstd_decode(payload: bytes) -> bytes:
    """Inflate zstd."""
    return _inflated(payload, cramjam.zstd.decompress_into)


def _inflated(payload: bytes, into: Callable[[bytes, bytearray], int]) -> bytes:
    """Inflate into a buffer; a larger one each time it does not fit, up to the limit.

    The decoder says of a buffer too small what it says of broken data: both are tried again.
    """
    room = max(_FIRST_GUESS, _USUAL_RATIO * len(payload))
    while True:
        room = min(room, MAX_INFLATED_BYTES)
        buffer = bytearray(room)
        try:
            length = into(payload, buffer)
        except cramjam.DecompressionError as error:
            if room == MAX_INFLATED_BYTES:
                raise InflatedTooLargeError("broken, or too large once inflated") from error
            room *= _GROWTH
        else:
            return bytes(memoryview(buffer)[:length])


def _within(inflated: bytes) -> bytes:
    _refuse(len(inflated))
    return inflated


def _refuse(size: int) -> None:
    if size > MAX_INFLATED_BYTES:
        raise InflatedTooLargeError("too large once inflated")


_DECODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "gzip_decode": gzip_decode,
    "snappy_decode": snappy_decode,
    "lz4_decode": lz4_decode,
    "zstd_decode": zstd_decode,
}
