"""Tests of eval.reports and eval.report_generator: who is compared with whom, and what comes of bad input."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval import reports
from eval.inputs.folders import read_folder, read_samples
from eval.radiology_text.generator import write_reports
from eval.reports import ReportsConfig, compare_reports, main, pair_sides
from eval.scores import COLUMNS, read_scores
from sdcxr.runtime.errors import UserError
from tests.torchrun import in_two_processes

pytestmark = pytest.mark.usefixtures("no_network")

PROMPTS = ["Large left pneumothorax.", "No acute cardiopulmonary process.", "Mild cardiomegaly, no pulmonary edema."]


def save_generator(folder, tokenizer):
    """ViT and GPT-2 with random weights, 32 px, and a tokenizer."""
    import torch
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(image_size=32, patch_size=8, **size),
        GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, initializer_range=1.0, **ends
        ),
    )
    model = VisionEncoderDecoderModel(config=config)
    model.generation_config.update(
        decoder_start_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.eos_token_id, **ends
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory, micro_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(micro_base / "tokenizer")
    return save_generator(tmp_path_factory.mktemp("generator") / "vit-gpt2", tokenizer)


def save_images(folder, names, rows):
    folder.mkdir(parents=True)
    draws = np.random.default_rng(len(names))
    for name in names:
        Image.fromarray(draws.integers(0, 255, (40, 40), dtype=np.uint8)).save(folder / name)
    pd.DataFrame({"file_name": names} | rows).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.fixture
def folders(tmp_path):
    """A dataset's split of four images, and two samples for each of the first three prompts."""
    ids = ["a", "b", "c"]
    real = save_images(
        tmp_path / "real",
        ["1.png", "2.png", "3.png", "4.png"],
        {"text": [*PROMPTS, "Not asked for."], "dicom_id": [*ids, "d"], "subject_id": [7, 7, 8, 9]},
    )
    names = [f"{key}_{k}.png" for key in ids for k in range(2)]
    synthetic = save_images(
        tmp_path / "synthetic",
        names,
        {"text": np.repeat(PROMPTS, 2), "id": np.repeat(ids, 2), "seed": range(6), "scheduler": "pndm"},
    )
    return real, synthetic


