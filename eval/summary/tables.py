"""Tables of report.html from score rows: all values of a step, and what was measured of each label."""

from collections.abc import Callable, Sequence

from eval.scores import ALL_EQUAL, Row, Rows
from eval.summary.blocks import Table
from eval.summary.measures import (
    FEWEST_JUDGED,
    aim_of,
    better,
    capital,
    caveats,
    display_name,
    has_aim,
    label_name,
    reads,
    reference,
    short,
    smallest_n,
    with_arrow,
)
from eval.summary.plots import decimals, interval_text, number, value_text
from sdcxr.io.manifest import LABELS


def value_cell(row: Row | None, digits: int | None = None) -> str:
    """A value with its interval in brackets, with a fixed number of decimals or those of the largest number."""
    if row is None or row["value"] is None:
        return "–"
    return value_text(row["value"], row["ci_low"], row["ci_high"], digits)


def digits_of(rows: Sequence[Row]) -> int:
    """The decimals for values that stand together: those of the largest."""
    ends = [row[name] for row in rows for name in ("value", "ci_low", "ci_high") if row[name] is not None]
    return decimals(max(map(abs, ends), default=0.0))


def reference_cell(row: Row) -> str:
    """What a value is compared with, and the lowest and highest of its random splits."""
    if reference(row) is None:
        return ""
    spread = interval_text(row.get("floor"), row.get("floor_low"), row.get("floor_high"))
    return f"{number(reference(row))} [{spread}]" if spread else number(reference(row))


def references(row: Row, real: Row | None = None) -> str:
    """Everything that a value is compared with, a line each with its name; `real` is the row of real images."""
    found = {}
    if real is not None and real["value"] is not None:
        found[REAL_IMAGES] = value_cell(real)
    if row.get("floor") is not None:
        name = OF_FLOOR.get(row["metric"], OF_FLOOR.get(row["step"], "reference"))
        at = f", N = {row['floor_n']:,}" if row.get("floor_n") else ""
        found.setdefault(name, reference_cell(row) + at)
    elif row["metric"].endswith("within_prompts") and row["images"] != "real" and real is not None:
        found[REAL_IMAGES] = "none: no text has images of two patients"
    aim = aim_of(row) if has_aim(row["metric"]) else None
    if aim is not None and aim != row.get("floor"):
        found["aim"] = f"{aim:g}"
    for column, name in (("chance", "chance"), ("shuffled", "other images' prompts")):
        if row.get(column) is not None:
            found[name] = number(row[column])
    return "\n".join(f"{name}: {text}" for name, text in found.items())


REAL_IMAGES = "real images"
OF_FLOOR = {
    "fidelity": "real against real",
    "diversity": REAL_IMAGES,
    "privacy": "held-out real images",
    "own_image_rms": "another patient's image",
}
"""What a floor is the value of, by metric or step."""


def reaches(row: Row, real: Row | None = None) -> str:
    """Whether a value is as good as that of real images: "yes", "no", or "" where that is not known.

    A value with a floor is compared with the range of the random splits, at their number of images; others by
    whether the interval overlaps that of real images; too few images are not judged. Where the aim is a value, "no"
    says on which side of it.
    """
    if row["value"] is None or row["images"] == "real" or smallest_n(row) < FEWEST_JUDGED:
        return ""
    direction, aimed = better(row["metric"]), has_aim(row["metric"])
    low, high = ends_of(row)
    if row.get("value_at_floor_n") is not None and row.get("floor") is not None:
        low = high = row["value_at_floor_n"]
        least, most = (row["floor"] if row.get(end) is None else row[end] for end in ("floor_low", "floor_high"))
    elif real is not None and real["value"] is not None and row["ci_low"] is not None and (direction or aimed):
        least, most = ends_of(real)
    elif aimed and aim_of(row) is not None and row["ci_low"] is not None:
        least = most = aim_of(row)
    else:
        return ""
    if aimed:
        return "no, above" if low > most else "no, below" if high < least else "yes"
    return "yes" if (low <= most if direction == "lower" else high >= least) else "no"


def ends_of(row: Row) -> tuple[float, float]:
    """Ends of the interval; the value where it has none."""
    low, high = (row["value"] if row[end] is None else row[end] for end in ("ci_low", "ci_high"))
    return low, high


