"""Differences of models: paired draws, what is not compared, and what is said of them."""

from functools import cache

import numpy as np
import pytest

from eval.inputs.folders import read_samples
from eval.metrics.bootstrap import Interval, bootstrap_counts, percentiles
from eval.scores import finite_or_none, score_row
from eval.summary.comparison import (
    BOOTSTRAP,
    HALVES_OF_REAL,
    INDEPENDENT,
    TOO_FEW,
    compare_models,
    difference,
    shared_rows,
)
from eval.summary.comparison_sections import compared_sections, in_a_word, metric_table
from eval.summary.comparison_verdict import verdict
from eval.summary.models import Model, name_models
from sdcxr.runtime.errors import UserError

NAMES = {"step": "fidelity", "variant": "x", "part": "fidelity by x"}


def measured(metric: str, value: float | None, draws=(), kind="bootstrap", **others) -> dict:
    interval = Interval(0.0, 1.0, np.asarray(draws, float), kind) if len(draws) else (None, None)
    row = score_row(metric, value, interval, **({"n_real": 24, "n_synthetic": 24, "label": None} | others))
    return finite_or_none([row])[0] | NAMES | {"model": others.get("model")}


@cache
def counts_of(n: int) -> np.ndarray:
    return np.array(list(bootstrap_counts(n, 1000, seed=0)))


def means_of(values: np.ndarray) -> np.ndarray:
    return counts_of(len(values)) @ values / len(values)


def test_draws_of_one_seed_are_paired():
    """Two models whose values go up and down with the prompts differ by a constant: its interval is that constant."""
    values = np.random.default_rng(0).normal(size=200)
    first = measured("auroc", values.mean(), means_of(values), images="synthetic")
    second = measured("auroc", values.mean() + 0.1, means_of(values + 0.1 + 0.001 * values[::-1]), images="synthetic")
    row = difference(first, second, same_groups=True)
    assert row["value"] == pytest.approx(0.1) and row["ci_high"] - row["ci_low"] < 0.001
    assert row["result"] == "better" and row["paired"] == BOOTSTRAP.format(n=1000)
    alone = difference(first, second, same_groups=False)
    assert alone["ci_high"] - alone["ci_low"] > 0.3 and alone["paired"] == INDEPENDENT.format(n=1000)
    assert alone["result"] is None


def test_the_paired_interval_covers_the_difference():
    """95 % of the intervals of 100 experiments hold the difference of the populations."""
    hits = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        common = generator.normal(size=60)
        a, b = common + 0.3 * generator.normal(size=60), common + 0.5 + 0.3 * generator.normal(size=60)
        rows = [measured("auroc", side.mean(), means_of(side), images="synthetic") for side in (a, b)]
        row = difference(*rows, same_groups=True)
        hits += row["ci_low"] <= 0.5 <= row["ci_high"]
    assert 88 <= hits <= 100


def test_the_deviation_between_halves_is_the_error_of_the_difference():
    draws = np.random.default_rng(1).normal(size=(2, 100))
    rows = [measured("fd", value, x, "half") for value, x in zip((3.0, 5.0), draws, strict=True)]
    row = difference(*rows, same_groups=False)
    error = (draws[1] - draws[0]).std(ddof=1)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((2 - 1.959964 * error, 2 + 1.959964 * error))
    assert row["paired"] == HALVES_OF_REAL.format(n=100)  # half-samples of the real images come first
    of_label = [one | {"label": "Edema"} for one in rows]
    assert difference(*of_label, same_groups=False)["paired"] == INDEPENDENT.format(n=100)


@pytest.mark.parametrize(
    ("metric", "step", "result"),
    [("fd", 1.0, "worse"), ("fd", -1.0, "better"), ("auroc", 1.0, "better"), ("alignment", 1.0, "higher")],
)
def test_a_difference_is_judged_by_the_direction_of_its_measure(metric, step, result):
    draws = np.random.default_rng(2).normal(size=100) / 100
    rows = [measured(metric, 1.0, draws), measured(metric, 1.0 + step, draws[::-1] + step)]
    assert difference(*rows, same_groups=True)["result"] == result


def test_without_draws_or_variation_there_is_no_interval():
    for draws in ((), np.zeros(10)):
        rows = [measured("copy_share", 0.0, draws), measured("copy_share", 0.1, draws)]
        row = difference(*rows, same_groups=True)
        assert row["value"] == pytest.approx(0.1) and row["ci_low"] is row["result"] is None
    assert difference(measured("fd", None), measured("fd", 1.0), True)["notes"] == ["not defined for both"]


