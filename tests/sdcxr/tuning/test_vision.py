"""Tuning methods of classifiers: published parameter counts and names, identity, gradients, folding."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from sdcxr.backbones.image_classifier import head_of, is_in
from sdcxr.backbones.prompt_tokens import transformer_blocks
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import enable_gradient_checkpointing
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.classifiers import require_effect, tune_classifier, with_rank
from sdcxr.tuning.registry import find_method, methods_for
from sdcxr.tuning.vision import kind_of

SIZES = {"B": "vit_base_patch16_224", "L": "vit_large_patch16_224", "H": "vit_huge_patch14_224"}


def settings(method: str, **more) -> TrainConfig:
    return TrainConfig(tune="classifier", base="any", method=method, **more)


def trained(network: nn.Module, method: str, **more) -> dict[str, int]:
    """Sizes of what trains, by name."""
    tune_classifier(network, settings(method, **more))
    return {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}


def on_meta(name: str, outputs: int) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=outputs)


def without_head(sizes: dict[str, int], network: nn.Module) -> int:
    return sum(size for name, size in sizes.items() if not is_in(name, head_of(network)))


@pytest.mark.parametrize(
    ("method", "body", "pattern"),
    [
        ("full", 23_508_032, r".*"),
        ("linear", 0, r"fc\.(weight|bias)"),
        ("norm", 53_120, r"(bn1|layer\d\.\d\.(bn\d|downsample\.1))\.(weight|bias)"),
        ("bias", 26_560, r"(bn1|layer\d\.\d\.(bn\d|downsample\.1))\.bias"),
        ("ssf", 53_120, r"(bn1|layer\d\.\d\.(bn\d|downsample\.1))\.ssf\.(gamma|beta)"),
        ("tsa", 10_616_832, r"layer[1-4]\.\d\.conv[123]\.tsa\.weight"),
    ],
)
def test_counts_and_names_of_resnet_50(method, body, pattern):
    network = on_meta("resnet50", 3)
    sizes = trained(network, method)
    assert without_head(sizes, network) == body
    assert sum(sizes.values()) == body + 6_147  # the last layer always trains
    assert all(re.fullmatch(rf"{pattern}|fc\.(weight|bias)", name) for name in sizes)


def test_the_papers_resnet_counts_follow_from_three_classes():
    biases = trained(on_meta("resnet50", 3), "bias")
    assert sum(biases.values()) == 32_707  # printed as 32.7K
    norms = trained(on_meta("resnet50", 3), "norm")
    assert sum(norms.values()) == 59_267
    assert sum(size for name, size in norms.items() if not name.startswith("bn1.")) == 59_139  # 59.1K: without the stem


COUNTS = {
    "full": {"B": 85_798_656, "L": 303_301_632, "H": 630_764_800},
    "attention": {"B": 28_499_712, "L": 100_963_328, "H": 210_208_000},
    "attention_layers": {"B": 28_348_416, "L": 100_761_600, "H": 209_879_040},
    "norm": {"B": 38_400, "L": 100_352, "H": 166_400},
    "bias": {"B": 102_912, "L": 272_384, "H": 453_120},
    "ssf": {"B": 205_824, "L": 544_768, "H": 906_240},
    "adaptformer": {"B": 1_189_632, "L": 3_171_840, "H": 5_285_888},
    "lora": {"B": 589_824, "L": 1_572_864, "H": 2_621_440},
    "vpt-shallow": {"B": 7_680, "L": 10_240, "H": 12_800},
    "vpt-deep": {"B": 92_160, "L": 245_760, "H": 409_600},
}
NAMES = {
    "full": r".*",
    "attention": r"pos_embed|blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)",
    "attention_layers": r"blocks\.\d+\.attn\.(qkv|proj)\.(weight|bias)",
    "norm": r"(blocks\.\d+\.norm[12]|norm)\.(weight|bias)",
    "bias": r"(patch_embed\.proj|blocks\.\d+\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])|norm)\.bias",
    "ssf": r"(patch_embed\.proj|blocks\.\d+\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])|norm)\.ssf\.(gamma|beta)",
    "adaptformer": r"blocks\.\d+\.mlp\.adapter\.(down|up)\.(weight|bias)",
    "lora": r"blocks\.\d+\.attn\.qkv\.lora_[AB]\.default\.weight",
    "vpt-shallow": r"blocks\.0\.prompt\.tokens",
    "vpt-deep": r"blocks\.\d+\.prompt\.tokens",
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", COUNTS)
def test_counts_and_names_of_vision_transformers(method, size):
    network = on_meta(SIZES[size], 2)
    sizes = trained(network, method)
    assert without_head(sizes, network) == COUNTS[method][size]
    head = {name for name in sizes if is_in(name, head_of(network))}
    assert head == {"head.weight", "head.bias"}
    assert all(re.fullmatch(NAMES[method], name) for name in sizes.keys() - head)


def test_counts_of_the_paper_that_hold_the_head():
    assert sum(trained(on_meta(SIZES["B"], 2), "attention").values()) == 28_501_250
    assert sum(trained(on_meta(SIZES["L"], 2), "attention").values()) == 100_965_378
    assert sum(trained(on_meta(SIZES["H"], 2), "attention").values()) == 210_210_562
    everything = {"B": 85_800_194, "L": 303_303_682, "H": 630_767_362}
    for size, count in everything.items():
        assert sum(trained(on_meta(SIZES[size], 2), "full").values()) == count


@pytest.mark.parametrize("method", [name for name in COUNTS if name != "attention_layers"])
def test_counts_of_transformers_are_those_of_timm(method):
    """Of google/vit-base-patch16-224, whose queries, keys and values are layers of their own."""
    import transformers

    with torch.device("meta"):
        network = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=2))
    sizes = trained(network, method)
    assert without_head(sizes, network) == COUNTS[method]["B"]
    if method == "lora":
        assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in sizes if "lora" in name} in (
            {"query", "value"}, {"q_proj", "v_proj"},
        )  # fmt: skip


@pytest.mark.parametrize(("width", "count"), [(4, 82_992), (8, 156_768)])
def test_the_width_of_adaptformer(width, count):
    network = on_meta(SIZES["B"], 2)
    assert without_head(trained(network, "adaptformer", adapter_width=width), network) == count


# ---------------------------------------------------------------------------------------------------------------------
# What the methods do, on small networks


def of_transformers(kind: str) -> nn.Module:
    import transformers

    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        )
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck"
        )
    return transformers.AutoModelForImageClassification.from_config(config)


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("transformers-"):
        network = of_transformers(name.removeprefix("transformers-"))
    elif "base" in name:
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        network = timm.create_model(name, num_classes=2, **sizes)
    elif kind_of(timm.create_model(name)) == "vit":
        network = timm.create_model(name, num_classes=2, img_size=64 if "swin" in name else 32)
    else:
        network = timm.create_model(name, num_classes=2)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):  # as after training: statistics and scales that are not 0 and 1
            nn.init.uniform_(each.running_mean, -0.1, 0.1)
            nn.init.uniform_(each.running_var, 0.5, 1.5)
            nn.init.uniform_(each.weight, 0.5, 1.5)
    return network.eval()


def outputs(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    result = network(x)
    return result if isinstance(result, torch.Tensor) else result.logits


OF_TRANSFORMERS = {"attention", "attention_layers", "adaptformer", "vpt-shallow", "vpt-deep", "difffit"}
OF_NAMED_TARGETS = {"lora", "dora", "loha", "lokr", "adalora", "ia3", "hra"}  # on convolutions
UNFIT = {
    "test_resnet": OF_TRANSFORMERS | OF_NAMED_TARGETS,
    "test_vit": {"difffit", "tsa"},
    "transformers-vit": {"attention_layers", "difffit", "tsa"},
    "transformers-resnet": OF_TRANSFORMERS | OF_NAMED_TARGETS | {"oft", "boft"},
}
FITTING = {
    name: [method for method in methods_for("classifier") if method not in unfit] for name, unfit in UNFIT.items()
}
CASES = [
    *((name, method) for name, methods in FITTING.items() for method in methods),
    *(("test_efficientnet", method) for method in ("norm", "ssf", "tsa")),  # activations inside the normalisations
    *(("test_convnext", method) for method in ("norm", "bias", "ssf", "tsa")),  # no batch normalisation
    ("beit_base_patch16_224", "svdiff"),  # reads the weights of a layer without calling it
]
PROMPTS = {"vpt-shallow", "vpt-deep"}  # are not an identity
OPTIONS = {"adaptformer": {"adapter_width": 4}} | {name: {"prompt_tokens": 3} for name in PROMPTS}
RATE = 3e-4  # times the method's factor, of a plain Adam


def tuned(name: str, method: str) -> tuple[TuningMethod, nn.Module, TrainConfig]:
    """A small network in training mode with a method."""
    network, config = small(name), with_rank(settings(method, max_train_steps=20, **OPTIONS.get(method, {})))
    return tune_classifier(network.train(), config), network, config


@pytest.mark.parametrize("name", UNFIT)
def test_a_network_without_what_a_method_changes_is_refused(name):
    for method in UNFIT[name]:
        with pytest.raises(UserError, match=f"--method {method}"):
            tuned(name, method)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_method_begins_as_the_network_trains_what_it_names_and_folds(name, method):
    plain = small(name).state_dict()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = outputs(small(name), x).detach()
    chosen, network, config = tuned(name, method)
    modes = {each: each.training for each in network.modules()}
    begun = outputs(network.eval(), x)
    if method not in PROMPTS:
        torch.testing.assert_close(begun, before, atol=1e-5, rtol=1e-5)
    for module, mode in modes.items():
        module.training = mode
    losses = train(network, x, chosen, config)
    assert losses[-1] < losses[0]
    for key, value in plain.items():
        parameter = dict(network.named_parameters()).get(key)
        if parameter is not None and not parameter.requires_grad:
            assert torch.equal(parameter, value), f"{key} is frozen and moved"
        if "running" in key and not has_moving_statistics(method):
            assert torch.equal(network.state_dict()[key], value), f"{key} moved"
    adapted = outputs(network.eval(), x)
    assert not torch.allclose(adapted, before, atol=1e-3)
    names = [key for key, _ in network.named_parameters()]
    merged = chosen.merge(network)
    torch.testing.assert_close(outputs(merged.eval(), x), adapted, atol=1e-4, rtol=1e-4)
    assert [key for key, _ in network.named_parameters()] == names  # merging leaves it as it is
    if method not in PROMPTS:
        assert merged.state_dict().keys() == plain.keys()


def has_moving_statistics(method: str) -> bool:
    return method == "full" or "norm" in method.split("+")


def train(network: nn.Module, x: torch.Tensor, method: TuningMethod, config: TrainConfig) -> list[float]:
    """The losses of twelve steps, after three of which all that trains has had a gradient, and nothing else."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=RATE * method.learning_rate_factor)
    losses, moved = [], set()
    for step in range(1, 13):
        loss = nn.functional.cross_entropy(outputs(network, x), torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        loss.backward()
        if step <= 3:
            moved |= {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
        method.after_step(network, step, config)
        losses.append(loss.item())
    # A shift in front of a softmax over the same queries has no effect: the bias of the keys has no gradient.
    assert {name for name in parameters.keys() - moved if "k_proj.bias" not in name} == set()
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
    return losses


def disturb(network: nn.Module) -> None:
    """Move what trains, so that no part of it is zero."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p += 0.05 * torch.randn(p.shape, generator=draws)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in ("test_vit", "transformers-vit", "test_resnet") for method in FITTING[name]],
)
def test_gradient_checkpointing_changes_no_gradient(name, method):
    _, network, _ = tuned(name, method)
    disturb(network)
    if name == "test_resnet" and has_moving_statistics(method):
        with pytest.raises(UserError, match="count each batch twice"):
            enable_gradient_checkpointing(network)
        return
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            enable_gradient_checkpointing(network)
        network.zero_grad(set_to_none=True)
        calls = []
        block = network.get_submodule(next(iter(transformer_blocks(network)), "layer1"))
        hook = next(block.children()).register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        outputs(network, x).square().mean().backward()
        hook.remove()
        found.append({key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None})
        if kind_of(network) == "vit" and method != "linear":
            assert len(calls) == 1 + checkpointing  # recomputed in the backward pass
    assert found[0].keys() == found[1].keys() == {key for key, p in network.named_parameters() if p.requires_grad}
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, atol=1e-6, rtol=1e-5)


FRESH = """
import runpy, sys, torch
from pathlib import Path
from sdcxr.tuning.adapter_folder import read_adapter

here, x, *folders = sys.argv[1:]
of_tests, x = runpy.run_path(here), torch.load(x)
for folder in map(Path, folders):
    base = of_tests["small"](folder.name.split("+", 1)[0])
    with torch.no_grad():
        output = of_tests["outputs"](read_adapter(folder).inject_into("classifier", base).eval(), x)
    torch.save(output, folder / "output.pt")
"""


@pytest.mark.slow  # torch and both libraries once more
def test_a_fresh_process_loads_what_was_saved_exactly(tmp_path):
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(x, tmp_path / "x.pt")
    expected = {}
    for name, method in [(name, method) for name, methods in FITTING.items() for method in methods if method != "full"]:
        chosen, network, config = tuned(name, method)
        disturb(network)
        folder = tmp_path / f"{name}+{method}"
        save_adapter(folder, {"classifier": chosen}, {"classifier": network}, config, {})
        with torch.no_grad():
            expected[folder] = outputs(network.eval(), x)
    arguments = [sys.executable, "-c", FRESH, __file__, str(tmp_path / "x.pt"), *map(str, expected)]
    subprocess.run(arguments, check=True, timeout=280, cwd=Path(__file__).parents[3])
    for folder, output in expected.items():
        assert torch.equal(torch.load(folder / "output.pt"), output), folder.name


def test_an_adapter_without_effect_names_the_ways_out():
    network = small("beit_base_patch16_224")
    method = tune_classifier(network, settings("lora"))
    idle = ["blocks.0.attn.qkv.lora_A.default.weight"]
    with pytest.raises(UserError, match=r"lora: blocks\.0.* has no effect in this Beit.* or other --lora_targets"):
        require_effect(network, method, idle)
    require_effect(network, method, [])


def test_lora_on_convolutions_has_named_targets():
    network, x = small("test_resnet"), torch.randn(4, 3, 32, 32)
    with pytest.raises(UserError, match="--lora_targets"):
        tune_classifier(network, settings("lora"))
    config = settings("lora", lora_targets="conv2", lora_rank=2)
    method = tune_classifier(network.train(), config)
    train(network, x, method, config)
    torch.testing.assert_close(method.merge(network).eval()(x), network.eval()(x), atol=1e-4, rtol=1e-4)


def test_running_statistics_move_where_the_normalisation_trains_alone():
    for method, moves in {"full": True, "norm": True, "bias": False, "ssf": False, "linear": False}.items():
        network = small("test_resnet").train()
        tune_classifier(network, settings(method))
        before = network.bn1.running_mean.clone()
        outputs(network, torch.randn(4, 3, 32, 32))
        assert torch.equal(network.bn1.running_mean, before) != moves, method


@pytest.mark.parametrize(
    ("name", "method", "fitting"),
    [
        ("test_resnet", "attention", "bias, full, linear, norm, ssf, tsa"),
        ("test_resnet", "adaptformer", "bias, full, linear, norm, ssf, tsa"),
        ("test_vit", "tsa", "adaptformer, attention, bias, full, linear, lora, norm, ssf, vpt-deep, vpt-shallow"),
    ],
)
def test_a_method_for_another_kind_of_network_names_those_that_fit(name, method, fitting):
    with pytest.raises(UserError, match=f"--method {method}: does not fit .*: use ") as refused:
        tune_classifier(small(name), settings(method))
    listed = str(refused.value).rpartition("use ")[2].split(", ")
    assert ("lora" in listed) == (kind_of(small(name)) == "vit")  # on others with --lora_targets only
    assert set(fitting.split(", ")) <= set(listed) and method not in listed
    assert "\n" not in str(refused.value)


def test_unknown_methods_name_the_nearest():
    with pytest.raises(UserError, match=r"--method adapt_former: unknown \(near: adaptformer"):
        find_method("adapt_former", "classifier")
