"""Adapters of peft in a small UNet and in text encoders: what the library would do silently, and AdaLoRA's ranks."""

import copy
import socket
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdcxr import backbones
from sdcxr.backbones.encoder_files import load_encoder
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import apply_method, trained_tensors
from sdcxr.tuning.peft_methods import (
    PEFT_METHODS,
    Adalora,
    Dora,
    Hra,
    Loha,
    Lokr,
    Lora,
    PeftMethod,
    most_important,
    rank_budget,
    tuner_layers,
)
from tests.sdcxr.backbones.small_encoders import save_encoder

CONVOLUTIONS = "to_q,conv1,downsamplers.0.conv"


@pytest.fixture(scope="session")
def unet(micro_base) -> nn.Module:
    return backbones.load(str(micro_base)).parts["unet"].requires_grad_(False)


def predicted(unet: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=draws), torch.randn(2, 7, 16, generator=draws)
    with torch.no_grad():
        return unet(x, 500, context).sample  # type: ignore[no-any-return, operator]


def disturb(module: nn.Module) -> None:
    """Move what trains by a step that is far from nothing."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draws)


def injected(unet: nn.Module, method: PeftMethod, **settings: object) -> nn.Module:
    module = copy.deepcopy(unet)
    apply_method(method, module, TrainConfig(**settings))
    return module


@pytest.mark.parametrize("method", PEFT_METHODS, ids=lambda method: method.name)
def test_convolutions_begin_as_they_were_and_are_merged_exactly(unet, method):
    """On inputs larger than the kernel, where peft's OFT is wrong."""
    tuned = injected(unet, method(), lora_targets=CONVOLUTIONS)
    torch.testing.assert_close(predicted(tuned), predicted(unet), atol=1e-5, rtol=1e-5)
    disturb(tuned)
    merged = method().merge(tuned)
    assert (predicted(tuned) - predicted(unet)).abs().max() > 1e-3
    torch.testing.assert_close(predicted(merged), predicted(tuned), atol=1e-4, rtol=1e-4)
    assert [(n, type(m)) for n, m in merged.named_modules()] == [(n, type(m)) for n, m in unet.named_modules()]
    assert merged.state_dict().keys() == unet.state_dict().keys() and not hasattr(merged, "peft_config")
    assert dict(tuner_layers(tuned))  # the tuned one stays as it is


@pytest.mark.parametrize("alpha", [None, 32.0])
def test_alpha_counts_and_comes_back_with_the_settings(unet, alpha):
    settings = {"lora_rank": 2, "lora_alpha": alpha}
    tuned = injected(unet, Lora(), **settings)
    disturb(tuned)
    again = injected(unet, Lora(), **settings, seed=5)
    Lora().load(again, Lora().state(tuned))
    assert torch.equal(predicted(again), predicted(tuned))
    (_, layer), *_ = tuner_layers(tuned)
    assert layer.scaling["default"] == (alpha or 2.0) / 2
    weight = Lora().merge(tuned).get_submodule(next(iter(dict(tuner_layers(tuned))))).weight
    change = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (alpha or 2.0) / 2
    torch.testing.assert_close(weight, layer.base_layer.weight + change)


def test_an_adapter_is_loaded_strictly(unet):
    tuned = injected(unet, Lora())
    state = {name: tensor.detach().clone() for name, tensor in Lora().state(tuned).items()}
    first = next(iter(state))
    assert first.endswith(".lora_A.weight")
    for wrong in (
        {name: tensor for name, tensor in state.items() if name != first},
        state | {"more": torch.zeros(1)},
        state | {first: torch.zeros(3, 3)},
    ):
        with pytest.raises(UserError):
            Lora().load(tuned, wrong)


def test_the_beginning_is_drawn_by_the_seed_and_leaves_torchs_generator_alone(unet):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = (Lora().state(injected(unet, Lora(), seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_second_adapter_is_a_mistake(unet):
    tuned = injected(unet, Lora())
    with pytest.raises(RuntimeError, match="has an adapter already"):
        Lora().inject(tuned, TrainConfig())


def test_dropout_acts_in_training_alone(unet):
    tuned = injected(unet, Lora(), lora_dropout=0.5)
    disturb(tuned)
    assert not torch.equal(predicted(tuned.train()), predicted(tuned))
    tuned.eval()
    assert torch.equal(predicted(tuned), predicted(tuned))
    torch.testing.assert_close(predicted(Lora().merge(tuned)), predicted(tuned), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [Loha, Lokr])
def test_no_draw_leaves_a_layer_out(unet, method, monkeypatch):
    """peft skips a layer if a draw from [0, 1) is not above its dropout of 0, which one in 2^24 is not."""
    tuned = injected(unet, method())
    disturb(tuned)
    expected = predicted(tuned.eval())
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(shape))
    assert torch.equal(predicted(tuned.train()), expected)


def test_an_odd_number_of_reflections_would_begin_with_another_model(unet):
    with pytest.raises(UserError, match="--lora_rank 3: --method hra needs an even one, such as 4"):
        injected(unet, Hra(), lora_rank=3)


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_text_encoders_are_adapted_without_a_question_to_the_hub(kind, tmp_path, monkeypatch):
    encoder = load_encoder(str(save_encoder(kind, tmp_path / kind)))[0].requires_grad_(False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("network"))
    method = Lora()
    apply_method(method, encoder, TrainConfig(tune="text"))
    assert all(".lora_" in name for name in trained_tensors(encoder))
    state = method.state(encoder)
    method.load(encoder, state)
    plain = method.merge(encoder)
    assert not any("lora" in name for name in plain.state_dict())


def test_dora_keeps_the_length_of_weights_apart(unet):
    tuned = injected(unet, Dora())
    name, layer = next(iter(tuner_layers(tuned)))
    lengths = Dora().state(tuned)[f"{name}.lora_magnitude_vector"]
    torch.testing.assert_close(lengths.detach(), layer.base_layer.weight.norm(dim=1))


# AdaLoRA: its ranks


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 60), (10, 60), (11, 58), (25, 42), (40, 40), (41, 40)],
)
def test_the_budget_falls_as_a_cube(step, expected):
    assert rank_budget(step, first=10, last=40, start=60, target=40) == expected


