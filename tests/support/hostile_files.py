"""The hostile corpus, files: what `newsloom publish` may be pointed at, and what must become of it.

Rows H20, H35 and H54-H68 of the table of docs/delivery.md. Sizes, links, pipes and devices are
made by `make_files`; each file's text carries a canary, as in `tests.support.hostile`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.hostile import BODY, SECURED, TITLE, address, record

SENT: Final = "sent"


@dataclass(frozen=True)
class HostileFile:
    """One file, and the reason that it is refused with; `SENT` when it is published.

    `stored`: columns of api.articles, of one that is.
    """

    h: int
    what: str
    verdict: str
    make: Callable[[Path], None] = field(repr=False)
    name: str = ""
    address: str = ""
    stored: Mapping[str, object] = field(default_factory=dict)
    note: str = ""


def _front(slug: str, *lines: str, title: str = f"title: Title {TITLE}") -> bytes:
    """A record's front matter with some more lines, and a body."""
    more = "\n".join([title, f"originalUrl: {address(slug)}", f"secured: {SECURED}", *lines])
    return f"---\n{more}\n---\nText {BODY}\n".encode("utf-8", "surrogatepass")


class _Rows:
    def __init__(self) -> None:
        self.rows: list[HostileFile] = []

    def add(
        self,
        h: int,
        what: str,
        verdict: str,
        data: bytes | Callable[[Path], None] | None = None,
        *lines: str,
        ending: str = ".md",
        name: str = "",
        note: str = "",
        stored: Mapping[str, object] | None = None,
    ) -> None:
        slug = f"f{h}-{len(self.rows)}"
        made = _front(slug, *lines) if data is None else data
        make = made if callable(made) else _writer(made)
        self.rows.append(
            HostileFile(
                h,
                what,
                verdict,
                make,
                name or f"{slug}{ending}",
                address(slug) if verdict == SENT else "",
                stored or {},
                note,
            )
        )

    def lines(
        self, h: int, what: str, verdict: str, *lines: str, note: str = "", **stored: object
    ) -> None:
        """A good record with more lines of front matter."""
        self.add(h, what, verdict, None, *lines, note=note, stored=stored)


