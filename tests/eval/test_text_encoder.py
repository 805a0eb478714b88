"""The text encoder before and after: texts that are scored, probes, and measures of what was kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from eval.scores import read_scores
from eval.summary.plan import _plan_text_encoder
from eval.text_encoder import (
    CAPTIONS,
    TextEncoderConfig,
    base_of,
    distinct_texts,
    embed,
    kept_rows,
    learnable,
    load_encoder,
    main,
    needs_code,
    probe_rows,
)
from sdcxr import backbones
from sdcxr.io.manifest import text_key, write_metadata
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import save_base
from tests.sdcxr.backbones.small_encoders import ENCODERS, save_encoder

PLACES = ("left", "right", "apical", "basal", "upper", "lower", "hilar", "lingular")
SIZES = ("small", "large", "trace", "tiny", "moderate")


def write_split(folder: Path, texts: list[str], labels: list[float | None], patients: list[str]) -> None:
    names = [f"{i}.png" for i in range(len(texts))]
    rows = pd.DataFrame({"file_name": names, "text": texts, "subject_id": patients, "Pneumothorax": labels})
    write_metadata(folder, rows)


@pytest.fixture
def dataset(tmp_path):
    """Texts that say pneumothorax or effusion in two places: places of the test split are not those of training."""
    for split, sizes in (("train", SIZES[:3]), ("test", SIZES[3:])):
        texts, labels = [], []
        for what, label in (("pneumothorax", 1.0), ("effusion", None)):
            for size in sizes:
                texts += [f"{size} {place} {what}" for place in PLACES]
                labels += [label] * len(PLACES)
        write_split(tmp_path / "data" / split, texts, labels, [f"{split}{i}" for i in range(len(texts))])
    return tmp_path / "data"


def test_repeated_texts_and_those_of_training_are_not_scored(tmp_path):
    write_split(tmp_path / "train", ["Clear.", "clear", "Edema", ""], [0, 0, 1, 0], list("abcd"))
    write_split(tmp_path / "test", ["CLEAR", "Mass.", "mass", "Hernia"], [0, 1, 1, 0], list("efgh"))
    train, test = distinct_texts(tmp_path)
    assert train["text"].tolist() == ["Clear.", "Edema"]
    assert test["text"].tolist() == ["Mass.", "Hernia"] and test["group"].tolist() == ["f", "h"]


def test_a_patient_in_both_splits_is_refused(tmp_path):
    write_split(tmp_path / "train", ["Clear.", "Edema"], [0, 1], ["a", "b"])
    write_split(tmp_path / "test", ["Mass."], [0], ["b"])
    with pytest.raises(UserError, match="1 patients are in train and in test"):
        distinct_texts(tmp_path)


def test_a_test_split_of_known_texts_is_refused(tmp_path):
    write_split(tmp_path / "train", ["Clear."], [0], ["a"])
    write_split(tmp_path / "test", ["clear"], [0], ["b"])
    with pytest.raises(UserError, match=r"others in test \(1 and 0\)"):
        distinct_texts(tmp_path)


def test_findings_with_one_class_are_left_out():
    sides = [pd.DataFrame({"Edema": [1, 0] * 5, "Hernia": [1] * 9 + [0], "Fracture": [0] * 10}) for _ in range(2)]
    assert learnable(*sides) == (["Edema"], ["Hernia", "Fracture"])
    with pytest.raises(UserError, match="no finding has 5 texts with and without it"):
        learnable(sides[0], sides[1].drop(columns="Edema"))
    with pytest.raises(UserError, match="no finding"):
        learnable(sides[0][[]], sides[1][[]])


def test_the_gain_is_the_paired_difference():
    labels = pd.DataFrame({"Edema": [1.0, 1.0, 0.0, 0.0, np.nan] * 8, "Mass": [1.0, 0.0] * 20})
    draws = np.random.default_rng(0)
    before = draws.normal(size=(40, 2))
    after = np.where(np.isfinite(labels), labels, 0) + 0.1 * draws.normal(size=(40, 2))
    rows = {(row["metric"], row["label"]): row for row in probe_rows(labels, before, after, np.arange(40))}
    for label in ("Edema", "Mass", "macro"):
        base, tuned, gain = (rows[f"probe_auroc_{which}", label] for which in ("base", "tuned", "gain"))
        assert tuned["value"] == 1
        assert gain["value"] == pytest.approx(tuned["value"] - base["value"])
        assert gain["ci_low"] <= gain["value"] <= gain["ci_high"]
    assert rows["probe_auroc_base", "Edema"]["n_positive"] == 16
    same = probe_rows(labels, before, before, np.arange(40))
    assert all(row["value"] == row["ci_low"] == row["ci_high"] == 0 for row in same if "gain" in row["metric"])


def test_what_was_kept_lies_between_the_same_and_the_unrelated():
    draws = np.random.default_rng(0)
    before = draws.normal(size=(60, 32))
    values = []
    for noise in (0, 0.3, 100):
        rows = kept_rows(before, before + noise * draws.normal(size=before.shape), np.arange(60), "captions")
        values.append({row["metric"]: row["value"] for row in rows})
    for metric in ("kept_cosine", "kept_cka", "kept_neighbours"):
        same, near, far = (v[metric] for v in values)
        assert same == pytest.approx(1) and same > near > far
    assert kept_rows(before, before, np.arange(60), "captions")[0]["notes"] == ["the text encoder did not change"]
    other_width = kept_rows(before, before[:, :9], np.arange(60), "captions")
    assert [row["metric"] for row in other_width] == ["kept_cka", "kept_neighbours"]
    assert [row["metric"] for row in kept_rows(before[:5], before[:5], np.arange(5), "few")] == [
        "kept_cosine",
        "kept_cka",
    ]


def test_the_captions_differ():
    assert len({text_key(caption) for caption in CAPTIONS}) == len(CAPTIONS) == 60


def test_embeddings_are_means_over_the_tokens_or_the_state_of_the_last(micro_base):
    import torch

    parts = backbones.load(str(micro_base))
    texts = ["Clear.", "Large left pneumothorax. " * 40]
    ((mean,), n_cut, architecture), ((end,), *_) = (
        embed(parts.text_encoder, [texts], pooling) for pooling in ("mean", "end")
    )
    assert n_cut == 1 and architecture == "1-layer CLIPTextModel of width 16 without attention mask"
    for i, text in enumerate(texts):
        ids = parts.tokenizer(text, truncation=True, max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            states = parts.text_encoder.module(ids).last_hidden_state[0]
        np.testing.assert_allclose(mean[i], states.mean(dim=0), atol=1e-5)
        np.testing.assert_allclose(end[i], states[-1], atol=1e-5)


@pytest.fixture
def tuned(micro_base, tmp_path):
    """A run whose text encoder was changed, and that remembers its base."""
    import torch

    parts = backbones.load(str(micro_base))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parts.text_encoder.module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    backbones.save(parts, tmp_path / "run" / "pipeline")
    (tmp_path / "run" / "config.yaml").write_text(f"base: {micro_base}\n")
    return tmp_path / "run"


@pytest.mark.slow
def test_the_command_compares_a_run_with_its_base(tuned, dataset, tmp_path, capfd):
    config = TextEncoderConfig(str(tuned), str(dataset), output=str(tmp_path / "scores.json"))
    assert main(config) == 0
    rows = {(row["metric"], row["label"]): row for row in read_scores(config.output)}
    assert rows["probe_auroc_base", "Pneumothorax"]["value"] > 0.9
    assert rows["probe_auroc_base", "Pneumothorax"]["n_positive"] == 16
    assert rows["kept_cosine", "everyday captions"]["value"] < 0.999
    assert rows["kept_cka", "texts of the dataset"]["n_real"] == 32
    assert rows["composition_gain", "left or right"]["n_pairs"] == 20
    out = capfd.readouterr().out
    assert "Pneumothorax" in out and "two findings, left and right" in out and "warning" not in out
    with pytest.raises(UserError, match="no finding has 5 texts"):
        main(TextEncoderConfig(str(tuned), str(dataset), blanks="ignore"))  # no text denies a pneumothorax


def test_labels_that_are_absent(tuned, dataset):
    for split in ("train", "test"):
        path = dataset / split / "metadata.csv"
        pd.read_csv(path).drop(columns="Pneumothorax").to_csv(path, index=False)
    with pytest.raises(UserError, match="no finding has 5 texts"):
        main(TextEncoderConfig(str(tuned), str(dataset)))


def test_a_pipeline_that_names_no_base(micro_base, dataset, tmp_path):
    with pytest.raises(UserError, match="give --base"):
        main(TextEncoderConfig(str(micro_base), str(dataset)))
    with pytest.raises(UserError, match="--regularisation 0"):
        TextEncoderConfig(str(micro_base), str(dataset), regularisation=0)
    for settings, message in [("tune: text\n", "give --base"), ("tune: [text\n", "is damaged"), ("text", "is damaged")]:
        (tmp_path / "config.yaml").write_text(settings)
        with pytest.raises(UserError, match=message):
            base_of(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_alone_embeds_as_in_the_pipeline_that_holds_it(kind, micro_base, tmp_path):
    folder = save_encoder(kind, tmp_path / "encoder")
    parts = backbones.load(str(micro_base))
    alone = load_encoder(str(folder), "--base")
    parts.parts["text"], parts.tokenizer = alone.module, alone.tokenizer
    backbones.save(parts, tmp_path / "run" / "pipeline")
    texts = ["Small left pleural effusion.", "No acute process."]
    before, after = (embed(load_encoder(str(name), "--model"), [texts]) for name in (folder, tmp_path / "run"))
    assert before.architecture == after.architecture
    np.testing.assert_allclose(before.vectors[0], after.vectors[0], atol=1e-6)


@pytest.mark.slow
def test_encoders_of_two_classes_are_compared_with_a_warning(dataset, tmp_path, capfd):
    bert, t5 = (str(save_encoder(kind, tmp_path / kind, 16)) for kind in ("bert", "t5"))
    assert main(TextEncoderConfig(t5, str(dataset), base=bert)) == 0
    out = capfd.readouterr().out
    assert f"base:   {bert}\nmodel:  {t5}\n" in out
    bert, t5 = "2-layer BertModel of width 16 with", "2-layer T5EncoderModel of width 16 with"
    assert f"different text encoders (the base is a {bert} attention mask, the model a {t5} attention mask)" in out
    assert "kept_cka" in out and "kept_cosine (" not in out


@pytest.mark.parametrize(
    ("settings", "base", "code"),
    [
        ("base: sd\n", "sd", False),
        ("base: sd\ntext_encoder: null\ntrust_remote_code: true\n", "sd", False),
        ("base: sd\ntext_encoder: bert\n", "bert", False),
        ("base: sd\ntext_encoder: bert\ntrust_remote_code: true\n", "bert", True),
    ],
)
def test_a_run_is_compared_with_the_encoder_that_it_began_with(settings, base, code, tmp_path):
    (tmp_path / "config.yaml").write_text(settings)
    assert base_of(str(tmp_path)) == base and needs_code(str(tmp_path)) is code


def test_what_is_no_encoder_is_refused_by_the_flag_that_named_it(micro_base, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=f"--base {tmp_path}: has no tokenizer"):
        load_encoder(str(tmp_path), "--base")
    with pytest.raises(UserError, match="is a part of a pipeline folder"):
        load_encoder(str(micro_base / "text_encoder"), "--base")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_encoder("nowhere", "--base")


def test_the_report_leaves_the_text_encoder_out_where_a_family_has_none_of_its_own(dataset, tuned, tmp_path):
    def planned(model: Path) -> Any:
        config, real = SimpleNamespace(model=str(model), seed=0), SimpleNamespace(folder=dataset / "test")
        inputs = SimpleNamespace(config=config, real=real, step_of_all=lambda call, **about: "measured")
        return next(_plan_text_encoder(cast(Any, inputs)))

    assert planned(tuned) == "measured"
    assert planned(save_base("pixart", tmp_path / "pixart")).name == "text encoder"
