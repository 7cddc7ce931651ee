"""Step: readable text. Mojibake, entities, HTML, invisible characters, Unicode form, white space.

What a reader sees stays as written: curly quotes, dashes and full-width forms are not "corrected".
Most text is plain and costs one regular expression; the rest is cleaned in rounds until nothing
changes, because one repair can uncover another (`&amp;lt;b&amp;gt;`).
"""

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

import ftfy
from selectolax.lexbor import LexborHTMLParser

from newsloom.core.article import Article, Image, Provider
from newsloom.core.enrichment._changes import Changes

MAX_COMBINING_MARKS = 30
"""In one run, as the stream-safe form of UAX #15: normalising longer runs takes quadratic time."""

MAX_ROUNDS = 6
"""Text that still changes after this many was built to; it loses its markup and non-ASCII."""

MAX_ELEMENTS = 4000
"""Of one text. HTML parsers take quadratic time for deep nesting; beyond this, tags are cut out."""

MAX_TAGS = 50_000
"""Of one text. Beyond this nobody has written it: each tag becomes a space, at once."""

MAX_MISREAD_CHARACTERS = 50_000
"""Of one text. Judging mojibake takes a microsecond for three characters: longer text stays."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(article: Article) -> Changes:
    """Clean everything a reader sees; an excerpt or body with nothing left becomes None."""
    changes: dict[str, object] = {}
    for name, clean in _CLEANERS:
        written = getattr(article, name)
        if written is not None:
            cleaned = clean(written)
            if cleaned != written:
                changes[name] = cleaned
    return changes


def clean_line(text: str) -> str:
    """Clean a text of one line: white space folded to single spaces."""
    if _PLAIN.fullmatch(text):
        return " ".join(text.split()) if "  " in text else text.strip()
    return _until_stable(text, _fold_line)


def clean_block(text: str) -> str:
    """Clean a text of paragraphs: lines stay, and white space within each is folded."""
    if _PLAIN_LINES.fullmatch(text) and _is_folded(text):
        return text
    return _until_stable(text, _fold_block)


def _until_stable(text: str, fold: Callable[[str], str]) -> str:
    text = fold(text)
    for _ in range(MAX_ROUNDS):
        before = text
        text = fold(_one_round(text))
        if text == before or _PLAIN.fullmatch(text):
            return text
    return fold(_MARKUP.sub(" ", text.encode("ascii", "ignore").decode()))


def _one_round(text: str) -> str:
    if "&" in text:
        text = _ENTITY.sub(_entity, _AMPERSANDS.sub("&", text))
    if "<" in text and _TAG.search(text.replace("<![CDATA[", "").replace("]]>", "")):
        text = _html_text(text)
    if not text.isascii():
        text = _unicode(text)
    return _CONTROLS.sub("", text)


# --- White space ---


def _fold_line(text: str) -> str:
    return " ".join(text.split())


def _is_folded(text: str) -> bool:
    """Tell of text whose white space is spaces and line ends that `_fold_block` would not alter."""
    if "  " in text or text.strip() != text:
        return False
    return "\n" not in text or not (" \n" in text or "\n " in text or "\n\n\n" in text)


def _fold_block(text: str) -> str:
    lines = "\n".join([" ".join(line.split()) for line in text.splitlines()])
    return _EMPTY_LINES.sub("\n\n", lines).strip("\n")


_EMPTY_LINES = re.compile(r"\n{3,}+")

# --- Plain text, controls ---

# Printable ASCII without "&" and "<", and the punctuation of typographers.
_PLAIN = re.compile(r"[ -%'-;=-~\u2018\u2019\u201c\u201d\u2013\u2014\u2026]*+")
_PLAIN_LINES = re.compile(_PLAIN.pattern.replace("[", "[\n", 1))
# A terminal's escape sequence goes as a whole: without its first character it would be "[31m".
_CONTROLS = re.compile(r"\x1b\[[0-9;:?]{0,32}+[@-~]|[\x00-\x08\x0e-\x1b\x7f]")
_MARKUP = re.compile(r"[&<\x00-\x08\x0e-\x1b\x7f]")

# --- Entities and HTML ---

_AMPERSANDS = re.compile(r"&(?:(?:amp|#0{0,3}38|#x0{0,3}26);)++", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}+|#[xX][0-9A-Fa-f]{1,6}+|[A-Za-z][A-Za-z0-9]{1,31}+);")
_ELEMENTS = (
    "a|abbr|address|amp-[a-z]+|article|aside|audio|b|big|blockquote|body|br|button|canvas|caption|center|cite|"
    "code|col|colgroup|dd|del|details|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|"
    "form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|link|main|map|"
    "mark|meta|nav|noscript|object|ol|optgroup|option|p|param|picture|pre|q|s|script|section|"
    "select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|"
    "textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|wbr|o:p"
)
# Only what is plainly HTML: "x <y and z> 3" is not. What is no tag of any name costs least: a
# mebibyte of "<a " is not compared with the names of a hundred elements at each "<".
_TAG = re.compile(
    r"<(?=/?[a-z][a-z0-9:-]*+(?:[\s/][^<>]*+)?>|[!?])"
    rf"(?:/?(?:{_ELEMENTS})(?:[\s/][^<>]*+)?>|!--|!doctype\b|\?xml\b)",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"<(?=/?(?:address|article|aside|blockquote|br|dd|div|dl|dt|figcaption|figure|footer|form|"
    r"h[1-6]|header|hr|li|main|nav|ol|p|pre|section|table|td|th|tr|ul)\b)",
    re.IGNORECASE,
)
_HIDDEN = ["script", "style", "noscript", "iframe", "template", "head", "svg", "object", "embed"]


_unescaped = lru_cache(maxsize=1024)(html.unescape)


def _entity(entity: re.Match[str]) -> str:
    return _unescaped(entity[0])


def _html_text(text: str) -> str:
    """Text of an HTML fragment; blocks are set apart by line breaks."""
    text = text.replace("<![CDATA[", "").replace("]]>", "")
    if text.count("<") > MAX_TAGS:
        return _TAG.sub(" ", text.replace("<!--", " "))
    text = _BREAK.sub("\n<", _joined_surrogates(text))
    if text.count("<") > MAX_ELEMENTS:
        return _TAG.sub(" ", text.replace("<!--", " "))
    tree = LexborHTMLParser(text)
    tree.strip_tags(_HIDDEN)
    return tree.body.text() if tree.body else ""


# --- Unicode ---

_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Soft hyphen, zero-width space, word joiner and invisible operators, BOM, direction overrides and
# isolates, annotation anchors, C1 controls (NEL, U+0085, is white space).
_INVISIBLE = re.compile(
    r"[\u00ad\u180e\u200b\u2060-\u2064\u2066-\u206f\u202a-\u202e\ufeff\ufff9-\ufffb"
    r"\x80-\x84\x86-\x9f]",
)
# Joiners hold emoji and several scripts together, and are of no use beside ASCII.
_JOINERS = re.compile(r"([\u200c\u200d])[\u200c\u200d]++")
_LOOSE_JOINER = re.compile(
    r"(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])",
)
_C1 = re.compile(r"[\x80-\x9f]")
# C1 controls are Windows-1252 that somebody took for Latin-1; where that has nothing, they go.
_C1_MEANT = {byte: bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xA0)}
_ODD = re.compile(
    r"[\x80-\x84\x86-\x9f\u00ad\u180e\u200b-\u200d\u2060-\u2064\u2066-\u206f\u202a-\u202e"
    r"\ud800-\udfff\ufb00-\ufb06\ufeff\ufff9-\ufffb]",
)
_LIGATURES = re.compile(r"[\ufb00-\ufb06]")


def _marks(planes: range) -> str:
    """Class of the characters that normalising may have to move past their neighbours."""
    hidden = {0x0F73, 0x0F75, 0x0F81}  # of class 0 themselves, but they decompose into two marks
    marks = [chr(p) for p in planes if unicodedata.combining(chr(p)) or p in hidden]
    return f"[{''.join(marks)}]"


def _run_of(mark: str) -> re.Pattern[str]:
    return re.compile(f"({mark}{mark}{{{MAX_COMBINING_MARKS - 1}}}){mark}++")


# A class with characters beyond the basic plane is searched a hundred times slower, so only text
# that has such characters is searched for it.
_BASIC_MARK, _OTHER_MARK = _marks(range(0x0300, 0x10000)), _marks(range(0x10000, 0x1E950))
_BASIC_RUN = _run_of(_BASIC_MARK)
_ANY_RUN = _run_of(f"(?:{_BASIC_MARK}|{_OTHER_MARK})")
_BEYOND_BASIC = re.compile(r"[\U00010000-\U0001e950]")


def _unicode(text: str) -> str:
    if _ODD.search(text):
        text = _visible(_joined_surrogates(text))
    text = _normalised(text)
    if len(text) <= MAX_MISREAD_CHARACTERS and _MOJIBAKE.search(text):
        text = _normalised(_visible(_decoded(text)))
    return text


def _joined_surrogates(text: str) -> str:
    """Make pairs characters, and lone ones replacement characters."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _visible(text: str) -> str:
    if _C1.search(text):
        text = text.translate(_C1_MEANT)
    text = _INVISIBLE.sub("", text)
    if "\u200c" in text or "\u200d" in text:
        text = _LOOSE_JOINER.sub("", _JOINERS.sub(r"\1", text))
    return ftfy.fixes.fix_latin_ligatures(text) if _LIGATURES.search(text) else text