def test_samples_that_lack_a_value_do_not_count():
    draws = np.random.default_rng(3).normal(size=(2, 100))
    draws[0, :10] = np.nan
    low, high = percentiles(draws[1, 10:] - draws[0, 10:])
    row = difference(measured("auroc", 0.0, draws[0]), measured("auroc", 0.0, draws[1]), same_groups=True)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
    draws[0, :60] = np.nan
    assert difference(measured("auroc", 0.0, draws[0]), measured("auroc", 0.0, draws[1]), True)["ci_low"] is None


def test_measures_that_depend_on_the_number_of_images_need_equal_numbers():
    more = {"value_at_floor_n": 3.0, "floor_n": 12}
    rows = [measured("fd", 2.0, [1.0, 2.0], "half"), measured("fd", 5.0, [3.0, 1.0], "half", n_synthetic=48)]
    row = difference(*rows, same_groups=True)
    assert row["value"] is None and row["notes"][0].startswith("not compared: 24 against 48 images")
    row = difference(rows[0] | more, rows[1] | more | {"value_at_floor_n": 4.0}, same_groups=True)
    assert row["value"] == 1.0 and row["ci_low"] is None and "values at 12 images" in row["notes"][0]
    assert difference(measured("kid", 2.0), measured("kid", 5.0, n_synthetic=48), True)["value"] == 3.0  # no such bias


def test_real_rows_are_once_where_they_are_the_same():
    rows = [measured("auroc", 0.9, images="real", model=name) for name in "AB"]
    assert shared_rows(rows) == [rows[0] | {"model": None}]
    rows[1]["value"] = 0.8
    assert shared_rows(rows) == rows
    synthetic = [measured("auroc", 0.9, images="synthetic", model=name) for name in "AB"]
    assert shared_rows(synthetic) == synthetic


@pytest.fixture
def models(folders, tmp_path):
    """Three folders with the samples of one run, and of another."""

    def make(*runs: str):
        sides = []
        for i, run in enumerate(runs):
            side = read_samples(folders.synthetic)
            side = type(side)(tmp_path / f"m{i}" / "samples", side.rows.assign(model=run), True)
            sides.append(side)
        return name_models(sides)

    return make


def test_models_are_named_by_their_runs_or_else_by_their_folders(models):
    assert [model.name for model in models("runs/a", "runs/b/pipeline", "owner/c")] == ["a", "b", "c"]
    assert [model.name for model in models("runs/a", "other/a")] == ["m0/samples", "m1/samples"]
    assert [model.name for model in models("runs/a")] == ["a"]


def test_a_folder_given_twice_is_one_line(folders):
    side = read_samples(folders.synthetic)
    with pytest.raises(UserError, match=r"--synthetic .*samples is given twice"):
        name_models([side, side])


def rows_of_two() -> tuple[list[dict], list[Model]]:
    generator = np.random.default_rng(4)
    rows = []
    for model, better in (("A", 0.0), ("B", 0.2)):
        draws = generator.normal(size=100) / 50
        of = {"model": model, "images": "synthetic", "n_positive": 20, "n_negative": 28}
        for label in ("Edema", "macro"):
            more = of | {"label": label, "n_labels": 1 if label == "macro" else None}
            rows.append(measured("auroc", 0.7 + better, draws + better, **more) | {"step": "classifier"})
        floor = {"floor": 1.0, "floor_low": 0.8, "floor_high": 1.2, "floor_n": 12, "value_at_floor_n": 2.0 + better}
        rows.append(measured("fd", 3.0 + 0.01 * better, draws, "half", model=model) | floor)
        rows.append(measured("copy_share", 0.0, model=model, n_copies=0) | {"step": "privacy"})
    rows.append(measured("auroc", 0.95, images="real", label="macro") | {"step": "classifier"})
    return rows, ["A", "B"]


def two_compared(folders):
    rows, names = rows_of_two()
    side = read_samples(folders.synthetic)
    return rows, compare_models(rows, [Model(name, side) for name in names]), names


def test_the_verdict_says_better_not_shown_and_not_judged(folders):
    rows, differences, names = two_compared(folders)
    said = verdict(rows, differences, names)
    assert said.points[:-1] == [
        "B is better than A in 1 of 3 kinds of measure, and worse in none.",
        "No measure of fidelity differs.",
        "Better: AUROC ↑ (x, 20 positives).",
        "No difference shown, which does not mean that there is none: Fréchet distance ↓ (x).",
        "Share of copies by x: 0 of 24 in both; their difference has no interval.",
        "Neither model reaches the floor in any of the 1 main values of fidelity: at N = 12 they lie outside the range "
        "of real against real.",
        "At least one model is not told apart from the real images in AUROC (0.700 and 0.900 against 0.950).",
    ]
    assert "about 1 would exclude 0 by chance" in said.points[-1] and "not another training run" in said.points[-1]
    (card,) = said.cards
    assert [line.label for line in card.lines] == ["AUROC ↑, x", "Fréchet distance ↓, x"]
    assert all(line.at == 0 and line.marks[0].text for line in card.lines)


