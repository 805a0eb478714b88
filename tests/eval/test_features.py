"""The command eval.features: writes one array for a folder, lists the extractors."""

import pytest
from safetensors import safe_open

from eval.features import FeaturesConfig, main
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import radiograph

N = 7


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(N):
        radiograph(48, 40, seed=i).save(images / f"{i:03}.png")
    return images


def test_the_command_writes_a_file_and_lists_names(folder, tmp_path, capsys):
    output = tmp_path / "out" / "features.safetensors"
    assert main(FeaturesConfig(images=str(folder), extractor="pixels-8", output=str(output))) == 0
    with safe_open(output, "numpy") as file:
        assert file.get_tensor("values").shape == (N, 64)
    assert "7 images × 64 features of pixels-8" in capsys.readouterr().out
    assert main(FeaturesConfig(list=True)) == 0
    assert "rad-dino" in capsys.readouterr().out
    with pytest.raises(UserError, match="missing --extractor, --output"):
        main(FeaturesConfig(images=str(folder)))
