"""Scenes of the pretraining: pure functions of seed and index, whose captions say what is drawn."""

import re

import numpy as np
import pytest

from sdcxr.embedded.scenes import NUMBERS, PLACES, SHAPES, SIZES, TONES, scene
from sdcxr.embedded.textures import TEXTURES, texture
from sdcxr.text.clip_tokens import clip_tokenizer

SCENES = [scene(0, index) for index in range(200)]


def test_a_scene_depends_on_seed_and_index_alone():
    grey, caption = scene(3, 7)
    again, same = scene(3, 7)
    assert np.array_equal(grey, again) and caption == same
    assert not np.array_equal(grey, scene(3, 8)[0]) and not np.array_equal(grey, scene(4, 7)[0])
    assert grey.shape == (128, 128) and grey.dtype == np.uint8


def test_captions_fit_the_text_encoder_and_differ():
    tokens = [len(ids) for ids in clip_tokenizer()([caption for _, caption in SCENES]).input_ids]
    assert max(tokens) <= 77
    assert len({caption for _, caption in SCENES}) > 190


def test_captions_have_no_word_of_medicine():
    words = {word for _, caption in SCENES for word in re.findall(r"[a-z]+", caption.lower())}
    medical = (
        "chest heart lung lungs effusion pneumothorax cardiomegaly rib ribs pacemaker radiograph consolidation nodule"
    )
    assert not words & set(medical.split())
    assert {"left", "right", "large", "small", "two", "striped"} <= words


def test_every_word_of_a_kind_is_drawn():
    captions = " ".join(caption.lower() for _, caption in SCENES)
    for kind in (SIZES, PLACES, TONES, SHAPES, NUMBERS):
        assert [word for word in kind if word and word not in captions] == []


def test_scenes_use_the_whole_range_of_grey():
    means = [grey.mean() for grey, _ in SCENES]
    assert min(means) < 50 and max(means) > 200
    assert sum(grey.std() < 3 for grey, _ in SCENES) < 5


@pytest.mark.parametrize("name", TEXTURES)
def test_textures_are_about_minus_one_to_one(name):
    y, x = np.meshgrid(*(np.linspace(-1, 1, 64, dtype=np.float32),) * 2, indexing="ij")
    drawn = texture(name, np.random.default_rng(0), x, y)
    assert drawn.shape == x.shape and np.isfinite(drawn).all()
    assert 0.2 < drawn.std() < 1.1 and abs(drawn).max() < 3
