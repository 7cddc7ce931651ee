# ruff: noqa: RUF001 - look-alike characters are the subject
import random
import time
import unicodedata

import ftfy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from newsloom.core.enrichment.text import (
    _MOJIBAKE,
    MAX_COMBINING_MARKS,
    _fold_block,
    _until_stable,
    clean_block,
    clean_line,
)

LINES = [
    ("plain stays", "A storm closed the harbour - again.", "A storm closed the harbour - again."),
    ("white space", "  A \t storm\n closed ", "A storm closed"),
    ("spaces of all kinds", "A\u00a0storm\u3000closed\u2028it", "A storm closed it"),
    ("named entities", "Fish &amp; chips&nbsp;&quot;to go&quot;", 'Fish & chips "to go"'),
    ("numbered entities", "China&#8217;s &#x201C;plan&#x201D;", "China\u2019s \u201cplan\u201d"),
    ("escaped twice", "Fish &amp;amp; chips &amp;#8217;", "Fish & chips \u2019"),
    ("no entity without its semicolon", "AT&T &copy &region=2 R&D", "AT&T &copy &region=2 R&D"),
    ("an unknown entity stays", "&storm; &;", "&storm; &;"),
    (
        "HTML",
        "<p>A <b>storm</b><br>closed</p><p>the&nbsp;harbour</p>",
        "A storm closed the harbour",
    ),
    ("escaped HTML", "&lt;b&gt;Storm&lt;/b&gt; closed", "Storm closed"),
    ("scripts and styles go", "a<script>alert('x')</script><style>p{}</style> b", "a b"),
    ("comments go", "a<!-- b --> c", "a c"),
    ("CDATA", "<![CDATA[A <i>storm</i>]]>", "A storm"),
    ("comparisons are no HTML", "if x < 5 and y > 3, a<b, I <3 you", None),
    ("addresses in angle brackets", "see <https://example.com/a>", None),
    ("mojibake", "schÃ¶ne GrÃ¼ÃŸe, itâ€™s", "schöne Grüße, it\u2019s"),
    ("mojibake, Cyrillic", "РџСЂРёРІРµС‚, РјРёСЂ", "Привет, мир"),
    ("curly quotes stay", "\u201cIt\u2019s \u2018fine\u2019\u201d \u2013 \u2014 \u2026", None),
    ("full-width forms stay", "中国，日本！ＡＢＣ", None),
    (
        "words that look suspicious stay",
        "l\u2019\u00e9cole créée, її твоєї, Œuvre, ÇA VA À ÉVIAN",
        None,
    ),
    ("ligatures", "of\ufb01ce", "office"),
    ("controls", "a\x00b\x1bc\x7f", "abc"),
    ("terminal colours", "a \x1b[1;31mred\x1b[0m word", "a red word"),
    ("C1 as Windows wrote them", "it\x92s", "it\u2019s"),
    ("bidi overrides", "a\u202eb\u2066c\u2069", "abc"),
    ("zero width", "sto\u200brm\ufeff ca\u00adfe\u2060", "storm cafe"),
    ("joiners between emoji", "\U0001f468\u200d\U0001f469\u200d\U0001f467", None),
    ("joiners in Persian", "می\u200cخواهم", None),
    ("loose joiners", "a\u200db \u200c\u200dc\u200d", "ab c"),
    ("NFC", "cafe\u0301", "café"),
    ("lone surrogates", "a\ud800b", "a\ufffdb"),
    ("paired surrogates", "\ud83d\ude00", "\U0001f600"),
    ("unassigned and astral", "\U0001f9ff \U000e0101 𝔘", None),
]


@pytest.mark.parametrize(("case", "text", "expected"), LINES)
def test_lines(case: str, text: str, expected: str | None) -> None:
    del case
    assert clean_line(text) == (text if expected is None else expected)


BLOCKS = [
    ("One.\r\nTwo.\r\n\r\n\r\n\r\nThree. ", "One.\nTwo.\n\nThree."),
    ("<p>One.</p><p>Two <em>and</em> more.</p>", "One.\n\nTwo and more."),
    ("One.\u2029Two.\x85Three.", "One.\nTwo.\nThree."),
    ("\n\n  One  \n\t\n Two", "One\n\nTwo"),
]


@pytest.mark.parametrize(("text", "expected"), BLOCKS)
def test_a_body_keeps_its_paragraphs(text: str, expected: str) -> None:
    assert clean_block(text) == expected


def test_runs_of_combining_marks_are_capped() -> None:
    marks = clean_line("a" + "\u0301\u0323" * 50_000)
    assert len(unicodedata.normalize("NFD", marks)) <= 2 + MAX_COMBINING_MARKS


