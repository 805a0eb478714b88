"""Samples folders: what prompts they are made from, what they record, how they go on, and that diffusers agrees."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdcxr import backbones
from sdcxr.commands.generate import main
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.plan import image_seed
from sdcxr.generation.sampler import Sampler
from sdcxr.generation.samples_folder import generate
from sdcxr.io.manifest import LABELS, SAMPLE_COLUMNS, read_metadata
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError
from tests.torchrun import ROOT, in_two_processes


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
    asked = ["--prompts", micro_dataset / "test", "--num_images_per_prompt", 2, "--num_inference_steps", 3]
    command = [ROOT / "generate.py", "--model", run, "--output_dir", "two", *asked]
    assert in_two_processes(*command, folder=tmp_path).count("finished:") == 1
    assert levels_apart(images(tmp_path / "one"), images(tmp_path / "two")) <= 1
    assert (tmp_path / "one" / "metadata.csv").read_text() == (tmp_path / "two" / "metadata.csv").read_text()


def test_missing_images_alone_are_made_again(run, micro_dataset, tmp_path):
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
        ({"num_images_per_prompt": 1}, "num_images_per_prompt 2 → 1"),
        ({"negative_prompt": "Normal."}, "negative_prompt None → Normal."),
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
    with pytest.raises(UserError, match="the prompt prompt has another text or labels now"):
        make(run, "Right effusion.", tmp_path)


def prompt_table(folder: Path, rows: list[str]) -> Path:
    """A CSV of ids, texts and one label."""
    (folder / "prompts.csv").write_text("\n".join(["id,text,Edema", *rows, ""]))
    return folder / "prompts.csv"


def test_prompts_and_images_per_prompt_are_added_and_the_images_there_stay(run, tmp_path, capfd):
    samples, rows = tmp_path / "samples", ["a,Left effusion.,1", "b,Normal.,0"]
    make(run, prompt_table(tmp_path, rows), samples, num_images_per_prompt=1)
    first = {name: (samples / name).stat().st_mtime_ns for name in ("a_0.png", "b_0.png")}
    make(run, prompt_table(tmp_path, ["c,Edema.,1", *rows]), samples, num_images_per_prompt=2)
    assert {name: (samples / name).stat().st_mtime_ns for name in first} == first
    assert read_metadata(samples)["file_name"].tolist() == [f"{name}_{k}.png" for name in "cab" for k in range(2)]
    make(run, prompt_table(tmp_path, ["c,Edema.,1", *rows]), tmp_path / "at-once", num_images_per_prompt=2)
    assert levels_apart(images(samples), images(tmp_path / "at-once")) <= 1
    capfd.readouterr()
    make(run, prompt_table(tmp_path, ["c,Edema.,1", *rows]), samples, num_images_per_prompt=2)
    assert "is finished: 6 images" in capfd.readouterr().out
    for changed, said in (
        (["c,Edema.,1", "a,Left effusion.,0", "b,Normal.,0"], "the prompt a has another text or labels now .1 in all"),
        (["c,Edema.,1", "a,Left effusion.,1"], "the prompt b is not among the prompts any more"),
    ):
        with pytest.raises(UserError, match=said):
            make(run, prompt_table(tmp_path, changed), samples, num_images_per_prompt=2)


def test_a_table_cut_short_by_a_kill_is_written_again(run, micro_dataset, tmp_path):
    make(run, micro_dataset / "test", tmp_path, max_prompts=1)
    old = (tmp_path / "metadata.csv").read_bytes()
    make(run, micro_dataset / "test", tmp_path, max_prompts=2)
    (tmp_path / "metadata.csv").write_bytes(old)
    make(run, micro_dataset / "test", tmp_path, max_prompts=2)
    assert len(read_metadata(tmp_path)) == 4
    make(run, micro_dataset / "test", tmp_path, max_prompts=1)  # fewer prompts: those there keep their rows
    assert len(read_metadata(tmp_path)) == 4


def test_what_was_refused_or_failed_binds_nothing(run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--num_inference_steps 1000: pndm takes at most 999"):
        make(run, "Left effusion.", tmp_path / "samples", num_inference_steps=1000)
    assert not (tmp_path / "samples").exists()
    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "sample", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(UserError, match=r"out of memory: lower --batch_size \(now 16\)"):
            make(run, "Left effusion.", tmp_path / "samples")
    assert make(run, "Left effusion.", tmp_path / "samples", scheduler="ddim") == 0


def test_folders_of_version_0_1_go_on(run, tmp_path):
    """Its record hashed all prompts at once; the value is that of 0.1 for this prompt."""
    make(run, "Left effusion.", tmp_path)
    record = json.loads((tmp_path / "generate.json").read_text())
    del record["prompts"], record["negative_prompt"], record["clip_skip"]
    for digest in ("f5db3968e2da0f82", "0123456789abcdef"):
        (tmp_path / "generate.json").write_text(json.dumps(record | {"prompts_sha256": digest}))
        if digest.startswith("f"):
            assert make(run, "Left effusion.", tmp_path) == 0
            assert "prompts_sha256" not in (tmp_path / "generate.json").read_text()
        else:
            with pytest.raises(UserError, match="prompts_sha256 0123456789abcdef → "):
                make(run, "Left effusion.", tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"num_images_per_prompt": "2"}'])
def test_a_damaged_record_is_one_line(run, tmp_path, content):
    (tmp_path / "generate.json").write_text(content)
    (tmp_path / "prompt_0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"generate\.json is damaged"):
        make(run, "Left effusion.", tmp_path)


def test_one_word_that_is_no_file_is_said_to_be_a_prompt(run, tmp_path, capfd):
    make(run, "Pneumonia/effusion", tmp_path / "word", num_images_per_prompt=1)
    assert "taken as a prompt, as there is no file or folder of this name" in capfd.readouterr().out
    make(run, "Left effusion.", tmp_path / "text", num_images_per_prompt=1)
    assert "taken as a prompt" not in capfd.readouterr().out


def test_cut_prompts_are_counted(run, tmp_path, capfd):
    rows = [f"{name},{'Left effusion. ' * n},1" for name, n in (("a", 60), ("b", 2), ("c", 40))]
    make(run, prompt_table(tmp_path, rows), tmp_path / "samples", negative_prompt="Normal. " * 60)
    out = capfd.readouterr().out
    assert "2 of 3 prompts are cut to 77 tokens (66.7%)" in out and "the negative prompt is cut to 77 tokens" in out


def test_a_negative_prompt_is_recorded_and_changes_the_image(run, tmp_path):
    make(run, "Left effusion.", tmp_path / "without")
    make(run, "Left effusion.", tmp_path / "with", negative_prompt="Right pneumothorax.", guidance_scale=9.0)
    rows = read_metadata(tmp_path / "with")
    assert list(rows.columns) == [*SAMPLE_COLUMNS, "negative_prompt"]
    assert set(rows["negative_prompt"]) == {"Right pneumothorax."}
    assert "negative_prompt" not in read_metadata(tmp_path / "without")


def test_another_model_is_refused_wherever_it_lies(run, micro_base, tmp_path):
    make(run, "Left effusion.", tmp_path / "samples")
    with pytest.raises(UserError, match="weights_sha256"):
        make(micro_base, "Left effusion.", tmp_path / "samples")
    moved = tmp_path / "moved"
    moved.symlink_to(run)
    assert make(moved, "Left effusion.", tmp_path / "samples") == 0


def test_a_changed_schedule_or_tokenizer_is_refused(run, tmp_path):
    """Its weights are the same, its images are not: the folder would be said to be finished."""
    copy, samples = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "samples"
    make(copy, "Left effusion.", samples)
    for name in ("scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"):
        file = copy / "pipeline" / name
        before = file.read_text()
        file.write_text(json.dumps(json.loads(before) | {"beta_end": 0.013, "model_max_length": 60}))
        with pytest.raises(UserError, match="scheduler_and_tokenizers_sha256"):
            make(copy, "Left effusion.", samples)
        file.write_text(before)
    record = json.loads((samples / "generate.json").read_text())
    del record["scheduler_and_tokenizers_sha256"]  # as of an earlier version
    (samples / "generate.json").write_text(json.dumps(record))
    assert make(copy, "Left effusion.", samples) == 0


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
    with pytest.raises(UserError, match="--resolution 40: this model needs a multiple of 16"):
        make(run, "Left effusion.", tmp_path, resolution=40)


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


def test_text_mode_and_template_are_recorded_and_bind_the_folder(run, tmp_path):
    (tmp_path / "a.csv").write_text("id,text,view\na,Unchanged edema.,PA\nb,Clear.,\n")
    template = "[{view} view. ]{text}"
    settings = {"text": "refocused", "prompt_template": [template], "num_images_per_prompt": 1}
    assert make(run, tmp_path / "a.csv", tmp_path / "out", **settings) == 0
    rows = read_metadata(tmp_path / "out")
    assert rows["text"].tolist() == ["PA view. Edema.", "Clear."]
    assert set(rows["text_mode"]) == {"refocused"} and set(rows["prompt_template"]) == {template}
    record = json.loads((tmp_path / "out/generate.json").read_text())
    assert (record["text"], record["prompt_template"]) == ("refocused", template)
    with pytest.raises(UserError, match=r"begun with other settings .*text refocused → None"):
        make(run, tmp_path / "a.csv", tmp_path / "out", num_images_per_prompt=1, prompt_template=template)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path, capfd, read_only):
    def refused() -> str:
        flags = {"model": run, "prompts": "Large effusion.", "output_dir": tmp_path / "out", "num_inference_steps": 3}
        with pytest.raises(SystemExit) as stopped:
            cli.run(main, [f"--{name}={value}" for name, value in flags.items()])
        assert stopped.value.code == 2
        return capfd.readouterr().err.splitlines()[-1]

    with read_only(tmp_path):
        assert refused() == f"error: no permission for {tmp_path / 'out'}: Permission denied"
    make(run, "Large effusion.", tmp_path / "out", num_images_per_prompt=1)
    with read_only(tmp_path / "out"):
        assert refused().startswith(f"error: no permission for {tmp_path / 'out'}/")


def test_a_folder_that_another_command_writes_to_is_refused_and_let_go(run, tmp_path):
    hold = "import sys; from pathlib import Path; from sdcxr.io.locks import locked\n"
    hold += "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path / "out")]
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=own) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(UserError, match=f"out is in use by another command .process {other.pid} on"):
            make(run, "Large effusion.", tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
        other.communicate()
    assert make(run, "Large effusion.", tmp_path / "out") == 0
    assert not (tmp_path / "out/.lock").exists()
