"""What the report makes of score rows: for every part plots of what matters, and a table of all of it."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from eval.summary.page import card, cards, details, paragraph, section, table, tile
from eval.summary.plots import FLOOR, REAL, SYNTHETIC, THINNED, Line, Mark, bars, forest, interval_text, legend, number
from sdcxr.io.manifest import LABELS

Row = dict[str, Any]
Rows = Sequence[Row]

NAMES = {
    "fd": "Fréchet distance",
    "fd_infinity": "Fréchet distance, limit for many images (FD∞)",
    "kid": "KID",
    "kid_subsets": "KID, mean over subsets",
    "cmmd": "CMMD",
    "auroc": "AUROC",
    "ap": "average precision",
    "average_precision": "average precision",
    "alignment": "cosine with the own prompt",
    "alignment_shuffled": "cosine with other prompts",
    "alignment_over_shuffled": "own minus other prompts",
    "alignment_over_real": "synthetic minus real, same prompts",
    "mrr": "mean reciprocal rank",
    "ms_ssim_within_prompts": "MS-SSIM within prompts (lower: more diverse)",
    "ms_ssim_across_prompts": "MS-SSIM across prompts (lower: more diverse)",
    "feature_distance_within_prompts": "feature distance within prompts",
    "feature_distance_across_prompts": "feature distance across prompts",
    "vendi": "Vendi score (effective number of images)",
    "nn_distance_ratio": "distance to training / held-out images",
    "nn_share_nearer_train": "share nearer to training images",
    "authpct": "AuthPct, authentic images in per cent",
    "copy_share": "share of copies",
    "copy_correlation_max": "highest correlation with a training image",
    "reid_share": "share taken for a training patient",
    "reid_cosine_max": "highest cosine with a training patient's image",
    "own_image_rms": "grey-level distance to the prompt's own image",
    "repeated_prompt_share": "share of prompts that repeat one image",
    "probe_auroc_base": "AUROC of the probe before",
    "probe_auroc_tuned": "AUROC of the probe after",
    "probe_auroc_gain": "gain in AUROC",
    "kept_cosine": "cosine before and after",
    "kept_cka": "linear CKA before and after",
    "kept_neighbours": "nearest texts that stayed",
}
MANIFOLD = ("precision", "recall", "density", "coverage")
DISTANCES = ("fd", "fd_infinity", "kid", "cmmd")
BASELINES = ("floor", "chance", "shuffled")  # columns of what a value is held against


def rows_of(rows: Rows, name: str) -> list[Row]:
    """Rows of a part, or of all parts whose name begins so."""
    return [row for row in rows if row["part"] == name or row["part"].startswith(f"{name} by ")]


def display_name(row: Row) -> str:
    """A row's metric in words, with its label."""
    name = NAMES.get(row["metric"], row["metric"].replace("_", " "))
    name += f", {row['arm']}" if row.get("arm") else ""
    return f"{name}, {row['label']}" if row.get("label") else name


def mark(row: Row, kind: str | None = None) -> Mark:
    """A row's value with its interval, as what it is of unless said otherwise."""
    kind = kind or (REAL if row["images"] == "real" else SYNTHETIC)
    return Mark(known(row["value"]), kind, row["ci_low"], row["ci_high"])


def known(value: float | None) -> float:
    """NaN for what JSON writes as null."""
    return math.nan if value is None else value


def against(row: Row) -> float:
    """What a value is held against: floor, chance, or shuffled baseline; NaN where there is none."""
    return next((known(row[name]) for name in BASELINES if row.get(name) is not None), math.nan)


def tiles(rows: Rows) -> str:
    """The few numbers that people ask for first."""
    found = []
    for row in rows:
        found += [tile(*shown) for shown in (_headline(row),) if shown]
    first_of: dict[str, str] = {}
    for box in found:
        first_of.setdefault(box.partition("<b>")[0], box)
    return f'<div class="tiles">{"".join(first_of.values())}</div>' if first_of else ""


