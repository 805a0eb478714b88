"""What every registered method has to keep, on every part that it serves.

A method that is added to the registry is tested here without a change, unless a new setting of it has no default.
"""

import copy
import functools
import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.generation.models import locate_model, with_adapters
from sdcxr.generation.sampler import Sampler
from sdcxr.tasks.base import enable_gradient_checkpointing
from sdcxr.training.loop import Run
from sdcxr.tuning import find_method
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.base import TuningMethod, apply_method
from sdcxr.tuning.registry import METHODS, fitting_methods
from tests.torchrun import train_in_two_processes

PARTS = ("unet", "text")
JOINED = ("unet=lora,text=bias", "unet=svdiff,text=adalora")  # one for each part
CASES = [(name, part) for name in METHODS for part in PARTS]
RATE = 1e-3  # times the method's factor, of a plain Adam
# Softmax does not feel a bias of all keys: its true gradient is zero (tests/sdcxr/training/test_exactness.py).
WITHOUT_EFFECT = ("k_proj.bias",)


@pytest.fixture(scope="module")
def parts(micro_base) -> dict[str, nn.Module]:
    return backbones.load(str(micro_base)).parts


def output_of(module: Any, part: str) -> Tensor:
    """What a part computes of fixed inputs, larger than its convolutions' kernels."""
    draws = torch.Generator().manual_seed(0)
    if part == "text":
        return module(torch.randint(0, 1000, (2, 77), generator=draws))[0]
    x, context = torch.randn(2, 4, 8, 8, generator=draws), torch.randn(2, 77, 16, generator=draws)
    return module(x, torch.tensor([100, 700]), context).sample


def loss_of(module: Any, part: str) -> Tensor:
    output = output_of(module, part)
    wanted = output_target(output.shape)
    return (output - wanted).square().mean()


