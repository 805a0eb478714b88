"""Tables of report.html from score rows: all values of a step, and what was measured of each label."""

from collections.abc import Callable, Sequence

from eval.scores import Row, Rows
from eval.summary.blocks import Table
from eval.summary.measures import capital, caveats, display_name, label_name, reference, short, with_arrow
from eval.summary.plots import interval_text, number
from sdcxr.io.manifest import LABELS


def value_cell(row: Row | None) -> str:
    """A value with its interval in brackets."""
    if row is None or row["value"] is None:
        return "–"
    interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
    return f"{number(row['value'])} ({interval})" if interval else number(row["value"])


def reference_cell(row: Row) -> str:
    """What a value is compared with, and the lowest and highest of its random splits."""
    if reference(row) is None:
        return ""
    spread = interval_text(row.get("floor"), row.get("floor_low"), row.get("floor_high"))
    return f"{number(reference(row))} [{spread}]" if spread else number(reference(row))


def basis(row: Row) -> str:
    """What a value rests on: positives, pairs, queries, or images."""
    n = {name: row.get(name) for name in ("n_positive", "n_negative", "n_pairs", "n_prompts", "n_groups", "n_queries")}
    if n["n_positive"] is not None:
        others = "" if n["n_negative"] is None else f", {n['n_negative']:,} negative"
        of = f" in {row['n_labels']} findings" if row.get("n_labels") else ""
        return f"{n['n_positive']:,} positive{others}{of}"
    if n["n_pairs"] is not None:
        units, name = (n["n_prompts"], "prompts") if n["n_prompts"] is not None else (n["n_groups"], "patients/prompts")
        return f"{n['n_pairs']:,} pairs of {units or 0:,} {name}"
    if n["n_queries"] is not None:
        return f"{n['n_queries']:,} searches"
    sides = [("n_prompts", "prompts")] if n["n_prompts"] else [("n_real", "real"), ("n_synthetic", "synthetic")]
    counts = [*sides, ("n_train", "training")]
    return " + ".join(f"{row[name]:,} {what}" for name, what in counts if row.get(name))


def score_table(rows: Rows, title: str = "") -> Table:
    """All rows: value, interval, what it rests on, and beside the reference the value at the reference's N."""
    columns: dict[str, Callable[[Row], str]] = {
        "measure": display_name,
        "of": lambda row: row["images"] or "",
        "value": lambda row: number(row["value"]),
        "95 % interval": lambda row: interval_text(row["value"], row["ci_low"], row["ci_high"]),
        "based on": basis,
        "value at the reference's N": lambda row: "" if (x := row.get("value_at_floor_n")) is None else number(x),
        "reference": reference_cell,
        "reference's N": lambda row: f"{row['floor_n']:,} + {row['floor_n']:,}" if row.get("floor_n") else "",
    }
    footnotes: dict[str, int] = {}
    body = [[cell(row) for cell in columns.values()] for row in rows]
    for line, row in zip(body, rows, strict=True):
        line.append(", ".join(str(footnotes.setdefault(note, len(footnotes) + 1)) for note in caveats(row)))
    header = [*columns, "notes"]
    kept = ("measure", "value")
    used = [j for j, name in enumerate(header) if name in kept or any(line[j] for line in body)]
    used = [j for j in used if header[j] != "of" or len({line[j] for line in body}) > 1]
    numeric = ("value", "95 % interval", "value at the reference's N", "reference", "reference's N")
    numbers = [place for place, j in enumerate(used) if header[j] in numeric]
    body = [[line[j] for j in used] for line in body]
    return Table([header[j] for j in used], body, numbers, title, footnotes=list(footnotes))


def label_tables(rows: Rows) -> list[Table]:
    """What several steps measured of each label: by the classifier, and by distances and searches."""
    own = [row for row in rows if row["label"] and not row["label"].startswith("macro")]
    tables = [_by_classifier([row for row in own if row["step"] == "classifier"])]
    tables.append(_by_images([row for row in own if row["step"] in ("retrieval", "fidelity")]))
    return [table for table in tables if table.rows]


