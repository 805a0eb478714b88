"""`--tune token`: only the rows of new words move, and their files are those of diffusers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdcxr import backbones
from sdcxr.backbones.encoder_files import load_encoder
from sdcxr.config import TrainConfig
from sdcxr.generation.models import locate_model
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.small_encoders import ENCODERS, save_encoder

TOKEN = {
    "tune": "token",
    "placeholder_token": "<lung-xray>",
    "initializer_token": "photo",
    "token_caption": "a photo of a <lung-xray>, {text}",
    "learning_rate": 1e-2,
}


def table_of(pipeline: Path) -> torch.Tensor:
    return backbones.load(str(pipeline)).parts["text"].get_input_embeddings().weight.detach()


@pytest.mark.parametrize("use_ema", [True, False])
def test_only_the_new_rows_move(micro_base, train_micro, tmp_path, use_ema):
    train_micro(tmp_path / "run", **TOKEN, num_vectors=2, use_ema=use_ema)
    before, after = table_of(micro_base), table_of(tmp_path / "run")
    known = len(before)
    assert len(after) == known + 2 and torch.equal(after[:known], before)
    begun = before[backbones.load(str(micro_base)).tokenizer("photo", add_special_tokens=False)["input_ids"][0]]
    assert (after[known:] != begun).any(dim=1).all() and not torch.equal(after[known], after[known + 1])
    base, run = backbones.load(str(micro_base)), backbones.load(str(tmp_path / "run"))
    for name in ("unet", "vae"):
        own, its = base.parts[name].state_dict(), run.parts[name].state_dict()
        assert all(torch.equal(own[key], its[key]) for key in own)
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert [(name.rsplit(".", 1)[1], tuple(value.shape)) for name, value in saved.items()] == [("rows", (2, 16))]


def test_rows_begin_as_the_mean_of_the_initializers_tokens(micro_base):
    backbone = backbones.load(str(micro_base))
    table = backbone.parts["text"].get_input_embeddings().weight.detach().clone()
    ids = backbone.tokenizer("cardiomegaly", add_special_tokens=False)["input_ids"]
    words = {"placeholder_token": "<a>,<b>", "initializer_token": "cardiomegaly,photo", "num_vectors": 2}
    backbone.adapt(TrainConfig(tune="token", **words))
    rows = backbone.parts["text"].get_input_embeddings().weight.detach()[len(table) :]
    photo = table[backbone.tokenizer("photo", add_special_tokens=False)["input_ids"][0]]
    assert len(ids) == 7
    torch.testing.assert_close(rows, torch.stack([table[ids].mean(dim=0)] * 2 + [photo] * 2))


def test_an_unknown_initializer_is_refused(tmp_path, micro_base):
    encoder = save_encoder("bert", tmp_path / "bert")
    words = {"placeholder_token": "<a>", "initializer_token": "日", "text_encoder": str(encoder)}
    with pytest.raises(UserError, match="--initializer_token 日: the tokenizer does not know this word"):
        backbones.load(str(micro_base)).adapt(TrainConfig(tune="token", **words))


def plain(folder: Path):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_reads_the_files_of_the_words(micro_base, train_micro, tmp_path, vectors):
    words = {"placeholder_token": "<lung-xray>, <large effusion>", "initializer_token": "photo,with"}
    caption = {"token_caption": "<lung-xray> with <large effusion>"}
    train_micro(tmp_path / "run", **TOKEN | words | caption, num_vectors=vectors)
    files = sorted(path.name for path in (tmp_path / "run" / "adapter").iterdir())
    assert files == ["adapter.json", "largeeffusion.safetensors", "lung-xray.safetensors"]
    pipe = plain(micro_base)
    for name in ("lung-xray", "largeeffusion"):
        pipe.load_textual_inversion(tmp_path / "run" / "adapter" / f"{name}.safetensors")
    prompt = "a <lung-xray> with <large effusion>"
    asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32}
    images = [
        each(prompt, generator=torch.Generator("cpu").manual_seed(3), **asked).images[0]
        for each in (pipe, plain(tmp_path / "run" / "pipeline"))
    ]
    ours = Sampler.load(str(tmp_path / "run"), num_inference_steps=3).sample([prompt], [3])[0]
    for image in images:
        assert np.abs(np.asarray(image).astype(float).mean(axis=-1) - ours).max() <= 1


def test_resuming_is_exact_and_a_checkpoint_can_be_sampled(train_micro, read_log, tmp_path):
    stepwise = TOKEN | {"checkpointing_steps": 1, "checkpoints_total_limit": 9}
    train_micro(tmp_path / "whole", **stepwise, max_train_steps=4)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=2)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=4)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    assert torch.equal(table_of(tmp_path / "run"), table_of(tmp_path / "whole"))
    of_checkpoint = locate_model(str(tmp_path / "run" / "checkpoints" / "checkpoint-4")).load(torch.float32)
    assert torch.equal(of_checkpoint.parts["text"].get_input_embeddings().weight, table_of(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_all_vectors_of_a_word_are_read_by_other_tokenizers(micro_base, tmp_path, kind):
    encoder = save_encoder(kind, tmp_path / kind)
    words = {"placeholder_token": "<a>, <large effusion>", "initializer_token": "a", "num_vectors": 3}
    backbone = backbones.load(str(micro_base))
    backbone.adapt(TrainConfig(tune="token", text_encoder=str(encoder), **words))
    ids = backbone.tokenize(["A <large effusion> of <a>, small."])[0]["input_ids"][0]
    assert [i for i in ids if any(i in each for each in backbone.parts["text"].new_words.values())] == [
        i for word in ("<large effusion>", "<a>") for i in backbone.parts["text"].new_words[word]
    ]


QUICK = {"bert", "roberta", "t5"}


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in ENCODERS])
def test_words_are_added_to_other_encoders(train_micro, tmp_path, kind):
    encoder = save_encoder(kind, tmp_path / kind)
    start = {"initializer_token": "a"}
    train_micro(tmp_path / "run", **TOKEN | start, text_encoder=str(encoder))
    table = load_encoder(str(encoder))[0].get_input_embeddings().weight.detach()
    assert torch.equal(table_of(tmp_path / "run")[: len(table)], table)
    tokenizer = backbones.load(str(tmp_path / "run")).tokenizer
    assert len(table) in tokenizer("A <lung-xray>.")["input_ids"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placeholder_token": "the</w>"}, "--placeholder_token the</w>: the tokenizer has this word already"),
        ({"placeholder_token": "The"}, "--placeholder_token The: the tokenizer has this word already"),  # as the</w>
        ({"initializer_token": "a,b"}, "give one word, or one for each of <lung-xray>"),
        ({"placeholder_token": "<a>,<a>"}, "which have to differ"),
        ({"token_caption": None}, "no caption holds <lung-xray>: .* use --token_caption"),
        ({"placeholder_token": "<a>,<a>_1", "num_vectors": 2}, "<a>_1 is a word and a vector of another one"),
        ({"placeholder_token": "<A>", "num_vectors": 2}, "does not read all 2 vectors of it, .*small letters"),
        ({"num_vectors": 90}, "--num_vectors 90: all captions are cut before the last vector of <lung-xray>"),
    ],
)
def test_wrong_words_are_refused(train_micro, tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as refused:
        train_micro(tmp_path / "run", **TOKEN | settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": "token"}, "--tune token needs --placeholder_token and --initializer_token"),
        (TOKEN | {"placeholder_token": " ,"}, "--tune token needs --placeholder_token and --initializer_token"),
        ({"tune": "unet", "placeholder_token": "<a>"}, "--placeholder_token is for --tune token, not for unet"),
        ({"tune": "token+unet"}, "token, vae, classifier, segmenter and clip train alone"),
        (TOKEN | {"caption_dropout": 0.2}, "--caption_dropout is for --tune unet or text"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)
