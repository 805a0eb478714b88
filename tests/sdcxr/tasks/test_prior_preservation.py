"""Few images with prior preservation: the second loss, its images and their draws."""

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream, generator, tensors
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.samples_folder import generate
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.diffusion import DiffusionTask


@pytest.fixture
def settings(micro_base, micro_dataset) -> dict[str, object]:
    named = {"base": str(micro_base), "data": str(micro_dataset), "validation_steps": 0}
    return named | {"learning_rate": 1e-3, "class_data_dir": str(micro_dataset / "test")}


def build(settings, **more) -> DiffusionTask:
    return DiffusionTask(TrainConfig(**settings | more), torch.device("cpu"))


def test_the_loss_is_that_of_the_image_and_the_weighted_one_of_the_prior(settings):
    task = build(settings, prior_preservation_weight=0.5)
    examples = task.examples()
    own, prior = examples.examples, examples.prior
    assert (len(examples.ids), len(prior.ids)) == (11, 4)
    batch = tensors(default_collate([Stream(examples, 0)[i] for i in range(3)]))
    expected = []
    for position in range(3):
        draws = generator(0, position)
        first = own.example(Stream(examples, 0).index(position), draws)
        second = prior.example(int(draws.integers(4)), draws)
        with torch.no_grad():
            losses = [task.error(tensors(default_collate([each]))) for each in (first, second)]
        expected.append(losses[0] + 0.5 * losses[1])
    with torch.no_grad():
        torch.testing.assert_close(task(batch), torch.cat(expected))


def test_the_draws_of_an_image_are_those_without_a_prior(settings):
    with_prior, alone = build(settings).examples(), build(settings | {"class_data_dir": None}).examples()
    for position in range(5):
        more, fewer = (examples.example(position, generator(3, position)) for examples in (with_prior, alone))
        assert fewer.keys() < more.keys()
        assert all(np.array_equal(more[name], fewer[name]) for name in fewer)


def test_all_images_of_the_prior_are_drawn_and_no_others(settings):
    examples = build(settings, num_class_images=3).examples()
    seen = [examples.example(0, generator(0, i))["prior.mean"].float().sum().item() for i in range(60)]
    assert set(seen) == {row["mean"].float().sum().item() for row in map(examples.prior.source.fields, range(3))}


@pytest.mark.slow
def test_class_images_are_generated_once_and_more_can_be_added(micro_base, train_micro, read_log, tmp_path):
    def make(per_prompt: int) -> None:
        named = {"model": str(micro_base), "prompts": "a photo of a chest", "output_dir": str(tmp_path / "class")}
        generate(GenerateConfig(**named, num_images_per_prompt=per_prompt, num_inference_steps=2))

    make(2)
    few = {"class_data_dir": str(tmp_path / "class"), "max_train_samples": 5, "tune": "unet"}
    with pytest.raises(UserError, match=r"--num_class_images 3: .*class has 2: the same generate\.py command"):
        train_micro(tmp_path / "run", **few, num_class_images=3)
    train_micro(tmp_path / "whole", **few, checkpointing_steps=1, max_train_steps=4)
    for steps in (2, 4):
        train_micro(tmp_path / "run", **few, checkpointing_steps=1, max_train_steps=steps)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    make(3)
    with pytest.raises(UserError, match="was begun on other images, captions or labels"):
        train_micro(tmp_path / "run", **few, max_train_steps=6)
    assert train_micro(tmp_path / "other", **few, num_class_images=3) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_class_images": 3}, "are for --class_data_dir"),
        ({"prior_preservation_weight": 0.5}, "are for --class_data_dir"),
        ({"tune": "vae", "class_data_dir": "x"}, "--class_data_dir is for --tune unet or text, not for vae"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_a_folder_that_is_not_there_is_refused(settings):
    with pytest.raises(UserError, match="--class_data_dir"):
        build(settings | {"class_data_dir": "/nowhere"}).examples()


def test_class_images_that_are_not_all_there_are_refused(settings, tmp_path):
    (tmp_path / "generate.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no metadata\.csv: generate\.py has not finished this folder"):
        build(settings | {"class_data_dir": str(tmp_path)}).examples()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a photo\n")
    with pytest.raises(
        UserError, match=r"a\.png is named in metadata\.csv and does not exist: run the command that made"
    ):
        build(settings | {"class_data_dir": str(tmp_path)}).examples()