def _headline(row: Row) -> tuple[str, str, str] | None:
    value, beside = known(row["value"]), against(row)
    macro, synthetic = row.get("label") == "macro", row["images"] != "real"
    if not math.isfinite(value):
        return None
    shown = number(value)
    if row["metric"] in ("fd", "recall") and row["label"] is None:
        title = "Fréchet distance" if row["metric"] == "fd" else "Recall of real variety"
        name = row["preset"] or _short(row["extractor"])
        if row.get("value_at_floor_n") is None:
            return title, shown, f"{name}; no floor"
        same = f"{number(row['value_at_floor_n'])} at {row['floor_n']} images"
        return title, shown, f"{name}; {same}, where real against real is {number(beside)}"
    if row["metric"] == "auroc" and macro and synthetic:
        return "AUROC, mean of findings", shown, f"95 % interval {interval_text(value, row['ci_low'], row['ci_high'])}"
    if row["metric"] == "alignment_over_shuffled" and synthetic:
        return "Prompt adherence (cosine)", shown, "own minus other prompts; 0 where prompts are ignored"
    if row["metric"] == "text_to_image_recall@10" and synthetic:
        return "Image found by prompt, first 10", shown, f"chance {number(beside)}"
    if row["metric"] == "copy_share":
        return "Copies of training images", str(row["n_copies"]), f"of {row['n_synthetic']:,} synthetic images"
    return None


def fidelity(rows: Rows) -> str:
    """Distances against their floor, and where the two distributions cover each other, for every extractor."""
    boxes, tables = [], []
    for name in dict.fromkeys(row["part"] for row in rows_of(rows, "fidelity")):
        own = [row for row in rows if row["part"] == name]
        overall = {row["metric"]: row for row in own if row["label"] is None}
        title = _short(name.removeprefix("fidelity by "))
        distances = [_floor_line(overall[metric]) for metric in DISTANCES if metric in overall]
        shares = [_floor_line(overall[metric]) for metric in MANIFOLD if metric in overall]
        n = next((row["floor_n"] for row in overall.values() if row.get("floor_n")), None)
        kinds = {
            SYNTHETIC: "synthetic against real",
            THINNED: f"the same, {n} against {n} images",
            FLOOR: f"floor: real against real, {n} against {n}",
        }
        if n is None:
            kinds = {SYNTHETIC: kinds[SYNTHETIC]}
        drawing = forest(distances, f"Distances by {title} against the floor between real images")
        boxes.append(card(f"Distances: {title}", drawing, legend(kinds), _notes(overall.values())))
        if shares:
            highest = max([1.0, *(m.value for line in shares for m in line.marks if math.isfinite(m.value))])
            drawing = forest(shares, f"Precision, recall, density, coverage by {title}", (0.0, highest))
            boxes.append(card(f"Precision, recall, density, coverage: {title}", drawing, legend(kinds)))
        if by_label := _by_label(own, "kid"):
            boxes.append(by_label)
        tables.append(f"<h3>{escape(title)}</h3>{score_table(own)}")
    return section(
        "fidelity",
        "Are they like real ones?",
        paragraph(
            "Distances between the features of all synthetic and all real images. The floor is what two halves of the "
            "real images (other patients) have between them: no synthetic images can be expected below it. Compare a "
            "value with the floor at the same number of images, which the ring shows, never with those of other papers."
        )
        if boxes
        else "",
        cards(boxes),
        details("All values", "".join(tables)),
    )


def _notes(rows: Iterable[Row]) -> str:
    """What has to be known before the values are believed, each remark once."""
    remarks = dict.fromkeys(part for row in rows for part in (row["note"] or "").split("; ") if part)
    return "".join(paragraph(remark, "dim") for remark in remarks)


def _floor_line(row: Row) -> Line:
    marks = [mark(row)]
    if row.get("value_at_floor_n") is not None:
        marks.append(Mark(row["value_at_floor_n"], THINNED))
    if row.get("floor") is not None:
        marks.append(Mark(row["floor"], FLOOR))
    return Line(display_name(row), tuple(marks))


def _line(row: Row, label: str | None = None) -> Line:
    beside = against(row)
    held = (Mark(beside, FLOOR),) if math.isfinite(beside) else ()
    return Line(label or display_name(row), (mark(row), *held))


