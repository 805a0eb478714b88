"""Cached moments are those of the VAE, are rebuilt where they are missing, and never of something else."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from sdcxr import backbones
from sdcxr.backbones.latent_codec import KLCodec
from sdcxr.data import shard_cache
from sdcxr.data.latents import Latents, cached_latents
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError


@pytest.fixture(scope="module")
def vae(micro_base: Path) -> Any:
    return backbones.load(str(micro_base)).vae.eval()


@pytest.fixture
def files(micro_dataset: Path) -> list[Path]:
    return sorted((micro_dataset / "train").glob("*.png"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shard_cache, "SHARD", 4)


def cached(
    vae: Any, files: list[Path], folder: Path | None, default: Path = Path("/nowhere"), resolution: int = 32
) -> Latents:
    ids = [file.stem for file in files]
    return cached_latents(KLCodec(vae), torch.device("cpu"), files, ids, resolution, folder, default)


@torch.no_grad()
def encoded(vae: Any, file: Path, resolution: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    posterior = vae.encode(read_pixels(file, resolution)[None].expand(-1, 3, -1, -1)).latent_dist
    return posterior.mean[0], posterior.std[0]


def test_moments_are_the_encoders_to_half_precision(vae, files, tmp_path):
    cache = cached(vae, files, tmp_path / "cache")
    assert cache.ids == [file.stem for file in files] and len(cache.cache.shards) == 3
    for i, file in enumerate(files):
        for found, expected in zip(cache.fields(i).values(), encoded(vae, file), strict=True):
            assert found.dtype == torch.float16 and found.shape == (4, 4, 4)
            torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-4)
    assert not torch.equal(cache.fields(0)["mean"], cache.fields(1)["mean"])


def test_the_second_use_encodes_nothing(vae, files, tmp_path, monkeypatch):
    cached(vae, files, tmp_path / "cache")
    monkeypatch.setattr(vae, "encode", lambda pixels: pytest.fail("encoded again"))
    cached(vae, files, tmp_path / "cache")


def test_a_missing_shard_alone_is_built_again(vae, files, tmp_path):
    folder = tmp_path / "cache"
    cached(vae, files, folder)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.safetensors")}
    (folder / "shard-00001.safetensors").unlink()
    cached(vae, files, folder)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.safetensors")}
    assert {name for name in before if before[name] != after[name]} <= {"shard-00001.safetensors"}
    assert before["shard-00001.safetensors"][1] == after["shard-00001.safetensors"][1]
    assert before["shard-00001.safetensors"][0] != after["shard-00001.safetensors"][0]


def test_each_process_builds_its_share_of_the_shards(vae, files, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    second = SimpleNamespace(process_index=1, num_processes=2, is_main_process=False, wait_for_everyone=lambda: None)
    monkeypatch.setattr(shard_cache, "processes", lambda: second)
    with pytest.raises(UserError, match=r"shard-00000.safetensors is damaged"):  # the first process has not come
        cached(vae, files, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["shard-00001.safetensors"]


def test_an_interrupted_build_goes_on(vae, files, tmp_path, monkeypatch):
    real = vae.encode
    calls = []

    def interrupted(pixels: torch.Tensor) -> Any:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(pixels)

    monkeypatch.setattr(vae, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(vae, files, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fingerprint.json", "shard-00000.safetensors"]
    assert len(cached(vae, files, tmp_path).cache.shards) == 3
    assert calls == [4, 4, 4, 3]


def test_moments_of_another_vae_images_or_resolution_are_refused_by_name(vae, files, tmp_path, micro_base):
    folder = tmp_path / "cache"
    cached(vae, files, folder)
    with pytest.raises(UserError, match=r"\(differing: resolution\)"):
        cached(vae, files, folder, resolution=64)
    with pytest.raises(UserError, match=r"\(differing: images, n_images\)"):
        cached(vae, files[1:], folder)
    with pytest.raises(UserError, match=r"\(differing: images\)"):
        cached(vae, [files[1], files[0], *files[2:]], folder)
    other = backbones.load(str(micro_base)).vae
    with torch.no_grad():
        next(other.encoder.parameters())[0] += 1e-3
    with pytest.raises(UserError, match=r"\(differing: vae\)"):
        cached(other, files, folder)


def test_images_that_changed_under_equal_names_and_sizes_are_encoded_again(vae, files, tmp_path):
    own = []
    for file in files:
        own.append(tmp_path / file.name)
        Image.open(file).save(own[-1], compress_level=0)
    before = cached(vae, own, None, default=tmp_path / "cache")
    size = own[0].stat().st_size
    ImageOps.invert(Image.open(own[0])).save(own[0], compress_level=0)
    assert own[0].stat().st_size == size
    after = cached(vae, own, None, default=tmp_path / "cache")
    assert not torch.equal(before.fields(0)["mean"], after.fields(0)["mean"])
    torch.testing.assert_close(after.fields(0)["mean"].float(), encoded(vae, own[0])[0], rtol=1e-3, atol=1e-4)


def test_copied_images_are_not_encoded_again(vae, files, tmp_path, monkeypatch):
    cached(vae, files, tmp_path / "cache")
    monkeypatch.setattr(vae, "encode", lambda pixels: pytest.fail("encoded again"))
    cached(vae, [Path(shutil.copy(file, tmp_path)) for file in files], tmp_path / "cache")


def test_shards_without_a_record_are_not_trusted(vae, files, tmp_path):
    cached(vae, files, tmp_path)
    (tmp_path / "fingerprint.json").unlink()
    (tmp_path / "shard-00000.safetensors").write_bytes((tmp_path / "shard-00001.safetensors").read_bytes())
    cache = cached(vae, files, tmp_path)
    torch.testing.assert_close(cache.fields(0)["mean"].float(), encoded(vae, files[0])[0], rtol=1e-3, atol=1e-4)


def test_memory_that_does_not_suffice_is_one_line(vae, files, tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "encode", lambda pixels: torch.empty(1 << 50))
    with pytest.raises(
        UserError, match=r"out of memory.*: latents are encoded 16 at a time: free some memory, or lower"
    ):
        cached(vae, files, tmp_path)


def test_a_folder_that_cannot_be_written_to_names_the_flag(vae, files, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written there \(Read-only .*: name a folder by --latents_dir"):
        cached(vae, files, tmp_path / "cache")


def test_a_disk_too_small_is_known_after_the_first_batch(vae, files, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"the cache of latents takes 2.82e-06 GB and its disk has 1e-06 GB left"):
        cached(vae, files, tmp_path / "cache")  # 11 rows, mean and deviation of 128 bytes each
    assert not list((tmp_path / "cache").glob("shard*"))


@pytest.mark.parametrize(("free", "refused"), [(2000, True), (2400, False)])
def test_rows_of_different_length_count_by_the_first_batch_and_written_ones_no_more(
    tmp_path, monkeypatch, free, refused
):
    """10 rows of 240 bytes, in shards of 4."""
    disk = [free]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=disk[0]))

    def encode(first: int, last: int) -> dict[str, list[torch.Tensor]]:
        disk[0] = free - 240 * first  # the shards before are on the disk
        return {"hidden": [torch.zeros(n, 2, 5) for n in (6, 6, 6, 6)[: last - first]]}

    def build() -> shard_cache.ShardCache:
        return shard_cache.build_cache("text conditioning", {}, encode, 10, tmp_path / "cache", tmp_path)

    if refused:
        with pytest.raises(UserError, match=r"the cache of text conditioning takes 2.4e-06 GB"):
            build()
    else:
        assert build().n == 10


def test_a_complete_cache_is_used_where_nothing_can_be_written(vae, files, tmp_path, monkeypatch):
    cached(vae, files, tmp_path)
    monkeypatch.setattr(shard_cache, "write_json", lambda *_: pytest.fail("wrote"))
    cached(vae, files, tmp_path)


def test_a_tuned_decoder_leaves_the_moments_valid(vae, files, tmp_path, micro_base):
    cached(vae, files, tmp_path)
    other = backbones.load(str(micro_base)).vae
    with torch.no_grad():
        next(other.decoder.parameters())[0] += 1.0
    cached(other, files, tmp_path)


def test_default_folders_part_what_differs(vae, files, tmp_path):
    for resolution in (32, 64, 32):
        cached(vae, files, None, default=tmp_path, resolution=resolution)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("size", [0, 5, 200])
def test_a_damaged_shard_is_named(vae, files, tmp_path, size):
    cached(vae, files, tmp_path)
    os.truncate(tmp_path / "shard-00002.safetensors", size)
    with pytest.raises(UserError, match=r"shard-00002\.safetensors is damaged .*delete it"):
        cached(vae, files, tmp_path)


def test_shards_of_other_length_are_refused(vae, files, tmp_path):
    cached(vae, files, tmp_path)
    (tmp_path / "shard-00002.safetensors").write_bytes((tmp_path / "shard-00001.safetensors").read_bytes())
    with pytest.raises(UserError, match="holds 12 rows instead of 11"):
        cached(vae, files, tmp_path)


def test_a_missing_image_is_named_before_anything_is_encoded(vae, files, tmp_path):
    with pytest.raises(UserError, match=r"gone\.png is named in metadata\.csv and does not exist"):
        cached(vae, [*files, tmp_path / "gone.png"], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_posterior_samples_differ_by_their_noise(vae, files, tmp_path):
    """The standard deviation is cached, not its logarithm or its square."""
    cached(vae, files, tmp_path)
    shard = load_file(tmp_path / "shard-00000.safetensors")
    assert (shard["std"] > 0).all()
    torch.testing.assert_close(shard["std"][0].float(), encoded(vae, files[0])[1], rtol=1e-3, atol=1e-4)
