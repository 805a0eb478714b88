"""Tests of eval.pairs: who stands beside whom."""

from eval.inputs.folders import read_folder, same_prompts, spread_out


def test_pairs_are_of_one_prompt_in_the_order_of_their_ids(folders):
    table = folders.synthetic / "metadata.csv"
    header, *lines = table.read_text().splitlines()
    turned = [line for two in reversed([lines[i : i + 2] for i in range(0, len(lines), 2)]) for line in two]
    table.write_text("\n".join([header, *turned]))
    pairs = same_prompts(read_folder(folders.real, "--real"), read_folder(folders.synthetic, "--synthetic"))
    assert [name for _, _, name, _ in pairs] == [f"te0{i:02}-aa" for i in range(0, 24, 2)]
    for real, synthetic, name, text in pairs:
        assert real == folders.real / f"{name}.png" and synthetic == folders.synthetic / f"{name}_0.png"
        assert text in table.read_text()
    assert same_prompts(read_folder(folders.real, "--real"), read_folder(folders.real, "--synthetic")) == []


def test_items_are_spread_evenly():
    assert spread_out(list(range(24)), 4) == [0, 6, 12, 18]
    assert spread_out(list(range(7)), 4) == [0, 1, 3, 5]
    assert spread_out([1, 2], 4) == [1, 2] and spread_out([], 4) == []
