"""Re-identification (reid): training patients recognised in synthetic images by a network's features."""

from typing import Any

import numpy as np

from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.inputs.folders import ImageFolder, patients_of
from eval.memorization.thresholds import Detection, detection_rows, fit_threshold, match_other_patients
from eval.metrics.bootstrap import group_rows
from eval.metrics.nearest import CELLS
from eval.metrics.retrieval import unit

REID_DETECTION = Detection("reid_share", "reid_cosine_max", "n_reidentified", "real images of patients with several")


def reidentify(
    train: ImageFolder,
    real: ImageFolder,
    kept: np.ndarray,
    synthetic: ImageFolder,
    network: Extractor,
    about: dict[str, Any],
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of synthetic images that a network takes for a training patient, and columns of their best matches.

    `kept` are the row numbers of held-out images of other patients, `about` further columns of the rows.

    Raises:
        UserError: there are too few real images for a threshold.
    """
    extracted = [extract(folder, network) for folder in (train, real, synthetic)]
    known, others, made = (side.values for side in extracted)
    others = others[kept]
    floor = nearest_by_cosine(others, known)[0]
    cosine, index = nearest_by_cosine(made, known)

    def match_others(chosen: np.ndarray, patients: np.ndarray) -> np.ndarray:
        return nearest_by_cosine(known[chosen], known, patients[chosen], patients)[0]

    others_of_train = match_other_patients(train, match_others, seed)
    threshold, n_calibration = fit_threshold(floor, others_of_train, len(synthetic))
    same = [within_patient(known, patients_of(train)), within_patient(others, patients_of(real)[kept])]
    rows = detection_rows(
        REID_DETECTION,
        cosine,
        threshold,
        floor,
        np.concatenate(same),
        synthetic.groups,
        about | {"extractor": network.given_name, "preset": "cosine", "n_calibration": n_calibration},
    )
    columns = {"reid_train": [train.ids[i] for i in index], "reid_cosine": cosine.round(4)}
    return rows, columns | {"reidentified": cosine >= threshold}


def nearest_by_cosine(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_patients: np.ndarray | None = None,
    gallery_patients: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and row number of the most similar image of the gallery (m, dimension) for each query (n, dimension).

    With the patients of both, integers of shape (n,) and (m,), images of the query's own patient do not count; -1 where
    all are.
    """
    gallery = unit(gallery)
    best, index = np.empty(len(queries)), np.empty(len(queries), int)
    step = max(1, CELLS // len(gallery))
    for start in range(0, len(queries), step):
        here = slice(start, start + step)
        similarity = unit(queries[here]) @ gallery.T
        if query_patients is not None and gallery_patients is not None:
            similarity[query_patients[here, None] == gallery_patients] = -1
        index[here] = similarity.argmax(axis=1)
        best[here] = similarity.max(axis=1)
    return best, index


def within_patient(features: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """The highest cosine of each image with another one of its patient, for patients with at least two images.

    Of features (n, dimension) and patients (n,), shape (images of such patients,).
    """
    found = []
    for rows in group_rows([str(patient) for patient in patients]):
        if len(rows) > 1:
            own = unit(features[rows])
            found.append(np.where(np.eye(len(rows), dtype=bool), -1, own @ own.T).max(axis=1))
    return np.concatenate(found) if found else np.zeros(0)