def _normalised(text: str) -> str:
    """NFC, with runs of combining marks capped before, because of the cost."""
    text = _capped(text)
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def _capped(text: str) -> str:
    run = _ANY_RUN if _BEYOND_BASIC.search(text) else _BASIC_RUN
    return run.sub(r"\1", text)


def _misread_utf8() -> str:
    """Pattern of what UTF-8 looks like when it is read in another encoding.

    Searching for its lead and continuation characters costs a hundredth of ftfy's own judgement,
    which then has the word.
    """
    encodings = ("latin-1", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso8859-2")

    def seen(low: int, high: int, *names: str, more: str = "") -> str:
        read = (bytes(range(low, high)).decode(name, "ignore") for name in (*encodings, *names))
        return "[" + re.escape("".join(sorted({*"".join(read), *more}))) + "]"

    # Of Mac Roman and cp437 only the commonest leads: the others begin ordinary words.
    tail = seen(0x80, 0xC0, "mac_roman", "cp437", more="\ufffd")
    two, three, four = (
        seen(0xC2, 0xE0, more="¬√ƒ≈┬├"),
        seen(0xE0, 0xF0, more="\u201aΓ"),
        seen(0xF0, 0xF5),
    )
    # The last two lost a byte on the way: to a gap in the encoding, or to a folded space.
    return f"{two}{tail}|{three}{tail}{tail}|{four}{tail}{tail}{tail}|[âв][€Ђ]|[ÂÃ] "


_MOJIBAKE = re.compile(_misread_utf8())


def _decoded(text: str) -> str:
    """Undo mojibake line by line: only lines with a suspicious pair pay for it."""
    return "\n".join(
        [ftfy.fix_encoding(line) if _MOJIBAKE.search(line) else line for line in text.split("\n")]
    )


# --- Parts of an article ---


def _line_or_none(text: str) -> str | None:
    return clean_line(text) or None


def _clean_title(text: str) -> str:
    return clean_line(text) or REPLACEMENT


def _clean_body(text: str) -> str | None:
    return clean_block(text) or None


def _clean_images(images: tuple[Image, ...]) -> tuple[Image, ...]:
    """Clean titles and attributions; the same tuple when there is nothing to do."""
    for image in images:
        if image.title or image.attribution:
            break
    else:
        return images
    return tuple(
        Image(
            image.url,
            image.width,
            image.height,
            image.is_cached,
            _line_or_none(image.title) if image.title else None,
            _line_or_none(image.attribution) if image.attribution else None,
        )
        for image in images
    )


def _clean_provider(provider: Provider) -> Provider:
    name = _line_or_none(provider.name) if provider.name else None
    images = _clean_images(provider.images)
    if name == provider.name and images is provider.images:
        return provider
    return Provider(name, provider.domain, images, provider.extra)


_CLEANERS: tuple[tuple[str, Callable[..., object]], ...] = (
    ("title", _clean_title),
    ("excerpt", _line_or_none),
    ("body", _clean_body),
    ("images", _clean_images),
    ("provider", _clean_provider),
)