def _by_label(rows: Rows, metric: str) -> str:
    chosen = [row for row in rows if row["metric"] == metric and row["label"] and row["value"] is not None]
    if not chosen:
        return ""
    lines = [_line(row, f"{row['label']} ({row['n_synthetic']:,} + {row['n_real']:,})") for row in chosen]
    names = {SYNTHETIC: "synthetic against real", FLOOR: "real against real"}
    drawing = forest(lines, f"{NAMES[metric]} of each label", spread(lines))
    return card(f"{NAMES[metric]} of each label, equal numbers of images", drawing, legend(names))


def spread(lines: Iterable[Line]) -> tuple[float, float]:
    """One axis for all lines, with 0 on it."""
    values = [0.0]
    for line in lines:
        for one in line.marks:
            values += [value for value in (one.value, *(one.interval or ())) if math.isfinite(value)]
    return (min(values), max(values)) if max(values) > min(values) else (0.0, 1.0)


def classifier(rows: Rows) -> str:
    """AUROC of real and synthetic images, finding by finding."""
    own = rows_of(rows, "classifier")
    boxes = []
    for metric, chance in (("auroc", 0.5), ("ap", None), ("average_precision", None)):
        lines = _sides([row for row in own if row["metric"] == metric], "label")
        if lines:
            names = {REAL: "real images", SYNTHETIC: "synthetic images"}
            drawing = bars(lines, f"{NAMES[metric]} of each finding, real and synthetic", at=chance)
            note = "<p class='dim'>Dashed: chance.</p>" if chance else ""
            boxes.append(card(f"{NAMES[metric][0].upper()}{NAMES[metric][1:]}", drawing, legend(names, "bars"), note))
    return section(
        "classifier",
        "Do they show what their prompts say?",
        paragraph(
            "A classifier reads every image; the truth of a synthetic one is the labels of its prompt's row. The real "
            "images of the same split are the most that can be hoped for."
        )
        if own
        else "",
        cards(boxes),
        details("All values", score_table(own)),
    )


def _sides(rows: Rows, key: str) -> list[Line]:
    """A line for each value of a column, with a real and a synthetic mark, in that order."""
    lines = []
    for name in dict.fromkeys(row[key] for row in rows):
        found = sorted((row for row in rows if row[key] == name), key=lambda row: row["images"] != "real")
        label = "mean of the findings" if name == "macro" else name or "all images"
        lines.append(Line(NAMES.get(label, label.replace("_", " ")), tuple(mark(row) for row in found)))
    return lines


def alignment(rows: Rows) -> str:
    """Cosines against their baselines."""
    own = rows_of(rows, "alignment")
    cosines = _sides([row for row in own if row["metric"] in ("alignment", "alignment_shuffled")], "metric")
    gains = [row for row in own if row["metric"].startswith("alignment_over")]
    lines = [
        Line(f"{display_name(row)}{'' if row['images'] == 'both' else ', ' + row['images']}", (mark(row),))
        for row in gains
    ]
    names = legend({SYNTHETIC: "synthetic images", REAL: "real images"})
    boxes = [
        card("Mean cosine of images and prompts", forest(cosines, "Cosines", spread(cosines)), names)
        if cosines
        else "",
        card("Differences, image by image", forest(lines, "Differences of cosines", spread(lines))) if lines else "",
    ]
    return section(
        "alignment",
        "Do images and prompts belong together?",
        paragraph(
            "Cosines between an image and a prompt, by a network that reads both. Only differences say something: to "
            "the prompts of other images, and to the real images of the same prompts."
        )
        if own
        else "",
        cards([box for box in boxes if box]),
        details("All values", score_table(own)),
    )


