"""Image-text alignment: mean cosine of images and prompts, compared with real images and with other prompts.

    python -m eval.alignment --real DATASET/test --synthetic SAMPLES --extractor RUN --output scores.json

The extractor needs an image and a text tower, such as a run of `train.py --tune clip`. Every pair of towers has its own
scale, so only differences can be read: to the mean cosine of the same images with all other prompts of their folder
(what the prompt itself contributes; 0 where images ignore their prompts), and to the real images of the same prompts
(0 where synthetic images fit as well as real ones).
"""

import numpy as np

from eval.command import FeatureComparison
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.extractors.texts import extract_texts, why_no_texts, with_text
from eval.inputs.folders import ImageFolder, pair_prompts
from eval.metrics.bootstrap import group_interval, mean
from eval.metrics.retrieval import unit
from eval.scores import Result, Row, Rows, note_text, score_row, value_text, with_note
from sdcxr.io.manifest import text_key
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images


def main(config: FeatureComparison) -> int:
    return config.run_with_extractor(evaluate, table)


def evaluate(real: ImageFolder, synthetic: ImageFolder, extractor: Extractor, *, seed: int = 0) -> Result:
    """Score rows of both sides and of their difference.

    Raises:
        UserError: the extractor has no text tower; the synthetic images have no prompts, or all the same.
    """
    check(synthetic, extractor)
    pairing = pair_prompts(real, synthetic)
    of: dict[str, np.ndarray] = {}
    rows, omitted = [], []
    for side, folder in (("synthetic", synthetic), ("real", real)):
        chosen = with_text(folder)
        if not len(chosen):
            omitted.append(f"real images ({why_no_texts(folder, '--real')})")
            continue
        texts = folder.texts.iloc[chosen].tolist()
        images, embedded = extract(folder, extractor).values[chosen], extract_texts(texts, extractor)
        own, others = cosines(images, embedded.values, texts)
        rows += with_note(side_rows(own, others, np.array(folder.groups)[chosen], side, seed), embedded.note)
        of[side] = np.full(len(folder), np.nan)
        of[side][chosen] = own
    if "real" in of:
        rows += with_note([difference_row(of["synthetic"], of["real"], pairing.rows, seed)], pairing.note)
    return Result([row | {"extractor": extractor.given_name} for row in rows], omitted)


def check(synthetic: ImageFolder, extractor: Extractor) -> None:
    """Check what alignment needs, before any image is read.

    Raises:
        UserError: the extractor has no text tower; the synthetic images have no prompts, or all the same.
    """
    if extractor.load_texts is None:
        name = extractor.given_name
        raise UserError(f"--extractor {name} has no text tower: give one that has, e.g. a run of --tune clip")
    if not len(with_text(synthetic)):
        raise UserError(f"{why_no_texts(synthetic, '--synthetic')}; alignment needs at least two different prompts")


def cosines(images: np.ndarray, texts: np.ndarray, said: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each image with its own text, and its mean cosine with the texts of other rows that say something else.

    The second is what shuffling the texts gives on average, without the noise of one shuffle.

    Args:
        images: embeddings, shape (n, dimension).
        texts: embeddings, row i of the text of image i, shape (n, dimension).
        said: the n texts, at least two of them different (`text_key`).
    """
    images, texts = unit(images), unit(texts)
    own = (images * texts).sum(axis=1)
    keys = np.unique([text_key(text) for text in said], return_inverse=True)[1]
    counts = np.bincount(keys)
    of_text = np.zeros((len(counts), texts.shape[1]))
    np.add.at(of_text, keys, texts)
    # Cosines are linear in the unit text, so their sum over rows is the cosine with the summed rows.
    others = (images * (texts.sum(axis=0) - of_text[keys])).sum(axis=1) / (len(keys) - counts[keys])
    return own, others


def side_rows(own: np.ndarray, others: np.ndarray, groups: np.ndarray, side: str, seed: int = 0) -> Rows:
    """Rows of one side: cosines (n,) with own and with other texts, and the difference image by image."""
    n: Row = {"n_real": len(own) if side == "real" else 0, "n_synthetic": len(own) if side == "synthetic" else 0}
    values = {"alignment": own, "alignment_shuffled": others, "alignment_over_shuffled": own - others}
    return [
        score_row(metric, mean(value), group_interval(value, groups, mean, seed=seed), images=side, **n)
        for metric, value in values.items()
    ]


def difference_row(synthetic: np.ndarray, real: np.ndarray, partner: np.ndarray, seed: int = 0) -> Row:
    """Synthetic minus real: prompt by prompt where both sides have the prompt, else NaN.

    `synthetic` (n_synthetic,) and `real` (n_real,) are cosines of images with their own texts, NaN without one;
    `partner` is the real image of each synthetic image's prompt, or -1 (`folders.pair_prompts`).
    """
    difference = np.where(partner >= 0, synthetic - real[partner], np.nan)
    paired = np.isfinite(difference)
    difference, ids = difference[paired], partner[paired]
    note = f"{len(set(ids))} prompts with a real image" if len(ids) else "no prompt has its real image in --real"
    interval = group_interval(difference, ids, mean, seed=seed)
    counts = {"n_real": len(set(ids)), "n_synthetic": len(ids)}
    return score_row("alignment_over_real", mean(difference), interval, note=note, **counts)


def table(rows: Rows) -> str:
    """The rows as text."""
    lines = []
    for row in rows:
        n = row["n_real"] if row["images"] == "real" else row["n_synthetic"]
        lines.append(f"{row['metric']:26}{row['images']:12}{value_text(row):24}{n:6} images  {note_text(row)}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
