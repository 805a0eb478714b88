import pytest

from sdcxr.io.hub import is_hub_name


@pytest.mark.parametrize("name", ["model", "a/b/c", "/a", "./a", "~/a", "../a", "a/", "", "runs/here"])
def test_paths_and_single_words_are_no_hub_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "here").mkdir(parents=True)
    assert not is_hub_name(name)


def test_owner_and_name_are_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("microsoft/rad-dino")