def test_the_most_important_directions_over_all_layers():
    masks = most_important([torch.tensor([0.0, 3.0, 1.0]), torch.tensor([2.0, 1.0, 0.0])], budget=3)
    assert [mask.tolist() for mask in masks] == [[False, True, True], [True, False, False]]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_q, self.to_k = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_k(self.to_q(x).relu())  # type: ignore[no-any-return]


def descend(model: nn.Module, steps: int) -> Iterator[int]:
    """Steps of AdamW; what happens between one and the next sees its gradients."""
    draws = torch.Generator().manual_seed(2)
    x, y = torch.randn(64, 6, generator=draws), torch.randn(64, 4, generator=draws)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for step in range(1, steps + 1):
        (model(x) - y).square().mean().backward()
        optimizer.step()
        yield step
        optimizer.zero_grad()


def test_ranks_are_those_of_pefts_allocator():
    """Which keeps its state outside of the model, in dictionaries that no checkpoint holds."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora import AdaLoraModel

    steps, targets = 40, {"lora_targets": "to_q,to_k"}
    ours = Two()
    config = TrainConfig(max_train_steps=steps, lora_rank=2, lora_alpha=2.0, **targets)
    apply_method(Adalora(), ours, config)
    about = AdaLoraConfig(
        init_r=3, target_r=2, lora_alpha=2, target_modules=["to_q", "to_k"], total_step=steps, tinit=4, tfinal=12,
        deltaT=1,
    )  # fmt: skip
    theirs = AdaLoraModel(Two(), about, "default")
    for (_, layer), (_, other) in zip(tuner_layers(ours), tuner_layers(theirs.model), strict=True):
        for name in ("lora_A", "lora_B", "lora_E"):
            getattr(other, name)["default"].data.copy_(getattr(layer, name)["default"])
    for step, _ in zip(descend(ours, steps), descend(theirs.model, steps), strict=True):
        Adalora().after_step(ours, step, config)
        theirs.update_and_allocate(step)
        for (_, layer), (_, other) in zip(tuner_layers(ours), tuner_layers(theirs.model), strict=True):
            torch.testing.assert_close(layer.lora_E["default"], other.lora_E["default"], atol=1e-5, rtol=1e-4)
    left = [int((layer.lora_E["default"] != 0).sum()) for _, layer in tuner_layers(ours)]
    assert sum(left) == 4


ADALORA = {"tune": "unet", "method": "adalora", "max_train_steps": 12, "lora_rank": 2, "checkpointing_steps": 4}


@pytest.fixture(scope="module")
def whole(train_micro, tmp_path_factory):
    run = tmp_path_factory.mktemp("adalora") / "run"
    train_micro(run, **ADALORA)
    return run


@pytest.mark.slow
def test_ranks_resume_exactly(train_micro, whole, tmp_path, monkeypatch):
    from sdcxr.training import loop

    stop = loop.Run.stopping
    monkeypatch.setattr(loop.Run, "stopping", lambda self, step: step == 6 or stop(self, step))
    train_micro(tmp_path / "run", **ADALORA)
    monkeypatch.setattr(loop.Run, "stopping", stop)
    train_micro(tmp_path / "run", **ADALORA)
    for name in ("adapter/unet.safetensors", "pipeline/unet/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_the_average_holds_no_trace_of_what_was_switched_off(whole):
    """An average of weights forgets slowly: what is zero in the model is not in its average."""
    adapter = load_file(whole / "adapter" / "unet.safetensors")
    values = torch.stack([tensor[:, 0] for name, tensor in adapter.items() if name.endswith("lora_E")])
    assert int((values != 0).sum()) == 2 * len(values)
    assert values.shape[1] == 3


def test_another_length_is_another_run(train_micro, whole):
    with pytest.raises(UserError, match="max_train_steps"):
        train_micro(whole, **ADALORA | {"max_train_steps": 16})
