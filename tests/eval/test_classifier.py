"""Tests of eval.classifier: what is compared with what, what is refused before images are read, and the table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from eval import classifier
from eval.classifier import ClassifierConfig, main, prompt_groups, score_agreement, score_labels
from eval.inputs.folders import ImageFolder, pair_prompts
from eval.metrics.bootstrap import group_interval
from eval.metrics.classification import auroc
from eval.scores import COLUMNS, read_scores
from sdcxr.runtime.errors import UserError

NAN = float("nan")


def row_of(rows, metric, label, images="synthetic"):
    (row,) = [r for r in rows if (r["metric"], r["label"], r["images"]) == (metric, label, images)]
    return row


class Known:
    """A classifier that reads the table: what each image's row says it sees."""

    name, findings = "known", ["Left", "Edema", "Unlabelled"]
    asked = 0

    def probabilities(self, images: ImageFolder) -> pd.DataFrame:
        type(self).asked += 1
        return pd.DataFrame({name: images.rows[f"seen {name}"].astype(float) for name in ("Left", "Edema")}).assign(
            Unlabelled=0.5
        )


def evaluate(real: ImageFolder, synthetic: ImageFolder, **settings) -> list[dict]:
    return classifier.evaluate(real, synthetic, Known(), **settings).rows


def real_side(n: int = 8) -> ImageFolder:
    edema = np.array([1, 0, -1, NAN] * (n // 4))
    rows = pd.DataFrame({"file_name": [f"r{i}.png" for i in range(n)], "text": "", "Edema": edema})
    rows["dicom_id"] = [f"d{i}" for i in range(n)]
    rows["subject_id"] = [f"p{i // 2}" for i in range(n)]
    rows["seen Edema"] = np.where(edema == 1, 0.9, 0.2) + np.arange(n) / 1000
    rows["seen Left"] = 0.5
    return ImageFolder(Path("real"), rows)


def synthetic_side(prompts: list[str], seen: list[float], edema: list[float]) -> ImageFolder:
    rows = pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(prompts))], "text": "", "id": prompts})
    return ImageFolder(Path("samples"), rows.assign(**{"Edema": edema, "seen Edema": seen, "seen Left": 0.5}))


def test_uncertain_labels_count_as_the_flag_says():
    synthetic = synthetic_side(["d0", "d1", "d2", "d3"], [0.9, 0.1, 0.95, 0.0], [1, 0, -1, NAN])
    real = real_side(4)
    n = {}
    for uncertain in ("ignore", "zeros", "ones"):
        row = row_of(evaluate(real, synthetic, uncertain=uncertain), "auroc", "Edema")
        n[uncertain] = (row["n_positive"], row["n_negative"], row["value"], row["uncertain"])
    assert n == {"ignore": (1, 1, 1.0, "ignore"), "zeros": (1, 2, 0.5, "zeros"), "ones": (2, 1, 1.0, "ones")}


def test_the_real_side_is_that_of_the_same_prompts():
    synthetic = synthetic_side(["d0", "d1", "d1", "d5"], [0.9, 0.1, 0.3, 0.2], [1, 0, 0, 0])
    result = classifier.evaluate(real_side(), synthetic, Known())
    rows = result.rows
    real = row_of(rows, "auroc", "Edema", "real")
    assert (real["n_real"], real["n_synthetic"], real["n_positive"], real["n_negative"]) == (3, 0, 1, 2)
    own = row_of(rows, "average_precision", "Edema")
    assert (own["n_real"], own["n_synthetic"]) == (0, 4)
    assert own["chance"] == pytest.approx(1 / 4) and own["value"] == 1.0
    assert set(COLUMNS) - {"note"} <= set(own) and own["extractor"] == "known"
    assert result.omitted == ["Left, Unlabelled (not in --real and --synthetic)"]
    elsewhere = synthetic_side(["d0", "d1", "d1", "z"], [0.9, 0.1, 0.3, 0.2], [1, 0, 0, 0])
    assert row_of(evaluate(real_side(), elsewhere), "auroc", "Edema", "real")["n_real"] == 8


def test_images_of_one_patients_prompts_are_drawn_together():
    real = real_side()
    synthetic = synthetic_side(["d0", "d1", "d2", "z"], [0.5] * 4, [1, 0, 0, 0])
    partner = pair_prompts(real, synthetic)
    assert partner.rows.tolist() == [0, 1, 2, -1]
    assert prompt_groups(real, synthetic, partner).tolist() == ["p0", "p0", "p1", "z"]


def test_pairs_of_one_patient_have_no_interval():
    synthetic = synthetic_side(["z", "d0", "d0", "d1"], [0.9, 0.8, 0.6, 0.2], [1, 1, 1, 0])
    row = row_of(evaluate(real_side(), synthetic), "pearson_r", "Edema")
    assert np.isfinite(row["value"]) and np.isnan(row["ci_low"]) and (row["n_real"], row["n_synthetic"]) == (2, 3)


