"""Retrieval: images search images by finding, images search prompts and prompts search images; precision@k, recall@k.

    python -m eval.retrieval --real DATASET/test --synthetic SAMPLES --extractor RUN --output scores.json

Image to image: synthetic images search the real ones; precision@k is the share of the first k that have a finding of
the query's prompt, for findings with at least 5 images on both sides. For comparison, real images search the real ones
of other patients. Image to text and back, where the extractor has a text tower (such as a run of `train.py --tune
clip`): recall@k and median rank of an image's own prompt among all prompts of its folder, and of a prompt's image among
all images. Equal texts are all correct answers, each row is one query; wrong answers precede right ones at equal
similarity. The column `chance` is the value of a random ranking.
"""

from typing import Any

import numpy as np

from eval.command import FeatureComparison
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.extractors.texts import extract_texts, why_no_texts, with_text
from eval.inputs.folders import ImageFolder
from eval.metrics.bootstrap import FEWEST_GROUPS, group_interval, mean, median, no_interval
from eval.metrics.retrieval import (
    chance_median_rank,
    chance_recall,
    chance_reciprocal_rank,
    cosine,
    first_ranks,
    precision_at,
)
from eval.scores import Result, Rows, score_row, value_text, with_note
from sdcxr.io.manifest import LABELS, text_key
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 2  # of the rows: raise it when a value changes for the same images
PRECISION_AT = (5, 10, 50)
RECALL_AT = (1, 5, 10)
MIN_IMAGES = 5  # with a finding, on both sides: fewer are absent from many bootstrap samples
CHUNK = 1024  # queries compared with the whole gallery at once


def main(config: FeatureComparison) -> int:
    return config.run_with_extractor(evaluate, table)


def evaluate(real: ImageFolder, synthetic: ImageFolder, extractor: Extractor, *, seed: int = 0) -> Result:
    """Score rows of all searches that the folders and the extractor allow.

    Raises:
        UserError: nothing can be searched: no finding in common, and no texts or no text tower.
    """
    labels, texts, omitted = prepare(real, synthetic, extractor)
    sides, name, searchable = {"synthetic": synthetic, "real": real}, extractor.given_name, list(texts)
    features = {side: extract(folder, extractor).values for side, folder in sides.items()}
    rows: Rows = []
    if labels:
        for side in sides:
            rows += by_finding(sides[side], features[side], real, features["real"], labels, side, seed)
    if note := real.patients_note:
        rows = [row | {"notes": row["notes"] + [note] * (row["images"] == "real")} for row in rows]
    size = min((len(texts[side]) for side in searchable), default=0)  # ranks grow with the gallery
    for side in searchable:
        chosen = np.sort(np.random.default_rng(seed).permutation(texts[side])[:size])
        said = sides[side].texts.iloc[chosen].tolist()
        embedded, groups = extract_texts(said, extractor), np.array(sides[side].groups)[chosen]
        found = by_text(features[side][chosen], embedded.values, said, groups, side, seed)
        rows += with_note(found, embedded.note)
    sizes = {"n_real": len(real), "n_synthetic": len(synthetic), "extractor": name}
    return Result([row | {key: value for key, value in sizes.items() if row[key] is None} for row in rows], omitted)


def prepare(
    real: ImageFolder, synthetic: ImageFolder, extractor: Extractor
) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """What can be searched by, before any image is read.

    Returns:
        The findings; by side, the rows with a text that can be searched; and what is left out.

    Raises:
        UserError: nothing can be searched.
    """
    labels = common_findings(real, synthetic)
    sides, name, tower = {"synthetic": synthetic, "real": real}, extractor.given_name, extractor.load_texts is not None
    texts = {side: rows for side, folder in sides.items() if tower and len(rows := with_text(folder))}
    omitted = []
    if not labels:
        omitted.append(f"image to image (no finding has {MIN_IMAGES} images in both folders)")
    if not tower:
        omitted.append(f"image and text ({name} has no text tower)")
    omitted += [
        f"image and text ({why_no_texts(folder, f'--{side}')})"
        for side, folder in sides.items()
        if tower and side not in texts
    ]
    if not labels and not texts:
        raise UserError(f"--extractor {name}: nothing to search by: {'; '.join(omitted)}")
    return labels, texts, omitted


