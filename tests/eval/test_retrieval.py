"""Retrieval: by finding, by text with repeated texts, on Open-i's reports, and what cannot be searched."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_prep.openi_reports import Report, read_reports
from eval import retrieval
from eval.command import FeatureComparison
from eval.extractors import find_extractor
from eval.extractors.base import TextFeatures
from eval.inputs.folders import ImageFolder
from eval.metrics.retrieval import cosine
from eval.retrieval import by_finding, by_text, common_findings, evaluate, main
from eval.scores import read_scores
from sdcxr.io.manifest import text_key
from sdcxr.runtime.errors import UserError

EDEMA = "Edema"


def folder(labels: list[float | None], patients: list[str] | None = None, **columns) -> ImageFolder:
    n = len(labels)
    rows = pd.DataFrame({"file_name": [f"{i}.png" for i in range(n)], EDEMA: np.array(labels, float)} | columns)
    if patients:
        rows["subject_id"] = patients
    return ImageFolder(Path("nowhere"), rows)


def value(rows, metric, label=None, images=None):
    (row,) = [
        r for r in rows if r["metric"] == metric and r["label"] == label and (images is None or r["images"] == images)
    ]
    return row


@pytest.fixture(scope="module")
def impressions() -> list[str]:
    """Open-i's impressions."""
    spec = find_spec("torchxrayvision")
    reports = read_reports(Path(spec.submodule_search_locations[0], "data", "NLMCXR_reports.tgz"))
    texts = [report.sections.get("impression", "") for _, report in reports if isinstance(report, Report)]
    return [text for text in texts if text]


def text_rows(texts: list[str], embeddings: np.ndarray, **others) -> list[dict]:
    return by_text(embeddings, embeddings, texts, np.arange(len(texts)), "real", **others)


def test_a_query_finds_the_images_that_carry_its_finding():
    gallery = folder([1, 0, 1, None, 0, 1, 0])
    angles = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    queries = folder([1, 0, 1])
    rows = by_finding(queries, np.array([[1.0, 0.0]] * 3), gallery, features, [EDEMA], "synthetic")
    at_5 = value(rows, "precision@5", EDEMA)
    assert at_5["value"] == 2 / 5 and at_5["n_queries"] == 2  # empty does not carry the finding
    assert at_5["chance"] == pytest.approx(3 / 7)
    assert value(rows, "mrr", EDEMA)["value"] == 1
    assert value(rows, "precision@5", "macro")["notes"] == ["mean of 1 of 1 findings"]


def test_uncertain_images_are_not_in_the_gallery():
    gallery = folder([-1, -1, 1, 0, 1, 0, 1, 1])
    features = np.stack([np.arange(8.0), np.full(8, 1.0)], axis=1)
    rows = by_finding(folder([1, 1]), np.array([[0.0, 1.0]] * 2), gallery, features, [EDEMA], "synthetic")
    assert value(rows, "precision@5", EDEMA)["value"] == 3 / 5  # rows 2 to 6
    assert value(rows, "mrr", EDEMA)["value"] == 1
    assert value(rows, "mrr", EDEMA)["chance"] < 1


def test_a_patients_own_images_do_not_help_a_real_query():
    side = folder([1, 1, 0, 0, 0, 0, 0], ["a", "a", "b", "c", "d", "e", "f"])
    features = np.eye(7)
    features[1] = features[0]
    rows = by_finding(side, features, side, features, [EDEMA], "real")
    assert value(rows, "precision@5", EDEMA)["value"] == 0
    assert value(rows, "mrr", EDEMA)["n_queries"] == 0 and np.isnan(value(rows, "mrr", EDEMA)["value"])
    alone = folder([1, 1, 0, 0, 0, 0, 0], list("abcdefg"))
    assert value(by_finding(alone, features, alone, features, [EDEMA], "real"), "mrr", EDEMA)["value"] == 1