def basis(row: Row) -> str:
    """What a value rests on: positives, pairs, queries, or images."""
    n = {name: row.get(name) for name in ("n_positive", "n_negative", "n_pairs", "n_prompts", "n_groups", "n_queries")}
    metric = row["metric"]
    if metric == "pearson_r":
        return f"{row['n_synthetic']:,} pairs of a real and a synthetic image"
    if n["n_positive"] is not None:
        if row.get("n_labels") and n["n_negative"] is not None and row["images"] in ("real", "synthetic"):
            images = row[f"n_{row['images']}"]
            return f"{n['n_positive']:,} positive answers of {row['n_labels']} findings in {images:,} images"
        others = "" if n["n_negative"] is None else f", {n['n_negative']:,} negative"
        return f"{n['n_positive']:,} positive{others}"
    if n["n_pairs"] is not None:
        if n["n_prompts"] is not None:
            return f"{n['n_pairs']:,} pairs within {n['n_prompts']:,} texts"
        return f"{n['n_pairs']:,} pairs of {n['n_groups'] or 0:,} {'patients' if row['images'] == 'real' else 'texts'}"
    if n["n_queries"] is not None:
        return f"{n['n_queries']:,} searches"
    if metric == "repeated_prompt_share":
        return f"{n['n_prompts']:,} texts with several samples"
    counts = [("n_prompts", "prompts")] if n["n_prompts"] else [("n_real", "real"), ("n_synthetic", "synthetic")]
    if metric == "vendi":
        counts = [(f"n_{row['images']}", row["images"])]
    counts += [("n_train", "training")]
    return " + ".join(f"{row[name]:,} {what}" for name, what in counts if row.get(name))


def score_table(rows: Rows, title: str = "") -> Table:
    """All rows: value, interval, what it rests on, and beside the reference the value at the reference's N."""
    reals = {(row["metric"], row["label"], row["variant"]): row for row in rows if row["images"] == "real"}
    seen: set[str] = set()

    def name(row: Row) -> str:
        about = "" if row["metric"] in seen else reads(row["metric"])
        seen.add(row["metric"])
        return f"{display_name(row)}\n{capital(about)}" if about else display_name(row)

    def real_of(row: Row) -> Row | None:
        return None if row["images"] == "real" else reals.get((row["metric"], row["label"], row["variant"]))

    def interval(row: Row) -> str:
        shown = interval_text(row["value"], row["ci_low"], row["ci_high"])
        return NO_INTERVAL if ALL_EQUAL in row["notes"] and not shown else shown

    columns: dict[str, Callable[[Row], str]] = {
        "measure": name,
        "of": lambda row: row["images"] or "",
        "value": lambda row: number(row["value"]),
        "95 % interval": interval,
        "based on": basis,
        "value at the reference's N": lambda row: "" if (x := row.get("value_at_floor_n")) is None else number(x),
        "reference": lambda row: references(row, real_of(row)),
        REACHES: lambda row: reaches(row, real_of(row)),
    }
    footnotes: dict[str, int] = {}
    body = [[cell(row) for cell in columns.values()] for row in rows]
    for line, row in zip(body, rows, strict=True):
        line.append(", ".join(str(footnotes.setdefault(note, len(footnotes) + 1)) for note in caveats(row)))
    header = [*columns, "notes"]
    kept = ("measure", "value")
    used = [j for j, name in enumerate(header) if name in kept or any(line[j] for line in body)]
    used = [j for j in used if header[j] != "of" or len({line[j] for line in body}) > 1]
    numeric = ("value", "95 % interval", "value at the reference's N")
    numbers = [place for place, j in enumerate(used) if header[j] in numeric]
    body = [[line[j] for j in used] for line in body]
    return Table([header[j] for j in used], body, numbers, title, footnotes=list(footnotes))


REACHES = "reaches real images"
NO_INTERVAL = "none"


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
    text = (
        "The value between as many images as the floor has, and in brackets the floor: real against real, and whether "
    )
    text += "it is reached: the value is within the range of the random splits, or better."
    return Table(["measure", *map(short, variants)], body, range(1, 1 + len(variants)), "All networks", text)


def _against_floor(row: Row | None) -> str:
    if row is None:
        return ""
    if row.get("value_at_floor_n") is None:
        return f"{number(row['value'])} (no floor)"
    reached = "reached" if reaches(row) == "yes" else "not reached"
    return f"{number(row['value_at_floor_n'])} (floor {reference_cell(row)}: {reached})"


def groups(rows: Sequence[Row], key: str) -> dict[str, Rows]:
    """The rows by the value of a column, in the order of their first."""
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def line_name(label: str | None) -> str:
    """A label as the name of a line, with a capital."""
    return capital(label_name(label))
