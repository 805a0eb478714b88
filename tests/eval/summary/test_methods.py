"""Methods of the report: each measure has a name, a direction, a definition, its parameters and a source."""

from eval.metrics.presets import ALL
from eval.summary.measures import MEASURES, with_arrow
from eval.summary.methods import METHODS, methods
from tests.eval.summary.test_sections import all_rows, row


def test_each_measure_of_the_methods_has_a_name_and_the_other_way_round():
    described = [metric for one in METHODS for metric in one["metrics"]]
    assert len(described) == len(set(described)) and set(described) == set(MEASURES)
    assert set(ALL) <= set(described)
    assert all(one["source"] and one["how"] and one["interval"] for one in METHODS)


def test_arrows_point_to_the_better_side():
    assert with_arrow("fd") == "Fréchet distance ↓" and with_arrow("recall") == "recall ↑"
    assert with_arrow("alignment") == "cosine with the own prompt"  # only differences can be read
    assert with_arrow("brightness") == "brightness"


def test_parameters_are_those_of_the_rows():
    rows = [row("fidelity", "recall", 0.4, "x") | {"k": 5, "dimension": 96, "draws": [0.1, 0.2], "draws_kind": "half"}]
    rows.append(row("fidelity", "kid_subsets", 0.4, "x") | {"subset_size": 12, "subsets": 100, "k": None})
    shown = {line[0]: line[2] for line in methods(rows, several=False).tables[0].rows}
    assert shown["Precision, recall, density, coverage"] == {"k": "5", "dimension": "96", "half-samples": "2"}
    assert shown["KID"] == {"subset size": "12", "subsets": "100"}


def test_only_what_is_measured_is_described_and_paired_draws_only_of_several_models():
    shown = methods(all_rows(), several=False)
    assert "Vendi score" in [line[0] for line in shown.tables[0].rows]
    assert (
        methods([row("fidelity", "fd", 1.0, "x")], several=False).tables[0].rows[0][4].startswith("Heusel et al. 2017")
    )
    assert not any("Difference of two models" in point for point in shown.points)
    assert any("Difference of two models" in point for point in methods(all_rows(), several=True).points)
    assert methods([], several=False).points == []
    assert methods([row("x", "brightness", 1.0)], False).tables[0].rows == [
        ["brightness", "Not described here.", {}, "", ""]
    ]