def test_fewer_images_than_k_is_not_a_number():
    gallery = folder([1, 0, 1, 0, 1, 0])
    rows = by_finding(folder([1, 1]), np.ones((2, 3)), gallery, np.ones((6, 3)), [EDEMA], "synthetic")
    ten = value(rows, "precision@10", EDEMA)
    assert np.isnan(ten["value"]) and ten["notes"] == ["fewer than 10 real images to search"]
    assert np.isfinite(value(rows, "precision@5", EDEMA)["value"])


def test_constant_features_do_worse_than_chance():
    gallery = folder([1] * 5 + [0] * 15)
    rows = by_finding(folder([1] * 5), np.ones((5, 3)), gallery, np.ones((20, 3)), [EDEMA], "synthetic")
    assert value(rows, "precision@10", EDEMA)["value"] == 0
    assert value(rows, "mrr", EDEMA)["value"] == 1 / 16


def test_equal_impressions_of_open_i_are_all_right_answers(impressions):
    """Only 1,762 of the 3,921 impressions differ: a perfect encoder that is granted one right row reaches 0.449."""
    assert len(impressions) == 3921
    keys = np.unique([text_key(text) for text in impressions], return_inverse=True)[1]
    assert keys.max() + 1 == 1762
    perfect = np.random.default_rng(0).normal(size=(1762, 24)).astype(np.float32)[keys]
    rows = text_rows(impressions, perfect)
    for direction in ("image_to_text", "text_to_image"):
        assert value(rows, f"{direction}_recall@1")["value"] == 1
        assert value(rows, f"{direction}_median_rank")["value"] == 1
    one_right_row = np.argmax(cosine(perfect, perfect), axis=1) == np.arange(3921)
    assert one_right_row.mean() == pytest.approx(0.449, abs=5e-4)


def test_chance_grows_with_repeated_texts(impressions):
    texts = impressions[:300]
    draws = np.random.default_rng(0)
    rows = by_text(draws.normal(size=(300, 64)), draws.normal(size=(300, 64)), texts, np.arange(300), "synthetic")
    for direction in ("image_to_text", "text_to_image"):
        row = value(rows, f"{direction}_recall@5")
        assert row["chance"] > 2 * 5 / 300
        assert row["value"] == pytest.approx(row["chance"], abs=0.1)
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert "of 300 texts distinct" in row["notes"][0]


def test_the_directions_are_not_mixed_up():
    """All texts lie near the first image, each shifted a little towards its own."""
    texts = ["one", "two", "three", "four"]
    images = np.eye(4)
    said = np.tile(images[0], (4, 1)) + 0.1 * np.eye(4)
    rows = by_text(images, said, texts, np.arange(4), "real")
    assert value(rows, "image_to_text_recall@1")["value"] == 1  # each image is nearest to its own text
    assert value(rows, "text_to_image_recall@1")["value"] == 0.25  # but each text is nearest to the first image


