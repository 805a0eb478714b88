"""Sections of report.html from score rows: plots, tables and headline numbers as plain data."""

import json
import math
from collections.abc import Callable, Iterable
from importlib.resources import files

from eval.scores import Row, Rows, note_text
from eval.summary.blocks import Card, Section, Table, Tile
from eval.summary.plots import FLOOR, REAL, SYNTHETIC, THINNED, Line, Mark, interval_text, number
from sdcxr.io.manifest import LABELS

NAMES = json.loads(files("eval.summary").joinpath("metric_names.json").read_text(encoding="utf-8"))
MANIFOLD = ("precision", "recall", "density", "coverage")
DISTANCES = ("fd", "fd_infinity", "kid", "cmmd")
REFERENCES = ("floor", "chance", "shuffled")  # columns of what a value is compared with
SIDES = {SYNTHETIC: "synthetic images", REAL: "real images"}


def sections_of(rows: Rows) -> list[Section]:
    """The sections of all steps that have rows; a step without a section of its own gets a table."""
    by_step, found = _groups(rows, "step"), []
    for step, make in SECTIONS.items():
        if step in by_step:
            found.append(make(by_step[step]))
        if step == "classifier" and (table := per_label(rows)) is not None:
            found.append(table)
    return found + [Section(step, tables=[score_table(own)]) for step, own in by_step.items() if step not in SECTIONS]


def display_name(row: Row) -> str:
    """A row's metric in words, with its label."""
    name = metric_name(row["metric"])
    name += f", {row['arm']}" if row.get("arm") else ""
    return f"{name}, {row['label']}" if row.get("label") else name


def metric_name(metric: str) -> str:
    """A metric in words."""
    return NAMES.get(metric, metric.replace("_", " "))


def mark(row: Row, kind: str | None = None) -> Mark:
    """A row's value with its interval; `kind` is by default that of its images."""
    value = math.nan if row["value"] is None else row["value"]
    return Mark(value, kind or (REAL if row["images"] == "real" else SYNTHETIC), row["ci_low"], row["ci_high"])


def reference(row: Row) -> float | None:
    """What a value is compared with: floor, chance, or shuffled baseline; None where there is none."""
    return next((row[name] for name in REFERENCES if row.get(name) is not None), None)


def _reference_mark(row: Row) -> tuple[Mark, ...]:
    beside = reference(row)
    return () if beside is None else (Mark(beside, FLOOR),)


def tiles(rows: Rows) -> list[Tile]:
    """The headline numbers: the first of each title."""
    found: dict[str, Tile] = {}
    for row in rows:
        if row["value"] is not None and (tile := _headline(row)) is not None:
            found.setdefault(tile.title, tile)
    return list(found.values())


def _headline(row: Row) -> Tile | None:
    metric, shown, beside = row["metric"], number(row["value"]), number(reference(row))
    synthetic = row["images"] != "real"
    if metric in ("fd", "recall") and row["label"] is None:
        title = "Fréchet distance" if metric == "fd" else "Recall of real variety"
        name = row["preset"] or _short(row["extractor"])
        if row.get("value_at_floor_n") is None:
            return Tile(title, shown, f"{name}; no floor")
        same = f"{number(row['value_at_floor_n'])} at {row['floor_n']} images"
        return Tile(title, shown, f"{name}; {same}, where real against real is {beside}")
    if metric == "auroc" and row["label"] == "macro" and synthetic:
        interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
        return Tile("AUROC, mean of findings", shown, f"95 % interval {interval}")
    if metric == "alignment_over_shuffled" and synthetic:
        return Tile("Prompt adherence (cosine)", shown, "own minus other prompts; 0 where prompts are ignored")
    if metric == "text_to_image_recall@10" and synthetic:
        return Tile("Image found by prompt, first 10", shown, f"chance {beside}")
    if metric == "copy_share":
        return Tile("Copies of training images", str(row["n_copies"]), f"of {row['n_synthetic']:,} synthetic images")
    return None


def fidelity(rows: Rows) -> Section:
    """Distances with their floor, and how far the two distributions cover each other, for every extractor."""
    section = Section("fidelity")
    for variant, own in _groups(rows, "variant").items():
        overall = {row["metric"]: row for row in own if row["label"] is None}
        title = _short(variant)
        n = next((row["floor_n"] for row in overall.values() if row.get("floor_n")), None)
        kinds = {SYNTHETIC: "synthetic against real"}
        if n is not None:
            kinds |= {THINNED: f"the same, {n} against {n} images", FLOOR: f"floor: real against real, {n} against {n}"}
        distances = [_floor_line(overall[metric]) for metric in DISTANCES if metric in overall]
        notes = dict.fromkeys(note for row in overall.values() for note in row["notes"])
        section.cards.append(Card(f"Distances: {title}", distances, None, kinds, list(notes)))
        shares = [_floor_line(overall[metric]) for metric in MANIFOLD if metric in overall]
        if shares:
            highest = max([1.0, *(m.value for line in shares for m in line.marks if math.isfinite(m.value))])
            section.cards.append(Card(f"Precision, recall, density, coverage: {title}", shares, (0.0, highest), kinds))
        chosen = [row for row in own if row["metric"] == "kid" and row["label"] and row["value"] is not None]
        if chosen:
            names = [f"{row['label']} ({row['n_synthetic']:,} + {row['n_real']:,})" for row in chosen]
            lines = [Line(name, (mark(row), *_reference_mark(row))) for name, row in zip(names, chosen, strict=True)]
            kinds = {SYNTHETIC: "synthetic against real", FLOOR: "real against real"}
            section.cards.append(Card("KID of each label, equal numbers of images", lines, spread(lines), kinds))
        section.folded.append(score_table(own, title))
    return section