def test_a_finding_with_one_class_keeps_its_name_and_is_not_in_the_mean():
    """A list of areas that skips such findings would give the areas after it the names before."""
    truth = pd.DataFrame({"Edema": [1.0, 1, 1, 1], "Fracture": [0.0, 1, 0, 1], "Pneumonia": [0.0, 1, NAN, 0]})
    seen = pd.DataFrame(
        {"Edema": [0.1, 0.2, 0.3, 0.4], "Fracture": [0.9, 0.1, 0.8, 0.2], "Pneumonia": [0.1, 0.9, 1, 0]}
    )
    rows = score_labels({"real": (truth, seen, np.arange(4))})
    values = {row["label"]: row["value"] for row in rows if row["metric"] == "auroc"}
    assert values == {"Edema": pytest.approx(NAN, nan_ok=True), "Fracture": 0.0, "Pneumonia": 1.0, "macro": 0.5}
    macro = row_of(rows, "auroc", "macro", "real")
    assert macro["n_labels"] == 2 and macro["notes"] == [
        "mean of 2 of 3 findings",
        "2 of them (Fracture, Pneumonia) in fewer than 5 patients or prompts",
    ]
    assert row_of(rows, "auroc", "Edema", "real")["notes"] == ["one class only"]


@pytest.mark.parametrize("n_positive", [1, 3, 8])
def test_the_interval_of_a_mean_is_of_the_same_findings_in_every_draw(n_positive):
    """A perfect finding that few images have lies above the others: a mean without it would be lower."""
    draws, n = np.random.default_rng(0), 200
    truth = pd.DataFrame({"Rare": (np.arange(n) < n_positive).astype(float), "Edema": draws.integers(0, 2, n) * 1.0})
    seen = pd.DataFrame({"Rare": truth["Rare"], "Edema": truth["Edema"] + draws.normal(0, 1.4, n)})
    rows = score_labels({"real": (truth, seen, np.arange(n))})
    alone, macro, rare = (row_of(rows, "auroc", label, "real") for label in ("Edema", "macro", "Rare"))
    assert macro["ci_low"] == pytest.approx((1 + alone["ci_low"]) / 2, abs=0.01)
    assert macro["ci_high"] == pytest.approx((1 + alone["ci_high"]) / 2, abs=0.01)
    few = n_positive < 5
    assert rare["value"] == 1 and np.isnan(rare["ci_low"]) == few
    note = f"no interval: only {n_positive} patients or prompts with it (or without it), fewer than 5"
    assert rare["notes"] == ([note] if few else [])


def test_a_mean_whose_findings_most_draws_lack_has_no_interval():
    n = 60
    truth = pd.DataFrame({f"F{j}": (np.arange(n) == j).astype(float) for j in range(6)})
    macro = row_of(score_labels({"real": (truth, truth, np.arange(n))}), "auroc", "macro", "real")
    assert macro["value"] == 1 and np.isnan(macro["ci_low"])
    assert macro["notes"][-1] == "no interval: most bootstrap samples lack one of the findings"


def test_both_sides_have_the_mean_of_the_same_findings():
    both, one = [0.0, 1] * 10, [0.0] * 20
    seen = pd.DataFrame({"Edema": [0.1, 0.9] * 10, "Fracture": [0.9, 0.1] * 10})
    real = pd.DataFrame({"Edema": both, "Fracture": both})
    synthetic = pd.DataFrame({"Edema": both, "Fracture": one})
    rows = score_labels({"real": (real, seen, np.arange(20)), "synthetic": (synthetic, seen, np.arange(20))})
    assert [row_of(rows, "auroc", "macro", side)["value"] for side in ("real", "synthetic")] == [1.0, 1.0]
    assert row_of(rows, "auroc", "macro", "real")["ci_low"] == 1.0  # nor has the interval
    assert row_of(rows, "auroc", "Fracture", "real")["value"] == 0.0


def test_agreement_takes_the_answer_about_the_real_image_for_the_truth():
    real = pd.DataFrame({"Edema": [0.9, 0.5, 0.4, 0.1], "Fracture": [0.1, 0.2, 0.3, 0.4]})
    synthetic = pd.DataFrame({"Edema": [0.8, 0.3, 0.6, 0.2], "Fracture": [0.2, 0.4, 0.6, 0.8]})
    rows = score_agreement(real, synthetic, np.arange(4), 3)
    auroc = row_of(rows, "agreement_auroc", "Edema")
    assert auroc["value"] == 0.75 and auroc["n_positive"] == 2 and (auroc["n_real"], auroc["n_synthetic"]) == (3, 4)
    assert row_of(rows, "agreement_f1", "Edema")["value"] == 0.5
    r = np.corrcoef(real["Edema"], synthetic["Edema"])[0, 1]
    assert row_of(rows, "pearson_r", "Edema")["value"] == pytest.approx(r)
    assert np.isnan(row_of(rows, "agreement_auroc", "Fracture")["value"])  # never seen in a real image
    assert row_of(rows, "agreement_auroc", "macro")["value"] == 0.75
    assert row_of(rows, "pearson_r", "macro")["value"] == pytest.approx((r + 1) / 2)


