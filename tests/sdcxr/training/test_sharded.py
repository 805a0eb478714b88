"""FSDP2: the task is right under it; the loop, whose checkpoints know whole weights alone, refuses it."""

import json
from pathlib import Path

import pytest
from accelerate.utils import DistributedType

from sdcxr.runtime.errors import UserError
from sdcxr.training import loop
from tests.torchrun import in_two_processes


@pytest.mark.multiprocess
def test_unet_and_text_encoder_shard_as_one_module(micro_base, micro_dataset, tmp_path):
    settings = {"base": str(micro_base), "data": str(micro_dataset), "tune": "unet+text", "validation_steps": 0}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    in_two_processes(Path(__file__).with_name("train_sharded.py"), "settings.json", "out.json", folder=tmp_path)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["whole"] == pytest.approx(result["sharded"], rel=1e-5)
    assert len(set(result["whole"])) == 5 and result["furthest"] < 1e-5


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_a_launch_that_shards_is_refused(train_micro, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(loop.Accelerator, "distributed_type", kind)
    with pytest.raises(UserError, match=f"{kind.value}: checkpoints of sharded weights"):
        train_micro(tmp_path, tune="unet")
    assert not list(tmp_path.iterdir())
