"""Reports as bytes of any encoding, and as text that stays as it is."""

import pytest

from data_prep.report_sections import impression
from data_prep.report_text import decode, plain
from tests.data_prep.reports import BODY

BYTES = {
    "UTF-8 with a mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 with a mark": lambda text: text.encode("utf-16"),
    "big-endian UTF-16 with a mark": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "big-endian UTF-16 without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-16, cut off": lambda text: text.encode("utf-16")[:-1],
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows-1252": lambda text: text.encode("cp1252"),
    "carriage returns": lambda text: text.replace("\n", "\r").encode(),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "doubled line ends": lambda text: text.replace("\n", "\r\r\n").encode(),
    "NEL": lambda text: text.replace("\n", "\x85").encode(),
    "NEL in Latin-1": lambda text: text.replace("\n", "\x85").replace("–", "-").encode("latin-1"),
    "line separators": lambda text: text.replace("\n", "\u2028").encode(),
    "form feeds": lambda text: text.replace("\n", "\f").encode(),
    "vertical tabs": lambda text: text.replace("\n", "\v").encode(),
    "NULs at the end": lambda text: text.encode() + bytes(100),
    "NULs within": lambda text: text.replace("S", "S\x00").encode(),
    "no-break blanks": lambda text: text.replace(" ", "\u00a0").encode(),
    "control characters": lambda text: ("\x02" + text + "\x03\x1a").encode(),
    "a mark within": lambda text: text.replace("IMP", "\ufeffIMP").encode(),
    "a stray byte": lambda text: text.encode().replace(b"EXAM", b"EXAM\xb0"),
}


@pytest.mark.parametrize("encode", BYTES.values(), ids=BYTES)
def test_bytes_of_a_report_with(encode):
    report = "EXAM: Chest.\nFINDINGS: Café – 38 °C.\n\nIMPRESSION: Small effusion, 3 × 2 cm.\nUnchanged.\n"
    found = impression(decode(encode(report)))
    assert found in ("Small effusion, 3 × 2 cm. Unchanged.", "Small effusion, 3 × 2 cm. Unchanged")  # cut off


def test_plain_text_stays_as_it_is():
    report = f" {BODY}\n \n IMPRESSION:\t<5 mm nodule & 3.5 cm mass \\ ___\n"
    assert plain(report) == report
    assert decode(report.encode()) == report
