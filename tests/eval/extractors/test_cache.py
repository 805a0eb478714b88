"""Extraction: one array for a folder, however many processes extract it, from the cache where nothing has changed."""

import errno
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from eval import extractors
from eval.extractors import cache as features
from eval.extractors import pixels
from eval.extractors.cache import Features, extract
from eval.inputs.folders import read_folder
from sdcxr.runtime.errors import UserError
from tests.torchrun import in_two_processes

N = 7


def draw(folder: Path, n: int = N) -> Path:
    """Grey pictures of mixed sizes and modes, whose brightness rises from file to file."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(n):
        grey = rng.integers(0, 40, (40 + i % 5, 48), dtype=np.uint8) + np.uint8(200 * i // max(n, 1))
        Image.fromarray(grey).convert("RGB" if i % 2 else "L").save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path / "images")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "features"


def look(folder: Path, cache: Path, extractor: str = "pixels-8") -> Features:
    return extract(read_folder(folder, "--images"), extractors.find_extractor(extractor), cache_dir=cache)


@pytest.fixture
def loads(monkeypatch):
    """The number of times that the network of pixels-… was loaded."""
    count = []
    load = pixels.load
    monkeypatch.setattr(pixels, "load", lambda device: count.append(device) or load(device))
    return count


def test_rows_are_the_images_in_order_with_their_provenance(folder, cache):
    found = look(folder, cache)
    assert found.values.shape == (N, 64) and found.values.dtype == np.float32
    assert found.ids == [f"{i:03}.png" for i in range(N)]
    assert (np.diff(found.values.mean(axis=1)) > 0).all()
    about = found.provenance
    assert (about["extractor"], about["n_images"], about["dimension"]) == ("pixels-8", N, 64)
    assert about["resize"] == "pil-bilinear 8 → 0…1" and about["sha256"] == {}
    assert set(about["versions"]) == {"torch", "pillow"}
    assert (about["n_colour"], about["channel_difference"]) == (0, 0)


def test_colour_is_recorded_and_becomes_grey(folder, cache):
    Image.fromarray(np.full((8, 8, 3), (210, 200, 180), np.uint8)).save(folder / "colour.png")
    about = look(folder, cache).provenance
    assert about["n_colour"] == 1 and about["channel_difference"] == pytest.approx(30 / (N + 1))


def test_a_second_call_does_not_touch_the_network(folder, cache, loads):
    first, second = look(folder, cache), look(folder, cache)
    assert len(loads) == 1
    np.testing.assert_array_equal(first.values, second.values)
    assert (first.ids, first.provenance) == (second.ids, second.provenance)


def test_what_changes_the_features_is_extracted_anew(folder, cache, loads):
    def again(**changes: object) -> bool:
        before = len(loads)
        look(folder, cache, **changes)
        return len(loads) > before

    assert again() and not again()
    times = (folder / "003.png").stat()
    Image.new("L", (48, 43), 7).save(folder / "003.png")
    assert again() and not again()
    assert look(folder, cache).values[3].max() == pytest.approx(7 / 255)
    os.utime(folder / "004.png", ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert again()
    (folder / "006.png").unlink()
    assert again() and look(folder, cache).values.shape == (N - 1, 64)
    assert again(extractor="pixels-4")


@pytest.mark.parametrize("name", ["eval.extractors.cache.VERSION", "eval.extractors.base.installed_version"])
def test_other_code_extracts_anew(folder, cache, monkeypatch, loads, name):
    look(folder, cache)
    monkeypatch.setattr(name, 99 if name.endswith("VERSION") else lambda package: "99")
    look(folder, cache)
    assert len(loads) == 2


def test_another_table_of_the_same_images_extracts_nothing_anew(folder, cache, loads):
    for label in ("", "1.0"):
        lines = ["file_name,text,Edema", *(f"{i:03}.png,,{label}" for i in range(N))]
        (folder / "metadata.csv").write_text("\n".join(lines))
        look(folder, cache)
    assert len(loads) == 1


def test_another_image_of_the_same_size_and_time_is_extracted_anew(tmp_path, cache):
    """As `cp -p` and tar leave it: only the system's own time of change tells."""
    folder = tmp_path / "images"
    folder.mkdir()
    for grey in (10, 90):
        Image.new("L", (9, 9), grey).save(folder / "a.bmp")
        os.utime(folder / "a.bmp", ns=(10**18, 10**18))
        size = (folder / "a.bmp").stat().st_size
        assert look(folder, cache).values[0, 0] == pytest.approx(grey / 255)
    assert (folder / "a.bmp").stat().st_size == size


