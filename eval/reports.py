"""Report generation from synthetic and real radiographs, scored against the prompts: BLEU, ROUGE, F1 of findings.

    python -m eval.reports --real DATASET/test --synthetic SAMPLES --report_model DIR --output scores.json
    python -m eval.reports --real DATASET/test --synthetic SAMPLES --generated reports.csv --output scores.json
    accelerate launch -m eval.reports …                                          # sharded over processes

The report model is any image-to-text model of transformers, trained on real radiographs and reports; reports.csv
(file_name or id, text) holds the reports of another program. Each report is compared with the image's prompt: BLEU and
ROUGE, and the F1 of the findings that a rule-based labeller finds in both. The labeller needs no weights and is not
CheXbert. The same on the real images of the same prompts is the most to expect; `shuffled` is the score against other
images' prompts. Texts of reports are written to --keep_texts only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from eval.command import Comparison, check_at_least, weights_folder
from eval.inputs.folders import ImageFolder, pair_prompts, read_sides
from eval.metrics.bootstrap import RESAMPLES, percentiles, resampled_sums
from eval.radiology_text.metrics import WITHOUT_WEIGHTS, Metric, check_metrics, metrics_of
from eval.scores import Result, Row, Rows, note_text, publish, score_row, value_text, with_note
from sdcxr.io.files import atomic
from sdcxr.io.labels import UncertainPolicy, uncertain_policy
from sdcxr.io.manifest import text_key
from sdcxr.io.table_formats import read_table
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images
SHUFFLES = 5  # of the baseline


@dataclass
class ReportsConfig(Comparison):
    """What to compare."""

    DEPRECATED: ClassVar[dict[str, str]] = {"generator": "report_model"}
    real: str
    """Split of the dataset folder whose rows were the prompts."""
    output: str = field()  # required here
    """JSON file of score rows."""
    report_model: str | None = None
    """Image-to-text model: a folder, or the name of one in the hub's cache."""
    generated: str | None = None
    """In place of --report_model: CSV of reports with the columns file_name or id, and text; and images (real or
    synthetic) where it holds both and file names repeat."""
    metrics: str = ",".join(WITHOUT_WEIGHTS)
    """Of bleu, rouge, labels; and, with weights of their own, bertscore, chexbert, radgraph."""
    uncertain: str = "ones"
    """What an uncertain finding counts as in F1: ones (present), zeros (absent), or ignore."""
    question: str | None = None
    """Instruction beside the image, for models that need one."""
    max_new_tokens: int = 100
    """Longest report in tokens."""
    batch_size: int = 16
    """Images per forward pass."""
    keep_texts: str | None = None
    """CSV file for prompts and reports. They are written to no other place."""

    def __post_init__(self) -> None:
        if (self.report_model is None) == (self.generated is None):
            raise UserError("give either --report_model MODEL or --generated FILE.csv")
        check_at_least(1, self, "max_new_tokens", "batch_size")


@dataclass(frozen=True)
class Side:
    """Images of one side with their prompts and generated reports."""

    name: str
    """ "synthetic" or "real"."""
    files: list[str]
    paths: list[Path]
    prompt_ids: list[str]
    prompts: list[str]
    groups: list[str]
    reports: list[str]


def main(config: ReportsConfig) -> int:
    metrics = list(dict.fromkeys(name.strip() for name in config.metrics.split(",") if name.strip()))
    weights_dir = weights_folder(config.weights_dir)
    check_metrics(metrics, weights_dir)
    uncertain = uncertain_policy(config.uncertain, "--uncertain")
    real, synthetic = read_sides(config.real, config.synthetic, files=config.generated is None)
    sides = pair_sides(real, synthetic)
    if config.generated is not None:
        sides = read_generated(Path(config.generated), sides)
    else:
        settings = {name: getattr(config, name) for name in ("question", "max_new_tokens", "batch_size")}
        sides = generate(sides, str(config.report_model), weights_dir=weights_dir, **settings)
    from sdcxr.runtime.processes import processes

    if not processes().is_main_process:
        return 0
    if config.keep_texts:
        write_texts(Path(config.keep_texts), sides)
    source = config.report_model or Path(str(config.generated)).name
    options: dict[str, Any] = {"weights_dir": weights_dir, "uncertain": uncertain, "seed": config.seed}
    publish(Result(compare_reports(sides, source, metrics, **options)), config.output, table)
    return 0


