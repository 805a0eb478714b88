"""Sections of report.html for one model: plots and tables from score rows, as plain data."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from eval.scores import Row, Rows
from eval.summary.blocks import Card, Section, Table
from eval.summary.measures import caveats, display_name, metric_name, reference, short, with_arrow
from eval.summary.plots import FLOOR, REAL, SYNTHETIC, THINNED, Line, Mark, number
from eval.summary.tables import groups, label_tables, line_name, networks_table, reference_cell, score_table
from eval.summary.verdicts import copy_search, repeated_prompts

MANIFOLD = ("precision", "recall", "density", "coverage")
DISTANCES = ("fd", "fd_infinity", "kid", "cmmd")
SIDES = {SYNTHETIC: "synthetic images", REAL: "real images"}
LINES_PER_CARD = 4
LISTED = 4  # formats or sizes


def sections_of(rows: Rows) -> list[Section]:
    """The sections of all steps that have rows; a step without a section of its own gets a table."""
    by_step, found = groups(rows, "step"), []
    for step, make in SECTIONS.items():
        if step in by_step:
            found.append(make(by_step[step]))
        if step == "classifier" and (tables := label_tables(rows)):
            found.append(Section("labels", tables=tables))
    found += [Section(step, tables=[score_table(own)]) for step, own in by_step.items() if step not in SECTIONS]
    return [replace(section, cards=paired(section.cards)) for section in found]


def paired(cards: list[Card]) -> list[Card]:
    """The cards, a long last one without a neighbour as two: the page has two columns."""
    if len(cards) % 2 == 0 or len(cards[-1].lines) <= LINES_PER_CARD:
        return cards
    *others, last = cards
    half = math.ceil(len(last.lines) / 2)
    title = f"{last.title}, continued" if last.title else ""
    return [*others, replace(last, lines=last.lines[:half]), replace(last, lines=last.lines[half:], title=title)]


def mark(row: Row, kind: str | None = None) -> Mark:
    """A row's value with its interval; `kind` is by default that of its images."""
    value = math.nan if row["value"] is None else row["value"]
    return Mark(value, kind or (REAL if row["images"] == "real" else SYNTHETIC), row["ci_low"], row["ci_high"])


def reference_mark(row: Row) -> tuple[Mark, ...]:
    """What a value is compared with, and the lowest and highest of its random splits."""
    beside = reference(row)
    ends = row.get("floor_low"), row.get("floor_high")
    return () if beside is None else (Mark(beside, FLOOR, *ends, reference_cell(row)),)


def images(rows: Rows) -> Section:
    """Formats, sizes and colour of the files, and copies of held-out images."""
    body = []
    for row in rows:
        if row.get("formats") is not None:
            formats, sizes = (_counted(row[key]) for key in ("formats", "sizes"))
            quality = "" if row.get("jpeg_quality") is None else f"{row['jpeg_quality']:.0f}"
            colour = f"{row.get('n_colour') or 0:,} ({number(row['value'])} grey levels between channels)"
            body.append([row["images"], formats, sizes, quality, colour])
    section = Section("images", folded=[score_table(rows)])
    header = ["side", "formats", "sizes in pixels", "JPEG quality", "images with colour"]
    used = [j for j in range(len(header)) if any(line[j] for line in body)]
    section.tables = [Table([header[j] for j in used], [[line[j] for j in used] for line in body])] if body else []
    for row in rows:
        if row["metric"] == "held_out_copy_share" and row["value"] is not None:
            found = f"{row['n_copies']} of {row['n_synthetic']:,} synthetic images are copies of held-out real images"
            section.points.append(f"{found} (correlation {number(row['threshold'])} or more).")
    return section


def _counted(counts: dict[str, int]) -> str:
    """Names with their numbers, the first few."""
    shown = ", ".join(f"{name}: {n:,}" for name, n in list(counts.items())[:LISTED])
    return shown + (f" and {len(counts) - LISTED} others" if len(counts) > LISTED else "")


