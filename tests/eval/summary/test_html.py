"""The page report.html: complete in itself, private by default, everything escaped, and legible in a browser."""

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

from eval.inputs.folders import read_folder, read_samples
from eval.summary.html import Report, render, write_report
from eval.summary.models import Model
from eval.summary.pictures import nearest_images, picture, pictures
from eval.summary.provenance import provenance
from eval.summary.steps import Outcome, Skipped
from tests.eval.summary.test_sections import all_rows, row

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


def parse(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return checker


@pytest.fixture
def report(folders):
    def make(rows=None, **others) -> Report:
        outcome = Outcome(all_rows() if rows is None else rows, [Skipped("fidelity by <fid>", "weights & more")])
        real, train = read_folder(folders.real, "--real"), read_folder(folders.train, "--train")
        models = [Model("A", read_samples(folders.synthetic, files=False))]
        named = {"train": train, "outcome": outcome, "differences": [], "command": "python -m eval --real 'a b'"}
        return Report(real, models, **(named | others))

    return make


def test_page_needs_nothing_else_and_is_well_formed(report):
    page = render(report())
    checker = parse(page)
    assert not checker.outside and "default-src 'none'" in page
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    assert "@import" not in page and "url(" not in page and "http" not in re.sub('http-equiv|data:[^"]*', "", page)
    assert checker.anchors <= checker.targets and len(checker.anchors) == 14


def test_every_section_has_its_title_and_its_plots(report):
    page = render(report())
    for title in (
        *("In short", "Do they look like real ones?", "Do they show the findings of their prompts?", "Label by label"),
        *("Do images and prompts belong together?", "Can they replace real images in a search?"),
        *("How diverse are they?", "Do they repeat training images?", "What does a report generator read in them?"),
        *("What did fine-tuning change in the text encoder?", "Methods"),
        *("Not measured", "Provenance"),
    ):
        assert f"<h2>{title}</h2>" in page, title
    assert page.count('<svg class="plot"') == 13 and page.count('<p class="legend">') == 12


def test_nothing_measured_is_a_page_too(report):
    page = render(report([]))
    parse(page)
    assert "Do they look like real ones?" not in page and "Not measured" in page and '<div class="tiles">' not in page


def test_everything_that_is_not_ours_is_escaped(report, folders):
    """Prompts, names of files, findings and extractors, notes, warnings, reasons, the command."""
    evil = "<script>alert('&')</script>"
    rows = [row("fidelity", "fd", 1.0, evil, note=evil, floor_n=3), row("classifier", "auroc", 0.5, label=evil)]
    rows.append(row(evil, evil, 0.5))
    table = pd.read_csv(folders.synthetic / "metadata.csv").assign(text=evil)
    table.to_csv(folders.synthetic / "metadata.csv", index=False)
    provenance = {"extractor": evil, "resize": evil, "sha256": {evil: evil}, "versions": {evil: evil}}
    outcome = Outcome(rows, [Skipped(evil, evil)], [provenance], [evil])
    page = render(report(outcome=outcome, command=evil, show_prompts=True))
    parse(page)
    assert "<script" not in page and page.count("&lt;script&gt;") > 20


def test_prompts_are_hidden_unless_asked_for(report):
    hidden = render(report())
    assert "effusion" not in hidden.lower() and "Cardiomegaly." not in hidden
    assert "te000-aa" in hidden and "--show_prompts" in hidden
    shown = render(report(show_prompts=True))
    assert "Large &lt;b&gt;left&lt;/b&gt; effusion &amp; more." in shown and "Prompts are hidden" not in shown


def test_phantoms_are_called_phantoms_and_their_prompts_shown(report, folders):
    page = render(report())
    assert "phantoms, drawn by a program" not in page and "<body>" in page
    (folders.real.parent / "prep.json").write_text(json.dumps({"phantom": True, "settings": {}}))
    page = render(report())
    which = "The real images (--real) and the training images (--train) are phantoms, drawn by a program: no number"
    assert f'<p class="warning">{which}' in page and '<body class="phantoms">' in page
    assert page.count("Phantoms: drawn by a program") == 1  # it stays in sight, once
    assert "<figcaption>Cardiomegaly.</figcaption>" in page


def test_warnings_are_at_the_top(report):
    page = render(report(outcome=Outcome(warnings=["24 of 24 are mixed up?"])))
    assert page.index('<p class="warning">24 of 24 are mixed up?</p>') < page.index("<nav>")


def test_provenance_has_samples_versions_patients_and_weights(report):
    about = {"extractor": "x", "resize": "r", "sha256": {"w.pt": "ab12"}, "versions": {"some-library": "7.8"}}
    made = report(outcome=Outcome([], [], [about]))
    synthetic = made.models[0].images
    section = provenance(made.real, made.models, made.train, [about])
    folders, units, samples, extractors = (table.rows for table in section.tables)
    assert [line[2] for line in folders] == ["24", "24", "24"]
    assert [[line[0], line[1], line[-1]] for line in units] == [
        ["real", "24", "24 patients"],
        ["A", "24", "12 prompts"],
        ["training", "24", "24 patients"],
    ]
    assert all("24 PNG; 48 × 48 px" in line[3] for line in folders)
    lines = sorted(f"{path.name}\t{path.stat().st_size}\n" for path in synthetic.folder.glob("*.png"))
    table = hashlib.sha256((synthetic.folder / "metadata.csv").read_bytes()).hexdigest()
    assert folders[1][4] == {"list": hashlib.sha256("".join(lines).encode()).hexdigest(), "table": table}
    texts = "\n".join(sorted(set(synthetic.rows["text"])))
    checksum = hashlib.sha256(texts.encode()).hexdigest()
    settings = {"scheduler": "pndm", "seeds": "24 different", "prompts, sha256 of the sorted list": checksum}
    assert settings.items() <= dict(samples).items()
    assert extractors == [["x", "", "r", {"w.pt": "ab12"}]] and "w.pt: <code>ab12</code>" in render(made)
    assert ["some-library", "7.8"] in section.folded[0].rows


def test_pictures_without_prompts_are_from_all_of_each_side(tmp_path):
    for side, n in (("real", 40), ("synthetic", 3)):
        (tmp_path / side).mkdir()
        for i in range(n):
            Image.new("L", (8, 8), i).save(tmp_path / side / f"{side[0]}{i:02}.png")
    real, synthetic = read_folder(tmp_path / "real", "--real"), read_samples(tmp_path / "synthetic")
    section = pictures(real, [Model("A", synthetic)])
    assert [group.caption for group in section.groups] == ["r00.png; s00.png", "r13.png; s01.png", "r26.png; s02.png"]
    assert "do not belong together" in section.texts[0] and section.hint == ""


def test_nearest_pairs_are_side_by_side(report, folders, tmp_path):
    nearest = tmp_path / "nearest.csv"
    lines = [("te002-aa_1.png", "tr005-aa.png", 0.991, True), ("te004-aa_0.png", "tr007-aa.png", 0.4, False)]
    pd.DataFrame(lines, columns=["synthetic", "train", "correlation", "copy"]).to_csv(nearest, index=False)
    made = report()
    made.outcome.tables["nearest.csv", "A"] = nearest
    page = render(made)
    assert '<a href="nearest.csv">nearest.csv</a>' in page
    assert page.index('id="privacy"') < page.index('id="nearest"') < page.index('id="reports"')
    groups = nearest_images(nearest, made.models[0], made.train).groups
    assert [group.caption for group in groups] == [
        "correlation 0.991, a copy: te002-aa_1.png, training image tr005-aa.png",
        "correlation 0.400: te004-aa_0.png, training image tr007-aa.png",
    ]
    paths = folders.synthetic / lines[0][0], folders.train / lines[0][1]
    for shown, path in zip(groups[0].pictures, paths, strict=True):
        with Image.open(path) as file:
            np.testing.assert_array_equal(pixels(shown.data), np.asarray(file))


def pixels(data: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/png;base64,")))) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_thumbnails_are_small_and_keep_their_shape(tmp_path):
    Image.new("RGB", (400, 200), (200, 200, 200)).save(tmp_path / "wide.png")
    values = pixels(picture(tmp_path / "wide.png", "real", 64).data)
    assert values.shape == (64, 64) and (values[:15] == 0).all() and (values[20:44] == 200).all()


def test_pictures_that_cannot_be_shown_are_named_in_their_place(report, folders):
    shown = [folders.synthetic / f"te0{i:02}-aa_0.png" for i in (0, 2, 4)]
    made = report()
    shown[0].write_bytes(b"not an image")
    shown[1].unlink()
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(shown[2])
    page = render(made)
    assert parse(page).tags.count("img") == 24 - 3
    for path, problem in zip(shown, ("cannot be read", "does not exist", "has more than 8 bits"), strict=True):
        assert f'<p class="unusable">{path.name} {problem}' in page


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
