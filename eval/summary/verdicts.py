"""The headline numbers of report.html, and what they say in plain words, without claiming more than they show."""

from eval.metrics.bootstrap import wilson
from eval.scores import ALL_EQUAL, Row, Rows
from eval.summary.blocks import Tile
from eval.summary.measures import capital, metric_name, reference, short
from eval.summary.plots import interval_text, number
from eval.summary.tables import ends_of, reference_cell, value_cell

DISTANCES = ("fd", "cmmd")  # the first of a network is put into words


def tiles(rows: Rows) -> list[Tile]:
    """The headline numbers: the first of each title."""
    found: dict[str, Tile] = {}
    for row in rows:
        if row["value"] is not None and (tile := _headline(row)) is not None:
            found.setdefault(tile.title, tile)
    return list(found.values())


def _headline(row: Row) -> Tile | None:
    metric, shown = row["metric"], number(row["value"])
    interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
    synthetic = row["images"] != "real"
    if metric in ("fd", "recall") and row["label"] is None:
        title = "Fréchet distance ↓" if metric == "fd" else "Recall of real variety ↑"
        name = row["preset"] or short(row["extractor"])
        if row.get("value_at_floor_n") is None:
            return Tile(title, shown, f"{name}; no floor")
        same = f"{number(row['value_at_floor_n'])} at {row['floor_n']} images"
        return Tile(title, shown, f"{name}; {same}, where real against real is {reference_cell(row)}")
    if metric == "auroc" and row["label"] == "macro" and synthetic:
        of = f"; {row['n_positive']:,} positives in {row['n_labels']} findings" if row.get("n_labels") else ""
        return Tile("AUROC, mean of findings ↑", shown, f"95 % interval {interval}{of}")
    if metric == "alignment_over_shuffled" and synthetic:
        return Tile("Prompt adherence (cosine) ↑", shown, "own minus other prompts; 0 where prompts are ignored")
    if metric == "text_to_image_recall@10" and synthetic:
        return Tile("Image found by prompt, first 10 ↑", shown, f"chance {number(reference(row))}")
    if metric == "copy_share":
        of = f"of {row['n_synthetic']:,} synthetic images"
        of += f"; 95 % interval of the share {interval}" if interval else ""
        return Tile("Copies of training images ↓", str(row["n_copies"]), of)
    return None


def summary(rows: Rows) -> list[str]:
    """What one model's headline numbers say, a sentence each."""
    overall = [row for row in rows if row["label"] in (None, "macro") and row["value"] is not None]
    found = []
    for variant in dict.fromkeys(row["variant"] for row in overall if row["step"] == "fidelity"):
        own = {row["metric"]: row for row in overall if row["variant"] == variant and row["step"] == "fidelity"}
        found += [_against_floor(own[metric]) for metric in DISTANCES if metric in own][:1]
        found += [_against_floor(own["recall"])] if "recall" in own else []
    by = {(row["metric"], row["images"]): row for row in overall}
    for metric, seen in (
        ("auroc", "The classifier recognises the findings of the prompts"),
        ("ms_ssim_within_prompts", "Images of one prompt resemble each other"),
    ):
        if (metric, "synthetic") in by and (metric, "real") in by:
            found.append(_against_real(by[metric, "synthetic"], by[metric, "real"], seen))
    if ("alignment_over_shuffled", "synthetic") in by:
        found.append(_adherence(by["alignment_over_shuffled", "synthetic"]))
    return found + [line for row in overall if row["metric"] == "copy_share" for line in [_copies(row)]]


def _against_floor(row: Row) -> str:
    """A value beside the range of real halves, both of as many images."""
    name = f"{capital(metric_name(row['metric']))} by {short(row['variant'])}"
    value = row.get("value_at_floor_n")
    if value is None or row.get("floor") is None:
        return f"{name}: {value_cell(row)}. There is no floor to compare it with."
    low, high = row.get("floor_low"), row.get("floor_high")
    splits = f" [{interval_text(row['floor'], low, high)} in {row['floor_splits']} splits]" if low is not None else ""
    start = f"{name} between {row['floor_n']} and {row['floor_n']} images: {number(value)}; "
    start += f"of two halves of the real images {number(row['floor'])}{splits}. "
    ends = (row["floor"], row["floor"]) if low is None or high is None else (low, high)
    doubt = "" if low is not None else " How much such a split varies is not known from a single one."
    if ends[0] <= value <= ends[1]:
        return start + "This measure does not tell the synthetic images from real ones." + doubt
    if row["metric"] == "recall":
        worse = "The synthetic images reach less of the real variety than other real images do."
        return start + (worse if value < ends[0] else "No variety is missing by this measure.") + doubt
    worse = "The synthetic images are farther from the real ones than these are from each other."
    nearer = "Nearer than real halves to each other: no success by itself, look for copies and low recall."
    return start + (worse if value > ends[1] else nearer) + doubt