def evaluate(
    real: ImageFolder,
    synthetic: ImageFolder,
    report_model: str,
    *,
    weights_dir: Path | None = None,
    seed: int = 0,
) -> Result:
    """Score rows of the reports that a model generates for both sides, by the metrics that need no weights.

    Raises:
        UserError: there are no prompts or no pairs; the model is absent; images are unreadable.
    """
    sides = generate(pair_sides(real, synthetic), report_model, weights_dir=weights_dir)
    return Result(compare_reports(sides, report_model, seed=seed))


def pair_sides(real: ImageFolder, synthetic: ImageFolder) -> list[Side]:
    """Synthetic images with their prompts, and the real images of the same prompts; still without reports.

    Raises:
        UserError: the synthetic images have no prompts, or none of them comes from the real folder.
    """
    texts = synthetic.texts.to_numpy()
    having = np.flatnonzero(synthetic.texts.str.strip() != "")
    if not len(having):
        raise UserError(f"--synthetic {synthetic.folder} has no prompts: it needs a metadata.csv with a column text")
    partner = pair_prompts(real, synthetic).rows
    prompt_of = {int(row): texts[i] for i, row in enumerate(partner) if row >= 0 and texts[i].strip()}
    if not prompt_of:
        raise UserError(f"--real {real.folder} holds no image of the prompts of --synthetic {synthetic.folder}")
    paired = np.array(sorted(prompt_of))
    return [
        _side("synthetic", synthetic.take(having), texts[having].tolist()),
        _side("real", real.take(paired), [prompt_of[row] for row in paired.tolist()]),
    ]


def _side(name: str, folder: ImageFolder, prompts: list[str]) -> Side:
    return Side(name, folder.ids, folder.paths, folder.prompt_ids or folder.ids, prompts, folder.groups, [])


def generate(sides: list[Side], report_model: str, **settings: Any) -> list[Side]:
    """The sides with generated reports; settings as in `eval.radiology_text.generator.write_reports`."""
    from eval.radiology_text.generator import write_reports

    reports = write_reports([path for side in sides for path in side.paths], report_model, **settings)
    ends = np.cumsum([len(side.files) for side in sides])
    return [_with_reports(side, reports[end - len(side.files) : end]) for side, end in zip(sides, ends, strict=True)]


def read_generated(path: Path, sides: list[Side]) -> list[Side]:
    """The sides with the reports of a table; the real one is left out where the table has none of its images.

    Raises:
        UserError: the table cannot be used, or images have no report in it.
    """
    rows = read_table(path, "--generated")
    key = next((name for name in ("file_name", "id") if name in rows), None)
    column = next((name for name in ("report", "text") if name in rows), None)
    if key is None or column is None:
        raise UserError(
            f"--generated {path} needs the columns file_name or id, and text (it has: {', '.join(rows.columns)})"
        )
    filled = []
    for side in sides:
        own = rows[rows["images"] == side.name] if "images" in rows else rows
        if len(repeated := own[key][own[key].duplicated()]):
            raise UserError(f"--generated {path} names {repeated.iloc[0]} more than once")
        reports = dict(zip(own[key], own[column], strict=True))
        keys = side.files if key == "file_name" else side.prompt_ids
        missing = [name for name in keys if name not in reports]
        if missing and side.name == "real" and len(missing) == len(keys):
            continue
        if missing:
            raise UserError(
                f"--generated {path}: {len(missing)} of {len(keys)} {side.name} images have no report "
                f"(first: {missing[0]})"
            )
        filled.append(_with_reports(side, [reports[name] for name in keys]))
    return filled


def _with_reports(side: Side, reports: list[str]) -> Side:
    return replace(side, reports=[" ".join(text.split()) for text in reports])


