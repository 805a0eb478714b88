"""Text encoders by name: what is loaded equals the author's model, and what is no encoder is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from sdcxr.backbones.encoder_classes import text_positions, without_last_layers
from sdcxr.backbones.encoder_files import is_encoder, load_encoder
from sdcxr.backbones.text_encoders import TextEncoder, tokenize
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.small_encoders import ENCODERS, WIDTH, bert_settings, save_encoder, wordpiece

TEXTS = ["Large left pneumothorax.", "no acute cardiopulmonary process, no effusion", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of every kind of encoder."""
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(kind, root / kind) for kind in ENCODERS}


def states_of(encoder, tokenizer, length: int | None = None) -> torch.Tensor:
    tokenizer.model_max_length = length or min(tokenizer.model_max_length, text_positions(encoder) or 77)
    tokens = tokenize(tokenizer, TEXTS)
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    with torch.no_grad():
        return TextEncoder(encoder.eval(), tokenizer, encoder.config.use_attention_mask).states(ids, mask)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_kind_gives_a_state_per_token(folders, kind):
    encoder, tokenizer = load_encoder(str(folders[kind]))
    states = states_of(encoder, tokenizer)
    assert states.shape == (3, tokenizer.model_max_length, WIDTH) and states.std() > 0.01
    assert encoder.config.use_attention_mask == (type(encoder).__name__ != "CLIPTextModel")


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "open_clip_bert"])
def test_padding_does_not_change_a_state(folders, kind):
    encoder, tokenizer = load_encoder(str(folders[kind]))
    long, short = states_of(encoder, tokenizer, 60), states_of(encoder, tokenizer, 30)
    for row in (0, 2):  # the other text is longer than 30 bytes
        n = len(tokenizer(TEXTS[row])["input_ids"])
        torch.testing.assert_close(long[row, :n], short[row, :n], atol=1e-6, rtol=0)


def test_bert_t5_and_clip_are_those_of_transformers(folders):
    from transformers import BertForMaskedLM, CLIPModel, T5Model

    for kind, whole in (("bert", BertForMaskedLM), ("t5", T5Model), ("clip", CLIPModel)):
        encoder, tokenizer = load_encoder(str(folders[kind]))
        model = whole.from_pretrained(folders[kind]).eval()
        inner = {"bert": lambda m: m.bert, "t5": lambda m: m.encoder, "clip": lambda m: m.text_model}[kind](model)
        tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
        given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            torch.testing.assert_close(encoder.eval()(**given)[0], inner(**given)[0])


def test_the_tower_of_open_clip_gives_its_own_embedding(folders):
    import open_clip
    from safetensors.torch import load_file

    about = json.loads((folders["open_clip"] / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CLIP(**about).eval()
    model.load_state_dict(load_file(folders["open_clip"] / "open_clip_model.safetensors"))
    encoder, tokenizer = load_encoder(str(folders["open_clip"]))
    texts = TEXTS[:2]
    tokenizer.model_max_length = 77
    ids = torch.from_numpy(tokenize(tokenizer, texts).ids)
    assert torch.equal(ids, open_clip.SimpleTokenizer()(texts))
    with torch.no_grad():
        end = encoder.eval()(ids)[0][torch.arange(2), ids.argmax(dim=1)] @ model.text_projection
        torch.testing.assert_close(end, model.encode_text(ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_saved_tokenizer_reads_texts_as_before(folders, tmp_path, kind):
    _, tokenizer = load_encoder(str(folders[kind]))
    tokenizer.save_pretrained(tmp_path)
    texts = [*TEXTS, "Edema! a!!b", "<Left> ___ 3.5 cm; 日", "Effusion\n\tand  edema"]
    assert AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_the_bert_in_a_model_of_open_clip_gives_its_own_embedding(folders):
    import open_clip
    from safetensors.torch import load_file

    folder = folders["open_clip_bert"]
    about = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CustomTextCLIP(**about).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    encoder, tokenizer = load_encoder(str(folder))
    assert tokenizer.model_max_length == 64
    tokens = tokenizer(TEXTS, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        states = encoder.eval()(tokens["input_ids"], attention_mask=tokens["attention_mask"])[0]
        torch.testing.assert_close(model.text.proj(states[:, 0]), model.encode_text(tokens["input_ids"]))


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "clip"])
def test_without_its_last_layer_an_encoder_gives_the_states_before_it(folders, kind):
    encoder, tokenizer = load_encoder(str(folders[kind]))
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = encoder.eval()(**given, output_hidden_states=True).hidden_states[-2]
        final = {"t5": lambda: encoder.encoder.final_layer_norm, "clip": lambda: encoder.final_layer_norm}
        expected = final[kind]()(before) if kind in final else before
        torch.testing.assert_close(without_last_layers(encoder, 1)(**given)[0], expected)
    with pytest.raises(UserError, match=r"--text_skip_layers 2: the text encoder has 2 layers"):
        without_last_layers(encoder, 2)


def test_layers_of_an_encoder_with_a_setting_for_each_are_not_left_out():
    from transformers import LongformerConfig, LongformerModel, ModernBertConfig, ModernBertModel

    settings = bert_settings(wordpiece(), WIDTH, 2)
    windows = LongformerModel(LongformerConfig(**settings, attention_window=[8, 8]))
    kinds = ModernBertModel(ModernBertConfig(**settings, **dict.fromkeys(MODERN, 0)))
    for encoder in (windows, kinds):
        with pytest.raises(UserError, match=rf"--text_skip_layers: a {type(encoder).__name__} cannot leave out layers"):
            without_last_layers(encoder, 1)


MODERN = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")  # its own lie behind the small vocabulary


def test_positions_of_roberta_begin_behind_that_of_padding(folders):
    assert text_positions(load_encoder(str(folders["roberta"]))[0]) == 88
    assert text_positions(load_encoder(str(folders["bert"]))[0]) == 80
    assert text_positions(load_encoder(str(folders["t5"]))[0]) is None


def test_the_encoder_of_a_pipeline_or_run_is_taken(micro_base, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pipeline").symlink_to(micro_base)
    for name in (micro_base, tmp_path / "run"):
        encoder, tokenizer = load_encoder(str(name))
        assert type(encoder).__name__ == "CLIPTextModel" and tokenizer.model_max_length == 77


def refused(name: Path | str, message: str, **settings: bool) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_encoder(str(name), **settings)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"--text_encoder {name}: ")


def test_what_is_no_encoder_is_refused(tmp_path):
    from transformers import GPT2Config, GPT2Model

    refused("nowhere", "no such folder")
    refused("owner/name", r"nor to be had from the Hugging Face hub \(\w+\): check the name and the network")
    refused(tmp_path, r"has no config\.json of transformers and no open_clip_config\.json")
    GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)).save_pretrained(tmp_path / "gpt")
    wordpiece().save_pretrained(tmp_path / "gpt")
    refused(tmp_path / "gpt", "is a gpt2, a decoder-only language model: give an encoder")
    edit(tmp_path / "gpt", model_type="bart", is_encoder_decoder=True)
    refused(tmp_path / "gpt", "is a bart, whose text encoder is not known: give another")


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    folder = save_encoder("bert", tmp_path / "bert")
    tokenizer = wordpiece()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    refused(folder, r"its tokenizer has 84 words, its text encoder 83: where words were added")


def edit(folder: Path, **settings: object) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | settings))


