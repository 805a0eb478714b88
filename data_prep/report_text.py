"""From the bytes of a report file to plain text: encodings, line ends, invisible characters, HTML. Pure functions."""

import codecs
import html
import json
import re

# A UTF-32 mark begins with a UTF-16 mark: it comes first.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NUL_SHARE_OF_UTF16 = 0.3  # of the bytes at even or at odd places; English text has more than 0.9

_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_BLANKS = "\x1f\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff\ufffe\x7f"
_PLAIN = (
    dict.fromkeys(range(32), None)
    | dict.fromkeys(map(ord, _INVISIBLE), None)
    | dict.fromkeys(map(ord, _LINE_ENDS + "\n"), "\n")
    | dict.fromkeys(map(ord, _BLANKS), " ")
    | {ord("\t"): "\t", ord("\uff1a"): ":"}
)

_PLAIN_BYTES = b"\n\t" + bytes(range(32, 127))

_HTML = re.compile(r"<(?:br|p|div|b|strong|html|body|span|h[1-6]|table|td|tr|li|ul|ol|pre|u|i|em)\b[^<>]*>", re.I)
_INLINE_TAG = re.compile(r"</?(?:b|strong|span|u|i|em|font|a|sup|sub)\b[^<>]*>", re.I)
_LABELLED_TAG = re.compile(r"<\w+\s[^<>]*\b(?:label|title|name)\s*=\s*[\"']([A-Za-z /&]+)[\"'][^<>]*>", re.I)
_ELEMENT = re.compile(r"<([A-Za-z_]+)>")
_OTHER_TAG = re.compile(r"<(?:/[A-Za-z][^<>]*|[?!][^<>]*|[A-Za-z]\w*(?:\s[^<>]*)?/)>")
_ESCAPED_LINE_END = re.compile(r"\\r\\n|\\[nr](?![a-z])|\\\.br\\|\\X0[AD]\\")


def decode(data: bytes) -> str:
    """Text of bytes in UTF-8, UTF-16 or UTF-32, with or without a byte order mark; never raises.

    Bytes that are no UTF-8 are read as Windows-1252, each by itself, so that one stray byte harms no other character.
    NUL characters are dropped.
    """
    if data.isascii() and b"\x00" not in data:
        return data.decode("ascii")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if encoding is None:
        encoding = _utf16_without_mark(data) or "utf-8"
    if encoding == "utf-8":
        text = data.decode("utf-8", errors=_as_windows_1252.__name__)
        if "\n" not in text and "\r" not in text and b"\x85" in data:  # there 0x85 is a line end, not an ellipsis
            text = text.replace("…", "\n")
    else:
        width = 4 if "32" in encoding else 2
        text = data[: len(data) // width * width].decode(encoding, errors="replace")
    return text.removeprefix("\ufeff").replace("\x00", "")


def plain(text: str) -> str:
    r"""Line ends as "\n", blanks as " ", neither control nor zero-width characters, and the text of HTML."""
    if not text.isascii() or text.encode().translate(None, _PLAIN_BYTES):
        text = text.replace("\r\n", "\n").translate(_PLAIN)
    if "<" in text and (_HTML.search(text) or "</" in text):
        text = _without_tags(text).translate(_PLAIN)
    if text.lstrip().startswith("{"):
        text = _of_json(text).translate(_PLAIN)
    if "\\" in text and "\n" not in text.strip():
        text = _ESCAPED_LINE_END.sub("\n", text)
    return text


def _without_tags(text: str) -> str:
    """Text of HTML or XML; an element's name or label becomes a heading."""

    def heading(match: re.Match[str]) -> str:
        name = match[1]
        return f"\n{name.replace('_', ' ').upper()}: " if f"</{name}>" in text else match[0]

    text = _INLINE_TAG.sub("", _LABELLED_TAG.sub(r"\n\1: ", text))
    return html.unescape(_OTHER_TAG.sub("\n", _ELEMENT.sub(heading, _HTML.sub("\n", text))))


def _of_json(text: str) -> str:
    """Keys of a JSON object as headings of their texts; `text` if it is none."""
    try:
        return _lines(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _lines(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{str(name).replace('_', ' ').upper()}:\n{_lines(part)}" for name, part in value.items())
    return "\n".join(map(_lines, value)) if isinstance(value, list) else str(value or "")


def _utf16_without_mark(data: bytes) -> str | None:
    data = data.rstrip(b"\x00") if b"\x00" in data else b""
    if not data:
        return None
    for offset, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        every_second = data[offset::2]
        if every_second and every_second.count(0) > _NUL_SHARE_OF_UTF16 * len(every_second):
            return name
    return None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Handler for `bytes.decode`: the offending bytes as Windows-1252, or Latin-1 where that has no character."""
    assert isinstance(error, UnicodeDecodeError)
    wrong = error.object[error.start : error.end]
    return "".join(_WINDOWS_1252[byte] for byte in wrong), error.end


_WINDOWS_1252 = [bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(256)]
codecs.register_error(_as_windows_1252.__name__, _as_windows_1252)
