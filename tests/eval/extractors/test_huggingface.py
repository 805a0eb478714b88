"""Vision models of transformers: local folders, their processors, and weights that are not all there."""

import numpy as np
import pytest
import torch
from PIL import Image

from eval import extractors
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import CPU, features, radiograph

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A small Dinov2 with RAD-DINO's processor at 28 px."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7, mlp_ratio=2
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
    ).save_pretrained(folder)
    return folder, model


def test_a_dinov2_folder_gives_its_pooled_cls_token(dino):
    folder, model = dino
    extractor = extractors.find_extractor(str(folder))
    image = radiograph(56, 56)
    fed = torch.from_numpy(extractor.prepare(image))[None]
    exact = image.resize((28, 28), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(fed[0, 0], (np.asarray(exact) / 255 - 0.5307) / 0.2583, atol=1e-5)
    with torch.inference_mode():
        expected = model(pixel_values=fed).pooler_output
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    assert "28" in extractor.preprocessing and extractor.name.endswith("@native")


def test_the_path_of_chexgenbench_is_299_first(dino):
    extractor = extractors.find_extractor(f"{dino[0]}@chexgenbench")
    image = radiograph(100, 56)
    first = image.resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(extractor.prepare(image), extractors.find_extractor(str(dino[0])).prepare(first))
    assert extractor.preprocessing.startswith("pil-bilinear 299")


def test_rad_dino_is_found_in_the_weights_folder_by_its_name(dino, tmp_path):
    (tmp_path / "rad-dino").symlink_to(dino[0])
    assert extractors.find_extractor("rad-dino", tmp_path).name == "rad-dino@native"
    assert (
        extractors.find_extractor("microsoft/rad-dino@chexgenbench", tmp_path).name == "microsoft/rad-dino@chexgenbench"
    )


def test_absent_weights_are_never_replaced_by_random_ones(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    model = ViTModel(config).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    image = radiograph(40, 40)

    save_file(
        {k: v for k, v in state.items() if not k.startswith("pooler.")},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    extractor = extractors.find_extractor(str(tmp_path))
    with torch.inference_mode():
        tokens = model(pixel_values=torch.from_numpy(extractor.prepare(image))[None]).last_hidden_state
    np.testing.assert_allclose(features(extractor, image), tokens[:, 0], atol=1e-5)

    absent = next(name for name in state if "layernorm" in name)
    save_file({k: v for k, v in state.items() if k != absent}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are absent.*layernorm"):
        extractors.find_extractor(str(tmp_path)).load(CPU)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors weights"):
        extractors.find_extractor(str(tmp_path))


def test_a_model_with_text_gives_its_projected_image_embedding(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 50},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    found = features(extractors.find_extractor(str(tmp_path)), radiograph(40, 40))
    assert found.shape == (1, 8)