def test_damaged_folders_are_refused(tmp_path):
    folder = save_encoder("bert", tmp_path / "bert")
    edit(folder, num_hidden_layers=1)
    refused(folder, r"its weights hold more than its config\.json asks for: .*layer\.1")
    edit(folder, num_hidden_layers=3)
    refused(folder, r"its weights lack encoder\.layer\.2")
    edit(folder, num_hidden_layers=2, is_decoder=True)
    refused(folder, "decoder-only")
    edit(folder, is_decoder=False, model_type="unheard_of")
    refused(folder, "is a unheard_of, which the installed transformers does not know")
    edit(folder, model_type="bert", num_hidden_layers="two")
    refused(folder, "Validation error for field 'num_hidden_layers': .*expected int, got str")
    edit(folder, num_hidden_layers=2)
    (folder / "model.safetensors").write_bytes(b"damaged")
    refused(folder, "header")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, r"has no \.safetensors weights, and pickled ones are not read: .*save_pretrained")
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer")


def test_models_of_open_clip_that_cannot_be_taken_over_are_refused(tmp_path):
    own, bert = (save_encoder(kind, tmp_path / kind) for kind in ("open_clip", "open_clip_bert"))
    file = own / "open_clip_config.json"
    about = json.loads(file.read_text())
    about["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    file.write_text(json.dumps(about))
    refused(own, "has a text tower with no_causal_mask, which no encoder of transformers computes")
    (own / "open_clip_model.safetensors").rename(own / "open_clip_pytorch_model.bin")
    refused(own, r"has no weights in safetensors .*; pickled ones are not read")
    (bert / "inner" / "config.json").unlink()
    refused(bert, r"needs config\.json of .*inner: copy that file into the folder")


CODE = """
from transformers import BertConfig, BertForMaskedLM
class OwnConfig(BertConfig):
    model_type = "own"
class OwnModel(BertForMaskedLM):
    config_class = OwnConfig
"""


def test_code_of_a_folder_is_run_only_where_the_user_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_encoder("bert", tmp_path / "bert")
    (folder / "own.py").write_text(CODE)
    plain, _ = load_encoder(str(folder))
    edit(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    refused(folder, "needs code from its own folder, which is not run: read it, and add --trust_remote_code")
    encoder, _ = load_encoder(str(folder), trust_remote_code=True)
    assert type(encoder) is type(plain) and encoder.config.model_type == "bert"
    own, its = encoder.state_dict(), plain.state_dict()
    assert own.keys() == its.keys() and all(torch.equal(own[key], its[key]) for key in own)


@pytest.mark.parametrize("error", [None, FileNotFoundError("no such entry")])
def test_a_repository_without_a_pipeline_is_of_an_encoder(error, monkeypatch):
    def download(name: str, file: str) -> str:
        assert (name, file) == ("owner/name", "model_index.json")
        if error:
            raise error
        return file

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert is_encoder("owner/name") is (error is not None)


def test_a_folder_is_of_an_encoder_a_pipeline_or_neither(folders, micro_base, tmp_path):
    assert is_encoder(str(folders["bert"])) and is_encoder(str(folders["open_clip"]))
    others = (micro_base, micro_base / "text_encoder", tmp_path, tmp_path / "absent")
    assert not any(is_encoder(str(folder)) for folder in others)