PIECES = [
    *"&;#<>/! ab", "&amp;", "amp;", "&#38;", "&#35;", "&#60;", "&lt;", "&gt;", "&#x41;", "&nbsp;",
    "<b>", "</b>", "<p>", "<!--", "-->", "<script>", "</script>", "<![CDATA[", "]]>", "<br/>",
    "<textarea>", "<title>", "<plaintext>", "<svg>", "<math>",
    "Ã", "¶", "â€™", "â", "€", "\x80", "\x99", "Ð", "\u0452", "р", "џ", "\u0083", "Ãƒ", "Â", "©",
    "\u200b", "\u200c", "\u200d", "\u00ad", "\u202e", "\ufeff", "\u0301", "\u0323", "\u0344",
    "\u0f73", "\U0001d165", "e", "é", "\ufb01", "\ud800", "\udc00", "\ufffd", "\x00", "\x1b",
    "\x85", "\u2028", "\n", "\r", "\t", "\u00a0", "ﷺ", "가", "ᆨ", "\u1100\u1161",
]  # fmt: skip
HOSTILE = st.one_of(
    st.text(st.characters(codec=None)),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.text(st.characters(max_codepoint=0xFF)),
    st.text().map(lambda text: text.encode("utf-8", "replace").decode("cp1252", "replace")),
    st.text().map(lambda text: text.encode("utf-8", "replace").decode("cp1251", "replace")),
)


@given(st.lists(st.sampled_from(("a", "b c", " ", "\n", "\n\n", "\u2019", "-", "\t", "\x85"))))
def test_plain_lines_are_taken_as_they_are_only_where_cleaning_would_not_change_them(
    parts: list[str],
) -> None:
    text = "".join(parts)
    assert clean_block(text) == _until_stable(text, _fold_block)


@pytest.mark.parametrize("clean", [clean_line, clean_block])
@given(text=HOSTILE)
@example(text="&" + "amp;" * 50)
@example(text="&" + "#35;" * 50 + "38;")
@example(text="Ã\u200b©")
@example(text="A\u0303©")
@example(text="\u0344" * 40)
@example(text="é\u200d\u200da")
def test_cleaning_is_total_and_changes_nothing_twice(clean: type[str], text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    cleaned.encode()
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not set(cleaned) & set(map(chr, [*range(9), *range(11, 32), 0x7F, 0x202E, 0x200B]))


@given(
    text=st.text(min_size=1),
    encoding=st.sampled_from(["latin-1", "cp1252", "cp1250", "cp1251", "cp1253"]),
)
def test_what_ftfy_would_decode_is_not_overlooked(text: str, encoding: str) -> None:
    misread = text.encode("utf-8", "replace").decode(encoding, "replace")
    if ftfy.fix_encoding(misread) != misread and not set(misread) & set(
        map(chr, range(0x80, 0xA0))
    ):
        assert _MOJIBAKE.search(misread)


HOSTILE_LONG = {
    "combining marks": "a" + "\u0301\u0323" * 50_000,
    "combining marks of other planes": "a" + "\u0301\U0001d165" * 50_000,
    "marks that decompose": "a" + "\u0f73" * 50_000,
    "marks behind mojibake": "a" + "\u0301\u0323".encode().decode("latin-1") * 12_000,
    "long expansions": "\ufdfa" * 33_000,
    "entities in entities": "&" + "amp;" * 25_000,
    "entities in numbers": "&" + "#35;" * 25_000 + "38;",
    "open entities": "&" * 100_000,
    "long entities": "&a" * 50_000,
    "open tags": "<b " * 33_000,
    "angle brackets": "<" * 100_000,
    "nested elements": "<div>" * 20_000,
    "elements nested as deep as is parsed": "<div>" * 2_000,
    "nested inline elements": "<b><i>" * 16_000,
    "closed elements": "</p>" * 25_000,
    "comments": "<!--" * 25_000,
    "attributes": "<a " + "x=y " * 25_000 + ">",
    "CDATA": "<![CDATA[" * 11_000,
    "joiners": "é" + "\u200d" * 100_000 + "é",
    "joiners apart": "é\u200da" * 33_000,
    "mojibake": "Ã¶" * 25_000,
    "much mojibake": "Ã¶" * 250_000,
    "mojibake in mojibake": "Ãƒ" * 25_000,
    "broken mojibake": "â€" * 25_000,
    "white space": " \n" * 50_000,
    "empty lines": "\n" * 100_000,
    "surrogates": "\ud800" * 100_000,
    "C1 controls": "\x80" * 100_000,
    "ligatures": "\ufb01" * 100_000,
    "Hangul": "\u1100\u1161\u11a8" * 33_000,
    "Ukrainian": "її твоєї мрії " * 7_000,
}


@pytest.mark.parametrize("text", HOSTILE_LONG.values(), ids=HOSTILE_LONG.keys())
def test_hostile_text_is_cleaned_in_bounded_time(text: str) -> None:
    before = time.process_time()
    clean_line(text)
    clean_block(text)
    assert time.process_time() - before < 2


def test_random_text_of_every_plane_is_cleaned() -> None:
    rng = random.Random(11)
    text = "".join(chr(rng.randrange(0x11_0000)) for _ in range(20_000))
    assert clean_line(clean_line(text)) == clean_line(text)