def _by_classifier(rows: Rows) -> Table:
    columns: dict[str, Callable[[dict[tuple[str, str], Row]], str]] = {
        "positives, synthetic": lambda own: _positives(own.get(("auroc", "synthetic"))),
        "positives, real": lambda own: _positives(own.get(("auroc", "real"))),
        "AUROC ↑ synthetic": lambda own: value_cell(own.get(("auroc", "synthetic"))),
        "AUROC ↑ real": lambda own: value_cell(own.get(("auroc", "real"))),
        "average precision ↑ synthetic": lambda own: value_cell(own.get(("average_precision", "synthetic"))),
        "average precision ↑ real": lambda own: value_cell(own.get(("average_precision", "real"))),
        "its chance": lambda own: number(own.get(("average_precision", "synthetic"), {}).get("chance")),
    }
    text = "Truth: the labels that were given to the classifier (--labels, --findings, or those in metadata.csv)."
    return _by_label(rows, columns, "Findings by the classifier", text)


def _positives(row: Row | None) -> str:
    if row is None or row.get("n_positive") is None:
        return "–"
    return f"{row['n_positive']:,} of {row['n_positive'] + (row.get('n_negative') or 0):,}"


def _by_images(rows: Rows) -> Table:
    rows = [row for row in rows if row["metric"] in ("kid", "precision@10")]
    columns: dict[str, Callable[[dict[tuple[str, str], Row]], str]] = {
        "images on either side": lambda own: _sizes(own.get(("kid", "both"))),
        "KID ↓": lambda own: value_cell(own.get(("kid", "both"))),
        "KID, real against real": lambda own: reference_cell(own[("kid", "both")]) if ("kid", "both") in own else "",
        "precision@10 ↑ synthetic": lambda own: value_cell(own.get(("precision@10", "synthetic"))),
        "precision@10 ↑ real": lambda own: value_cell(own.get(("precision@10", "real"))),
        "its chance": lambda own: number(own.get(("precision@10", "synthetic"), {}).get("chance")),
    }
    by = next((short(row["extractor"]) for row in rows if row["metric"] == "kid"), "")
    text = "Labels: those of metadata.csv on both sides. KID is between equal numbers of images that have the label"
    text += f", by {by}." if by else "."
    text += " precision@10: share of the first ten real images found that have the label."
    return _by_label(rows, columns, "Labels by distance and search", text)


def _sizes(row: Row | None) -> str:
    if row is None:
        return "–"
    same = row["n_real"] == row["n_synthetic"]
    return f"{row['n_real']:,}" if same else f"{row['n_real']:,} real, {row['n_synthetic']:,} synthetic"


def _by_label(
    rows: Rows, columns: dict[str, Callable[[dict[tuple[str, str], Row]], str]], title: str, text: str
) -> Table:
    """A line for each label from its rows by metric and images; columns without a value in any line are left out."""
    by_label: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        by_label.setdefault(row["label"], {}).setdefault((row["metric"], row["images"]), row)
    labels = sorted(by_label, key=lambda label: LABELS.index(label) if label in LABELS else -1)
    body = [[label, *(cell(by_label[label]) for cell in columns.values())] for label in labels]
    used = [0, *(j for j in range(1, 1 + len(columns)) if any(line[j] not in ("", "–") for line in body))]
    header = ["finding", *columns]
    lines = [[line[j] for j in used] for line in body]
    return Table([header[j] for j in used], lines, range(1, len(used)), title, text)


def networks_table(rows: Rows) -> Table:
    """Distances and shares of all networks side by side: the values at the floor's N beside their floors."""
    overall = [row for row in rows if row["label"] is None]
    variants = list(dict.fromkeys(row["variant"] for row in overall))
    body = []
    for metric in dict.fromkeys(row["metric"] for row in overall):
        cells = {row["variant"]: row for row in overall if row["metric"] == metric}
        body.append([with_arrow(metric), *(_against_floor(cells.get(variant)) for variant in variants)])
    text = "The value between as many images as the floor has, and in brackets the floor: real against real."
    return Table(["measure", *map(short, variants)], body, range(1, 1 + len(variants)), "All networks", text)


def _against_floor(row: Row | None) -> str:
    if row is None:
        return ""
    if row.get("value_at_floor_n") is None:
        return f"{number(row['value'])} (no floor)"
    return f"{number(row['value_at_floor_n'])} (floor {number(row['floor'])})"


def groups(rows: Sequence[Row], key: str) -> dict[str, Rows]:
    """The rows by the value of a column, in the order of their first."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def line_name(label: str | None) -> str:
    """A label as the name of a line, with a capital."""
    return capital(label_name(label))