def fidelity(rows: Rows) -> Section:
    """Distances with their floor, and how far the two distributions cover each other, for every extractor."""
    section, of_labels = Section("fidelity"), []
    variants = groups(rows, "variant")
    for variant, own in variants.items():
        overall = {row["metric"]: row for row in own if row["label"] is None}
        title = short(variant)
        kinds = _kinds_of_floor(list(overall.values()))
        distances = [_floor_line(overall[metric]) for metric in DISTANCES if metric in overall]
        notes = dict.fromkeys(note for row in overall.values() for note in caveats(row))
        section.cards.append(Card(f"Distances: {title}", distances, None, kinds, list(notes)))
        shares = [_floor_line(overall[metric]) for metric in MANIFOLD if metric in overall]
        if shares:
            highest = max([1.0, *(m.value for line in shares for m in line.marks if math.isfinite(m.value))])
            section.cards.append(Card(f"Precision, recall, density, coverage: {title}", shares, (0.0, highest), kinds))
        chosen = [row for row in own if row["metric"] == "kid" and row["label"] and row["value"] is not None]
        if chosen:
            names = [f"{row['label']} ({row['n_synthetic']:,} + {row['n_real']:,})" for row in chosen]
            lines = [Line(name, (mark(row), *reference_mark(row))) for name, row in zip(names, chosen, strict=True)]
            kinds = {SYNTHETIC: "synthetic against real", FLOOR: "real against real"}
            title = f"KID ↓ of each label, equal numbers of images: {title}"
            of_labels.append(Card(title, lines, spread(lines), kinds))
        section.folded.append(score_table(own, short(variant)))
    section.cards += of_labels
    if len(variants) > 1:
        section.tables.append(networks_table(rows))
    return section


def _kinds_of_floor(rows: Rows) -> dict[str, str]:
    """Legend of values with a floor."""
    n, splits = next(((row["floor_n"], row.get("floor_splits")) for row in rows if row.get("floor_n")), (None, None))
    kinds = {SYNTHETIC: "synthetic against real"}
    if n is None:
        return kinds
    floor = f"floor: real against real, {n} against {n}"
    floor += f"; mean, lowest and highest of {splits} random splits" if splits and splits > 1 else ""
    return kinds | {THINNED: f"the same, {n} against {n} images", FLOOR: floor}


def _floor_line(row: Row) -> Line:
    thinned = [] if row.get("value_at_floor_n") is None else [Mark(row["value_at_floor_n"], THINNED)]
    floor = reference_mark(row) if row.get("floor") is not None else ()
    return Line(display_name(row), (mark(row), *thinned, *floor))


def spread(lines: Iterable[Line]) -> tuple[float, float]:
    """One axis for all lines, with 0 on it."""
    values = [0.0]
    for line in lines:
        for one in line.marks:
            values += [value for value in (one.value, *(one.interval or ())) if math.isfinite(value)]
    return (min(values), max(values)) if max(values) > min(values) else (0.0, 1.0)


def _sides(rows: Rows, key: str, name: Callable[[str], str] = metric_name) -> list[Line]:
    """A line for each value of a column, with a real and a synthetic mark, in that order."""
    lines = []
    for value, found in groups(rows, key).items():
        ordered = sorted(found, key=lambda row: row["images"] != "real")
        lines.append(Line(name(value), tuple(mark(row) for row in ordered)))
    return lines


def classifier(rows: Rows) -> Section:
    """AUROC and average precision of real and synthetic images, finding by finding, and the agreement of both."""
    section = Section("classifier", folded=[score_table(rows)])
    for metric in ("auroc", "average_precision"):
        own = [row for row in rows if row["metric"] == metric]
        chances = {row["label"]: row.get("chance") for row in own if row["images"] != "real"}
        positives = {row["label"]: row.get("n_positive") for row in own if row["images"] != "real"}
        lines = [
            replace(line, label=_with_positives(label, positives.get(label)), at=chances.get(label))
            for label, line in zip(groups(own, "label"), _sides(own, "label", line_name), strict=True)
        ]
        if lines:
            note = "Dashed: chance" + ("." if metric == "auroc" else ", the share of positives.")
            notes = [note, "In brackets: positives among the synthetic images."]
            title = f"{with_arrow(metric)} of each finding"
            section.cards.append(Card(title, lines, (0.0, 1.0), SIDES, notes, bars=True))
    agreement = [row for row in rows if row["metric"].startswith("agreement") or row["metric"] == "pearson_r"]
    whole = [row for row in agreement if row["label"] in ("macro", None) and row["value"] is not None]
    if whole:
        lines = [Line(with_arrow(row["metric"], where_clear=True), (mark(row),)) for row in whole]
        note = f"{whole[0]['n_synthetic']:,} synthetic and {whole[0]['n_real']:,} real images; means of findings."
        low = min([0.0, *(end for line in lines for end in (line.marks[0].interval or ()))])
        title = "Agreement with the real image of the same prompt"
        section.cards.append(Card(title, lines, (low, 1.0), {SYNTHETIC: "synthetic images"}, [note]))
    return section


