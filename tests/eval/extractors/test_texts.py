"""Texts in an extractor's space: each row gets its own, however often it occurs, and rows that say nothing get none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.extractors import find_extractor
from eval.extractors.base import TextFeatures
from eval.extractors.texts import extract_texts, with_text
from eval.inputs.folders import ImageFolder
from sdcxr.runtime.errors import UserError


def test_repeated_texts_are_embedded_once_and_each_row_has_its_own():
    asked = []

    def tower(device):
        return lambda texts: (
            asked.append(texts)
            or TextFeatures(np.array([[len(text), 1.0] for text in texts]), np.array([len(text) > 4 for text in texts]))
        )

    extractor = replace(find_extractor("pixels-8"), load_texts=tower)
    embedded = extract_texts(["two.", "one", "two.", "three"], extractor)
    vectors, cut = embedded
    assert vectors.dtype == np.float32 and vectors[:, 0].tolist() == [4, 3, 4, 5]
    assert cut.tolist() == [False, False, False, True]
    assert embedded.note == "1 of 4 texts are longer than the text tower reads: they are cut"
    assert asked == [["one", "three", "two."]]


def test_a_network_without_a_text_tower_is_refused():
    with pytest.raises(UserError, match="--extractor pixels-8 has no text tower"):
        extract_texts(["one"], find_extractor("pixels-8"))


@pytest.mark.parametrize(
    ("texts", "rows"),
    [(["Clear.", "", "Edema", " . "], [0, 2]), (["Clear.", "clear", "1. CLEAR"], []), (["", ""], []), (None, [])],
)
def test_rows_have_a_text_where_there_are_two_to_tell_apart(texts, rows):
    table = pd.DataFrame({"file_name": [f"{i}.png" for i in range(len(texts or "ab"))]})
    folder = ImageFolder(Path(), table if texts is None else table.assign(text=texts))
    assert with_text(folder).tolist() == rows
