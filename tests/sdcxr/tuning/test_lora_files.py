"""LoRA for others: diffusers and peft read it without this project, at an alpha that is not the rank."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdcxr import backbones, tuning
from sdcxr.backbones.encoder_files import load_encoder
from sdcxr.config import TrainConfig
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.lora_files import kohya_entries, plain_lora
from sdcxr.tuning.peft_methods import Lora
from tests.sdcxr.backbones.small_encoders import save_encoder

SETTINGS = {"tune": "unet+text", "method": "lora", "lora_rank": 2, "lora_alpha": 24.0, "learning_rate": 0.05}
PROMPT = "small left effusion"

PLAIN = """
import sys
import numpy, torch
from diffusers import StableDiffusionPipeline
base, prompt, output, *adapters = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
asked = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "np"}
images = []
for folder in [None, *adapters]:
    if folder is not None:
        pipe.load_lora_weights(folder)
    images.append(pipe(prompt, generator=torch.Generator("cpu").manual_seed(3), **asked).images[0].mean(axis=-1))
    if folder is not None:
        pipe.unload_lora_weights()
numpy.save(output, numpy.stack(images))
assert "sdcxr" not in sys.modules
"""


@pytest.mark.slow  # diffusers once more
def test_diffusers_alone_makes_the_same_images(micro_base, train_micro, tmp_path):
    runs = [tmp_path / style for style in ("diffusers", "kohya", "dora")]
    for run in runs:
        own = {"tune": "unet", "method": "dora"} if run.name == "dora" else {"lora_format": run.name}
        train_micro(run, **SETTINGS | own)
    ours = [Sampler.load(str(run), num_inference_steps=3).sample([PROMPT], [3])[0].astype(float) for run in runs]
    adapters = [str(run / "adapter") for run in runs]
    arguments = [sys.executable, "-c", PLAIN, str(micro_base), PROMPT, str(tmp_path / "images.npy"), *adapters]
    subprocess.run(arguments, check=True, timeout=200, cwd=tmp_path, capture_output=True)
    base, *theirs = np.load(tmp_path / "images.npy") * 255
    for image, own_image in zip(theirs, ours, strict=True):
        assert np.abs(image - own_image).max() <= 1
        assert np.abs(base - own_image).max() > 5  # the adapter does something


def test_the_names_are_those_that_web_uis_read(train_micro, tmp_path):
    train_micro(tmp_path / "run", **SETTINGS, lora_format="kohya")
    tensors = load_file(tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors")
    unet = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    for layer in (unet, text):
        assert tensors[f"{layer}.lora_down.weight"].shape[0] == tensors[f"{layer}.lora_up.weight"].shape[1] == 2
        assert tensors[f"{layer}.alpha"].item() == 2  # alpha over rank is in the weights
    assert all(name.startswith(("lora_unet_", "lora_te_text_model_")) for name in tensors)


def test_the_scale_is_folded_into_one_side():
    state = {"layer.lora_A.weight": torch.ones(2, 3), "layer.lora_B.weight": torch.ones(4, 2)}
    folded = plain_lora("unet", state, 12.0)
    assert torch.equal(folded["layer.lora_A.weight"], torch.ones(2, 3))
    assert torch.equal(folded["layer.lora_B.weight"], torch.full((4, 2), 12.0))
    assert kohya_entries("unet", "a.to_q.lora_B.weight", torch.ones(4, 2)).keys() == {"lora_unet_a_to_q.lora_up.weight"}


def test_kohya_has_no_names_for_dora_beside_lora(micro_base):
    """Refused before the training, not when its result is saved."""
    config = TrainConfig(tune="unet+text", method="unet=dora,text=lora", lora_format="kohya")
    with pytest.raises(UserError, match="no such names for dora of a UNet2DConditionModel, only for lora"):
        tuning.tune(backbones.load(str(micro_base)), config)


@pytest.fixture(scope="module")
def bases(micro_base, train_micro, tmp_path_factory):
    """Bases by the kind of their text encoder."""
    folder = tmp_path_factory.mktemp("bases")
    bert = str(save_encoder("bert", folder / "bert"))
    train_micro(folder / "base", tune="text", max_train_steps=1, text_encoder=bert)
    return {"clip": micro_base, "bert": folder / "base"}


SEVERAL = ["dora", "loha", "adalora", "ia3"]
OF_CLIP = [pytest.param("clip", method, marks=pytest.mark.slow) for method in SEVERAL]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"), [("clip", "lora"), *(("bert", each) for each in ["lora", *SEVERAL]), *OF_CLIP]
)
def test_peft_reads_the_adapter_of_a_text_encoder(kind, method, train_micro, tmp_path, bases):
    from peft import PeftModel

    base = bases[kind]
    rank = {} if method == "ia3" else {"lora_rank": 2, "lora_alpha": 24.0}
    train_micro(tmp_path / "run", tune="text", method=method, learning_rate=0.05, base=str(base), **rank)
    encoder = backbones.load(str(base)).parts["text"].eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        before = encoder(ids).last_hidden_state
        loaded = PeftModel.from_pretrained(encoder, tmp_path / "run" / "adapter" / "text").eval()
        expected = backbones.load(str(tmp_path / "run")).parts["text"].eval()(ids).last_hidden_state
        torch.testing.assert_close(loaded(ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        assert (expected - before).abs().max() > 1e-3


def test_kohyas_names_are_only_for_what_has_them(tmp_path):
    encoder = load_encoder(str(save_encoder("bert", tmp_path / "bert")))[0]
    with pytest.raises(UserError, match="--lora_format kohya: there are no such names for lora of a BertModel"):
        Lora().inject(encoder, TrainConfig(tune="text", method="lora", lora_format="kohya"))