def common_findings(real: ImageFolder, synthetic: ImageFolder) -> list[str]:
    """Labels, by name, that at least `MIN_IMAGES` images of either side carry."""
    sides = (real.rows, synthetic.rows)
    return [
        label for label in LABELS if all(label in rows and (rows[label] == 1).sum() >= MIN_IMAGES for rows in sides)
    ]


def by_finding(
    queries: ImageFolder,
    query_features: np.ndarray,
    gallery: ImageFolder,
    gallery_features: np.ndarray,
    labels: list[str],
    side: str,
    seed: int = 0,
) -> Rows:
    """Precision@k and mean reciprocal rank of images that search images, per finding and their mean over findings.

    The queries of a finding are the images whose label is 1. A real image belongs to them where its label is 1; where
    it is uncertain (-1) it is not in the gallery; 0 and empty do not belong. A patient's own images are not in the
    gallery of a real query. `side` tells what the queries are; features have the shape (images, dimension).
    """
    own = side == "real"
    values, chances = _search_by_finding(queries, query_features, gallery, gallery_features, labels, own)
    groups, rows = np.array(queries.groups), []
    n_groups = [len(set(groups[(queries.rows[label] == 1).to_numpy()])) for label in labels]
    for name in values:
        few = f"fewer than {name.partition('@')[2]} real images to search" if "@" in name else None
        for label, columns in [*((label, [j]) for j, label in enumerate(labels)), ("macro", list(range(len(labels))))]:
            known = [j for j in columns if np.isfinite(values[name][:, j]).any()]
            chosen, n_asking = values[name][:, known], min((n_groups[j] for j in known), default=0)
            notes = [f"mean of {len(known)} of {len(columns)} findings"] if label == "macro" else []
            interval = group_interval(chosen, groups, mean, seed=seed)
            if not known:
                notes = [few] if few else []
            elif label != "macro" and n_asking < FEWEST_GROUPS:
                interval = (np.nan, np.nan)
                notes.append(no_interval(n_asking))
            row = score_row(name, mean(chosen), interval, label=label, images=side, chance=mean(chances[name][known]))
            n_queries = int(np.isfinite(chosen).sum())  # of the mean, the searches of all findings
            rows.append(row | {"notes": notes, "n_queries": n_queries, "n_synthetic": 0 if side == "real" else None})
    return rows


