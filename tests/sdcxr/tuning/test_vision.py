"""Tuning methods of classifiers: published parameter counts and names, identity, gradients, folding."""

import copy
import re

import pytest
import timm
import torch
from torch import nn

from sdcxr.backbones.image_classifier import head_of, is_in
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.classifiers import tune_classifier
from sdcxr.tuning.registry import find_method
from sdcxr.tuning.vision import kind_of

CNN = ["full", "linear", "norm", "bias", "ssf", "tsa"]
VIT = [
    "full",
    "linear",
    "norm",
    "bias",
    "attention",
    "ssf",
    "lora",
    "dora",
    "loha",
    "adaptformer",
    "vpt-shallow",
    "vpt-deep",
]
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
    assert sum(trained(on_meta(SIZES["B"], 2), "full").values()) == 85_800_194


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


CASES = [
    *(("test_resnet", method) for method in CNN),
    *(("test_vit", method) for method in VIT),
    *(("transformers-vit", method) for method in VIT),
    *(("transformers-resnet", method) for method in CNN),
    *(("test_efficientnet", method) for method in ("norm", "ssf", "tsa")),  # activations inside the normalisations
    *(("test_convnext", method) for method in ("norm", "bias", "ssf", "tsa")),  # no batch normalisation
]
PROMPTS = {"vpt-shallow", "vpt-deep"}  # are not an identity
OPTIONS = {"adaptformer": {"adapter_width": 4}} | {name: {"prompt_tokens": 3} for name in PROMPTS}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_method_begins_as_the_network_trains_what_it_names_and_folds(name, method):
    network = small(name)
    x = torch.randn(4, 3, 32, 32)
    before, plain = outputs(network, x).detach(), copy.deepcopy(network.state_dict())
    chosen = tune_classifier(network.train(), settings(method, **OPTIONS.get(method, {})))
    begun = outputs(network.eval(), x)
    if method not in PROMPTS:
        torch.testing.assert_close(begun, before, atol=1e-5, rtol=1e-5)
    train(network, x)
    for key, value in plain.items():
        parameter = dict(network.named_parameters()).get(key)
        if parameter is not None and not parameter.requires_grad:
            assert torch.equal(parameter, value), f"{key} is frozen and moved"
        if "running" in key and method not in ("full", "norm"):
            assert torch.equal(network.state_dict()[key], value), f"{key} moved"
    adapted = outputs(network.eval(), x)
    assert not torch.allclose(adapted, before, atol=1e-3)
    names = [key for key, _ in network.named_parameters()]
    merged = chosen.merge(network)
    torch.testing.assert_close(outputs(merged.eval(), x), adapted, atol=1e-4, rtol=1e-4)
    assert [key for key, _ in network.named_parameters()] == names  # merging leaves it as it is
    if method not in PROMPTS:
        assert merged.state_dict().keys() == plain.keys()


def train(network: nn.Module, x: torch.Tensor) -> None:
    """Three steps, after which everything that trains has had a gradient, and nothing else."""
    modes = {each: each.training for each in network.modules()}
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer, moved = torch.optim.SGD(parameters.values(), lr=0.5), set()
    for module, mode in modes.items():
        module.training = mode
    for _ in range(3):
        loss = nn.functional.cross_entropy(outputs(network, x), torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        loss.backward()
        moved |= {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
    # A shift in front of a softmax over the same queries has no effect: the bias of the keys has no gradient.
    assert {name for name in parameters.keys() - moved if "k_proj.bias" not in name} == set()
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)


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
    assert set(fitting.split(", ")) <= set(listed) and method not in listed
    assert "\n" not in str(refused.value)


def test_unknown_methods_name_the_nearest():
    with pytest.raises(UserError, match=r"--method adapt_former: unknown \(near: adaptformer"):
        find_method("adapt_former", "classifier")
