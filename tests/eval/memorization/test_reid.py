"""Re-identification: training patients in new images are counted, others are not; a blind network is reported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.extractors import Extractor, find_extractor
from eval.extractors.cache import Features
from eval.inputs.folders import ImageFolder
from eval.memorization import reid
from eval.memorization.reid import nearest_by_cosine, reidentify, within_patient
from eval.memorization.thresholds import fit_threshold, match_other_patients
from sdcxr.runtime.errors import UserError

DIMENSION = 64


def test_nearest_by_cosine_is_that_of_all_products_in_any_chunks(monkeypatch):
    draws = np.random.default_rng(0)
    queries, gallery = draws.normal(size=(13, 5)), 7 * draws.normal(size=(17, 5))
    expected = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in gallery] for a in queries])
    for cells in (10**6, 40):
        monkeypatch.setattr(reid, "CELLS", cells)
        cosine, index = nearest_by_cosine(queries, gallery)
        np.testing.assert_allclose(cosine, expected.max(axis=1))
        np.testing.assert_array_equal(index, expected.argmax(axis=1))


def test_own_pictures_do_not_count_among_other_patients():
    draws = np.random.default_rng(0)
    features, patients = draws.normal(size=(10, 4)), np.arange(10) // 2
    cosine, index = nearest_by_cosine(features, features, patients, patients)
    assert (patients[index] != patients).all() and cosine.max() < 1
    assert (nearest_by_cosine(features, features, 0 * patients, 0 * patients)[0] == -1).all()


def test_own_pictures_are_the_others_of_the_patient():
    x, y = np.array([1.0, 0]), np.array([0, 2.0])
    features = np.stack([x, 3 * x, y, y, x + y / 2])
    found = within_patient(features, np.array([4, 7, 4, 9, 7]))
    assert found == pytest.approx([0, 0, 2**-0.5, 2**-0.5])  # of 4 and of 7; 9 has one picture
    assert within_patient(features, np.arange(5)).shape == (0,)


def side(folder: str, people: list[int], **columns: list) -> ImageFolder:
    rows = {"file_name": [f"{i}.png" for i in range(len(people))], "subject_id": [str(i) for i in people]}
    return ImageFolder(Path(folder), pd.DataFrame(rows | columns))


def judge(monkeypatch, train: ImageFolder, real: ImageFolder, shown: list[int], blind: bool = False):
    """Features with a direction for each patient and noise, or noise alone."""
    n = len(shown)
    synthetic = side("synthetic", [0] * n).rows.drop(columns="subject_id")
    synthetic = ImageFolder(Path("synthetic"), synthetic.assign(id=[str(i) for i in range(n)]), synthetic=True)
    faces = np.random.default_rng(1).normal(size=(1000, DIMENSION))

    network = replace(find_extractor("pixels-8"), given_name="net")

    def see(folder: ImageFolder, asked: Extractor) -> Features:
        assert asked is network
        people = shown if folder is synthetic else [int(name) for name in folder.rows["subject_id"]]
        noise = np.random.default_rng(len(people)).normal(size=(len(people), DIMENSION))
        return Features(noise if blind else faces[people] + 0.3 * noise, folder.ids, {})

    monkeypatch.setattr(reid, "extract", see)
    kept = np.arange(len(real))[2:]
    return reidentify(train, real, kept, synthetic, network, {"notes": []}, 0)


def test_exactly_the_patients_of_the_training_set_are_recognised(monkeypatch):
    train = side("train", [i // 2 for i in range(120)])
    real = side("real", [0, 1, *range(100, 140)])  # the first two are left out, being training patients
    shown = [5, 500, 17, 501, 58, *range(502, 530)]
    rows, columns = judge(monkeypatch, train, real, shown)
    share, highest = rows
    assert (share["metric"], share["value"], share["n_reidentified"]) == ("reid_share", 3 / 33, 3)
    assert share["floor"] == 0 and share["sensitivity"] == 1 and share["notes"] == []
    assert share["n_calibration"] == 40 + 120 and share["extractor"] == "net"
    assert highest["floor"] < share["threshold"] < highest["value"] <= 1
    assert [train.rows["subject_id"][int(columns["reid_train"][i].partition(".")[0])] for i in (0, 2, 4)] == [
        *("5", "17", "58")
    ]
    assert np.flatnonzero(columns["reidentified"]).tolist() == [0, 2, 4]


def test_a_network_that_tells_no_patients_apart_says_so(monkeypatch):
    train, real = side("train", [i // 2 for i in range(120)]), side("real", [0, 1, *range(100, 140)])
    rows, _ = judge(monkeypatch, train, real, [5, *range(500, 530)], blind=True)
    assert rows[0]["n_reidentified"] == 0 and rows[0]["sensitivity"] < 0.1
    (note,) = rows[0]["notes"]
    assert "finds only" in note and "of real images of patients with several" in note


def test_without_patients_with_several_images_the_sensitivity_is_unknown(monkeypatch):
    train, real = side("train", list(range(60))), side("real", list(range(100, 140)))
    rows, _ = judge(monkeypatch, train, real, [5, *range(500, 530)])
    assert rows[0]["n_reidentified"] == 1 and rows[0]["sensitivity"] is None
    assert "sensitivity unknown" in rows[0]["notes"][0]


def test_only_known_patients_and_images_with_others_beside_them_make_the_threshold():
    unknown = side("train", list(range(10)))
    unknown = ImageFolder(unknown.folder, unknown.rows.assign(subject_id=""))
    with pytest.raises(UserError, match="9 real images of other patients: a threshold needs 20"):
        fit_threshold(np.zeros(9), match_other_patients(unknown, lambda chosen, patients: np.zeros(30), 0), 5)
    alone = match_other_patients(side("train", [1] * 30), lambda chosen, patients: np.full(30, -1.0), 0)
    assert not len(alone)
    assert fit_threshold(np.random.default_rng(0).uniform(0.2, 0.5, 40), alone, 5)[1] == 40
