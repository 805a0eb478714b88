"""Tests of eval.weights: absent weights are one line that says what to fetch, wrong ones are refused."""

import hashlib

import pytest

from eval.extractors.weights import WeightsFile, hub_folder
from sdcxr.runtime.errors import UserError

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_absent_weights_name_file_size_origin_and_flag(tmp_path):
    file = WeightsFile("net.pt", "https://example.org/net.pt", about="about 28 MB, size unconfirmed")
    for folder in (None, tmp_path):
        with pytest.raises(UserError) as caught:
            file.find(folder)
        for part in ("net.pt", "28 MB", "unconfirmed", "https://example.org/net.pt", "--weights_dir"):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "7,000,000 bytes" in WeightsFile("net.pt", "url", size=7_000_000).size_text


@pytest.mark.parametrize(
    ("known", "problem"), [({"size": 8}, "7 bytes instead of 8"), ({"sha256": "00" * 32}, "sha256")]
)
def test_wrong_weights_are_refused(tmp_path, known, problem):
    (tmp_path / "net.pt").write_bytes(CONTENT)
    with pytest.raises(UserError, match=problem):
        WeightsFile("net.pt", "url", **known).find(tmp_path)


def test_other_folders_count_only_where_the_checksum_is_known(tmp_path):
    (tmp_path / "net.pt").write_bytes(CONTENT)
    assert WeightsFile("net.pt", "url", size=7, sha256=SHA256[:8]).find(None, tmp_path) == tmp_path / "net.pt"
    with pytest.raises(UserError):
        WeightsFile("net.pt", "url").find(None, tmp_path)


def test_a_repository_is_found_below_the_weights_folder_or_told_how_to_get(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("one", "owner/two"):
        (tmp_path / name).mkdir(parents=True)
    assert hub_folder("owner/one", tmp_path, "1 MB") == tmp_path / "one"
    assert hub_folder("owner/two", tmp_path, "1 MB") == tmp_path / "owner" / "two"
    with pytest.raises(UserError, match=r"owner/three .1 MB.*hf download owner/three --local-dir .*--weights_dir"):
        hub_folder("owner/three", tmp_path, "1 MB")
