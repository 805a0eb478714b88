"""Samples folders: what prompts they are made from, what they record, how they go on, and that diffusers agrees."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sdcxr import backbones
from sdcxr.config import GenerateConfig
from sdcxr.generation.plan import image_seed
from sdcxr.generation.prompts import read_prompts
from sdcxr.generation.sampler import Sampler
from sdcxr.generation.samples_folder import generate
from sdcxr.io.manifest import LABELS, SAMPLE_COLUMNS, read_metadata
from sdcxr.runtime.errors import UserError


@pytest.fixture(scope="module")
def run(train_micro, tmp_path_factory) -> Path:
    """A trained run."""
    folder = tmp_path_factory.mktemp("generation") / "run"
    assert train_micro(folder, tune="unet+text") == 0
    return folder


def make(model: Path, prompts: Path | str, output: Path, **settings: Any) -> int:
    few = {"num_images_per_prompt": 2, "num_inference_steps": 3}
    return generate(GenerateConfig(model=str(model), prompts=str(prompts), output_dir=str(output), **(few | settings)))


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def levels_apart(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    """The largest difference in grey levels between two folders of the same file names."""
    assert one.keys() == other.keys() and one
    return max(
        int(np.abs(np.frombuffer(one[name], np.uint8).astype(int) - np.frombuffer(other[name], np.uint8)).max())
        for name in one
    )


def test_a_samples_folder_says_how_each_image_was_made(run, micro_dataset, tmp_path):
    assert make(run, micro_dataset / "test", tmp_path, guidance_scale=2.5, scheduler="ddim") == 0
    rows = read_metadata(tmp_path)
    assert list(rows.columns) == [*SAMPLE_COLUMNS, *LABELS]
    assert rows["file_name"].tolist() == [f"c00-{i}_{k}.png" for i in range(4) for k in range(2)]
    source = read_metadata(micro_dataset / "test")
    assert rows["text"].tolist() == [text for text in source["text"] for _ in range(2)]
    assert rows["id"].tolist() == [name for name in source["dicom_id"] for _ in range(2)]
    np.testing.assert_array_equal(rows[LABELS[1]], np.repeat(source[LABELS[1]].to_numpy(), 2))
    assert set(rows["guidance_scale"]) == {"2.5"} and set(rows["num_inference_steps"]) == {"3"}
    assert set(rows["scheduler"]) == {"ddim"} and set(rows["model"]) == {str(run)}
    assert rows["seed"].tolist() == [str(image_seed(0, f"c00-{i}", k)) for i in range(4) for k in range(2)]
    for name in rows["file_name"]:
        image = Image.open(tmp_path / name)
        assert image.mode == "L" and image.size == (32, 32)


def test_a_samples_folder_is_an_imagefolder(run, micro_dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    make(run, micro_dataset / "test", tmp_path / "samples", num_images_per_prompt=1)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "samples"), cache_dir=str(tmp_path / "cache"))
    rows = loaded["train"]
    assert len(rows) == 4 and rows[0]["image"].size == (32, 32) and rows[0]["text"] == "Large left pneumothorax."
    assert rows[0]["seed"] == image_seed(0, "c00-0", 0)


PLAIN = """
import csv, json, sys
import numpy as np, torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

kinds = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
apart = {}
for folder in sys.argv[2:]:
    for row in csv.DictReader(open(folder + "/metadata.csv", encoding="utf-8")):
        pipeline.scheduler = kinds[row["scheduler"]].from_config(pipeline.scheduler.config)
        image = pipeline(
            row["text"],
            num_inference_steps=int(row["num_inference_steps"]),
            guidance_scale=float(row["guidance_scale"]),
            generator=torch.Generator("cpu").manual_seed(int(row["seed"])),
        ).images[0]
        grey = np.asarray(image).astype(float).mean(axis=2).round()
        own = np.asarray(Image.open(folder + "/" + row["file_name"])).astype(float)
        apart[folder + "/" + row["file_name"]] = [float(np.abs(grey - own).max()), float(own.std())]