def _floor_line(row: Row) -> Line:
    thinned = [] if row.get("value_at_floor_n") is None else [Mark(row["value_at_floor_n"], THINNED)]
    floor = [] if row.get("floor") is None else [Mark(row["floor"], FLOOR)]
    return Line(display_name(row), (mark(row), *thinned, *floor))


def spread(lines: Iterable[Line]) -> tuple[float, float]:
    """One axis for all lines, with 0 on it."""
    values = [0.0]
    for line in lines:
        for one in line.marks:
            values += [value for value in (one.value, *(one.interval or ())) if math.isfinite(value)]
    return (min(values), max(values)) if max(values) > min(values) else (0.0, 1.0)


def _groups(rows: Rows, key: str) -> dict[str, Rows]:
    """The rows by the value of a column, in the order of their first."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _sides(rows: Rows, key: str) -> list[Line]:
    """A line for each value of a column, with a real and a synthetic mark, in that order."""
    lines = []
    for name, found in _groups(rows, key).items():
        label = "mean of the findings" if name == "macro" else name or "all images"
        ordered = sorted(found, key=lambda row: row["images"] != "real")
        lines.append(Line(metric_name(label), tuple(mark(row) for row in ordered)))
    return lines


def classifier(rows: Rows) -> Section:
    """AUROC and average precision of real and synthetic images, finding by finding."""
    section = Section("classifier", folded=[score_table(rows)])
    for metric, chance in (("auroc", 0.5), ("ap", None), ("average_precision", None)):
        lines = _sides([row for row in rows if row["metric"] == metric], "label")
        if lines:
            title = f"{NAMES[metric][0].upper()}{NAMES[metric][1:]} of each finding"
            notes = ["Dashed: chance."] if chance else []
            section.cards.append(Card(title, lines, (0.0, 1.0), SIDES, notes, bars=True, at=chance))
    return section


def per_label(rows: Rows) -> Section | None:
    """A table with one line for each label, and what several steps measured of it."""
    own = [row for row in rows if row["label"] and row["step"] in ("classifier", "retrieval", "fidelity")]
    labels = [label for label in dict.fromkeys(row["label"] for row in own) if label != "macro"]
    labels.sort(key=lambda label: LABELS.index(label) if label in LABELS else -1)
    if not labels:
        return None
    short = {"auroc": "AUROC", "ap": "AP", "average_precision": "AP", "kid": "KID", "precision@10": "precision@10"}
    columns = [f"{name} {side}" for name in ("AUROC", "AP") for side in ("real", "synthetic")]
    columns += ["KID", "KID floor", *(f"precision@10 {side}" for side in ("real", "synthetic", "chance"))]
    cells: dict[tuple[str, str], str] = {}
    for row in own:
        name = short.get(row["metric"], "")
        shown = {"KID" if name == "KID" else f"{name} {row['images']}": number(row["value"])}
        if name in ("KID", "precision@10"):
            shown[f"{name} {'floor' if name == 'KID' else 'chance'}"] = number(reference(row))
        for column, text in shown.items():
            cells.setdefault((row["label"], column), text)
    used = [column for column in columns if any(cells.get((label, column)) for label in labels)]
    body = [[label, *(cells.get((label, column), "") for column in used)] for label in labels]
    by = next((_short(row["extractor"]) for row in own if row["metric"] == "kid"), None)
    kid = f"KID is by {by}, between equal numbers of images that have the label. " if by else ""
    table = Table(["label", *used], body, range(1, 1 + len(used)))
    return Section("labels", f"{kid}Empty: not measured; –: not defined.", tables=[table])


def alignment(rows: Rows) -> Section:
    """Cosines with their baselines."""
    section = Section("alignment", folded=[score_table(rows)])
    cosines = _sides([row for row in rows if row["metric"] in ("alignment", "alignment_shuffled")], "metric")
    if cosines:
        section.cards.append(Card("Mean cosine of images and prompts", cosines, spread(cosines), SIDES))
    gains = [row for row in rows if row["metric"].startswith("alignment_over")]
    names = [display_name(row) + ("" if row["images"] == "both" else f", {row['images']}") for row in gains]
    lines = [Line(name, (mark(row),)) for name, row in zip(names, gains, strict=True)]
    if lines:
        section.cards.append(Card("Differences of cosines, image by image", lines, spread(lines)))
    return section


def retrieval(rows: Rows) -> Section:
    """Searches with their chance level."""
    section = Section("retrieval", folded=[score_table(rows)])
    searches: dict[str, Callable[[Row], bool]] = {
        "Images search images, mean of the findings": lambda row: row["label"] == "macro",
        "Images search their prompts": lambda row: row["metric"].startswith("image_to_text_recall"),
        "Prompts search their images": lambda row: row["metric"].startswith("text_to_image_recall"),
    }
    for title, belongs in searches.items():
        lines = []
        for metric, found in _groups(
            [row for row in rows if belongs(row) and row["value"] is not None], "metric"
        ).items():
            name = metric.removeprefix("image_to_text_").removeprefix("text_to_image_")
            chances = [one for row in found for one in _reference_mark(row)][:1]
            lines.append(Line(NAMES.get(name, name), (*map(mark, found), *chances)))
        if lines:
            section.cards.append(Card(title, lines, (0.0, 1.0), SIDES | {FLOOR: "chance"}))
    return section


def own_scales(rows: Rows) -> Section:
    """A step whose metrics have a scale each: synthetic beside real or beside a reference, one axis for a metric."""
    section = Section(rows[0]["step"], folded=[score_table(rows)])
    overall = [row for row in rows if not row["label"] and row["value"] is not None]
    lines = []
    for metric, found in _groups(overall, "metric").items():
        beside = _reference_mark(found[0]) if len(found) == 1 else ()
        lines.append(Line(metric_name(metric), (*map(mark, found), *beside)))
    names = {
        SYNTHETIC: SIDES[SYNTHETIC],
        REAL: "real images of other patients",
        FLOOR: "what to expect without a fault",
    }
    kinds = {one.kind for line in lines for one in line.marks}
    section.cards = [Card("", lines[i : i + 4]) for i in range(0, len(lines), 4)]
    section.legend = {kind: name for kind, name in names.items() if kind in kinds}
    return section


def reports(rows: Rows) -> Section:
    """Generated reports against prompts."""
    return Section("reports", tables=[score_table(rows)])


def utility(rows: Rows) -> Section:
    """Classifiers trained on real, synthetic, or both kinds of images, scored on real ones."""
    section = Section("utility", folded=[score_table(rows)])
    for metric, title in (
        ("utility_auroc", "AUROC on real test images, by what was trained on"),
        ("utility_gain", "Gain over real images alone"),
    ):
        found = [row for row in rows if row["metric"] == metric and row["label"] == "macro"]
        lines = [Line(str(row.get("arm")), (mark(row, SYNTHETIC),)) for row in found]
        if lines:
            bounds = spread(lines)
            if metric == "utility_auroc":
                ends = [end for row in found for end in (row["value"], row["ci_low"]) if end is not None]
                bounds = (min([0.5, *ends]), 1.0)
            section.cards.append(Card(title, lines, bounds))
    return section


def text_encoder(rows: Rows) -> Section:
    """Linear probes before and after fine-tuning, and the similarity of the embeddings."""
    section = Section("text-encoder", folded=[score_table(rows)])
    before = {row["label"]: row for row in rows if row["metric"] == "probe_auroc_base"}
    lines = []
    for row in rows:
        if row["metric"] == "probe_auroc_tuned":
            base = (mark(before[row["label"]], FLOOR),) if row["label"] in before else ()
            lines.append(Line("mean of the findings" if row["label"] == "macro" else row["label"], (mark(row), *base)))
    if lines:
        kinds = {SYNTHETIC: "after fine-tuning", FLOOR: "before"}
        section.cards.append(Card("AUROC of linear probes for findings", lines, (0.0, 1.0), kinds))
    kept = [Line(display_name(row), (mark(row),)) for row in rows if row["metric"].startswith("kept_")]
    if kept:
        bounds = spread([*kept, Line("", (Mark(1.0, FLOOR),))])
        section.cards.append(Card("Similarity of the embeddings before and after (1: the same)", kept, bounds))
    return section


SECTIONS: dict[str, Callable[[Rows], Section]] = {
    "fidelity": fidelity,
    "classifier": classifier,
    "alignment": alignment,
    "retrieval": retrieval,
    "diversity": own_scales,
    "privacy": own_scales,
    "reports": reports,
    "utility": utility,
    "text encoder": text_encoder,
}
"""By step, in the order of the page."""


def score_table(rows: Rows, title: str = "") -> Table:
    """All rows as they are."""
    body: list[list[str]] = []
    for row in rows:
        n = " + ".join(f"{row[name]:,}" for name in ("n_real", "n_synthetic") if row[name])
        interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
        cells = [display_name(row), row["images"] or "", number(row["value"]), interval]
        body.append([*cells, "" if reference(row) is None else number(reference(row)), n, note_text(row)])
    return Table(["metric", "of", "value", "95 % interval", "reference", "N", "note"], body, (2, 3, 4, 5), title)


def _short(name: str | None) -> str:
    """A name without the folders before its last two."""
    parts = (name or "").split("/")
    return "/".join(parts[-2:]) if len(parts) > 2 else name or ""