def test_features_are_there_though_they_cannot_be_kept(folder, tmp_path, monkeypatch, capsys):
    expected = look(folder, tmp_path / "features").values
    (tmp_path / "file").touch()
    np.testing.assert_array_equal(look(folder, tmp_path / "file" / "features").values, expected)
    assert "warning: features are not kept" in capsys.readouterr().err

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    np.testing.assert_array_equal(look(folder, tmp_path / "other").values, expected)
    assert "not kept for the next time: no space left" in capsys.readouterr().err


def test_the_main_process_alone_writes(folder, cache, monkeypatch):
    other = SimpleNamespace(process_index=0, num_processes=1, is_main_process=False, device=torch.device("cpu"))
    monkeypatch.setattr("sdcxr.runtime.processes.processes", lambda: other)
    assert look(folder, cache).values.shape == (N, 64) and not list(cache.rglob("*.safetensors"))


def test_ctrl_c_leaves_no_array_behind(folder, cache, monkeypatch, loads):
    def interrupted(batch):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "load", lambda device: interrupted)
        with pytest.raises(KeyboardInterrupt):
            look(folder, cache)
    assert not list(cache.rglob("*.safetensors*"))
    assert look(folder, cache).values.shape == (N, 64) and len(loads) == 1


def test_other_weights_of_the_same_name_are_extracted_anew(folder, cache, tmp_path, monkeypatch, loads):
    weights = tmp_path / "net.safetensors"
    build = pixels.build

    def weighted(request: extractors.Request) -> extractors.Extractor:
        found = build(request)
        return extractors.Extractor(**(vars(found) | {"weights": (weights,)}))

    monkeypatch.setattr(pixels, "build", weighted)
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        about = look(folder, cache).provenance
    assert len(loads) == 2 and list(about["sha256"]) == ["net.safetensors"]


def test_a_damaged_array_in_the_cache_is_extracted_anew(folder, cache, loads):
    first = look(folder, cache)
    (array,) = cache.glob("*.safetensors")
    array.write_bytes(array.read_bytes()[:20])
    np.testing.assert_array_equal(look(folder, cache).values, first.values)
    assert len(loads) == 2
    assert not [path for path in cache.iterdir() if path != array], "parts are left over"


def test_unusable_images_are_all_named_in_one_line(folder, cache):
    for i in range(12):
        (folder / f"broken{i:02}.png").write_text("nothing")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
    with pytest.raises(UserError) as caught:
        look(folder, cache)
    message = str(caught.value)
    assert "13 of 20 images cannot be used" in message and "and 3 more" in message
    assert all(f"broken{i:02}.png" in message for i in range(10)) and "broken10.png" not in message
    assert "\n" not in message
    for i in range(12):
        (folder / f"broken{i:02}.png").unlink()
    with pytest.raises(UserError, match=r"deep\.png has more than 8 bits"):
        look(folder, cache)
    (folder / "deep.png").unlink()
    assert look(folder, cache).values.shape == (N, 64)


def test_numbers_that_are_not_finite_are_no_features(folder, cache, monkeypatch):
    monkeypatch.setattr(pixels, "load", lambda device: lambda batch: batch.flatten(1) / 0)
    with pytest.raises(UserError, match=r"not finite for 7 of 7 images .first: 000\.png"):
        look(folder, cache)


