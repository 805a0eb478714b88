"""How many texts are longer than CLIP's tokens, counted without torch, and mostly without the vocabulary."""

import subprocess
import sys

import pytest

from sdcxr.text import clip_tokens
from sdcxr.text.clip_tokens import clip_tokenizer, describe_longer, n_longer

TEXTS = [
    "the " * 75,
    "the " * 76,
    "",
    "effusion. " * 37,
    "effusion. " * 38,
    "é" * 60,
    "x " * 74,
    "the " * 76,
    "日本" * 30,
]


def test_texts_are_counted_as_the_tokenizer_counts_them():
    clip = clip_tokenizer()
    assert n_longer(TEXTS) == sum(len(clip(text, truncation=False).input_ids) > 77 for text in TEXTS) >= 3
    assert n_longer(TEXTS, 10) == sum(len(clip(text, truncation=False).input_ids) > 10 for text in TEXTS)


def test_short_texts_need_no_vocabulary(monkeypatch):
    monkeypatch.setattr(clip_tokens, "clip_tokenizer", lambda: pytest.fail("read the vocabulary"))
    assert n_longer(["x" * 75, "the " * 18, ""]) == 0


def test_no_torch_is_needed():
    code = "import sys; from sdcxr.text.clip_tokens import n_longer; assert n_longer(['the ' * 80]) == 1"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


def test_the_share_is_a_line_where_there_is_one():
    assert describe_longer(0, 10) == ""
    assert describe_longer(1, 1000).startswith("captions: 1 of 1,000 (0.1%) have more than 77 tokens of CLIP: ")