def write_texts(path: Path, sides: list[Side]) -> None:
    """Prompts and reports as a table that `--generated` reads."""
    columns = {"file_name": "files", "id": "prompt_ids", "prompt": "prompts", "report": "reports"}
    tables = [
        pd.DataFrame({"images": side.name} | {name: getattr(side, key) for name, key in columns.items()})
        for side in sides
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        pd.concat(tables).to_csv(temporary, index=False)


def compare_reports(
    sides: list[Side],
    source: str,
    metrics: Sequence[str] = WITHOUT_WEIGHTS,
    *,
    weights_dir: Path | None = None,
    uncertain: UncertainPolicy = "ones",
    seed: int = 0,
) -> Rows:
    """Score rows of reports against prompts, for each side; `source` is the model or file of the reports.

    Raises:
        UserError: weights of a metric are absent.
    """
    rows = []
    sizes = {f"n_{side.name}": len(side.files) for side in sides}
    for side in sides:
        orders = _shuffled(side, seed)
        for metric in metrics_of(side.prompts, side.reports, metrics, weights_dir, uncertain):
            rows += _rows(side, metric, orders[: metric.shuffles], seed)
    prompts = {side.name: set(map(text_key, side.prompts)) for side in sides}
    without = len(prompts["synthetic"] - prompts.get("real", set()))
    note = f"{without} of {len(prompts['synthetic'])} prompts have no real image beside them" if without else None
    if "real" not in prompts:
        note = "no reports of the real images are given: there is nothing to compare with"
    common = {"n_real": 0, **sizes, "extractor": source}
    return with_note([row | common for row in rows], note)


def _rows(side: Side, metric: Metric, orders: list[np.ndarray], seed: int) -> Rows:
    everything = np.arange(len(side.files))
    statistics = metric.statistics(everything, everything)
    drawn = resampled_sums(statistics, side.groups, RESAMPLES, seed)
    differ = [np.flatnonzero(order >= 0) for order in orders]
    others = sum(
        (metric.statistics(order[kept], kept).sum(axis=0) for order, kept in zip(orders, differ, strict=True)),
        np.zeros(statistics.shape[1:]),
    )
    shuffled = any(len(kept) for kept in differ)
    rows = []
    for label, score in metric.scores.items():
        value, beside = float(score(statistics.sum(axis=0))), float(score(others)) if shuffled else float("nan")
        about: Row = {"label": label, "preset": metric.preset, "shuffled": beside}
        interval, notes = percentiles(score(drawn)), [metric.note, metric.notes.get(label)]
        if metric.name == "bleu" and value == 0:
            notes.append("0 because no four words in a row are in a report and its prompt: short texts have none")
        elif np.isfinite(value) and np.isnan(interval[0]):
            notes.append("no interval: most bootstrap samples lack one of the findings")
        row = score_row(metric.name, value, interval, images=side.name, **about)
        rows.append(row | {"notes": [note for note in notes if note]})
    return rows


def _shuffled(side: Side, seed: int) -> list[np.ndarray]:
    """For each shuffle and image the number of another image's prompt, -1 where it says the same as its own."""
    keys = np.array([text_key(text) for text in side.prompts])
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(keys)) for _ in range(SHUFFLES)]
    return [np.where(keys[order] == keys, -1, order) for order in orders]


def table(rows: Rows) -> str:
    """The rows as text: synthetic and real side by side, with the shuffled baseline."""
    cells = {(row["metric"], row["preset"], row["label"], row["images"]): row for row in rows}
    sides = [side for side in ("synthetic", "real") if any(row["images"] == side for row in rows)]
    lines = [f"{'':50}" + "".join(f"{side:>22}{'shuffled':>10}" for side in sides)]
    for key in dict.fromkeys(key[:3] for key in cells):
        found = [cells[(*key, side)] for side in sides]
        if any(np.isfinite(row["value"]) for row in found):
            name = " ".join(part for part in (key[0], key[1] and f"({key[1]})", key[2]) if part)
            lines.append(f"{name:50}" + "".join(f"{value_text(row):>22}{row['shuffled']:10.3f}" for row in found))
    sizes = " and ".join(f"{rows[0][f'n_{side}']} {side}" for side in sides)
    lines.append(f"{sizes} images; 95 % bootstrap intervals; shuffled: against other images' prompts")
    lines += sorted(set(filter(None, map(note_text, rows))))
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