def _against_real(synthetic: Row, real: Row, seen: str) -> str:
    both = f"{value_cell(synthetic)} on synthetic and {value_cell(real)} on real images"
    both = f"{metric_name(synthetic['metric'])} {both}"
    ends = [*ends_of(synthetic), *ends_of(real)]  # where all resamples are equal, the value itself
    if any(row["ci_low"] is None and ALL_EQUAL not in row["notes"] for row in (synthetic, real)):
        return f"{both}; without intervals a difference cannot be judged."
    if ends[0] > ends[3]:
        return f"{seen} more than those of real images do: {both}."
    if ends[1] < ends[2]:
        return f"{seen} less than in real images: {both}."
    return f"{both}: the intervals overlap, no difference is shown."


def _adherence(row: Row) -> str:
    value = f"cosine with the own minus other prompts {value_cell(row)}"
    if row["ci_low"] is not None and row["ci_low"] > 0:
        return f"Images fit their own prompts better than others: {value}."
    return f"It is not shown that images follow their prompts: {value}."


def _copies(row: Row) -> str:
    share = interval_text(row["value"], row["ci_low"], row["ci_high"])
    of = f"{row['n_copies']} of {row['n_synthetic']:,} synthetic images are taken for copies of training images"
    of += f" (95 % interval of the share {share})" if share else ""
    if row.get("sensitivity") is None:
        return f"{of}. How many copies the search finds is not known."
    return f"{of}. The search finds {found_of_tested(row)} {ALTERED}; {NOT_TESTED}."


def found_of_tested(row: Row) -> str:
    """How many known copies a search found, with the interval of the share."""
    if not row.get("n_tested"):
        return f"{row['sensitivity'] * 100:.0f} % of"
    low, high = wilson(row["n_found"] / row["n_tested"], row["n_tested"])
    return f"{row['n_found']:,} of {row['n_tested']:,} ({interval_text(None, low, high)})"


def copy_search(rows: Rows) -> list[str]:
    """How copies (and training patients) were searched for: threshold, its calibration, sensitivity, and result."""
    by = {row["metric"]: row for row in rows}
    kinds = (
        ("copy_share", "copy_correlation_max", "correlation", "n_copies", "copies of training images", ALTERED),
        ("reid_share", "reid_cosine_max", "cosine", "n_reidentified", "images of a training patient", SAME_PATIENT),
    )
    found = []
    for share, highest, similarity, count, what, positives in kinds:
        if share not in by or by[share].get("threshold") is None:
            continue
        row, top = by[share], by.get(highest)
        interval = interval_text(row["value"], row["ci_low"], row["ci_high"])
        ends = f" (share {number(row['value'])}, 95 % interval {interval})" if interval else ""
        units = row.get("n_units")
        rule = f" The upper end is 3/{units:,}, for {units:,} prompts." if interval and units and not row[count] else ""
        found.append(f"{row[count]} of {row['n_synthetic']:,} synthetic images are taken for {what}{ends}.{rule}")
        chance = "so that 0.05 images of a set of this size are expected above it by chance"
        found.append(
            f"Threshold: a {similarity} of {number(row['threshold'])} or more. It was fitted to the best matches of "
            f"{_calibration(row)} with training images of other patients, {chance}."
        )
        if row.get("sensitivity") is not None:
            untested = f" It is {NOT_TESTED}." if share == "copy_share" else ""
            found.append(f"Sensitivity: it finds {found_of_tested(row)} {positives}.{untested}")
        if top is not None and top["value"] is not None:
            beside = f"; of a held-out real image {number(top['floor'])}" if top["floor"] is not None else ""
            value = f"{number(top['value'])}{beside}"
            found.append(f"Highest {similarity} of a synthetic image with a training image: {value}.")
    return found


def _calibration(row: Row) -> str:
    """Where the images behind a threshold come from: all held-out ones, and a draw of training images."""
    n, held_out = row["n_calibration"], row["n_real"]
    text = f"{n:,} real images"
    return f"{text} ({held_out:,} held-out and {n - held_out:,} training images)" if n > held_out else text


def repeated_prompts(rows: Rows) -> list[str]:
    """How many prompts give near-identical samples, among those with several samples."""
    found = []
    for row in rows:
        if row["metric"] == "repeated_prompt_share" and row["value"] is not None:
            n = row["n_prompts"]
            repeated = round(row["value"] * n)
            ends = interval_text(row["value"], row["ci_low"], row["ci_high"])
            share = f" (share {number(row['value'])}{f', 95 % interval {ends}' if ends else ''})"
            rule = f" The upper end is 3/{n:,}." if ends and not repeated else ""
            found.append(
                f"{repeated:,} of {n:,} prompts with several samples {'gives' if repeated == 1 else 'give'} "
                f"near-identical samples{share}: two of them are nearer to each other than the nearest of 20,000 "
                f"random pairs of training images of different patients (largest difference of 4 × 4 tiles).{rule}"
            )
    return found


ALTERED = (
    "altered training images (each moved by 2 pixels, darkened, with noise of 8 grey levels and JPEG at quality 75)"
)
NOT_TESTED = "not tested on copies smoothed by a generator"
SAME_PATIENT = "real images by another one of the same patient"