def output_target(shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@functools.cache
def settings(method: str, part: str) -> TrainConfig:
    return TrainConfig(tune=part, method=method, max_train_steps=20)


def tuned(parts: dict[str, nn.Module], name: str, part: str) -> tuple[TuningMethod, nn.Module]:
    """A method and a part into which it is injected, as a task does; skips parts that it does not serve."""
    if name not in fitting_methods(parts[part]):
        pytest.skip(f"{name} does not serve {part}")
    method, module = find_method(name), copy.deepcopy(parts[part]).requires_grad_(False).train()
    apply_method(method, module, settings(name, part))
    return method, module


def learn(method: TuningMethod, module: nn.Module, part: str, steps: int) -> tuple[list[float], set[str]]:
    """Adam's steps towards a fixed output; the losses, and which trained parameters had a gradient at some step."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), lr=RATE * method.learning_rate_factor)
    losses, reached = [], set()
    for step in range(1, steps + 1):
        loss = loss_of(module, part)
        loss.backward()
        reached |= {name for name, p in trained.items() if p.grad is not None and bool((p.grad != 0).any())}
        assert all(p.grad is None for p in module.parameters() if not p.requires_grad)
        optimizer.step()
        method.after_step(module, step, settings(method.name, part))
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses, reached


@pytest.mark.parametrize(("name", "part"), CASES)
def test_nothing_changes_before_training(parts, name, part):
    _, module = tuned(parts, name, part)
    with torch.no_grad():
        for mode in (True, False):
            difference = (output_of(module.train(mode), part) - output_of(parts[part], part)).abs().max()
            assert difference <= 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "part"), CASES)
def test_gradients_reach_what_was_chosen_and_nothing_else_moves(parts, name, part, checkpointing):
    method, module = tuned(parts, name, part)
    if checkpointing:
        enable_gradient_checkpointing(module)
    frozen = {key: p.detach().clone() for key, p in module.named_parameters() if not p.requires_grad}
    _, reached = learn(method, module, part, steps=3)
    chosen = {key for key, p in module.named_parameters() if p.requires_grad}
    assert {key for key in chosen - reached if not key.endswith(WITHOUT_EFFECT)} == set()
    assert chosen.isdisjoint(frozen)
    assert all(torch.equal(p, frozen[key]) for key, p in module.named_parameters() if key in frozen)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), CASES)
def test_the_loss_falls_and_the_merged_part_is_plain_and_computes_the_same(parts, name, part):
    method, module = tuned(parts, name, part)
    losses, _ = learn(method, module, part, steps=12)
    assert losses[-1] < losses[0]
    before = {key: value.clone() for key, value in module.state_dict().items()}
    merged = method.merge(module)
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    plain = parts[part]
    assert structure(merged) == structure(plain)
    with torch.no_grad():
        adapted, folded = output_of(module.eval(), part), output_of(merged.eval(), part)
        assert (adapted - output_of(plain, part)).abs().max() > 1e-3
    torch.testing.assert_close(folded, adapted, atol=1e-4, rtol=1e-4)


def structure(module: nn.Module) -> tuple[dict[str, type], dict[str, torch.Size]]:
    """The classes of the modules and the shapes of the tensors, by name."""
    kinds = {at: type(each) for at, each in module.named_modules()}
    return kinds, {key: value.shape for key, value in module.state_dict().items()}


FRESH = """
import copy, sys, torch
from pathlib import Path
from sdcxr import backbones
from sdcxr.tuning.adapter_folder import read_adapter

parts = backbones.load(sys.argv[1]).parts
for folder in sys.argv[2:]:
    adapter, part = read_adapter(Path(folder)), Path(folder).name.rsplit("-")[-1]
    with torch.no_grad():
        output = output_of(adapter.inject_into(part, copy.deepcopy(parts[part])).eval(), part)
    torch.save(output, folder + "/output.pt")
"""


@pytest.mark.slow  # torch and diffusers once more
def test_a_fresh_process_loads_what_was_saved_exactly(parts, micro_base, tmp_path):
    outputs = {}
    for name, part in CASES:
        if name not in fitting_methods(parts[part]) or name == "full":
            continue
        method, module = tuned(parts, name, part)
        learn(method, module, part, steps=3)
        folder = tmp_path / f"{name}-{part}"
        save_adapter(folder, {part: method}, {part: module}, settings(name, part), {})
        with torch.no_grad():
            outputs[folder] = output_of(module.eval(), part)
    script = "from typing import Any\nimport torch\nfrom torch import Tensor\n" + inspect.getsource(output_of) + FRESH
    subprocess.run([sys.executable, "-c", script, str(micro_base), *map(str, outputs)], check=True, timeout=280)
    for folder, output in outputs.items():
        assert torch.equal(torch.load(folder / "output.pt"), output), folder.name


def of_both_parts(parts: dict[str, nn.Module], name: str) -> dict[str, Any]:
    served = [part for part in PARTS if "=" in name or name in fitting_methods(parts[part])]
    return {"tune": "+".join(served), "method": name, "learning_rate": RATE, "checkpointing_steps": 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *JOINED])
def test_a_run_resumes_exactly_and_its_adapter_makes_the_images_of_its_pipeline(
    parts, micro_base, train_micro, read_log, tmp_path, monkeypatch, name
):
    run, halves = tmp_path / "run", tmp_path / "halves"
    own = of_both_parts(parts, name)
    train_micro(run, **own, max_train_steps=4)
    with monkeypatch.context() as stopped:  # and no shorter run: AdaLoRA's ranks depend on the length
        stopped.setattr(Run, "stopping", lambda _, step: step == 2)
        train_micro(halves, **own, max_train_steps=4)
    train_micro(halves, **own, max_train_steps=4)
    assert read_log(halves) == read_log(run)
    files = sorted(path.relative_to(run) for path in run.rglob("*.safetensors") if "checkpoint-2" not in path.parts)
    assert len(files) > 4
    for file in files:
        assert (halves / file).read_bytes() == (run / file).read_bytes(), file
    if name == "full":
        assert not (run / "adapter").exists()
        return
    model = with_adapters(locate_model(str(micro_base)), str(run))
    asked = {"num_inference_steps": 5, "guidance_scale": 4.0}
    images = [
        Sampler(loaded, **asked).sample(["Large left pneumothorax."], [3])[0].astype(float)
        for loaded in (model.load(torch.float32), backbones.load(str(run)))
    ]
    assert np.abs(images[0] - images[1]).max() <= 1 and images[0].std() > 1


@pytest.mark.multiprocess
@pytest.mark.timeout(900)  # every method, twice
def test_two_processes_train_the_same(parts, train_micro, read_log, tmp_path):
    """In one launch for all methods; the images of a step are the same eight."""
    split = []
    for name in METHODS:
        own = of_both_parts(parts, name) | {"max_train_steps": 4, "adam_epsilon": 1e-6}
        train_micro(tmp_path / name, **own, train_batch_size=8)
        one = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        split.append(one | {"train_batch_size": 4, "output_dir": str(tmp_path / f"{name} in two")})
    train_in_two_processes(split, tmp_path)
    for name in METHODS:
        one, two = tmp_path / name, tmp_path / f"{name} in two"
        np.testing.assert_allclose(*([row["loss"] for row in read_log(run)] for run in (one, two)), rtol=1e-5)
        expected, found = (load_file(run / "checkpoints" / "checkpoint-4" / "ema.safetensors") for run in (one, two))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if not key.endswith(WITHOUT_EFFECT):
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bias+norm", "lora", "oft", "svdiff", "difffit"])
def test_a_compiled_part_computes_the_same(parts, name):
    """Traced as one graph, forward and backward, without a C++ compiler."""
    torch._dynamo.reset()  # its guards do not see hooks: the graph of another method would be taken
    method, module = tuned(parts, name, "unet")
    learn(method, module, "unet", steps=2)
    found = []
    for called in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        loss_of(called, "unet").backward()
        found.append({key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None})
        module.zero_grad(set_to_none=True)
    plain, compiled = found
    assert compiled.keys() == plain.keys() != set()
    for key, gradient in plain.items():
        torch.testing.assert_close(compiled[key], gradient, atol=1e-5, rtol=1e-4)
