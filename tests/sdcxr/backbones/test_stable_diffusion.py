"""Pipelines: which ones are refused and why, the way to disk and back, and the tokenizer."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdcxr import backbones
from sdcxr.backbones.pipeline_files import check_pipeline_folder, use_hub_names, variant_of
from sdcxr.runtime.errors import UserError


@pytest.fixture
def copy(micro_base: Path, tmp_path: Path) -> Path:
    """A pipeline folder to break."""
    return Path(shutil.copytree(micro_base, tmp_path / "pipeline"))


def refuse(model: Path | str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        backbones.load(str(model))
    assert "\n" not in str(refused.value)


def test_locate_takes_a_pipeline_folder_and_a_run(micro_base, tmp_path):
    assert backbones.locate_pipeline(str(micro_base)) == str(micro_base)
    run = tmp_path / "run"
    shutil.copytree(micro_base, run / "pipeline")
    (run / "config.yaml").write_text("")
    assert backbones.locate_pipeline(str(run)) == str(run / "pipeline")
    assert backbones.locate_pipeline("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/data/base", "a/b/c", "~/base", ""])
def test_a_folder_that_is_not_there_is_no_hub_name(name):
    with pytest.raises(UserError, match="no such folder") as refused:
        backbones.locate_pipeline(name or "/nowhere")
    assert (name or "/nowhere") in str(refused.value)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.ckpt").write_text("")
    refuse(tmp_path / "model.ckpt", "is a file")


def test_a_folder_of_something_else_is_refused(tmp_path):
    refuse(tmp_path, r"has no model_index\.json")


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    refuse(tmp_path, "is a run without a pipeline yet")


def test_another_kind_of_pipeline_is_refused(copy):
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionUpscalePipeline"}))
    refuse(copy, "is a StableDiffusionUpscalePipeline: supported are StableDiffusionPipeline, ")


@pytest.mark.parametrize("content", ["{", "{}", "[]", "3"])
def test_a_damaged_index_is_refused(copy, content):
    (copy / "model_index.json").write_text(content)
    refuse(copy, r"model_index\.json does not name a pipeline")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    refuse(copy, f"has no part '{part}'")


PARTS = ("unet", "vae", "text_encoder")


@pytest.mark.parametrize("part", PARTS)
def test_pickled_weights_alone_are_refused_with_the_way_out(copy, part):
    weights = next((copy / part).glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    refuse(copy, rf"{part} has no \.safetensors weights, only \w+\.bin, .*from_pretrained\(.*save_pretrained")
    weights.with_suffix(".bin").unlink()
    refuse(copy, rf"{part} has no \.safetensors weights: copy the whole pipeline")


def rename_weights(folder: Path, *suffixes: str) -> None:
    """Give each part its weights under these names instead: model.<suffix>.safetensors."""
    for part in PARTS:
        weights = next((folder / part).glob("*.safetensors"))
        for suffix in suffixes:
            shutil.copy(weights, weights.with_name(f"{weights.stem}{suffix}.safetensors"))
        weights.unlink()


def test_weights_saved_only_as_a_variant_are_taken(copy, micro_base):
    rename_weights(copy, ".fp16")
    expected = backbones.load(str(micro_base)).unet.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbones.load(str(copy)).unet.state_dict().items())


@pytest.mark.parametrize(
    ("files", "variant"),
    [
        (("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"), None),
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), None),
        (("model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"), "fp16"),
        (("model-00001-of-00002.bf16.safetensors", "pytorch_lora_weights.safetensors"), "bf16"),
    ],
)
def test_the_variant_of_a_part_is_in_its_file_names(tmp_path, files, variant):
    for name in files:
        (tmp_path / name).touch()
    assert variant_of(tmp_path) == variant


def test_several_variants_without_a_plain_one_are_refused(tmp_path):
    for variant in ("fp16", "non_ema"):
        (tmp_path / f"model.{variant}.safetensors").touch()
    with pytest.raises(UserError, match=r"weights only as variants \(fp16, non_ema\): keep those of one of them"):
        variant_of(tmp_path)


@pytest.mark.parametrize("name", ["base.safetensors", "v1-5.ckpt"])
def test_a_single_file_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).touch()
    refuse(tmp_path / name, r'is a file: make a pipeline folder of it .*from_single_file\(".*"\)\.save_pretrained')


@pytest.mark.parametrize("part", ["unet", "model_index.json", "text_encoder/config.json"])
def test_a_part_of_a_pipeline_is_refused_with_the_whole(copy, part):
    refuse(copy / part, f"is a part of a pipeline folder: give {copy}$")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    refuse(tmp_path / "notes.txt", "is a file: give a pipeline folder, a run folder or a hub name")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_configuration_is_refused(copy, part):
    (copy / part / "config.json").unlink()
    refuse(copy, rf"{part} has no config\.json")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_cut_weights_are_refused(copy, part):
    weights = next((copy / part).glob("*.safetensors"))
    os.truncate(weights, weights.stat().st_size // 2)
    refuse(copy, "cannot be loaded")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_never_replaced_by_random_ones(copy, part, capfd):
    name = change_weights(copy / part, lambda tensors, name: tensors.pop(name))
    refuse(copy, f"the weights of {part} lack {name.removeprefix('text_model.')}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_have_no_place_are_refused(copy, part, capfd):
    change_weights(copy / part, lambda tensors, name: tensors.update(other=torch.zeros(1)))
    refuse(copy, f"the weights of {part} hold more than its config.json asks for: other")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_of_another_shape_are_refused(copy, part):
    change_weights(copy / part, lambda tensors, name: tensors.update({name: torch.zeros(1, 5)}))
    refuse(copy, "cannot be loaded")


def change_weights(folder: Path, change) -> str:
    """Apply `change(tensors, name of one of them)` to a part's file."""
    weights = next(folder.glob("*.safetensors"))
    tensors = load_file(weights)
    name = sorted(tensors)[len(tensors) // 2]
    change(tensors, name)
    save_file(tensors, weights, metadata={"format": "pt"})
    return name


def test_position_ids_of_older_text_encoders_are_welcome(copy):
    extra = {"embeddings.position_ids": torch.arange(77)[None]}
    change_weights(copy / "text_encoder", lambda tensors, name: tensors.update(extra))
    backbones.load(str(copy))


def test_an_empty_tokenizer_is_refused(copy):
    for file in (copy / "tokenizer").iterdir():
        file.unlink()
    refuse(copy, "tokenizer has no vocabulary")


@pytest.mark.parametrize("name", ["FutureTextModel", "logging", None])
def test_an_unknown_text_encoder_is_refused(copy, name):
    index = json.loads((copy / "model_index.json").read_text())
    index["text_encoder"] = name and ["transformers", name]
    (copy / "model_index.json").write_text(json.dumps(index))
    refuse(copy, f"is a {name}, which the installed transformers does not have")


def test_a_hub_name_without_network_is_one_line(capfd):
    refuse("nobody/nothing", "nobody/nothing is neither a folder here nor could it be had from the Hugging Face hub")
    assert "Traceback" not in capfd.readouterr().err


def test_a_hub_name_in_the_cache_needs_no_network(micro_base, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    entry = tmp_path / "models--owner--base"
    shutil.copytree(micro_base, entry / "snapshots" / ("0" * 40))
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("0" * 40)
    parts = backbones.load("owner/base")
    assert parts.resolution == 32


def test_what_is_saved_is_loaded_bit_for_bit_in_fp32_and_half(micro_base, tmp_path):
    parts = backbones.load(str(micro_base))
    backbones.save(parts, tmp_path / "again")
    again = backbones.load(str(tmp_path / "again"))
    half = backbones.load(str(tmp_path / "again"), torch.bfloat16)
    for name in ("unet", "vae", "text"):
        own, its = parts.parts[name].state_dict(), again.parts[name].state_dict()
        assert all(torch.equal(own[key], its[key]) for key in own)
        assert {p.dtype for p in again.parts[name].parameters()} == {torch.float32}
        assert {p.dtype for p in half.parts[name].parameters()} == {torch.bfloat16}
    assert dict(again.scheduler.config) == dict(parts.scheduler.config)
    assert again.tokenizer("pleural effusion").input_ids == parts.tokenizer("pleural effusion").input_ids


def test_half_precision_files_become_fp32_masters(micro_base, tmp_path):
    backbones.save(backbones.load(str(micro_base), torch.float16), tmp_path / "half")
    parts = backbones.load(str(tmp_path / "half"))
    assert {p.dtype for part in parts.parts.values() for p in part.parameters()} == {torch.float32}


def test_ddim_made_from_a_loaded_pipeline_does_not_clip_latents(micro_base, tmp_path):
    from diffusers import DDIMScheduler

    backbones.save(backbones.load(str(micro_base)), tmp_path / "again")
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "again", subfolder="scheduler")
    assert scheduler.config.clip_sample is False


def test_what_is_saved_opens_in_transformers_4(tmp_path):
    """It reads vocab.json, merges.txt and added_tokens.json, and names of weights as on the hub."""
    from sdcxr.embedded.base import tiny

    made = tiny()  # in this process: transformers 5 saves its text encoder without the prefix
    made.tokenizer.add_tokens(["<cxr-style>"])
    made.parts["text"].resize_token_embeddings(49409)
    backbones.save(made, tmp_path / "saved")
    folder = tmp_path / "saved" / "tokenizer"
    vocabulary, merges = json.loads((folder / "vocab.json").read_text()), (folder / "merges.txt").read_text()
    assert len(vocabulary) == 49408 and vocabulary["<|endoftext|>"] == 49407
    assert merges.splitlines()[:2] == ["#version: 0.2", "i n"] and len(merges.splitlines()) == 48895
    assert json.loads((folder / "added_tokens.json").read_text()) == {"<cxr-style>": 49408}
    assert all(key.startswith("text_model.") for key in load_file(tmp_path / "saved/text_encoder/model.safetensors"))
    again = backbones.load(str(tmp_path / "saved"))
    own, its = made.parts["text"].state_dict(), again.parts["text"].state_dict()
    assert own.keys() == its.keys() and all(torch.equal(own[key], its[key]) for key in own)
    assert again.tokenizer("a <cxr-style>").input_ids == made.tokenizer("a <cxr-style>").input_ids


def test_words_of_several_vectors_are_spelled_out_as_the_pipeline_does(micro_base):
    loaded = backbones.load(str(micro_base))
    ids = loaded.tokenize(["a <w> b"])[0]["input_ids"]
    loaded.tokenizer.add_tokens(["<w>", "<w>_1", "<other>"])
    loaded.parts["text"].resize_token_embeddings(len(loaded.tokenizer))
    n = len(loaded.tokenizer)
    found = loaded.tokenize(["a <w> b", "<other>"])[0]["input_ids"]
    assert [n - 3, n - 2] == found[0, 2:4].tolist() and found[1, 1] == n - 1
    assert not (ids == found[0]).all()
    with torch.no_grad():
        expected = loaded.pipeline().encode_prompt(["a <w> b"], "cpu", 1, False)[0]
        assert torch.equal(loaded.encode_text({"input_ids": torch.from_numpy(found[:1])}).hidden, expected)


def test_names_of_sharded_weights_are_those_of_the_hub(micro_base, tmp_path):
    backbones.load(str(micro_base)).parts["text"].save_pretrained(tmp_path, max_shard_size="20KB")
    for file in tmp_path.glob("*.safetensors"):  # as of an encoder that was made in the process
        tensors = load_file(file)
        save_file({key.removeprefix("text_model."): value for key, value in tensors.items()}, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"text_model.', '"'))
    use_hub_names(tmp_path)
    names = {key: file.name for file in tmp_path.glob("*.safetensors") for key in load_file(file)}
    assert json.loads(index.read_text())["weight_map"] == names
    assert all(key.startswith("text_model.") for key in names)


def test_a_failed_save_leaves_the_old_pipeline(micro_base, tmp_path, monkeypatch):
    parts = backbones.load(str(micro_base))
    backbones.save(parts, tmp_path / "pipeline")

    def full(folder, **_):
        Path(folder).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(parts.pipeline()), "save_pretrained", lambda self, folder, **settings: full(folder))
    with pytest.raises(OSError, match="No space"):
        backbones.save(parts, tmp_path / "pipeline")
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]
    check_pipeline_folder(tmp_path / "pipeline", ("unet", "vae", "text_encoder"))


def test_what_a_killed_process_left_beside_a_pipeline_is_cleared_away(micro_base, tmp_path):
    (tmp_path / ".pipeline.123.tmp").mkdir()
    backbones.save(backbones.load(str(micro_base)), tmp_path / "pipeline")
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline"]


def test_resolution_comes_from_unet_and_vae(micro_base):
    parts = backbones.load(str(micro_base))
    assert (parts.codec.factor, parts.resolution) == (8, 32)
