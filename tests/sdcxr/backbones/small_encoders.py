"""Text encoders of every class in small, with random weights and their tokenizers, saved as their authors save them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WIDTH = 16  # of the micro base's cross-attention
TEXT = """no acute cardiopulmonary process small left pleural effusion large right pneumothorax cardiomegaly moderate
stable a photo of lung xray 3 5 cm . , ; " -"""
WORDS = TEXT.split()
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def wordpiece() -> Any:
    """BERT's tokenizer with the words of the micro dataset and the letters."""
    from transformers import BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS[1:], *(f"##{each}" for each in LETTERS)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=512)


def byte_pairs() -> Any:
    """RoBERTa's tokenizer without merges."""
    from transformers import RobertaTokenizer

    from sdcxr.text.clip_tokens import byte_letters

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_letters()]
    return RobertaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=512)


def unigrams() -> Any:
    """T5's tokenizer."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0 - i / 100) for i, word in enumerate(WORDS)]
    pieces += [(each, -8.0) for each in [*LETTERS, "▁", ".", ",", ";", "'", "-", *"0123456789"]]
    return T5Tokenizer(vocab=list(dict(pieces).items()), extra_ids=0, model_max_length=512)


def bert_settings(tokenizer: Any, width: int, layers: int, positions: int = 80) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
    }


def clip_settings(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    about = bert_settings(tokenizer, width, layers, positions=77) | special
    return about | {"hidden_act": "quick_gelu", "projection_dim": 8}


def save_bert(folder: Path, width: int, layers: int) -> None:
    """As a masked language model, as most domain encoders are: with a head, without a pooler."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = wordpiece()
    _save(BertForMaskedLM(BertConfig(**bert_settings(tokenizer, width, layers))), tokenizer, folder)


def save_roberta(folder: Path, width: int, layers: int) -> None:
    from transformers import RobertaConfig, RobertaModel

    tokenizer = byte_pairs()
    special = {"bos_token_id": 0, "eos_token_id": 2}
    about = bert_settings(tokenizer, width, layers, positions=90) | special
    _save(RobertaModel(RobertaConfig(**about)), tokenizer, folder)


def save_t5(folder: Path, width: int, layers: int) -> None:
    """With its decoder, as T5 is published."""
    from transformers import T5Config, T5Model

    tokenizer = unigrams()
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": layers, "num_heads": 2}
    about = {"vocab_size": len(tokenizer), "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0} | sizes
    _save(T5Model(T5Config(**about)), tokenizer, folder)


def save_clip(folder: Path, width: int, layers: int) -> None:
    """A whole CLIP, with image tower."""
    from transformers import CLIPConfig, CLIPModel

    from tests.conftest import micro_tokenizer

    tokenizer = micro_tokenizer()
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=clip_settings(tokenizer, width, layers), vision_config=vision, projection_dim=8)
    _save(CLIPModel(config), tokenizer, folder)


def save_clip_with_projection(folder: Path, width: int, layers: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from tests.conftest import micro_tokenizer

    tokenizer = micro_tokenizer()
    _save(CLIPTextModelWithProjection(CLIPTextConfig(**clip_settings(tokenizer, width, layers))), tokenizer, folder)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_open_clip(folder: Path, width: int, layers: int) -> None:
    """A model of open_clip with its own text tower."""
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": 2, "layers": layers}
    _save_open_clip(folder, text)


def save_open_clip_bert(folder: Path, width: int, layers: int) -> None:
    """As BiomedCLIP: a BERT inside, whose config.json lies elsewhere."""
    save_bert(folder / "inner", width, layers)
    inner = {"hf_model_name": str(folder / "inner"), "hf_model_pretrained": False, "context_length": 64}
    text = inner | {
        "hf_tokenizer_name": "of/its-folder",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
    }
    _save_open_clip(folder, text)
    for file in (folder / "inner").glob("*token*"):
        shutil.copy(file, folder)


def _save_open_clip(folder: Path, text: dict[str, Any]) -> None:
    import open_clip

    vision = {"image_size": 8, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8}
    about = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    kind = open_clip.CustomTextCLIP if "hf_model_name" in text else open_clip.CLIP
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": about}))
    state = {name: value.contiguous() for name, value in kind(**about).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


ENCODERS: dict[str, Callable[[Path, int, int], None]] = {
    "bert": save_bert,
    "roberta": save_roberta,
    "t5": save_t5,
    "clip": save_clip,
    "clip_with_projection": save_clip_with_projection,
    "open_clip": save_open_clip,
    "open_clip_bert": save_open_clip_bert,
}


def save_encoder(kind: str, folder: Path, width: int = WIDTH, layers: int = 2) -> Path:
    """A folder with an encoder of this kind."""
    torch.manual_seed(1)
    ENCODERS[kind](folder, width, layers)
    return folder
