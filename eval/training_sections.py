"""What the report makes of rows about trained networks: probes of the text encoder, and classifiers of eval.utility."""

import math

from eval.page import card, cards, details, paragraph, section
from eval.plots import FLOOR, SYNTHETIC, Line, Mark, forest, legend
from eval.sections import Rows, called, mark, of_part, score_table, spread

ONE = Line("", (Mark(1.0, FLOOR),))


def text_encoder(rows: Rows) -> str:
    """Linear probes before and after fine-tuning, and what was kept of the embeddings."""
    own = of_part(rows, "text encoder")
    probes = {(row["metric"], row["label"]): row for row in own}
    lines = []
    for label in dict.fromkeys(row["label"] for row in own if row["metric"] == "probe_auroc_tuned"):
        marks = [mark(probes["probe_auroc_tuned", label])]
        if ("probe_auroc_base", label) in probes:
            marks.append(mark(probes["probe_auroc_base", label], FLOOR))
        lines.append(Line("mean of the findings" if label == "macro" else label, tuple(marks)))
    kept = [Line(called(row), (mark(row),)) for row in own if row["metric"].startswith("kept_")]
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
    own = of_part(rows, "utility")
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
