"""open_clip's towers: local folders, OpenAI's activation, BiomedCLIP without the hub."""

import json

import numpy as np
import pytest
import torch

from eval import extractors
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import CPU, features, radiograph

pytestmark = pytest.mark.usefixtures("no_network")

SMALL_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def save_clip(folder, about: dict, state: dict, pickled: bool = False) -> None:
    from safetensors.torch import save_file

    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": PREPROCESS}))
    if pickled:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_local_open_clip_folder_gives_what_open_clip_gives(tmp_path, pickled):
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL_CLIP).eval()
    save_clip(tmp_path, SMALL_CLIP, model.state_dict(), pickled)
    whole, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    whole.eval()
    image, texts = radiograph(48, 40), ["no pneumothorax", "cardiomegaly"]
    extractor = extractors.find_extractor(str(tmp_path))
    assert extractors.find_extractor(f"clip:{tmp_path}").preprocessing == extractor.preprocessing
    with torch.inference_mode():
        expected = whole.encode_image(transform(image)[None])
        expected_texts = whole.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts))
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    found = extractor.load_texts(CPU)([*texts, "pneumothorax " * 80])
    np.testing.assert_allclose(found.values[:2], expected_texts, atol=1e-5)
    assert found.cut.tolist() == [False, False, True]


def test_openais_weights_take_quick_gelu_whatever_the_configuration_says(tmp_path):
    import open_clip

    model = open_clip.CLIP(**SMALL_CLIP, quick_gelu=True).eval()
    (tmp_path / "ViT-B-32").mkdir()
    (tmp_path / "vit_base_patch32_clip_224.openai").mkdir()
    save_clip(tmp_path / "vit_base_patch32_clip_224.openai", SMALL_CLIP, model.state_dict())
    extractor = extractors.find_extractor("clip:ViT-B-32", tmp_path)
    image = radiograph(32, 32)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(extractor.prepare(image))[None])
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)


def test_biomedclips_text_encoder_is_built_without_the_hub(tmp_path):
    """A timm image tower and a BERT text tower that names a repository, as in BiomedCLIP's folder."""
    import open_clip
    from transformers import BertConfig

    torch.manual_seed(0)
    encoder = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    bert = tmp_path / "BiomedNLP-BiomedBERT-base-uncased-abstract"
    folder = tmp_path / "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    folder.mkdir()
    BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(bert)
    about = {
        "embed_dim": 8,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": True,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": encoder,
            "hf_tokenizer_name": encoder,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    }
    here = about | {
        "vision_cfg": about["vision_cfg"] | {"timm_model_pretrained": False},
        "text_cfg": about["text_cfg"] | {"hf_model_name": str(bert), "hf_model_pretrained": False},
    }
    model = open_clip.CustomTextCLIP(**here).eval()
    state = dict(model.state_dict()) | {"text.transformer.embeddings.position_ids": torch.arange(512)[None]}
    save_clip(folder, about, state, pickled=True)
    write_tokenizer(folder)

    extractor = extractors.find_extractor("biomedclip", tmp_path)
    image = radiograph(32, 32)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(extractor.prepare(image))[None])
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    found = extractor.load_texts(CPU)(["a b", "b", "a " * 600])
    assert found.cut.tolist() == [False, False, True]
    found = found.values
    assert found.shape == (3, 8) and np.abs(found[0] - found[1]).max() > 1e-6
    bert.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{encoder}.*config.json is enough"):
        extractor.load_texts(CPU)


def write_tokenizer(folder) -> None:
    """A BERT tokenizer of a few words."""
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)


def test_weights_of_another_clip_are_refused(tmp_path):
    import open_clip

    model = open_clip.CLIP(**SMALL_CLIP)
    save_clip(tmp_path, SMALL_CLIP | {"embed_dim": 16}, model.state_dict())
    with pytest.raises(UserError, match=r"does not fit its open_clip_config\.json"):
        extractors.find_extractor(str(tmp_path)).load(CPU)