def test_worker_processes_change_nothing(folder, cache, tmp_path, monkeypatch):
    alone = look(folder, cache)
    monkeypatch.setattr(features, "WORKERS_FROM", 1)
    monkeypatch.setattr(features, "BATCH", 3)
    monkeypatch.setattr(features, "_workers", lambda: 2)
    np.testing.assert_array_equal(look(folder, tmp_path / "other").values, alone.values)


@pytest.mark.parametrize("name", ["pixels-8"])
def test_the_way_of_an_image_can_be_sent_to_workers(name):
    prepare = extractors.find_extractor(name).prepare
    image = Image.new("L", (9, 9), 50)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(prepare))(image), prepare(image))


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        read_folder(tmp_path, "--images")


def save_network(run: Path) -> Path:
    """A run folder with a small classifier."""
    from safetensors.torch import save_file

    from sdcxr.backbones.image_classifier import network

    (run / "classifier").mkdir(parents=True)
    torch.manual_seed(0)
    save_file(network("resnet10t", 2).state_dict(), run / "classifier" / "model.safetensors")
    about = {"architecture": "resnet10t", "labels": ["a", "b"], "resolution": 32}
    (run / "classifier" / "config.json").write_text(json.dumps(about))
    return run


@pytest.mark.multiprocess
def test_two_processes_give_the_array_of_one(folder, tmp_path):
    run, output = save_network(tmp_path / "run"), tmp_path / "out" / "two.safetensors"
    command = ["-m", "eval.features", "--images", folder, "--extractor", run, "--output", output]
    out = in_two_processes(*command, folder=tmp_path, SDCXR_CACHE=str(tmp_path / "cache"))
    assert out.count(f"{N} images ×") == 1
    alone = look(folder, tmp_path / "alone", str(run))
    with safe_open(output, "numpy") as file:
        np.testing.assert_allclose(file.get_tensor("values"), alone.values, rtol=1e-4, atol=1e-6)
        assert json.loads(file.metadata()["ids"]) == alone.ids
        assert json.loads(file.metadata()["provenance"]) == alone.provenance


def test_problems_of_all_processes_come_together_in_the_order_of_the_folder(folder):
    images = read_folder(folder, "--images")
    nothing = np.zeros((0, 0), np.float32)
    shares = [
        features._Share(nothing, [], {"006.png": "is cut", "000.png": "is cut"}),
        features._Share(nothing, [], {"003.png": "is gone"}),
    ]
    with pytest.raises(UserError, match=r"3 of 7 .*: 000\.png is cut; 003\.png is gone; 006\.png is cut\. "):
        features._merge(shares, images, {})


def test_processes_without_images_add_nothing(tmp_path):
    images = read_folder(draw(tmp_path / "one", 1), "--images")
    alone, idle = (features._Share(np.zeros((n, 3 * n), np.float32), [0.0] * n, {}) for n in (1, 0))
    assert features._merge([alone, idle], images, {}).values.shape == (1, 3)


def test_processes_whose_caches_differ_extract_together(folder, cache, monkeypatch, loads):
    """A node that has the array takes part all the same, or the others would wait for it."""
    look(folder, cache)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with monkeypatch.context() as patch:
        patch.setattr("accelerate.utils.gather_object", lambda mine: mine + [False] * isinstance(mine[0], bool))
        look(folder, cache)
    assert len(loads) == 2
    look(folder, cache)
    assert len(loads) == 2


@pytest.mark.parametrize("when", ["load", "forward"])
def test_memory_that_runs_out_is_one_line_and_nothing_is_kept(folder, cache, monkeypatch, when):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(pixels, "load", full if when == "load" else lambda device: full)
    with pytest.raises(UserError, match=r"out of memory \(another 2\.00 GiB did not fit\): pixels-8 ") as error:
        look(folder, cache)
    assert "\n" not in str(error.value) and not list(cache.rglob("*.safetensors"))
    monkeypatch.undo()
    assert look(folder, cache).values.shape == (N, 64)
