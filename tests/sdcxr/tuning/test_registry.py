"""`--method`: a name for all parts or one for each, their learning rates, and what does not fit."""

import pytest
import torch
from torch import nn

from sdcxr import backbones, tuning
from sdcxr.config import PUBLISHED, TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.registry import METHODS, choose_methods, default_rates
from tests.sdcxr.tuning.toy_method import OutputScale


def chosen(**settings: str) -> dict[str, str]:
    return {part: method.name for part, method in choose_methods(TrainConfig(**settings)).items()}


def test_one_method_for_all_parts_or_one_for_each():
    assert chosen(tune="unet+text", method="bias") == {"unet": "bias", "text": "bias"}
    assert chosen(tune="unet+text", method="unet=svdiff, text=bias+norm") == {"unet": "svdiff", "text": "bias+norm"}
    assert chosen(tune="text", method="text=norm") == {"text": "norm"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("svdif", r"--method svdif: unknown \(near: svdiff"),
        ("unet=bais,text=bias", r"--method bais: unknown \(near: bias"),
        ("unet=tsa,text=bias", "--method tsa: is for a classifier or segmenter; here use adalora, .*, svdiff"),
        ("unet=bias", "name one method for each part of --tune unet.text, as unet=bias,text=bias, or one for all"),
        ("unet=bias,text=bias,vae=bias", "name one method for each part"),
        ("unet=bias,unet=norm,text=bias", "name one method for each part"),
        ("unet=bias,text", "name one method for each part"),
        ("unet=bias,text=", "name one method for each part"),
    ],
)
def test_wrong_methods_are_one_line(method, message):
    with pytest.raises(UserError, match=message) as refused:
        choose_methods(TrainConfig(tune="unet+text", method=method))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["classifier", "segmenter"])
def test_a_method_of_a_network_for_images_stays_what_it_is(part):
    plain, wrapped = tuning.find_method("adalora"), tuning.find_method("adalora", part)
    kept = ("name", "options", "learning_rate_factor", "additive", "by_run_length", "file_per_tensor")
    assert [getattr(wrapped, key) for key in kept] == [getattr(plain, key) for key in kept]
    assert wrapped.by_run_length


def test_a_setting_that_no_chosen_method_reads_is_refused(monkeypatch):
    class Wide(OutputScale):
        name = "wide"
        options = ("noise_offset",)

    monkeypatch.setattr("sdcxr.tuning.registry.METHODS", dict(METHODS))
    tuning.register(Wide)
    choose_methods(TrainConfig(tune="unet+text", method="unet=wide,text=bias", noise_offset=0.1))
    with pytest.raises(UserError, match="--noise_offset is for --method wide, not for bias"):
        choose_methods(TrainConfig(tune="unet", method="bias", noise_offset=0.1))


def test_default_learning_rates_follow_the_methods_and_given_ones_stay():
    def filled(**settings: object) -> tuple[float | None, float | None]:
        config = TrainConfig(**settings)  # type: ignore[arg-type]
        config = config.filled(default_rates(config, PUBLISHED))
        return config.learning_rate, config.text_encoder_lr

    assert filled(tune="unet+text") == (5e-5, None)
    assert filled(tune="unet", method="bias") == pytest.approx((5e-4, None))
    assert filled(tune="unet+text", method="unet=attention,text=bias") == pytest.approx((1e-4, 5e-4))
    assert filled(tune="unet+text", method="unet=full,text=bias", text_encoder_lr=1.0) == pytest.approx((5e-5, 1.0))
    assert filled(tune="unet+text", method="unet=full,text=bias", learning_rate=2.0) == (2.0, None)


def test_a_method_that_finds_nothing_names_those_that_fit(micro_base):
    backbone = backbones.load(str(micro_base))
    backbone.parts["text"] = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(
        UserError, match=r"--method difffit: Sequential has none of .*: this part takes .*bias, .*svdiff"
    ):
        tuning.tune(backbone, TrainConfig(tune="text", method="difffit"))


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5", "clip"])
@pytest.mark.parametrize("method", ["attention", "bias+norm", "svdiff", "difffit"])
def test_other_text_encoders_are_tuned(tmp_path_factory, kind, method):
    from sdcxr.backbones.encoder_files import load_encoder
    from sdcxr.tuning.base import apply_method
    from tests.sdcxr.backbones.small_encoders import save_encoder

    encoder, _ = load_encoder(str(save_encoder(kind, tmp_path_factory.mktemp(kind) / kind)), False)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = encoder.eval()(ids)[0]
    each = tuning.find_method(method)
    apply_method(each, encoder.requires_grad_(False), TrainConfig())
    output = encoder(ids)[0]
    torch.testing.assert_close(output, before, atol=1e-5, rtol=1e-5)
    output.square().sum().backward()
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) > 2 and not any(p.grad is None for p in trained.values())
    with torch.no_grad():
        for p in trained.values():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        adapted = encoder(ids)[0]
        assert (adapted - before).abs().max() > 1e-3
        torch.testing.assert_close(each.merge(encoder)(ids)[0], adapted, atol=1e-4, rtol=1e-4)