def mean_auroc(truth: np.ndarray, seen: np.ndarray, average: str) -> float:
    if average == "micro":
        return auroc(truth.ravel(), seen.ravel())
    areas = np.array([auroc(truth[:, j], seen[:, j]) for j in range(truth.shape[1])])
    known = np.isfinite(areas)
    return float(np.average(areas[known], weights=truth.sum(axis=0)[known]))


def test_agreement_is_pooled_over_answers_and_over_positives():
    """Of the three means that LLM-CXR prints, micro and weighted; scikit-learn's as the reference."""
    draws = np.random.default_rng(0)
    of_real = pd.DataFrame(draws.random((40, 3)) ** [1, 2, 9], columns=["Edema", "Fracture", "Hernia"])
    of_synthetic = 0.5 * of_real + draws.random((40, 3))
    of_synthetic["Fracture"] /= 10  # a scale of its own, which only the pooled ranking sees
    rows = score_agreement(of_real, of_synthetic, np.arange(40) // 2, 40)
    truth = (of_real >= 0.5).to_numpy()
    for average in ("micro", "weighted"):
        row = row_of(rows, f"agreement_auroc_{average}", None)
        assert row["value"] == pytest.approx(roc_auc_score(truth, of_synthetic, average=average))
        assert row["n_positive"] == truth.sum()

        def of_drawn(both, average=average):
            return mean_auroc(both[:, :3], both[:, 3:], average)

        interval = group_interval(np.hstack([truth, of_synthetic]), np.arange(40) // 2, of_drawn)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(interval)
    of_real["Hernia"] = 0.1
    known = ["Edema", "Fracture"]
    row = row_of(score_agreement(of_real, of_synthetic, np.arange(40), 40), "agreement_auroc_weighted", None)
    assert row["value"] == pytest.approx(roc_auc_score(truth[:, :2], of_synthetic[known], average="weighted"))


def test_without_the_prompts_images_there_is_no_agreement():
    synthetic = synthetic_side(["x", "y", "z"], [0.9, 0.1, 0.2], [1, 0, 0])
    result = classifier.evaluate(real_side(), synthetic, Known())
    assert {row["metric"] for row in result.rows} == {"auroc", "average_precision"}
    assert result.omitted[-1].startswith("agreement with the real image of the same prompt")


def test_labels_and_findings_are_checked_before_images_are_read(tmp_path):
    synthetic, Known.asked = synthetic_side(["d0"], [0.9], [1]), 0
    (tmp_path / "truth.csv").write_text("dicom_id,Left\nelse,1\n")
    for settings, message in (
        ({"findings": "Fracture"}, "'Fracture' .not in any of them. is not among: Edema"),
        ({"labels": str(tmp_path / "nowhere.csv")}, "nowhere"),
        ({"labels": str(tmp_path / "truth.csv")}, "labels: none of the 1 images"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(real_side(), synthetic, **settings)
    assert Known.asked == 0


def test_scores_of_two_folders_are_written_as_json(tmp_path, micro_dataset, train_micro, capfd):
    run, samples = tmp_path / "run", tmp_path / "samples"
    train_micro(run, tune="classifier", base="test_resnet", random_weights=True, max_train_steps=1)
    samples.mkdir()
    table = pd.read_csv(micro_dataset / "test" / "metadata.csv", dtype=str)
    for name in table["file_name"]:
        (samples / name).symlink_to(micro_dataset / "test" / name)
    rows = table[["file_name", "text", "Atelectasis", "Cardiomegaly"]].assign(id=table["dicom_id"], seed=1)
    rows.assign(scheduler="pndm").to_csv(samples / "metadata.csv", index=False)
    output = tmp_path / "new" / "scores.json"
    folders = {"real": str(micro_dataset / "test"), "synthetic": str(samples)}
    assert main(ClassifierConfig(classifier=str(run), output=str(output), **folders)) == 0
    assert "NaN" not in output.read_text()
    scores = read_scores(output)
    for label in ("Atelectasis", "Cardiomegaly", "macro"):  # the same pictures
        pair = [row_of(scores, "auroc", label, side)["value"] for side in ("real", "synthetic")]
        assert pair[0] == pair[1] is not None
        assert row_of(scores, "pearson_r", label)["value"] == pytest.approx(1)
    shown = capfd.readouterr().out
    assert "Atelectasis" in shown and "Pearson's r" in shown and "4 real and 4 synthetic images" in shown
