"""Text encoders by name: of transformers, of open_clip, or of another pipeline; each with its tokenizer."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sdcxr.backbones.compatibility import fit_tokenizer
from sdcxr.backbones.encoder_classes import encoder_class, fill_pooler, plain_encoder
from sdcxr.backbones.open_clip_text import CONFIG as OPEN_CLIP
from sdcxr.backbones.open_clip_text import load_open_clip
from sdcxr.backbones.pipeline_files import VOCABULARIES
from sdcxr.backbones.registry import LOADING_ERRORS, part_of
from sdcxr.io.hub import hub_folder, is_hub_name
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.memory import is_out_of_memory
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

USUAL_LENGTH = 512  # in tokens, where positions are relative and the tokenizer names none
# What is downloaded of a repository: nothing pickled, no image tower in another format.
FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.py")


def is_encoder(name: str) -> bool:
    """Whether a folder or hub name is of a text encoder alone: neither of a pipeline, nor of a part of one or a run.

    A hub name of which nothing can be had counts as an encoder's, and loading it says why.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        alone = not (folder / "model_index.json").is_file() and part_of(folder) is None
        return alone and any((folder / file).is_file() for file in ("config.json", OPEN_CLIP))
    if not is_hub_name(name):
        return False
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(name, "model_index.json")
    except (OSError, ValueError):
        return True
    return False


def load_encoder(name: str, trust_remote_code: bool = False, flag: str = "--text_encoder") -> tuple[Any, Any]:
    """A text encoder of a class of transformers, in float32, and its tokenizer, limited to its positions.

    Its first output is the token states (batch, tokens, width). `use_attention_mask` of its configuration says whether
    it is given the attention mask: not CLIP, which is causal, others are.

    Args:
        name: hub name, or folder of an encoder, of an open_clip model, of a pipeline or of a run.
        trust_remote_code: run code that comes with it.
        flag: that named it, for messages.

    Raises:
        UserError: what is missing or does not fit, and what to do.
    """
    folder = encoder_folder(name, flag)
    pipeline = next((each for each in (folder / "pipeline", folder) if (each / "model_index.json").is_file()), None)
    encoder, vocabulary = (pipeline / "text_encoder", pipeline / "tokenizer") if pipeline else (folder, folder)
    about = _settings(encoder / "config.json")
    try:
        with quiet_libraries(*LIBRARIES):
            if "model_type" in about:
                _require_vocabulary(vocabulary)
                module, tokenizer = _of_transformers(encoder, vocabulary, about, trust_remote_code)
            elif (encoder / OPEN_CLIP).is_file():
                module, tokenizer = load_open_clip(encoder)
            else:
                raise UserError("has no config.json of transformers and no open_clip_config.json")
            fit_tokenizer(tokenizer, module, USUAL_LENGTH)
            return module.float().eval(), tokenizer
    except SafetensorError as error:
        raise UserError(f"{flag} {name}: its weights are damaged ({error}): copy them again") from None
    except (*LOADING_ERRORS, ImportError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{flag} {name}: {first_line(error)}") from None


def encoder_folder(name: str, flag: str) -> Path:
    """The local folder of an encoder, downloaded where it is a hub name that is not cached.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_name(name):
        raise UserError(f"{flag} {name}: no such folder (a hub name has the form owner/name)")
    return hub_folder(name, f"{flag} {name}", FILES)


def _settings(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_vocabulary(folder: Path) -> None:
    names = (*VOCABULARIES, "sentencepiece.bpe.model", "tokenizer.model")
    if not any((folder / name).is_file() for name in names):
        raise UserError(f"has no tokenizer ({', '.join(names)}): copy the tokenizer's files into its folder")


def _of_transformers(folder: Path, vocabulary: Path, about: dict[str, Any], trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    encoder = _custom(folder) if _brings_code(about, trust_remote_code) else _standard(folder, about)
    tokenizer = AutoTokenizer.from_pretrained(vocabulary, trust_remote_code=trust_remote_code)
    if not hasattr(encoder.config, "use_attention_mask"):
        encoder.config.use_attention_mask = not about["model_type"].startswith("clip")
    return encoder, tokenizer


def _brings_code(about: dict[str, Any], trusted: bool) -> bool:
    """Whether the class of the encoder is one of code in its own folder."""
    from transformers import CONFIG_MAPPING

    if about["model_type"] in CONFIG_MAPPING:
        return False
    if not about.get("auto_map"):
        raise UserError(f"is a {about['model_type']}, which the installed transformers does not know")
    if not trusted:
        raise UserError("needs code from its own folder, which is not run: read it, and add --trust_remote_code")
    return True


def _standard(folder: Path, about: dict[str, Any]) -> Any:
    """An encoder of a class of transformers, with exactly the weights of its files."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            "has no .safetensors weights, and pickled ones are not read: where you trust them, "
            'AutoModel.from_pretrained(…).save_pretrained("NEW") of transformers and the same for AutoTokenizer write '
            "a folder NEW that can be used"
        )
    kind = encoder_class(about)
    encoder, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    fill_pooler(encoder, set(info["missing_keys"]))
    own = {key.split(".")[0] for key in encoder.state_dict()}
    prefix = f"{encoder.base_model_prefix}."
    # Heads, decoders and image towers are left out; what belongs to the encoder's own modules is not.
    surplus = [
        k for k in info["unexpected_keys"] if k.removeprefix(prefix).split(".")[0] in own and "position_ids" not in k
    ]
    if surplus:
        raise UserError(f"its weights hold more than its config.json asks for: {surplus[0]} ({len(surplus)} in all)")
    return encoder


def _custom(folder: Path) -> Any:
    """The encoder of transformers inside a class of the folder's own code, which the user trusts.

    The saved pipeline has to load without that code.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    kind = AutoModel if "AutoModel" in config.auto_map else AutoModelForMaskedLM
    whole = kind.from_pretrained(folder, trust_remote_code=True, use_safetensors=True)
    inner = whole.base_model
    standard: Any = next((each for each in type(inner).__mro__ if each.__module__.startswith("transformers.")), None)
    if standard is None or not hasattr(standard, "from_pretrained") or standard.config_class is None:
        raise UserError(f"is a {type(inner).__name__}, not a class of transformers: plain diffusers could not load it")
    return plain_encoder(standard, inner.config.to_dict(), inner.state_dict())
