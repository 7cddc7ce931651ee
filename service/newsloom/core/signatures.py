"""Fingerprints of a text: word 3-shingles in their order, and a MinHash of them.

The hash functions are fixed here, in numbers, because signatures are stored: xxh3_64 is a frozen
algorithm, and everything above it is a few multiplications written out below. Changing any of it
means another `SIG_VERSION`; golden vectors in the tests hold it still.

A word's hash is xxh3_64 of its folded UTF-8 bytes. The hash of the shingle
(a, b, c) is the upper half of ((a * P + b) * Q + c) * P modulo 2^64. Row i of the MinHash is the
minimum over the shingles s of s * m_i modulo 2^32, where m_i is odd and drawn by splitmix64 from a
fixed start; two neighbouring rows make a band. (Shingle hashes are uniform already, so a
multiplication alone is enough to permute them.)
"""

import struct
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from newsloom.core.folding import FoldedText, fold

SIG_VERSION: Final = 1
BANDS: Final = 64
ROWS: Final = 2
MAX_NUMBERS: Final = 64

U32: TypeAlias = NDArray[np.uint32]

_HEADER: Final = struct.Struct("<BHHH")
_P: Final = np.uint64(0x9E3779B97F4A7C15)
_Q: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_DIGITS_END: Final = ord("9") + 1
_SHINGLE: Final = 3
_UPPER: Final = np.uint64(32)
_EMPTY: Final = np.zeros(0, np.uint32)
_NO_NUMBERS: Final = np.zeros((0, 2), np.uint32)


def _splitmix64(start: int, count: int) -> list[int]:
    mask = (1 << 64) - 1
    values = []
    for _ in range(count):
        start = (start + 0x9E3779B97F4A7C15) & mask
        value = ((start ^ (start >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        values.append((value ^ (value >> 31)) & 0xFFFFFFFF)
    return values


_MULTIPLY: Final = np.array(_splitmix64(0x636F70696573, BANDS * ROWS), np.uint32) | np.uint32(1)


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What is stored of a text to recognise its copies.

    `shingles` are the 32-bit shingle hashes in text order (repeats kept), of which the first
    `title_shingles` begin in the title; `bands` are the 64 MinHash band keys (empty where there is
    no shingle). `numbers` has a row (context, number) of hashes for each of the first 64 numbers;
    the context is the two words before and the word after.
    Size: 7 bytes + 256 + 4 a shingle + 8 a number.
    """

    shingles: U32
    title_shingles: int
    bands: U32
    numbers: U32  # shape (n, 2)

    def to_bytes(self) -> bytes:
        """Return the stored form; `from_bytes` gives an equal signature back."""
        head = _HEADER.pack(SIG_VERSION, self.title_shingles, len(self.numbers), len(self.shingles))
        return head + self.numbers.tobytes() + self.bands.tobytes() + self.shingles.tobytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError for another version or a torn value."""
        if len(stored) < _HEADER.size or stored[0] != SIG_VERSION:
            message = f"not a signature of version {SIG_VERSION}"
            raise ValueError(message)
        _, title, numbers, shingles = _HEADER.unpack_from(stored)
        bands = BANDS if shingles else 0
        if len(stored) != _HEADER.size + 4 * (2 * numbers + bands + shingles):
            message = "a signature of the wrong length"
            raise ValueError(message)
        values = np.frombuffer(stored, "<u4", offset=_HEADER.size)
        pairs, rest = values[: 2 * numbers], values[2 * numbers :]
        return cls(rest[bands:], title, rest[:bands], pairs.reshape(-1, 2))

    def __eq__(self, other: object) -> bool:
        """Two signatures are equal when their stored forms are."""
        return isinstance(other, Signature) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        """Agree with `__eq__`."""
        return hash(self.to_bytes())


def signature(text: FoldedText | str) -> Signature:
    """Return the signature of a text; a plain str counts as text without a title.

    Deterministic across releases and machines for one `SIG_VERSION`. Costs some 25 microseconds
    for 300 characters.
    """
    folded = fold("", text) if isinstance(text, str) else text
    words = folded.words
    if not words:
        return Signature(_EMPTY, 0, _EMPTY, _NO_NUMBERS)
    hashes = np.frombuffer(b"".join(map(xxh3_64_digest, words)), ">u8").astype(np.uint64)
    shingles = _shingles(hashes)
    return Signature(
        shingles=shingles,
        title_shingles=min(folded.title_words, len(shingles)),
        bands=_bands(shingles) if len(shingles) else _EMPTY,
        numbers=_numbers(words),
    )


def _shingles(hashes: NDArray[np.uint64]) -> U32:
    if len(hashes) < _SHINGLE:
        return _EMPTY
    mixed = hashes[:-2] * _P
    mixed += hashes[1:-1]
    mixed *= _Q
    mixed += hashes[2:]
    mixed *= _P
    return (mixed >> _UPPER).astype(np.uint32)


def _bands(shingles: U32) -> U32:
    rows = shingles[:, None] * _MULTIPLY
    # A band key is its two minima, mixed: minima of long texts have few significant bits each.
    pairs = np.minimum.reduce(rows, axis=0).view(np.uint64)
    keys: U32 = (pairs * _Q >> _UPPER).astype(np.uint32)
    return keys


def _numbers(words: list[bytes]) -> U32:
    places = [at for at, word in enumerate(words) if word[0] < _DIGITS_END]
    if not places:
        return _NO_NUMBERS
    # Neighbouring numbers ("4.2", "12 March 2024 10:15") are one: their parts have no context.
    starts = [at for at, before in zip(places, [-2, *places], strict=False) if before != at - 1]
    ends = [at + 1 for at, after in zip(places, [*places[1:], -2], strict=True) if after != at + 1]
    found = bytearray()
    for start, end in zip(starts[:MAX_NUMBERS], ends, strict=False):
        context = (*words[max(start - 2, 0) : start], b"#", *words[end : end + 1])
        found += xxh3_64_digest(b" ".join(context))[:4]
        found += xxh3_64_digest(b" ".join(words[start:end]))[:4]
    return np.frombuffer(found, ">u4").astype(np.uint32).reshape(-1, 2)
