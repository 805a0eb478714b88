"""Texts to token ids and embeddings: CLIP's own tokens, masks, pooling, and padding that changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcxr import backbones
from sdcxr.backbones.text_encoders import TextEncoder, clip_tokenizer, tokenize


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
@settings(deadline=None, max_examples=300)
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
