"""Texts in an extractor's space: each row gets its own, however often it occurs, and rows that say nothing get none."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from eval import extractors
from eval.extractors.texts import extract_texts, has_texts, with_text
from eval.inputs.folders import ImageFolder
from sdcxr.runtime.errors import UserError


def test_repeated_texts_are_embedded_once_and_each_row_has_its_own(monkeypatch):
    asked = []

    def tower(device):
        return lambda texts: asked.append(texts) or np.array([[len(text), 1.0] for text in texts])

    monkeypatch.setattr(extractors, "find_extractor", lambda *_: SimpleNamespace(load_texts=tower))
    assert has_texts("any")
    embedded = extract_texts(["two.", "one", "two.", "three"], "any")
    assert embedded.dtype == np.float32 and embedded[:, 0].tolist() == [4, 3, 4, 5]
    assert asked == [["one", "three", "two."]]


def test_a_network_without_a_text_tower_is_refused():
    assert not has_texts("pixels-8")
    with pytest.raises(UserError, match="--extractor pixels-8 has no text tower"):
        extract_texts(["one"], "pixels-8")


@pytest.mark.parametrize(
    ("texts", "rows"),
    [(["Clear.", "", "Edema", " . "], [0, 2]), (["Clear.", "clear", "1. CLEAR"], []), (["", ""], []), (None, [])],
)
def test_rows_have_a_text_where_there_are_two_to_tell_apart(texts, rows):
    table = pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(texts or "ab"))]})
    folder = ImageFolder(Path(), table if texts is None else table.assign(text=texts))
    assert with_text(folder).tolist() == rows