def _writer(data: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None:
    """Throw a result away."""


def files() -> list[HostileFile]:
    """Return the corpus in the order of its numbers."""
    rows = _Rows()
    for part in (_tags, _bombs, _scalars, _documents, _bytes, _places):
        part(rows)
    return rows.rows


def _tags(rows: _Rows) -> None:
    for tag in (
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system x",
        "!!binary aGk=",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!timestamp 2024-01-01",
        "!!str text",
        "!local x",
        "! x",
    ):
        rows.lines(54, tag.split()[0], "parse.tag", f"x: {tag}")


def _bombs(rows: _Rows) -> None:
    laughs = ["a: &a [x, x, x, x, x, x, x, x, x]"] + [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    rows.lines(55, "a billion laughs", "parse.alias", *laughs)
    rows.lines(55, "one anchor without use", "parse.alias", "a: &a x")
    rows.lines(55, "an alias of nothing", "parse.alias", "a: *b")
    merges = ["a0: &a0 {k: v}"] + [
        f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 23)
    ]
    rows.lines(56, "merge keys of merge keys", "parse.alias", *merges)
    rows.lines(56, "a merge key of a mapping", "parse.merge_key", "x: {<<: {a: b}}")
    rows.lines(57, "a list in itself", "parse.alias", "x: &a [*a]")
    rows.lines(58, "1000 lists deep", "parse.depth", f"x: {'[' * 1000}{']' * 1000}")
    rows.lines(
        58,
        "2000 question marks",
        "parse.key",
        "x:",
        "  " + "? " * 2000 + "a",
        note="A mapping as a key is refused at the second of them, before depth counts.",
    )
    deep = [f"{' ' * n}k{n}:" for n in range(1, 200)]
    rows.lines(58, "200 blocks deep", "parse.depth", "x:", *deep)


def _scalars(rows: _Rows) -> None:
    rows.lines(59, "a key twice", "parse.duplicate_key", f"title: Again {TITLE}")
    rows.lines(59, "a key twice, deeper", "parse.duplicate_key", "x: {a: 1, a: 2}")
    rows.lines(59, "a key twice, quoted", "parse.duplicate_key", f'"title": Again {TITLE}')
    for text in ("NO", "on", "010", "22:22", "1:30:00", "12:30:45.5", "1_000", "0b11", "1e3", "="):
        rows.lines(60, f"{text} as a category", SENT, f"category: {text}", category=text)
    for text in ("~", "null", ""):
        rows.lines(60, f"{text!r} as a category", SENT, f"category: {text}", category=None)
    rows.lines(60, "'~' as a category", SENT, "category: '~'", category="~")
    for text in ("2024-13-45", "0000-01-01", "2024-01-01T00:00:00+25:00", "2024-01-01"):
        rows.lines(61, f"published {text}", "time.invalid", f"publishedDateTime: {text}")
    rows.lines(61, "year 0", "time.range", "publishedDateTime: 0000-01-01T00:00:00Z")
    for text in ("9" * 5000, ".nan", ".inf", "-.INF", "0x7fffffffffffffffffff"):
        rows.lines(
            62,
            f"heat {text[:8]}",
            SENT,
            f"heat: {text}",
            heat=None,
            note="Override: a value that is no identity is dropped and counted.",
        )
    rows.add(
        63,
        "half a surrogate pair as an escape",
        "parse.yaml",
        _front("f63", title=f'title: "A\\ud800 {TITLE}"'),
        note="libyaml refuses it; JSON's escapes are mended (H14).",
    )
    rows.add(
        63,
        "NUL as an escape",
        SENT,
        _front(f"f63-{len(rows.rows)}", title=f'title: "A\\0B {TITLE}"'),
        stored={"title": f"AB {TITLE}"},
    )
    rows.add(
        63, "beyond Unicode", "parse.yaml", _front("f63", title=f'title: "\\U00110000 {TITLE}"')
    )


def _documents(rows: _Rows) -> None:
    bare = f"title: A {TITLE}\n---\ntitle: B {TITLE}\n".encode()
    rows.add(64, "two documents", "parse.multi_document", bare, ending=".yaml")
    rows.add(
        64,
        "two in front matter",
        "parse.multi_document",
        f"---\ntitle: A {TITLE}\n--- # two\ntitle: B\n---\n".encode(),
    )
    rows.add(64, "nothing", "decode.empty", b"")
    rows.add(64, "white space", "decode.empty", b" \n\t\n")
    rows.add(64, "an NDJSON file of nothing", "decode.empty", b"\n\n", ending=".ndjson")
    rows.add(64, "a scalar", "schema.not_object", f"---\n{TITLE}\n---\n".encode())
    rows.add(64, "a list", "schema.not_object", f"---\n- {TITLE}\n---\n".encode())
    rows.add(64, "front matter of nothing", "schema.not_object", b"---\n---\n")
    rows.add(64, "no front matter", "parse.front_matter", f"Only words {BODY}\n".encode())
    rows.add(64, "no end of it", "parse.front_matter", f"---\ntitle: {TITLE}\n".encode())
    for what, line in (("a list", "[a, b]: c"), ("a mapping", "{a: b}: c"), ("null", "~: c")):
        rows.lines(66, f"{what} as a key", "parse.key", line)
    rows.lines(66, "a question mark and a list", "parse.key", "? - a", ": b")


def _bytes(rows: _Rows) -> None:
    rows.lines(65, "a tab as indentation", "parse.yaml", "x:", "\ta: b")
    crlf = _front(f"f65-{len(rows.rows)}").replace(b"\n", b"\r\n")
    rows.add(65, "CRLF", SENT, crlf, stored={"title": f"Title {TITLE}"})
    rows.lines(65, "NEL", "text.control", "x: a\u0085b: c")
    rows.lines(
        65,
        "U+2028",
        "parse.yaml",
        "category: a\u2028b",
        note="A line break for YAML; quoted, it is one.",
    )
    marked = b"\xef\xbb\xbf" + _front(f"f65-{len(rows.rows)}")
    rows.add(65, "a byte order mark", SENT, marked)
    rows.add(65, "UTF-16", "decode.utf8", _front("f65").decode().encode("utf-16"))
    rows.add(
        65,
        "Latin-1",
        "decode.utf8",
        _front("f65", title="title: Caf\u00e9").decode().encode("latin-1"),
    )
    anchors = [f"a{n}: &a{n} x" for n in range(20_000)]
    rows.lines(67, "20,000 anchors", "parse.alias", *anchors)
    rows.lines(
        67,
        "a scalar of 300 KB",
        SENT,
        f"featuredContent: {'x' * 300_000}",
        note="Within the limits of a record; beyond 1 MiB it is refused.",
    )
    rows.lines(67, "a record of more than 1 MiB", "schema.length", f"x: {'x' * 1024 * 1024}")
    rows.lines(67, "900 brackets that never close", "parse.depth", f"x: {'[' * 900}")
    rows.lines(67, "30 brackets that never close", "parse.yaml", f"x: {'[' * 30}")
    rows.lines(67, "20,001 values", "parse.node_limit", f"x: [{', '.join('a' * 20_001)}]")


def _places(rows: _Rows) -> None:
    def linked(path: Path) -> None:
        target = path.with_name("target-of-the-link")
        target.write_bytes(_front("f68-target"))
        path.symlink_to(target)

    def grows(path: Path) -> None:
        """A sparse file that is longer than may be read, as one that grows while it is."""
        path.write_bytes(_front("f68-growing"))
        os.truncate(path, 10_000_000_000)

    rows.add(20, "a body of 50 MB", "file.size", _front("f20") + b"word " * 10_000_000)
    escapes = record("f35", body="\x01" * 500_000)
    rows.add(
        35,
        "too large as a message",
        "kafka.oversize",
        escapes + b"\n",
        ending=".ndjson",
        note="Control characters take six bytes each in JSON.",
    )
    rows.add(68, "a symbolic link", "file.unreadable", linked)
    rows.add(68, "a link to nothing", "file.unreadable", lambda path: path.symlink_to("/nowhere"))
    rows.add(68, "a link to a device", "file.unreadable", lambda path: path.symlink_to("/dev/zero"))
    rows.add(68, "a pipe that nobody writes", "file.unreadable", os.mkfifo)
    rows.add(68, "a file that grows", "file.size", grows)
    rows.add(68, "a line break in its name", SENT, None, name="f68-a\nb.md")


def make_files(folder: Path) -> dict[str, HostileFile]:
    """Make all files in a folder; returns them by name."""
    made = {}
    for file in files():
        file.make(folder / file.name)
        made[file.name] = file
    return made