def changes(metric: str, results: list[str | None], **others) -> list[dict]:
    """Differences by several networks with a verdict each."""
    known = {"ci_low": 1.0, "ci_high": 2.0, "model": "B", "baseline": "A", "step": "fidelity", "label": None} | others
    return [
        measured(metric, 1.5) | {"result": one, "paired": None} | known | {"variant": f"n{i}"}
        for i, one in enumerate(results)
    ]


def test_measures_by_several_networks_count_once():
    rows = changes("fd", ["worse", "worse"]) + changes("cmmd", ["worse", None]) + changes("recall", ["better", "worse"])
    points = verdict([], rows, ["A", "B"]).points
    assert (
        points[0] == "B is worse than A in 2 of 3 kinds of measure (worse with both networks: 1), and better in none."
    )
    assert "Better by one network and worse by another: recall ↑ (n0, n1)." in points


def test_a_measure_with_an_aim_is_not_counted_and_has_no_better_side():
    rows = [
        measured("ms_ssim_within_prompts", v, model=m, images="synthetic", n_prompts=18)
        for m, v in (("A", 0.7), ("B", 0.6))
    ]
    rows = [row | {"floor": 0.5, "step": "diversity", "variant": None} for row in rows]
    change = changes("ms_ssim_within_prompts", ["nearer"], images="synthetic", step="diversity")[0] | {"variant": None}
    points = verdict(rows, [change], ["A", "B"]).points
    assert points[0] == "B and A have no main measure in common."
    assert points[1] == (
        "Not counted, because it has an aim, the real value 0.500: MS-SSIM within prompts; A 0.700, B 0.600. The "
        "difference excludes 0: B nearer to the aim."
    )


@pytest.mark.parametrize(
    ("values", "result"),
    [((1.5, 1.2), "nearer"), ((0.5, 0.2), "farther"), ((0.8, 1.3), "higher"), ((1.0, 1.2), "farther")],
)
def test_nearer_to_an_aim_is_said_only_on_one_side_of_it(values, result):
    draws = np.random.default_rng(2).normal(size=100) / 1000
    first, second = (
        measured("nn_distance_ratio", v, v + sign * draws) for v, sign in zip(values, (1, -1), strict=True)
    )
    assert difference(first, second, same_groups=True)["result"] == result


def test_few_positives_get_an_interval_and_no_verdict():
    draws = np.random.default_rng(2).normal(size=100) / 100
    rows = [measured("auroc", v, v + draws * s, n_positive=19, n_negative=40) for v, s in ((0.5, 1), (0.9, -1))]
    row = difference(*rows, same_groups=True)
    assert row["ci_low"] > 0 and row["result"] is None and row["notes"] == [TOO_FEW]
    assert in_a_word(row, "B", "A") == "too few images to judge"
    shown = verdict(
        [], [row | {"model": "B", "baseline": "A", "step": "classifier", "variant": None}], ["A", "B"]
    ).points
    assert "Too few images, positives or searches to judge: AUROC ↑ (19 positives)." in shown


def test_a_metric_has_a_column_for_each_model_and_for_their_difference(folders):
    rows, differences, names = two_compared(folders)
    table = metric_table([row for row in rows if row["metric"] == "auroc"], differences, names)
    lines = [dict(zip(table.header, line, strict=True)) for line in table.rows]
    answers = "Based on 20 positive answers of 1 findings in 24 images"
    names_of_lines = ["Edema, x\nBased on 20 positive, 28 negative", f"mean of the findings, x\n{answers}"]
    assert [line["finding or network"] for line in lines] == names_of_lines
    assert [line["B minus A"].split()[0] for line in lines] == ["0.200", "0.200"]
    assert [line["result"] for line in lines] == ["excludes 0: B better"] * 2
    assert [line["reference"] for line in lines] == ["", "real images: 0.950"]
    assert table.footnotes == [f"Interval of the difference: {BOOTSTRAP.format(n=100)}"]
    (fd,) = (
        t for s in compared_sections(rows, differences, names) for t in s.tables if t.title == "Fréchet distance ↓"
    )
    line = dict(zip(fd.header, fd.rows[0], strict=True))
    assert line["reference"] == "real against real: 1.000 [0.800 to 1.200], N = 12"
    assert line["result"] == "includes 0: no difference shown" and line["reaches real images"] == "no"
    assert line["A"].endswith("2.000 at N = 12") and line["B"].endswith("2.200 at N = 12")


def test_comparisons_of_single_findings_are_called_exploratory(folders):
    rows, differences, names = two_compared(folders)
    (found,) = (s for s in compared_sections(rows, differences, names) if s.anchor == "classifier")
    assert found.texts[0].startswith(
        "Exploratory: 1 comparisons of single findings below, of which about 1 would exclude"
    )