def _with_positives(label: str | None, positives: int | None) -> str:
    return line_name(label) if positives is None or label == "macro" else f"{line_name(label)} ({positives:,})"


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
        own = [row for row in rows if belongs(row) and row["value"] is not None]
        for metric, found in groups(own, "metric").items():
            chances = [one for row in found for one in reference_mark(row)][:1]
            lines.append(Line(with_arrow(metric, where_clear=True), (*map(mark, found), *chances)))
        if lines:
            section.cards.append(Card(title, lines, (0.0, 1.0), SIDES | {FLOOR: "chance"}))
    return section


def own_scales(rows: Rows) -> Section:
    """A step whose metrics have a scale each: synthetic beside real or beside a reference, one axis for a metric."""
    section = Section(rows[0]["step"], folded=[score_table(rows)])
    overall = [row for row in rows if not row["label"] and row["value"] is not None]
    lines = []
    for metric, found in groups(overall, "metric").items():
        beside = reference_mark(found[0]) if len(found) == 1 else ()
        lines.append(Line(with_arrow(metric), (*map(mark, found), *beside)))
    names = {SYNTHETIC: SIDES[SYNTHETIC], REAL: "real images", FLOOR: "the same of held-out real images"}
    per_card = math.ceil(len(lines) / (2 * math.ceil(len(lines) / (2 * LINES_PER_CARD)))) if lines else 1
    for start in range(0, len(lines), per_card):  # an even number of cards, if there is more than one line
        own = lines[start : start + per_card]
        kinds = {one.kind for line in own for one in line.marks}
        section.cards.append(Card("", own, legend={kind: name for kind, name in names.items() if kind in kinds}))
    return section


def privacy(rows: Rows) -> Section:
    """Nearness to training images, and the search for copies with its threshold and sensitivity."""
    section = own_scales(rows)
    section.points = repeated_prompts(rows) + copy_search(rows)
    return section


def reports(rows: Rows) -> Section:
    """Generated reports against prompts."""
    return Section("reports", tables=[score_table(rows)])


def text_encoder(rows: Rows) -> Section:
    """Linear probes and compositional prompts before and after fine-tuning, and the similarity of the embeddings."""
    section = Section("text-encoder", folded=[score_table(rows)])
    notes = [f"before: {name}" for name in dict.fromkeys(filter(None, (row.get("base") for row in rows)))]
    for kind, title in (
        ("probe_auroc", "AUROC ↑ of linear probes for findings"),
        ("composition", "Compositional prompts ↑: searches that find the equivalent of two prompts (chance: 0.5)"),
    ):
        before = {row["label"]: row for row in rows if row["metric"] == f"{kind}_base"}
        lines = []
        for row in rows:
            if row["metric"] == f"{kind}_tuned":
                base = (mark(before[row["label"]], FLOOR),) if row["label"] in before else ()
                lines.append(Line(line_name(row["label"]), (mark(row), *base)))
        if lines:
            kinds = {SYNTHETIC: "after fine-tuning", FLOOR: "before"}
            section.cards.append(Card(title, lines, (0.0, 1.0), kinds, notes))
    found = [row for row in rows if row["metric"].startswith("kept_")]
    kept = [Line(display_name(row), (mark(row), *reference_mark(row))) for row in found]
    if kept:
        bounds = spread([*kept, Line("", (Mark(1.0, FLOOR),))])
        kinds = {SYNTHETIC: "the same text before and after", FLOOR: "chance, of unrelated texts"}
        section.cards.append(Card("Similarity of the embeddings before and after (1: the same)", kept, bounds, kinds))
    return section


SECTIONS: dict[str, Callable[[Rows], Section]] = {
    "images": images,
    "fidelity": fidelity,
    "classifier": classifier,
    "alignment": alignment,
    "retrieval": retrieval,
    "diversity": own_scales,
    "privacy": privacy,
    "reports": reports,
    "text encoder": text_encoder,
}
"""By step, in the order of the page."""