def retrieval(rows: Rows) -> str:
    """Searches against chance."""
    own = rows_of(rows, "retrieval")
    boxes = []
    kinds = {
        "Images search images, mean of the findings": lambda row: row["label"] == "macro",
        "Images search their prompts": lambda row: row["metric"].startswith("image_to_text_recall"),
        "Prompts search their images": lambda row: row["metric"].startswith("text_to_image_recall"),
    }
    for title, belongs in kinds.items():
        chosen = [row for row in own if belongs(row) and row["value"] is not None]
        lines = []
        for metric in dict.fromkeys(row["metric"] for row in chosen):
            found = [row for row in chosen if row["metric"] == metric]
            chances = [Mark(against(row), FLOOR) for row in found if math.isfinite(against(row))]
            name = metric.removeprefix("image_to_text_").removeprefix("text_to_image_")
            lines.append(Line(NAMES.get(name, name), (*(mark(row) for row in found), *chances[:1])))
        if lines:
            names = {SYNTHETIC: "synthetic images", REAL: "real images", FLOOR: "chance"}
            boxes.append(card(title, forest(lines, title, (0.0, 1.0)), legend(names)))
    return section(
        "retrieval",
        "Can they stand for real ones in a search?",
        paragraph(
            "An image searches real images with its finding (precision@k: the share of such ones among the first k), "
            "an image the prompts, a prompt the images (recall@k: how often its own is among the first k)."
        )
        if own
        else "",
        cards(boxes),
        details("All values", score_table(own)),
    )


