"""Texts to token ids and embeddings: CLIP's own tokens, masks, pooling, and padding that changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcxr import backbones
from sdcxr.backbones.text_encoders import TextEncoder, tokenize
from sdcxr.runtime.errors import UserError
from sdcxr.text.clip_tokens import clip_tokenizer


@pytest.fixture(scope="module")
def clip():
    return clip_tokenizer()


def test_token_ids_are_padded_cut_and_counted(clip, capfd):
    tokens = tokenize(clip, ["pleural", "the " * 75, "the " * 76])
    ids, mask = tokens.ids, tokens.mask
    assert ids.shape == (3, 77) and ids.dtype == np.int64 and tokens.n_cut == 1
    assert mask.sum(axis=1).tolist() == [4, 77, 77] and mask[0, :4].all()
    assert ids[0, 0] == 49406 and (ids[0, 5:] == 49407).all()
    assert (ids[:, 0] == 49406).all() and (ids[:, -1] == 49407).all()
    assert capfd.readouterr() == ("", "")


def test_a_long_text_is_taken_in_windows_each_with_start_end_and_padding(capfd):
    clip = clip_tokenizer(231)
    texts = ["pleural", "the " * 75, "the " * 76, "the " * 225, "the " * 226, ""]
    tokens = tokenize(clip, texts, window=77)
    assert tokens.ids.shape == tokens.mask.shape == (6, 231) and tokens.ids.dtype == np.int64 and tokens.n_cut == 1
    windows = tokens.ids.reshape(6, 3, 77)
    assert (windows[:, :, 0] == 49406).all() and (windows[:, :, -1] == 49407).all()
    the = clip("the").input_ids[1]
    assert (windows == the).sum(axis=2).tolist() == [[0] * 3, [75, 0, 0], [75, 1, 0], [75] * 3, [75] * 3, [0] * 3]
    assert tokens.mask.reshape(6, 3, 77).sum(axis=2)[:3].tolist() == [[4, 2, 2], [77, 2, 2], [77, 3, 2]]
    assert (windows[0, 1] == clip("", padding="max_length", max_length=77).input_ids).all()
    assert (windows[:3, 0] == tokenize(clip_tokenizer(), texts[:3]).ids).all()
    assert capfd.readouterr() == ("", "")


@torch.no_grad()
def test_windows_are_encoded_each_by_itself_and_embedded_without_the_empty_ones(micro_base):
    encoder = backbones.load(str(micro_base)).text_encoder
    texts = ["Large left pneumothorax.", " ".join(["effusion"] * 40)]
    short = encoder.embed(texts[:1]), encoder.embed(texts[:1], "end")
    encoder.tokenizer.model_max_length = 231
    tokens = encoder.tokenize(texts)
    states = encoder.states(torch.from_numpy(tokens.ids))
    assert states.shape == (2, 231, 16) and tokens.mask[1, 77:154].sum() > 2
    for number in range(3):
        part = slice(77 * number, 77 * (number + 1))
        alone = encoder.module(torch.from_numpy(tokens.ids[:, part]))[0]
        torch.testing.assert_close(states[:, part], alone)
    np.testing.assert_allclose(encoder.embed(texts)[:1], short[0], atol=1e-6)
    np.testing.assert_allclose(encoder.embed(texts, "end")[:1], short[1], atol=1e-6)
    used = tokens.mask[1].reshape(3, 77).sum(axis=1)
    end = max(77 * number + n - 1 for number, n in enumerate(used) if n > 2)
    np.testing.assert_allclose(encoder.embed(texts, "end")[1], states[1, end].numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def simple():
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


SENTENCES = [
    "No acute cardiopulmonary process.",
    "Large left pneumothorax, ~3.5 cm; no shift.",
    "AP portable upright view: ET tube 4cm above carina!",
    "Unchanged moderate cardiomegaly w/o edema (CHF).",
    "___ year-old with RLL opacity c/w pneumonia?",
    "Findings: it's the patient's 2nd CXR. They've 10-15% PTX",
    "Hôpital Ménière 日本 \t tabs and\nlines",
    "",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_tokenizer_is_open_clips_own_on_reports(clip, simple, text):
    assert clip(text).input_ids == [49406, *simple.encode(text), 49407]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
@settings(max_examples=300)
def test_tokenizer_is_open_clips_own_on_any_printable_text(clip, simple, text):
    if "&" in text or "<" in text:  # open_clip unescapes HTML and knows markers, CLIP's tokenizer does not
        return
    assert clip(text).input_ids == [49406, *simple.encode(text), 49407]


def bert() -> TextEncoder:
    """A small encoder that looks both ways, with a tokenizer that pads to 16."""
    from transformers import BertConfig, BertModel

    class Padded:
        model_max_length = 16

        def __call__(self, texts, padding=None, max_length=16, **_):
            rows = [[1, *(2 + ord(letter) % 20 for letter in text), 1] for text in texts]
            if padding is None:
                return {"input_ids": rows}
            ids = np.array([row + [0] * (max_length - len(row)) for row in rows])
            return {"input_ids": ids, "attention_mask": (ids > 0).astype(int)}

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return TextEncoder(BertModel(BertConfig(vocab_size=30, **small)).eval(), Padded(), use_mask=True)


@torch.no_grad()
def test_with_a_mask_padding_does_not_change_an_embedding():
    encoder = bert()
    tokens = tokenize(encoder.tokenizer, ["effusion"])
    ids, mask = torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)
    long, short = encoder.states(ids, mask)[:, :10], encoder.states(ids[:, :10], mask[:, :10])
    torch.testing.assert_close(long, short, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="--clip_skip 1: this text encoder is no CLIP: train with --text_skip_layers"):
        encoder.states(ids, mask, clip_skip=1)
    encoder.use_mask = False
    assert (encoder.states(ids)[:, :10] - short).abs().max() > 1e-3


def test_pooling_takes_the_mean_of_a_texts_tokens_or_its_end(micro_base):
    encoder = backbones.load(str(micro_base)).text_encoder
    text = ["Large left pneumothorax."]
    tokens = tokenize(encoder.tokenizer, text)
    n = int(tokens.mask.sum())
    with torch.no_grad():
        states = encoder.states(torch.from_numpy(tokens.ids))[0, :n].numpy()
    np.testing.assert_allclose(encoder.embed(text)[0], states.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(encoder.embed(text, "end")[0], states[-1], atol=1e-6)


@torch.no_grad()
def test_with_a_mask_the_embedding_is_that_of_the_full_length():
    encoder, texts = bert(), ["effusion", "no mass", ""]
    tokens = tokenize(encoder.tokenizer, texts)
    states = encoder.states(torch.from_numpy(tokens.ids), torch.from_numpy(tokens.mask)).numpy()
    for row, (state, n) in enumerate(zip(states, tokens.mask.sum(axis=1), strict=True)):
        np.testing.assert_allclose(encoder.embed(texts)[row], state[:n].mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(encoder.embed(texts, "end")[row], state[n - 1], atol=1e-6)