def test_images_are_drawn_by_patient_and_texts_with_their_repetitions():
    texts = ["one", "one", "one", "two", "two", "two"]
    images, said = np.eye(6), np.repeat([[1.0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], 3, axis=0)  # "two" finds no image
    rows = by_text(images, said, texts, np.zeros(6), "real")
    assert np.isnan(value(rows, "image_to_text_median_rank")["ci_low"])  # all of one patient
    found = value(rows, "text_to_image_recall@1")
    assert (found["value"], found["ci_low"], found["ci_high"]) == (0.5, 0, 1)  # two texts, not six


def test_constant_embeddings_recall_nothing():
    rows = text_rows(["one", "two", "three"], np.ones((3, 4)))
    assert value(rows, "image_to_text_recall@1")["value"] == 0
    assert value(rows, "image_to_text_median_rank")["value"] == 3
    assert np.isnan(value(rows, "image_to_text_recall@5")["value"])
    assert value(rows, "image_to_text_recall@5")["notes"] == ["fewer than 5 rows to search"]


def test_texts_that_are_all_the_same_are_refused():
    with pytest.raises(UserError, match="all 3 texts of the real images are the same"):
        text_rows(["Clear.", "clear", "1. CLEAR"], np.eye(3))


def test_findings_are_matched_by_name_and_need_images():
    five, four = folder([1] * 5 + [0]), folder([1] * 4 + [0, -1])
    assert common_findings(five, five) == [EDEMA]
    assert common_findings(five, four) == [] == common_findings(four, five)
    renamed = ImageFolder(five.folder, five.rows.rename(columns={EDEMA: "Fracture"}))
    assert common_findings(five, renamed) == []


def test_the_command_scores_what_the_extractor_allows(two_folders, tmp_path, capfd):
    output = tmp_path / "scores" / "retrieval.json"
    assert main(FeatureComparison(*two_folders, "pixels-8", output=str(output))) == 0
    out = capfd.readouterr().out
    assert "left out: image and text (pixels-8 has no text tower)" in out and "chance" in out
    rows = read_scores(output)
    assert {row["images"] for row in rows} == {"real", "synthetic"}
    assert {row["label"] for row in rows} == {"Atelectasis", "macro"}
    row = value(rows, "mrr", "Atelectasis", "synthetic")
    assert row["value"] == 1 and row["extractor"] == "pixels-8"  # each finds its own copy
    assert (row["n_real"], row["n_synthetic"]) == (11, 11)
    row = value(rows, "mrr", "Atelectasis", "real")
    assert (row["n_real"], row["n_synthetic"]) == (11, 0)


def text_features(texts: list[str]) -> TextFeatures:
    return TextFeatures(np.eye(64)[[len(text) for text in texts]], np.array([len(text) > 60 for text in texts]))


@pytest.fixture
def with_texts(monkeypatch):
    """Grey values with a text tower that tells texts by their length."""
    monkeypatch.setattr(retrieval, "extract_texts", lambda texts, _: text_features(texts))
    return replace(find_extractor("pixels-8"), load_texts=lambda device: None)


def test_texts_of_both_folders_are_searched_at_one_size(two_folders, with_texts):
    from eval.inputs.folders import read_sides

    real, synthetic = read_sides(*two_folders)
    synthetic = synthetic.take(np.arange(8))
    rows = evaluate(real, synthetic, with_texts).rows
    found = [row for row in rows if row["metric"] == "text_to_image_recall@5"]
    assert {row["images"]: row["n_gallery"] for row in found} == {"synthetic": 8, "real": 8}


def test_a_folder_of_one_text_is_searched_by_findings_only(two_folders, with_texts):
    from eval.inputs.folders import read_sides

    real, synthetic = read_sides(*two_folders)
    texts = ["Clear.", "clear", "", " . "] + ["1. Clear"] * (len(synthetic) - 4)
    synthetic = replace(synthetic, rows=synthetic.rows.assign(text=texts))
    result = evaluate(real, synthetic, with_texts)
    assert result.omitted == [
        f"image and text (--synthetic {synthetic.folder}: its images have no two different texts (column text of "
        "metadata.csv))"
    ]
    rows = result.rows
    assert {row["images"] for row in rows if "recall" in row["metric"]} == {"real"}
    assert {row["images"] for row in rows if row["metric"] == "mrr"} == {"real", "synthetic"}


def test_folders_without_findings_or_texts_cannot_be_searched(two_folders, tmp_path):
    from eval.inputs.folders import read_sides

    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "a.png").symlink_to(Path(two_folders[0], "train0.png"))
    with pytest.raises(UserError, match=r"nothing to search by: image to image \(no finding has 5 images in both"):
        evaluate(*read_sides(str(plain), two_folders[1]), find_extractor("pixels-8"))


def test_what_is_no_label_is_refused(two_folders):
    table = Path(two_folders[1], "metadata.csv")
    pd.read_csv(table, dtype=str).assign(Edema=["2"] + ["1"] * 10).to_csv(table, index=False)
    with pytest.raises(UserError, match=r"the column Edema holds '2' in the row of .*: labels are 1, 0, -1 or empty"):
        main(FeatureComparison(*two_folders, "pixels-8"))