def _search_by_finding(
    queries: ImageFolder,
    query_features: np.ndarray,
    gallery: ImageFolder,
    gallery_features: np.ndarray,
    labels: list[str],
    own: bool,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By metric, the values (queries, labels), NaN where a label asks nothing, and their chances (labels,).

    `own`: patients of the queries are in the gallery, too, and their images do not count.
    """
    names = [f"precision@{k}" for k in PRECISION_AT] + ["mrr"]
    values = {name: np.full((len(queries), len(labels)), np.nan) for name in names}
    chances = {name: np.full(len(labels), np.nan) for name in names}
    groups, gallery_groups = np.array(queries.groups), np.array(gallery.groups)
    for j, label in enumerate(labels):
        asking = np.flatnonzero(queries.rows[label] == 1)
        carrying, certain = (gallery.rows[label] == 1).to_numpy(), (gallery.rows[label] != -1).to_numpy()
        items, belonging = np.zeros(len(asking)), np.zeros(len(asking))
        for start in range(0, len(asking), CHUNK):
            chunk = asking[start : start + CHUNK]
            similarity = cosine(query_features[chunk], gallery_features)
            belongs = np.broadcast_to(carrying, similarity.shape)
            allowed = np.broadcast_to(certain, similarity.shape)
            if own:
                allowed = allowed & (groups[chunk, None] != gallery_groups[None, :])
            for k in PRECISION_AT:
                values[f"precision@{k}"][chunk, j] = precision_at(similarity, belongs, k, allowed)
            values["mrr"][chunk, j] = 1 / first_ranks(similarity, belongs, allowed)
            items[start : start + CHUNK] = allowed.sum(axis=1)
            belonging[start : start + CHUNK] = (allowed & belongs).sum(axis=1)
        share = float(np.mean(belonging / items.clip(min=1)))
        for k in PRECISION_AT:
            chances[f"precision@{k}"][j] = share
        chances["mrr"][j] = chance_reciprocal_rank(items, belonging)
    return values, chances


def by_text(
    image_features: np.ndarray,
    text_features: np.ndarray,
    texts: list[str],
    groups: np.ndarray,
    side: str,
    seed: int = 0,
) -> Rows:
    """Recall@k and median rank of an image's text among all texts, and of a text's image among all images.

    Row i of both arrays is one pair. All rows with the same words (`text_key`) belong to each other; the best rank
    counts. With one right row per query only, no embedding could reach a recall@1 above the share of distinct texts.
    Features have the shape (n, dimension); `groups` (n,) are resampled when images ask, else the rows of one text.

    Raises:
        UserError: all texts are the same.
    """
    keys = np.unique([text_key(text) for text in texts], return_inverse=True)[1]
    n, distinct = len(keys), len(np.unique(keys))
    if distinct < 2:
        raise UserError(f"all {n} texts of the {side} images are the same: there is nothing to tell apart")
    items, belonging = np.full(n, n), np.bincount(keys)[keys]
    directions = {
        "image_to_text": (image_features, text_features, groups),
        "text_to_image": (text_features, image_features, keys),
    }
    rows = []
    for direction, (asking, gallery, drawn_together) in directions.items():
        ranks = np.concatenate(
            [
                first_ranks(cosine(asking[i : i + CHUNK], gallery), keys[i : i + CHUNK, None] == keys[None, :])
                for i in range(0, n, CHUNK)
            ]
        )
        columns: dict[str, Any] = {
            "images": side,
            "n_queries": n,
            "n_gallery": n,
            "n_real": n if side == "real" else 0,
            "n_synthetic": n if side == "synthetic" else 0,
        }
        for k in RECALL_AT:
            metric = f"{direction}_recall@{k}"
            if k > n:
                rows.append(score_row(metric, np.nan, chance=np.nan, note=f"fewer than {k} rows to search", **columns))
                continue
            hit, chance = (ranks <= k).astype(float), chance_recall(items, belonging, k)
            interval = group_interval(hit, drawn_together, mean, seed=seed)
            note = f"{distinct} of {n} texts distinct"
            rows.append(score_row(metric, mean(hit), interval, chance=chance, note=note, **columns))
        interval = group_interval(ranks, drawn_together, median, seed=seed)
        note, chance = f"{distinct} of {n} texts distinct; ranks from 1", chance_median_rank(items, belonging)
        rows.append(score_row(f"{direction}_median_rank", median(ranks), interval, chance=chance, note=note, **columns))
    return rows


def table(rows: Rows) -> str:
    """The rows as text: real and synthetic side by side, with chance."""
    cells = {(row["metric"], row["label"], row["images"]): row for row in rows}
    lines = [f"{'':28}{'':26}" + "".join(f"{side:>22}{'chance':>8}" for side in ("synthetic", "real"))]
    for metric, label in dict.fromkeys((row["metric"], row["label"]) for row in rows):
        line = f"{metric:28}{label or '':26}"
        for side in ("synthetic", "real"):
            row = cells.get((metric, label, side))
            line += f"{value_text(row):>22}{row['chance']:8.3f}" if row else f"{'–':>22}{'':8}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