assert not any(name.split(".")[0] in ("sdcxr", "eval", "data_prep") for name in sys.modules)
print(json.dumps(apart))
"""


@pytest.mark.slow
def test_plain_diffusers_makes_the_recorded_images_again(run, tmp_path):
    """In a process of its own, with none of our code: `from_pretrained(RUN/pipeline)` and the recorded columns."""
    table = tmp_path / "prompts.csv"
    table.write_text("id,text\na,Large left pneumothorax.\nb,No acute process.\n")
    folders = []
    for scheduler in ("pndm", "ddim", "dpm++"):
        folders.append(tmp_path / scheduler)
        make(run, table, folders[-1], scheduler=scheduler, num_inference_steps=5, guidance_scale=4.0)
    command = [sys.executable, "-c", PLAIN, str(run / "pipeline"), *map(str, folders)]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr[-3000:]
    apart = json.loads(plain.stdout.splitlines()[-1])
    assert len(apart) == 3 * 2 * 2
    for name, (difference, spread) in apart.items():
        assert difference <= 1 and spread > 0, name


def test_batches_and_processes_do_not_change_the_images(run, micro_dataset, tmp_path):
    for batch_size in (1, 4, 16):
        make(run, micro_dataset / "test", tmp_path / str(batch_size), batch_size=batch_size)
    expected = images(tmp_path / "1")
    assert len(expected) == 8
    for other in ("4", "16"):
        assert levels_apart(images(tmp_path / other), expected) <= 1
    tables = [(tmp_path / name / "metadata.csv").read_text() for name in ("1", "4", "16")]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.multiprocess
def test_two_processes_share_the_work(run, micro_dataset, tmp_path):
    make(run, micro_dataset / "test", tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(Path(__file__).parents[3] / "generate.py"), "--model", str(run), "--output_dir", "two"]
    command += ["--prompts", str(micro_dataset / "test"), "--num_images_per_prompt", "2", "--num_inference_steps", "3"]
    own = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path, env=own)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("finished:") == 1
    assert levels_apart(images(tmp_path / "one"), images(tmp_path / "two")) <= 1
    assert (tmp_path / "one" / "metadata.csv").read_text() == (tmp_path / "two" / "metadata.csv").read_text()


def test_missing_images_alone_are_made_again(run, micro_dataset, tmp_path, capfd):
    make(run, micro_dataset / "test", tmp_path)
    before = images(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    for name in ("c00-1_0.png", "c00-3_1.png"):
        (tmp_path / name).unlink()
    (tmp_path / "metadata.csv").unlink()
    make(run, micro_dataset / "test", tmp_path)
    assert levels_apart(images(tmp_path), before) <= 1
    changed = {path.name for path in tmp_path.glob("*.png") if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {"c00-1_0.png", "c00-3_1.png"}
    assert len(read_metadata(tmp_path)) == 8


def test_a_finished_folder_is_left_alone(run, micro_dataset, tmp_path, capfd, monkeypatch):
    make(run, micro_dataset / "test", tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "generate.json"}
    monkeypatch.setattr(Sampler, "sample", lambda *_: pytest.fail("sampled again"))
    assert make(run, micro_dataset / "test", tmp_path) == 0
    assert "is finished: 8 images" in capfd.readouterr().out
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed 0 → 1"),
        ({"guidance_scale": 7.0}, "guidance_scale 4.0 → 7.0"),
        ({"scheduler": "ddim"}, "scheduler pndm → ddim"),
        ({"num_inference_steps": 4}, "num_inference_steps 3 → 4"),
        ({"num_images_per_prompt": 3}, "num_images_per_prompt 2 → 3"),
        ({"resolution": 64}, "resolution 32 → 64"),
    ],
)
def test_other_settings_are_refused(run, tmp_path_factory, change, said):
    folder = tmp_path_factory.getbasetemp() / "other-settings"
    make(run, "Left effusion.", folder)
    with pytest.raises(UserError) as refused:
        make(run, "Left effusion.", folder, **change)
    assert said in str(refused.value)


def test_another_prompt_never_gets_the_images_of_the_first(run, tmp_path):
    make(run, "Left effusion.", tmp_path)
    with pytest.raises(UserError, match="prompts_sha256"):
        make(run, "Right effusion.", tmp_path)


def test_another_model_is_refused_wherever_it_lies(run, micro_base, tmp_path):
    make(run, "Left effusion.", tmp_path / "samples")
    with pytest.raises(UserError, match="weights_sha256"):
        make(micro_base, "Left effusion.", tmp_path / "samples")
    moved = tmp_path / "moved"
    moved.symlink_to(run)
    assert make(moved, "Left effusion.", tmp_path / "samples") == 0


def test_more_prompts_of_the_same_list_go_on(run, micro_dataset, tmp_path):
    make(run, micro_dataset / "test", tmp_path, max_prompts=1)
    assert len(read_metadata(tmp_path)) == 2
    first = images(tmp_path)
    make(run, micro_dataset / "test", tmp_path, max_prompts=3)
    assert len(read_metadata(tmp_path)) == 6
    assert levels_apart(first, {name: content for name, content in images(tmp_path).items() if name in first}) == 0


def test_a_folder_of_something_else_is_refused(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and not a samples folder"):
        make(run, "Left effusion.", tmp_path)


def test_resolutions_that_do_not_divide_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="--resolution 36: must be a multiple of 8"):
        make(run, "Left effusion.", tmp_path, resolution=36)


def test_another_resolution_is_the_size_of_the_images(run, tmp_path):
    make(run, "Left effusion.", tmp_path, resolution=64)
    assert Image.open(tmp_path / "prompt_0.png").size == (64, 64)


def test_long_prompts_are_never_shown(run, tmp_path, capfd):
    table = tmp_path / "prompts.csv"
    table.write_text("text\n" + "secretfinding " * 90 + "\n")
    make(run, table, tmp_path / "samples")
    out, err = capfd.readouterr()
    assert "finished" in out and "secretfinding" not in out + err
    assert "secretfinding" not in (tmp_path / "samples" / "generate.json").read_text()


def test_trained_text_encoder_is_in_the_pipeline(run, micro_base, tmp_path):
    """The same prompt and seed with the base's own text encoder in its place give another image."""
    mixed = backbones.load(str(run))
    mixed.parts["text"] = backbones.load(str(micro_base)).parts["text"]
    backbones.save(mixed, tmp_path / "mixed")
    for name, model in (("trained", run), ("mixed", tmp_path / "mixed")):
        make(model, "Left effusion.", tmp_path / f"of-{name}", guidance_scale=30.0, num_images_per_prompt=1)
    assert images(tmp_path / "of-trained") != images(tmp_path / "of-mixed")


