"""Tests of report.html: complete in itself, private by default, right in what it shows, and legible in a browser."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.inputs.folders import PHANTOM, ImageFolder, read_folder
from eval.scores import score_row
from eval.summary import sections
from eval.summary import sections as training_sections
from eval.summary.html import Report, render, write_report
from eval.summary.page import pairs, table, thumbnail
from eval.summary.steps import Outcome, Skipped

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Checker(HTMLParser):
    """Tags in order, with whatever leads out of the page."""

    VOID = ("meta", "img", "br", "line", "rect", "path", "circle")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.outside, self.anchors, self.targets = [], [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.targets.add(value)
            if name == "href" and value.startswith("#"):
                self.anchors.add(value[1:])
            elif name in ("src", "href", "data", "action", "srcset") and not value.startswith("data:image/png;base64,"):
                self.outside.append(value)
            if name.startswith("on"):
                self.outside.append(name)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def validate_features(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def row(part: str, metric: str, value: float | None, **others) -> dict:
    counts = {"n_real": 24, "n_synthetic": 24, "extractor": "runs/some/classifier", "note": None}
    return score_row(metric, value, **(counts | others)) | {"part": part}


def fidelity_rows(part: str = "fidelity by a/b/xrv-all") -> list[dict]:
    more = {"value_at_floor_n": 3.4, "floor": 1.1, "floor_n": 12, "ci_low": 2.0, "ci_high": 4.0}
    return [
        row(part, "fd", 3.0, **more),
        row(part, "kid", 0.2, **more | {"value_at_floor_n": 0.3, "floor": -0.01}),
        row(part, "recall", 0.4, floor=0.9),
        row(part, "kid", 0.3, label="Edema", floor=0.01),
        row(part, "kid", -0.00024, label="Lung Opacity", floor=-0.00316, ci_low=-0.00364, ci_high=0.00316),
        row(part, "kid", None, label="Fracture", note="2 real and 1 synthetic images: fewer than 10 on a side"),
    ]


def all_rows() -> list[dict]:
    rows = fidelity_rows()
    for side, value in (("real", 0.95), ("synthetic", 0.81)):
        for label in ("Edema", "macro"):
            rows.append(row("classifier", "auroc", value, label=label, images=side, ci_low=0.7, ci_high=0.99))
        rows.append(row("alignment", "alignment", value / 2, images=side))
        rows.append(row("alignment", "alignment_over_shuffled", value / 3, images=side))
        rows.append(row("retrieval", "text_to_image_recall@10", value, images=side) | {"chance": 0.4})
        rows.append(row("retrieval", "precision@10", value, label="macro", images=side) | {"chance": 0.3})
        rows.append(row("diversity", "vendi", 10 * value, images=side))
        rows.append(row("reports", "bleu", value / 9, images=side) | {"shuffled": 0.01})
    rows.append(row("privacy", "copy_share", 0.0, images="synthetic", floor=0.0) | {"n_copies": 0})
    rows.append(row("utility", "utility_auroc", 0.8, label="macro", images=None) | {"arm": "R+3S"})
    rows.append(row("text encoder", "kept_cka", 0.7, label="everyday captions", images=None))
    return rows


@pytest.fixture
def report(folders):
    def make(rows=None, **others) -> Report:
        outcome = Outcome(all_rows() if rows is None else rows, [Skipped("fidelity by <fid>", "weights & more")])
        sides = read_folder(folders.real, "--real"), read_folder(folders.synthetic, "--synthetic")
        train = read_folder(folders.train, "--train")
        named = {"train": train, "outcome": outcome, "command": "python -m eval --real 'a b'", "nearest": folders.real}
        return Report(*sides, **(named | others))

    return make


def test_page_needs_nothing_else_and_is_well_formed(report):
    page = render(report())
    checker = validate_features(page)
    assert not checker.outside and "default-src 'none'" in page
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    assert "@import" not in page and "url(" not in page and "http" not in re.sub('http-equiv|data:[^"]*', "", page)
    assert checker.anchors <= checker.targets and len(checker.anchors) >= 9


def test_every_part_has_its_plots(report):
    page = render(report())
    for title in (
        "Distances: b/xrv-all",
        "Precision, recall, density, coverage: b/xrv-all",
        "KID of each label",
        "AUROC of each finding, real and synthetic",
        "Mean cosine of images and prompts",
        "Prompts search their images",
        "How various are they?",
        "Do they repeat training images?",
        "Label by label",
        "What a report generator reads in them",
        "What became of the text encoder",
        "Are they worth training on?",
        "R+3S",
        "Not measured",
        "Provenance",
    ):
        assert title in page, title


def test_distances_stand_against_the_floor_at_its_own_number_of_images():
    shown = sections.fidelity(fidelity_rows())
    first = re.search(r'<svg class="plot".*?</svg>', shown)[0]
    assert re.findall(r'class="value".*?>(.*?)<', first)[:3] == ["3.000 (2.000 to 4.000)", "3.400", "1.100"]
    assert "the same, 12 against 12 images" in shown
    assert "3.400 at 12 images, where real against real is 1.100" in sections.tiles(fidelity_rows())


def test_labels_are_joined_by_name():
    shown = sections.per_label(all_rows())
    cells = [re.findall(r"<t[hd].*?>(.*?)</t", line) for line in re.findall("<tr>(.*?)</tr>", shown)]
    by_label = {line[0]: dict(zip(cells[0][1:], line[1:], strict=True)) for line in cells[1:]}
    assert by_label["Edema"]["AUROC real"] == "0.950" and by_label["Edema"]["AUROC synthetic"] == "0.810"
    assert by_label["Edema"]["KID"] == "0.300" and by_label["Edema"]["KID floor"] == "0.010"
    assert by_label["Fracture"]["KID"] == "–" and "macro" not in by_label
    assert "KID is by some/classifier" in shown


def test_shares_stand_against_the_floor_at_its_own_number_of_images():
    recall = {"value_at_floor_n": 0.7, "floor": 0.9, "floor_n": 12, "ci_low": 0.3, "ci_high": 0.5}
    rows = [row("fidelity by a", "fd", 3.0, floor=1.1, floor_n=12), row("fidelity by a", "recall", 0.4, **recall)]
    shown = re.findall(r"<h3>Precision.*?</svg>.*?</div>", sections.fidelity(rows), re.S)[0]
    assert values(shown) == ["0.400 (0.300 to 0.500)", "0.700", "0.900"]
    assert "the same, 12 against 12 images" in shown
    assert "0.700 at 12 images, where real against real is 0.900" in sections.tiles(rows[1:])


def values(svg_or_page: str) -> list[str]:
    return re.findall(r'class="value".*?>(.*?)<', svg_or_page)


def test_the_first_network_gives_the_number_at_the_top():
    later = [one | {"part": "fidelity by other", "value": 99.0} for one in fidelity_rows()]
    assert "99" not in sections.tiles(fidelity_rows() + later)


def test_real_stands_above_synthetic_whatever_the_order_of_rows():
    rows = [one for one in reversed(all_rows()) if one["part"] == "classifier"]
    assert values(sections.classifier(rows))[:2] == ["0.950 (0.700 to 0.990)", "0.810 (0.700 to 0.990)"]


def test_a_value_is_held_against_real_images_where_they_have_one_else_against_its_baseline():
    rows = [row("diversity", f"m{i}", 0.1 * (i + 1), images="synthetic", floor=0.9) for i in range(5)]
    rows.append(row("diversity", "m0", 0.5, images="real"))
    shown = sections.compared(rows, "diversity", "diversity", "?", "")
    assert values(shown) == [
        *("0.100", "0.500"),  # synthetic and real, and no floor
        *("0.200", "0.900", "0.300", "0.900", "0.400", "0.900", "0.500", "0.900"),
    ]
    circles, squares, diamonds = (
        shown[: shown.index('class="legend"')].count(mark) for mark in ("<circle", "<rect", "l5 5")
    )
    assert (circles, squares, diamonds) == (5, 1, 4)


def test_texts_of_reports_are_held_against_those_of_other_images(report):
    table = render(report())
    table = table[table.index('id="reports"') :]
    assert '<td class="n">0.010</td>' in table[: table.index("</table>")]


def test_probes_stand_above_those_before_fine_tuning():
    rows = [
        row("text encoder", f"probe_auroc_{when}", value, label="Edema")
        for when, value in (("tuned", 0.7), ("base", 0.9))
    ]
    assert values(training_sections.text_encoder(rows)) == ["0.700", "0.900"]


def test_an_arm_worse_than_chance_is_on_the_axis():
    rows = [row("utility", "utility_auroc", value, label="macro") | {"arm": "S"} for value in (0.4, 0.8)]
    shown = training_sections.utility(rows)
    assert re.findall('class="tick".*?>(.*?)<', shown)[0] == "0.4"


def test_provenance_tells_samples_versions_and_patients(report):
    about = {"extractor": "x", "resize": "r", "sha256": {"w.pt": "ab12"}, "versions": {"some-library": "7.8"}}
    page = render(report(outcome=Outcome([], [], [about])))
    block = page[page.index('id="provenance"') :]
    texts = "\n".join(sorted(set(read_folder(report().synthetic.folder, "").rows["text"])))
    for told in ("w.pt: <code>ab12", "some-library", "7.8", "24 patients", "12 prompts", "pndm", "24 different"):
        assert told in block, told
    assert hashlib.sha256(texts.encode()).hexdigest() in block


def test_nothing_measured_is_a_page_too(report):
    page = render(report([]))
    validate_features(page)
    assert "Are they like real ones?" not in page and "Not measured" in page


def test_prompts_are_hidden_unless_asked_for(report, folders):
    text = "Large &lt;b&gt;left&lt;/b&gt; effusion &amp; more."
    hidden = render(report())
    assert "effusion" not in hidden.lower() and "Cardiomegaly." not in hidden
    assert "te000-aa" in hidden and "--show_prompts" in hidden
    shown = render(report(show_prompts=True))
    assert text in shown and "<b>left" not in shown and "Prompts are hidden" not in shown


def test_phantoms_are_called_phantoms_and_their_prompts_shown(report, folders):
    page = render(report())
    assert PHANTOM not in page and "<body>" in page
    (folders.real.parent / "prep.json").write_text(json.dumps({"phantom": True, "settings": {}}))
    page = render(report())
    assert '<p class="warning">These are phantoms' in page and '<body class="phantoms">' in page
    assert "<figcaption>Cardiomegaly.</figcaption>" in page


def test_folders_without_a_table_have_pictures_too(report, tmp_path, folders):
    plain = [
        ImageFolder(folder, pd.DataFrame({"file_name": sorted(p.name for p in folder.glob("*.png"))}))
        for folder in (folders.real, folders.synthetic)
    ]
    page = render(Report(*plain, None, Outcome(), "python -m eval", tmp_path / "nearest.csv"))
    assert validate_features(page).tags.count("img") == 24 and "have nothing to do with each other" in page


def test_nearest_pairs_stand_beside_each_other(report, folders, tmp_path):
    nearest = tmp_path / "nearest.csv"
    lines = [("te002-aa_1.png", "tr005-aa.png", 0.991, True), ("te004-aa_0.png", "tr007-aa.png", 0.4, False)]
    pd.DataFrame(lines, columns=["synthetic", "train", "correlation", "copy"]).to_csv(nearest, index=False)
    page = render(report(nearest=nearest))
    block = page[page.index('id="nearest"') :]
    assert "correlation 0.991, a copy: te002-aa_1.png" in block and "correlation 0.400: te004-aa_0.png" in block
    first = re.search(r'src="data:image/png;base64,([^"]+)" alt="synthetic', block)[1]
    with Image.open(io.BytesIO(base64.b64decode(first))) as shown, Image.open(folders.synthetic / lines[0][0]) as file:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(file))


def test_thumbnails_are_small_and_keep_their_shape(tmp_path):
    Image.new("RGB", (400, 200), (200, 200, 200)).save(tmp_path / "wide.png")
    data = thumbnail(tmp_path / "wide.png", 64).removeprefix("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (64, 64) and image.mode == "L"
        values = np.asarray(image)
    assert (values[:15] == 0).all() and (values[20:44] == 200).all()


def test_pictures_that_cannot_be_shown_are_named_in_their_place(report, folders):
    shown = [folders.synthetic / f"te0{i:02}-aa_0.png" for i in (0, 2, 4)]
    shown[0].write_bytes(b"not an image")
    shown[1].unlink()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(shown[2])
    page = render(report())
    assert validate_features(page).tags.count("img") == 24 - 3
    for path, problem in zip(shown, ("cannot be read", "does not exist", "has more than 8 bits"), strict=True):
        assert f'<p class="unusable">{path.name} {problem}' in page


def test_names_of_pictures_are_text(tmp_path):
    path = tmp_path / "<i>.png"
    assert "<i>" not in pairs([(path, "<i>", path, "<i>", "<i>")])


def test_pictures_without_a_table_are_from_all_of_each_side(tmp_path, report):
    for side, n in (("real", 40), ("synthetic", 3)):
        (tmp_path / side).mkdir()
        for i in range(n):
            Image.new("L", (8, 8), i).save(tmp_path / side / f"{side[0]}{i:02}.png")
    sides = [read_folder(tmp_path / side, side) for side in ("real", "synthetic")]
    page = render(Report(*sides, None, Outcome(), "python -m eval", tmp_path / "nearest.csv"))
    captions = re.findall("<figcaption>(.*?)<", page)
    assert captions == ["r00.png; s00.png", "r13.png; s01.png", "r26.png; s02.png"]


def test_warnings_and_remarks_are_seen_without_opening_a_table(report):
    rows = [row("fidelity by x", "fd", 0.0, note="few images; mixed up?") | {"warning": "24 of 24 are mixed up?"}]
    page = render(report([*rows, *(one | {"metric": "kid"} for one in rows)]))
    assert page.count('<p class="warning">24 of 24 are mixed up?</p>') == 1
    before_table = page[: page.index("<details>")]
    assert (
        before_table.count('<p class="dim">few images</p>') == before_table.count('<p class="dim">mixed up?</p>') == 1
    )


def test_cells_are_text():
    assert "&lt;i&gt;" in table(["a"], [["<i>"]]) and table(["a"], []) == ""


def measured(page: Path, width: int, tmp_path: Path) -> dict:
    """What a browser makes of the page in a frame of a width: asked by a script of another page."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.as_uri()}" width="{width}" height="900"></iframe><pre id="out"></pre><script>'
        'document.getElementById("f").onload = () => { const d = document.getElementById("f").contentDocument;'
        'const svgs = [...d.querySelectorAll("svg.plot")]; const box = e => e.getBoundingClientRect();'
        "const spill = svgs.flatMap(s => [...s.querySelectorAll('text')].filter(t => box(t).right > box(s).right + 1 ||"
        " box(t).left < box(s).left - 1 || t.matches('.value') && box(t).left < box(s.querySelector('.track, .axis'))"
        ".right).map(t => t.textContent));"
        'document.getElementById("out").textContent = JSON.stringify({width: d.documentElement.scrollWidth,'
        "images: [...d.images].filter(i => i.complete && i.naturalWidth > 0).length, plots: svgs.filter(s =>"
        " box(s).width > 200 && box(s).height > 30).length, all: svgs.length, spill}); };</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--disable-dev-shm-usage"]
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1000", "--dump-dom"]
    shown = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(re.search(r'<pre id="out">(.+?)</pre>', shown)[1])


@pytest.mark.external
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_all_of_it_without_scrolling_sideways(report, tmp_path, width):
    path = tmp_path / "report.html"
    write_report(path, report())
    found = measured(path, width, tmp_path)
    assert found["width"] <= width and found["images"] == 24
    assert found["plots"] == found["all"] >= 8 and found["spill"] == []