def csv(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def run(folders, tmp_path, **settings):
    output = tmp_path / "scores.json"
    config = ReportsConfig(str(folders[0]), str(folders[1]), str(output), **settings)
    assert main(config) == 0
    return read_scores(output)


def value(rows, metric, images="synthetic", label=None, column="value", preset=None):
    found = [
        row
        for row in rows
        if (row["metric"], row["images"], row["label"]) == (metric, images, label) and preset in (None, row["preset"])
    ]
    return found[0][column]


def test_reports_that_repeat_the_prompt_are_perfect_and_those_of_other_prompts_are_not(folders, tmp_path, capsys):
    said = [PROMPTS[2], PROMPTS[0], PROMPTS[1]]  # in another order than the folders'
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", id=["c", "a", "b"], text=said))
    for side in ("synthetic", "real"):
        assert value(rows, "bleu", side) == value(rows, "rougeL", side) == pytest.approx(1)
        assert value(rows, "labeller_f1", side, "micro-14") == 1
        assert value(rows, "labeller_f1", side, "Pneumothorax") == 1
        assert value(rows, "bleu", side, column="shuffled") < 0.5
        assert value(rows, "labeller_f1", side, "micro-14", column="shuffled") == 0
    assert value(rows, "labeller_f1", label="Fracture") is None, "nobody speaks of fractures"
    assert value(rows, "bleu", column="n_real") == 3 and value(rows, "bleu", column="n_synthetic") == 6
    on_disk = json.loads((tmp_path / "scores.json").read_text())
    assert all(list(row)[: len(COLUMNS)] == list(COLUMNS) for row in on_disk)
    shown = capsys.readouterr()
    assert "6 synthetic and 3 real images" in shown.out
    assert not any(prompt in shown.out + shown.err for prompt in PROMPTS)
    assert not any(prompt in (tmp_path / "scores.json").read_text() for prompt in PROMPTS)


def test_a_denial_read_as_a_finding_costs_the_finding_though_words_agree(folders, tmp_path):
    said = ["Large left pneumothorax.", "No acute cardiopulmonary process.", "No cardiomegaly, mild pulmonary edema."]
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", id=["a", "b", "c"], text=said))
    assert value(rows, "rouge1") == pytest.approx(1)
    assert value(rows, "labeller_f1", label="Cardiomegaly") == 0
    assert value(rows, "labeller_f1", label="Edema") == 0
    assert value(rows, "labeller_f1", label="Pneumothorax") == 1


def test_uncertain_findings_count_by_the_policy(folders, tmp_path, capfd):
    said = ["Possible left pneumothorax.", "No acute process.", "Mild cardiomegaly."]
    table = csv(tmp_path / "r.csv", id=["a", "b", "c"], text=said)
    f1 = {
        uncertain: value(
            run(folders, tmp_path, generated=table, uncertain=uncertain), "labeller_f1", label="Pneumothorax"
        )
        for uncertain in ("ones", "zeros", "ignore", "present")
    }
    assert f1 == {"ones": 1, "zeros": 0, "ignore": None, "present": 1}
    assert capfd.readouterr().err.count("--uncertain present is deprecated: use --uncertain ones") == 1


def test_intervals_resample_patients_and_prompts(folders):
    sides = pair_sides(read_folder(folders[0], "--real"), read_samples(folders[1]))
    assert [side.name for side in sides] == ["synthetic", "real"]
    assert sides[0].groups == ["a", "a", "b", "b", "c", "c"]
    assert sides[1].groups == ["7", "7", "8"]
    assert sides[1].files == ["1.png", "2.png", "3.png"], "the fourth image was no prompt"
    said = reports._with_reports(sides[0], [PROMPTS[0]] * 3 + ["", "No edema.", "Cardiomegaly."])
    low, high = (value(compare_reports([said], "x"), "rouge1", column=end) for end in ("ci_low", "ci_high"))
    assert low < high
    one_patient = replace(said, groups=["7"] * 6)
    low, high = (value(compare_reports([one_patient], "x"), "rouge1", column=end) for end in ("ci_low", "ci_high"))
    assert low == high
    pairwise = replace(said, groups=list("abcdef"))
    assert value(compare_reports([pairwise], "x"), "rouge1", column="ci_high") != value(
        compare_reports([said], "x"), "rouge1", column="ci_high"
    )


def test_a_generator_reads_both_sides_the_same_way_every_time(folders, generator, tmp_path, capsys):
    kept = tmp_path / "texts.csv"
    rows = run(folders, tmp_path, report_model=str(generator), max_new_tokens=8, keep_texts=str(kept), batch_size=4)
    texts = pd.read_csv(kept, keep_default_na=False)
    assert texts["images"].tolist() == ["synthetic"] * 6 + ["real"] * 3
    assert texts["prompt"].tolist()[::2][:3] == PROMPTS
    assert (texts["report"] != "").any()
    assert value(rows, "bleu", column="extractor") == str(generator)
    again = write_reports([folders[1] / name for name in texts["file_name"][:6]], str(generator), max_new_tokens=8)
    assert again == texts["report"].tolist()[:6]
    assert run(folders, tmp_path, generated=str(kept)) == [row | {"extractor": "texts.csv"} for row in rows]
    shown = capsys.readouterr()
    assert "transformers" not in shown.err and "pad token" not in shown.err
    for text in filter(None, texts["report"]):
        assert text not in shown.out


@pytest.mark.multiprocess
def test_two_processes_read_what_one_reads(folders, generator, tmp_path):
    alone = run(folders, tmp_path, report_model=str(generator), max_new_tokens=8)
    output, kept = tmp_path / "two" / "scores.json", tmp_path / "two" / "texts.csv"
    asked = ["--output", output, "--report_model", generator, "--max_new_tokens", 8, "--keep_texts", kept]
    command = ["-m", "eval.reports", "--real", folders[0], "--synthetic", folders[1], *asked]
    assert in_two_processes(*command, folder=tmp_path).count("6 synthetic and 3 real images") == 1
    assert read_scores(output) == alone
    assert len(pd.read_csv(kept)) == 9


def test_every_process_reads_its_share_only(folders, generator, monkeypatch):
    from eval.radiology_text import generator as report_generator

    read = []
    monkeypatch.setattr(report_generator, "_problem", lambda path: read.append(path.name))
    monkeypatch.setattr("sdcxr.runtime.processes.processes", lambda: SimpleNamespace(**PLACE))
    paths = read_samples(folders[1]).paths
    write_reports(paths, str(generator), max_new_tokens=2)
    assert read == ["a_1.png", "b_1.png", "c_1.png"]


def test_the_main_process_alone_compares(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("sdcxr.runtime.processes.processes", lambda: SimpleNamespace(**PLACE))
    monkeypatch.setattr(reports, "compare_reports", None)  # would fail if called
    texts = csv(tmp_path / "r.csv", id=["a", "b", "c"], text=PROMPTS)
    config = ReportsConfig(str(folders[0]), str(folders[1]), str(tmp_path / "scores.json"), generated=texts)
    assert main(config) == 0 and not (tmp_path / "scores.json").exists()


PLACE = {"process_index": 1, "num_processes": 2, "is_main_process": False, "device": "cpu"}


def test_reports_of_the_synthetic_images_alone_are_enough(folders, tmp_path):
    names = [f"{key}_{k}.png" for key in "abc" for k in range(2)]
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", file_name=names, report=np.repeat(PROMPTS, 2)))
    assert {row["images"] for row in rows} == {"synthetic"}
    assert rows[0]["notes"] == ["no reports of the real images are given: there is nothing to compare with"]


def test_absent_real_images_are_counted_not_hidden(folders, tmp_path):
    real = pd.read_csv(folders[0] / "metadata.csv").iloc[1:]
    real.to_csv(folders[0] / "metadata.csv", index=False)
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", id=["a", "b", "c"], text=PROMPTS))
    assert value(rows, "bleu", "real", column="n_real") == 2
    assert value(rows, "rouge1", "real", column="notes")[0].startswith("1 of 3 prompts have no real image beside them")


def test_prompts_that_are_all_the_same_have_no_shuffled_baseline(folders, tmp_path):
    for folder in folders:
        table = pd.read_csv(folder / "metadata.csv").assign(text="Pneumothorax.")
        table.to_csv(folder / "metadata.csv", index=False)
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", id=["a", "b", "c"], text=PROMPTS))
    assert value(rows, "rouge1", column="shuffled") is None
    assert value(rows, "rouge1") > 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a", "b"], "text": ["x", "y"]}, r"2 of 6 synthetic images have no report \(first: c\)"),
        ({"id": ["a", "a"], "text": ["x", "y"]}, "names a more than once"),
        ({"image": ["a"], "text": ["x"]}, r"needs the columns file_name or id, and text \(it has: image, text\)"),
        ({"id": ["a"]}, r"needs the columns .* \(it has: id\)"),
    ],
)
def test_unusable_tables_of_reports_are_one_line(folders, tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        run(folders, tmp_path, generated=csv(tmp_path / "r.csv", **columns))


def test_absent_tables_and_contradicting_flags_are_one_line(folders, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        run(folders, tmp_path, generated=str(tmp_path / "nowhere.csv"))
    for flags in ({}, {"generated": "a.csv", "report_model": "b"}):
        with pytest.raises(UserError, match="either --report_model MODEL or --generated"):
            run(folders, tmp_path, **flags)
    with pytest.raises(UserError, match="rogue is not among: bleu, rouge"):
        run(folders, tmp_path, generated="a.csv", metrics="bleu,rogue")
    with pytest.raises(UserError, match="--batch_size 0: must be at least 1"):
        run(folders, tmp_path, generated="a.csv", batch_size=0)


def test_metrics_without_their_weights_stop_before_the_generator_works(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "generate", None)  # would fail if called
    with pytest.raises(UserError, match=r"chexbert.pth \(1.31 GB\)"):
        run(folders, tmp_path, report_model="x", metrics="bleu,chexbert", weights_dir=str(tmp_path))


def test_chexbert_labels_are_compared_like_those_of_the_labeller(folders, tmp_path, monkeypatch):
    from eval.radiology_text import networks as text_models
    from eval.radiology_text.labeller import label_table

    monkeypatch.setattr(text_models, "locate_metric_weights", lambda *_: None)
    monkeypatch.setattr(
        text_models, "chexbert_labels", lambda texts, _: label_table(texts)[list(text_models.CHEXBERT_HEADS)]
    )
    monkeypatch.setattr(text_models, "bertscore", lambda wanted, said, _: np.arange(len(said)) / 10)
    table = csv(tmp_path / "r.csv", id=["a", "b", "c"], text=["Left pneumothorax.", "Effusion.", "Cardiomegaly."])
    rows = run(folders, tmp_path, generated=table, metrics="labels,chexbert,bertscore")
    for label in ("micro-14", "micro-5", "Pneumothorax", "Cardiomegaly", "Pleural Effusion"):
        assert value(rows, "chexbert_f1", label=label) == value(rows, "labeller_f1", label=label)
    found, mine = (value(rows, name, label="macro-14") for name in ("chexbert_f1", "labeller_f1"))
    assert found == pytest.approx(mine * 4 / 14), "f1chexbert counts findings that nobody has as 0"
    assert value(rows, "bertscore") == pytest.approx(0.25)


def test_folders_without_prompts_or_pairs_are_refused(folders, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(folders[1] / "a_0.png", plain)
    with pytest.raises(UserError, match="plain has no prompts"):
        pair_sides(read_folder(folders[0], "--real"), read_samples(plain))
    with pytest.raises(UserError, match="holds no image of the prompts"):
        pair_sides(read_folder(plain, "--real"), read_samples(folders[1]))
    with pytest.raises(UserError, match="swapped"):
        run(folders[::-1], tmp_path, generated="a.csv")


def test_unusable_generators_are_one_line(folders, generator, tmp_path):
    image = [folders[0] / "1.png"]
    for name in ("/nowhere/at/all", "name"):
        with pytest.raises(UserError, match="no such folder"):
            write_reports(image, name)
    with pytest.raises(UserError, match="hf download nobody/nothing"):
        write_reports(image, "nobody/nothing", weights_dir=tmp_path)
    with pytest.raises(UserError, match=r"has no config.json"):
        write_reports(image, str(folders[0]))
    pickled = tmp_path / "pickled"
    shutil.copytree(generator, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no \.safetensors weights"):
        write_reports(image, str(pickled))
    shutil.copy(generator / "model.safetensors", pickled)
    (pickled / "model.safetensors").write_bytes((generator / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be loaded"):
        write_reports(image, str(pickled))


def test_missing_weights_are_refused_not_drawn_at_random(folders, generator, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(generator, broken)
    state = load_file(broken / "model.safetensors")
    name = next(name for name in state if "crossattention" in name)
    del state[name]
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="1 weights are absent"):
        write_reports([folders[0] / "1.png"], str(broken))


def test_unreadable_images_are_listed(folders, generator):
    paths = read_samples(folders[1]).paths
    (folders[1] / "b_0.png").write_bytes(b"no image")
    (folders[1] / "c_1.png").unlink()
    with pytest.raises(
        UserError, match=r"2 of 6 images cannot be used: b_0.png cannot be read.*; c_1.png does not exist"
    ):
        write_reports(paths, str(generator))


def test_no_reports_at_all_score_zero(folders):
    sides = [
        reports._with_reports(side, [""] * len(side.files))
        for side in pair_sides(read_folder(folders[0], "--real"), read_samples(folders[1]))
    ]
    rows = compare_reports(sides, "mute")
    assert value(rows, "bleu") == value(rows, "rouge1") == value(rows, "labeller_f1", label="micro-14") == 0


def test_bleu_of_short_reports_and_means_of_few_findings_are_noted(folders, tmp_path):
    short = dict(zip(PROMPTS, ("Large pneumothorax.", "Pneumonia.", "No edema."), strict=True))
    for folder in folders:
        table = pd.read_csv(folder / "metadata.csv")
        table.assign(text=table["text"].replace(short)).to_csv(folder / "metadata.csv", index=False)
    texts = pd.read_csv(folders[1] / "metadata.csv")
    rows = run(folders, tmp_path, generated=csv(tmp_path / "r.csv", file_name=texts["file_name"], text=texts["text"]))
    assert value(rows, "bleu") == 0 and value(rows, "rouge1") == 1
    assert "0 because no four words in a row" in value(rows, "bleu", column="notes")[0]
    (macro,) = [row for row in rows if row["metric"] == "labeller_f1" and row["label"] == "macro-14"]
    assert macro["value"] == 1 and "of 14 findings occur; the others are left out" in macro["notes"][0]