# Prompts


def test_a_text_is_one_prompt():
    for text in (
        "Left effusion.",
        "Effusion/atelectasis on the left.",
        "3.5 cm nodule",
        "~3 cm nodule",
        "~nobody knows",
        "The lungs are clear. " * 30,
        "γ" * 300,
        "effusion",
    ):
        rows = read_prompts(text)
        assert rows.to_dict("list") == {"id": ["prompt"], "text": [text]}


def test_lines_of_a_text_file_are_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes('\ufeffLeft effusion.\r\n\n  Right, "small" one. \n'.encode())
    assert read_prompts(str(file)).to_dict("list") == {
        "id": ["00000", "00001"],
        "text": ["Left effusion.", 'Right, "small" one.'],
    }


@pytest.mark.parametrize("column", ["text", "prompt", "impression"])
def test_a_table_without_ids_is_numbered(tmp_path, column):
    file = tmp_path / "prompts.csv"
    file.write_bytes(f'\ufeffother,{column}\nx,"a, b"\ny,NA\n'.encode())
    assert read_prompts(str(file)).to_dict("list") == {"id": ["00000", "00001"], "text": ["a, b", "NA"]}


@pytest.mark.parametrize("column", ["id", "dicom_id"])
def test_a_table_with_ids_and_labels_keeps_them(tmp_path, column):
    file = tmp_path / "prompts.csv"
    file.write_text(f"{column},text,Edema,Size\n007,a,1.0,3\nb-2.x,b,,4\n")
    rows = read_prompts(str(file))
    assert rows["id"].tolist() == ["007", "b-2.x"] and list(rows.columns) == ["id", "text", "Edema"]
    np.testing.assert_array_equal(rows["Edema"], [1.0, np.nan])


def test_a_split_gives_its_ids_or_its_file_names(micro_dataset, tmp_path):
    assert read_prompts(str(micro_dataset / "test"))["id"].tolist() == [f"c00-{i}" for i in range(4)]
    (tmp_path / "metadata.csv").write_text("file_name,text\na/b.png,x\n")
    assert read_prompts(str(tmp_path))["id"].tolist() == ["b"]
    (tmp_path / "metadata.csv").write_text("file_name,text,dicom_id\na/b.png,x,\n")
    assert read_prompts(str(tmp_path))["id"].tolist() == ["b"]


@pytest.mark.parametrize("name", ["nowhere.csv", "nowhere.txt", "./nowhere", "data/test", "/data/test"])
def test_prompts_that_are_not_there_are_said_to_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such (file|folder)"):
        read_prompts(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "not a text in UTF-8"),
        ("a.csv", b"", "not a readable CSV"),
        ("a.csv", b"text\n", "holds no prompt"),
        ("a.csv", b"text\n\xff\n", "not a readable CSV"),
        ("a.csv", b"id;text\na;x\nb;y, z\n", "separated by ';': save it with commas"),
        ("a.csv", b"id,text,Edema\na,x,1\nb,y,yes\n", "the column Edema holds 'yes' in the row of b"),
        ("a.csv", b"caption\nx\n", "no column text or prompt .its first line"),
        ("a.csv", b"id,text\na,x\na,y\n", "the id a comes twice"),
        ("a.csv", b"id,text\n../x,y\n", "is no file name"),
        ("a.csv", b"id,text\n..,y\n", "is no file name"),
        ("a.csv", b"id,text\na/b,y\n", "is no file name"),
        ("a.csv", b"id,text\na b,y\n", "is no file name"),
        ("a.csv", b"id,text\n,y\n", "is no file name"),
    ],
)
def test_wrong_prompt_files_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(UserError, match="is empty"):
        read_prompts(text)


def test_a_dataset_folder_is_not_a_split(micro_dataset):
    with pytest.raises(UserError, match=r"has no metadata\.csv"):
        read_prompts(str(micro_dataset))


def test_no_rows_are_lost_between_tables(tmp_path):
    rows = pd.DataFrame({"id": ["a", "b"], "text": ['x "y", z', "two\nlines"]})
    rows.to_csv(tmp_path / "a.csv", index=False)
    pd.testing.assert_frame_equal(read_prompts(str(tmp_path / "a.csv")), rows)


def test_an_unquoted_comma_in_a_prompt_loses_no_text(tmp_path):
    (tmp_path / "prompts.csv").write_text("text,id\nLarge effusion, right side,1\n")
    with pytest.raises(UserError, match="put texts with commas in quotes"):
        read_prompts(str(tmp_path / "prompts.csv"))