def compared(rows: Rows, part: str, anchor: str, title: str, text: str) -> str:
    """A part whose metrics have scales of their own: synthetic beside real or beside a baseline, one axis a metric."""
    own = rows_of(rows, part)
    overall = [row for row in own if not row["label"] and row["value"] is not None]
    lines = []
    for metric in dict.fromkeys(row["metric"] for row in overall):
        found = [row for row in overall if row["metric"] == metric]
        marks = tuple(mark(row) for row in found)
        beside = against(found[0])
        if len(found) == 1 and math.isfinite(beside):
            marks += (Mark(beside, FLOOR),)
        lines.append(Line(NAMES.get(metric, metric.replace("_", " ")), marks))
    kinds = {one.kind for line in lines for one in line.marks}
    names = {
        SYNTHETIC: "synthetic images",
        REAL: "real images of other patients",
        FLOOR: "what to expect without a fault",
    }
    boxes = [card("", forest(lines[i * 4 : i * 4 + 4], title)) for i in range(-(-len(lines) // 4))]
    return section(
        anchor,
        title,
        paragraph(text) if own else "",
        cards(boxes),
        legend({kind: name for kind, name in names.items() if kind in kinds}) if boxes else "",
        details("All values", score_table(own)),
    )


def tables_only(rows: Rows, part: str, anchor: str, title: str, text: str) -> str:
    """A part shown as its table."""
    own = rows_of(rows, part)
    return section(anchor, title, paragraph(text), score_table(own)) if own else ""


def per_label(rows: Rows) -> str:
    """One line for each label, with what the parts say about it."""
    columns: dict[str, Callable[[Row], bool]] = {
        "AUROC real": lambda row: row["metric"] == "auroc" and row["images"] == "real",
        "AUROC synthetic": lambda row: row["metric"] == "auroc" and row["images"] == "synthetic",
        "AP real": lambda row: row["metric"] in ("ap", "average_precision") and row["images"] == "real",
        "AP synthetic": lambda row: row["metric"] in ("ap", "average_precision") and row["images"] == "synthetic",
        "KID": lambda row: row["metric"] == "kid",
        "KID floor": lambda row: row["metric"] == "kid",
        "precision@10 real": lambda row: row["metric"] == "precision@10" and row["images"] == "real",
        "precision@10 synthetic": lambda row: row["metric"] == "precision@10" and row["images"] == "synthetic",
        "precision@10 chance": lambda row: row["metric"] == "precision@10",
    }
    parts = ("classifier", "retrieval", "fidelity")
    own = [row for row in rows if row["label"] and any(row in rows_of(rows, part) for part in parts)]
    labels = [label for label in dict.fromkeys(row["label"] for row in own) if label != "macro"]
    labels.sort(key=lambda label: LABELS.index(label) if label in LABELS else -1)
    cells: dict[str, list[str]] = {}
    for label in labels:
        of_label = [row for row in own if row["label"] == label]
        cells[label] = []
        for name, belongs in columns.items():
            row = next((row for row in of_label if belongs(row)), None)
            value = (
                None if row is None else against(row) if name in ("KID floor", "precision@10 chance") else row["value"]
            )
            cells[label].append("" if row is None else number(value))
    by = next((_short(row["extractor"]) for row in own if row["metric"] == "kid"), None)
    kid = f"KID is by {by}, between equal numbers of images that have the label. " if by else ""
    used = [i for i in range(len(columns)) if any(line[i] for line in cells.values())]
    header = ["label", *(list(columns)[i] for i in used)]
    body = [[label, *(line[i] for i in used)] for label, line in cells.items()]
    if not body:
        return ""
    explained = paragraph(f"{kid}Empty: not measured; –: not defined.")
    return section("labels", "Label by label", explained, table(header, body, numbers=range(1, len(header))))


def score_table(rows: Rows) -> str:
    """All rows as they are."""
    body = []
    for row in rows:
        interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
        beside = against(row)
        n = " + ".join(f"{row[name]:,}" for name in ("n_real", "n_synthetic") if row[name])
        cells = [display_name(row), row["images"] or "", number(row["value"]), interval]
        body.append([*cells, number(beside) if math.isfinite(beside) else "", n, row["note"]])
    header = ["metric", "of", "value", "95 % interval", "held against", "N", "note"]
    return table(header, body, numbers=(2, 3, 4, 5))


def _short(name: str | None) -> str:
    """A name without the folders before its last two."""
    parts = (name or "").split("/")
    return "/".join(parts[-2:]) if len(parts) > 2 else name or ""


ONE = Line("", (Mark(1.0, FLOOR),))


def text_encoder(rows: Rows) -> str:
    """Linear probes before and after fine-tuning, and what was kept of the embeddings."""
    own = rows_of(rows, "text encoder")
    probes = {(row["metric"], row["label"]): row for row in own}
    lines = []
    for label in dict.fromkeys(row["label"] for row in own if row["metric"] == "probe_auroc_tuned"):
        marks = [mark(probes["probe_auroc_tuned", label])]
        if ("probe_auroc_base", label) in probes:
            marks.append(mark(probes["probe_auroc_base", label], FLOOR))
        lines.append(Line("mean of the findings" if label == "macro" else label, tuple(marks)))
    kept = [Line(display_name(row), (mark(row),)) for row in own if row["metric"].startswith("kept_")]
    names = legend({SYNTHETIC: "after fine-tuning", FLOOR: "before"})
    boxes = []
    if lines:
        drawing = forest(lines, "AUROC of linear probes for findings, before and after", (0.0, 1.0))
        boxes.append(card("AUROC of linear probes for findings", drawing, names))
    if kept:
        drawing = forest(kept, "What is left of the embeddings before fine-tuning", spread([*kept, ONE]))
        boxes.append(card("What is left of the embeddings (1: all)", drawing))
    return section(
        "text-encoder", "What became of the text encoder", cards(boxes), details("All values", score_table(own))
    )


def utility(rows: Rows) -> str:
    """Classifiers trained on real, synthetic, or both kinds of images, judged on real ones."""
    own = rows_of(rows, "utility")
    boxes = []
    for metric, title in (
        ("utility_auroc", "AUROC on real test images, by what was trained on"),
        ("utility_gain", "Gain over real images alone"),
    ):
        found = [row for row in own if row["metric"] == metric and row["label"] == "macro"]
        lines = [Line(str(row.get("arm")), (mark(row, SYNTHETIC),)) for row in found]
        if lines:
            values = [one.value for line in lines for one in line.marks if math.isfinite(one.value)]
            low = [one.interval[0] for line in lines for one in line.marks if one.interval]
            bounds = (min([0.5, *values, *low]), 1.0) if metric == "utility_auroc" else spread(lines)
            boxes.append(card(title, forest(lines, title, bounds)))
    about = "R: real images, S: synthetic ones, a number: so many times as many; +: mixed, >: one after the other."
    return section(
        "utility",
        "Are they worth training on?",
        paragraph(about) if own else "",
        cards(boxes),
        details("All values", score_table(own)),
    )
