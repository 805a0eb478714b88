"""Means over seeds, paired differences with their intervals, Holm's correction, and what the tables mark."""

from dataclasses import replace

import numpy as np
import pytest

from ablation.cells import Plan
from ablation.estimates import Estimate, Spread, estimate, estimates_of, ranks
from ablation.grid import Grid
from ablation.results import Arms, Measured
from ablation.tables import (
    differences_table,
    latex,
    markdown,
    mean_text,
    notes,
    ranks_table,
    values_table,
    write_tables,
)
from eval.metrics.bootstrap import Interval, bootstrap_counts, holm, standard_error
from eval.scores import finite_or_none, score_row
from eval.summary.comparison import row_key

N = 60  # prompts
COUNTS = np.array(list(bootstrap_counts(N, 400, seed=0)))


def row_of(values: np.ndarray, metric: str = "auroc") -> dict:
    interval = Interval(0.0, 1.0, COUNTS @ values / N)
    row = score_row(metric, float(values.mean()), interval, images="synthetic", label="macro", n_synthetic=N, n_real=N)
    return finite_or_none([row])[0]


def arms_of(cells: dict[str, dict[str, np.ndarray]], baseline: str | None = None, metric: str = "auroc") -> Arms:
    """Arms by name with the values of each prompt by seed."""
    found, columns = {}, {}
    for arm, seeds in cells.items():
        found[arm] = {}
        for seed, values in seeds.items():
            one = Measured(None, [row_of(values, metric)], None, "same")
            found[arm][seed] = one
            columns = {row_key(one.rows[0]): metric}
    return Arms(found, columns, baseline)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm (1979), as R's p.adjust gives
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),  # ties
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.01, float("nan"), 0.04], [0.02, float("nan"), 0.04]),
        ([], []),
    ],
)
def test_holm(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, nan_ok=True)


def test_standard_errors_of_draws():
    draws = np.array([1.0, 2.0, 3.0])
    assert standard_error(draws, "bootstrap") == 1.0
    assert standard_error(draws, "jackknife") == pytest.approx((2 / 3 * 2) ** 0.5)
    assert np.isnan(standard_error(np.array([1.0, np.nan]), "half"))


def test_seeds_alone_give_students_interval():
    found = estimate([1.0, 2.0, 3.0], [np.zeros(0)] * 3, None)
    assert (found.value, found.sd, found.n_seeds) == (2.0, 1.0, 3)
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t of 2 degrees of freedom
    assert found.note


def test_prompts_alone_give_a_normal_interval_and_a_note():
    draws = np.random.default_rng(0).normal(size=1000)
    found = estimate([0.5], [draws], "bootstrap")
    assert found.high - found.value == pytest.approx(1.959964 * draws.std(ddof=1)) and "one seed" in found.note
    assert estimate([0.5], [np.zeros(0)], None).low is None
    assert estimate([0.5, 0.5], [np.zeros(0)] * 2, None).low is None  # without any variation nothing is known


SLOW = [pytest.param(sd, seeds, marks=pytest.mark.slow) for sd, seeds in ((0.0, 3), (0.1, 3), (1.0, 5), (0.3, 8))]


@pytest.mark.parametrize(("seed_sd", "seeds"), [(0.3, 3), *SLOW])
def test_intervals_cover_the_difference(seed_sd, seeds):
    """At least 93 % of the intervals hold the difference of the populations of seeds and prompts."""
    hits, experiments = 0, 400
    for number in range(experiments):
        generator = np.random.default_rng(number)
        prompts = generator.normal(size=N)  # how hard each is, the same for both arms
        gain = 0.2 + 0.5 * generator.normal(size=N)  # of the second arm, by prompt
        cells = {"a": {}, "b": {}}
        for seed in map(str, range(seeds)):
            noise = [generator.normal(size=N) * 0.3 for _ in "ab"]
            cells["a"][seed] = prompts + seed_sd * generator.normal() + noise[0]
            cells["b"][seed] = prompts + gain + seed_sd * generator.normal() + noise[1]
        arms = arms_of(cells)
        found = arms.difference("b", "a", next(iter(arms.columns)))
        hits += found.low <= 0.2 <= found.high
    assert hits / experiments >= 0.93


def test_pairs_are_narrower_than_the_arms():
    generator = np.random.default_rng(0)
    prompts = generator.normal(size=N)
    arms = arms_of({name: {s: prompts + 0.01 * generator.normal(size=N) for s in "012"} for name in "ab"})
    key = next(iter(arms.columns))
    alone, pair = arms.estimate("a", key), arms.difference("b", "a", key)
    assert (pair.high - pair.low) < 0.2 * (alone.high - alone.low)


@pytest.mark.parametrize("count", ["n_synthetic", "n_real"])
def test_values_that_depend_on_the_number_of_images_are_not_compared_between_numbers(count):
    arms = arms_of({"a": {"0": np.arange(N)}, "b": {"0": np.arange(N) + 1.0}}, metric="fd")
    arms.cells["b"]["0"].rows[0][count] = 2 * N
    assert arms.difference("b", "a", next(iter(arms.columns))) is None


def separate() -> Arms:
    generator = np.random.default_rng(1)
    levels = {"low": 0.0, "high": 1.0, "middle": 0.5}
    return arms_of({a: {s: x + 0.1 * generator.normal(size=N) for s in "012"} for a, x in levels.items()}, "low")


def test_the_best_is_marked_only_where_its_intervals_say_so():
    arms = separate()
    key = next(iter(arms.columns))
    assert arms.best(key) == "high"
    near = arms_of(
        {a: {s: np.random.default_rng(i + 9 * int(s)).normal(size=N) for s in "012"} for i, a in enumerate("ab")}
    )
    assert near.best(next(iter(near.columns))) is None


def pairs_of(values: list[float], sd: float) -> list[list[Estimate | None]]:
    """Differences of values with one standard error, by the normal distribution."""
    spreads = [[Spread(a - b, None, 0.0, sd**2, 1) for b in values] for a in values]
    return [[None if i == j else estimates_of([one])[0] for j, one in enumerate(row)] for i, row in enumerate(spreads)]


@pytest.mark.parametrize(
    ("values", "sd", "higher", "wanted"),
    [
        ([3.0, 2.0, 1.0], 0.1, True, [(1, 1, 1), (2, 2, 2), (3, 3, 3)]),
        ([3.0, 2.0, 1.0], 0.1, False, [(3, 3, 3), (2, 2, 2), (1, 1, 1)]),
        ([3.0, 2.0, 1.0], 9.0, True, [(1, 1, 3), (2, 1, 3), (3, 1, 3)]),
        ([2.0, 2.0, 1.0], 0.1, True, [(1, 1, 2), (1, 1, 2), (3, 3, 3)]),  # a tie shares the first place
        ([1.0, 1.0, 1.0], 0.1, True, [(1, 1, 3)] * 3),
        # 2.1 standard errors are significant alone (p = 0.036), and for Holm's method only where the other one is
        ([2.1, 0.0, 0.0], 1.0, True, [(1, 1, 3), (2, 1, 3), (2, 1, 3)]),
        ([2.1, 0.0, -9.0], 1.0, True, [(1, 1, 1), (2, 2, 2), (3, 3, 3)]),
    ],
)
def test_ranks(values, sd, higher, wanted):
    found = ranks(values, pairs_of(values, sd), higher)
    assert [(one.value, one.low, one.high) for one in found] == wanted


def test_the_place_is_open_where_two_do_not_compare():
    pairs = pairs_of([3.0, 2.0], 0.1)
    pairs[0][1] = pairs[1][0] = None
    assert [(one.low, one.high) for one in ranks([3.0, 2.0], pairs, True)] == [(1, 2), (1, 2)]


FURTHER = [pytest.param(gaps, marks=pytest.mark.slow) for gaps in ((0.0, 0.0, 0.0, 0.0), (0.0, 0.05, 0.1, 0.15))]


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [(0.0, 0.0, 0.1, 0.5), *FURTHER])
def test_intervals_of_ranks_cover_the_places_in_the_population(gaps):
    """Of equal arms every shared place counts: the interval has to hold the whole range of them."""
    missed, experiments = 0, 200
    for number in range(experiments):
        generator = np.random.default_rng(number)
        prompts = generator.normal(size=N)
        cells = {
            str(i): {s: gap + prompts + 0.4 * generator.normal(size=N) for s in "012"} for i, gap in enumerate(gaps)
        }
        arms = arms_of(cells)
        for i, rank in enumerate(next(iter(arms.ranks.values())).values()):
            first, last = (1 + sum(gap > gaps[i] for gap in gaps), sum(gap >= gaps[i] for gap in gaps))
            missed += not rank.low <= first <= last <= rank.high
    assert missed / (experiments * len(gaps)) <= 0.05


@pytest.mark.parametrize(
    ("value", "seeds", "prompts", "n"), [(1.5, 0.0, 1.0, 1), (2.0, 1.0, 0.0, 3), (0.7, 0.3, 0.2, 5)]
)
def test_p_values_are_those_at_which_the_interval_reaches_zero(value, seeds, prompts, n):
    from scipy import stats

    found = estimates_of([Spread(value, 1.0, seeds, prompts, n), Spread(-value, 1.0, seeds, prompts, n)])
    assert found[0].p == pytest.approx(found[1].p)
    at = (
        stats.t.isf(found[0].p / 2, max(n - 1, 1)) ** 2 * seeds + stats.norm.isf(found[0].p / 2) ** 2 * prompts
    ) ** 0.5
    assert at == pytest.approx(value)
    assert [one.p for one in estimates_of([Spread(0.0, 1.0, 1.0, 0.0, 3), Spread(99.0, None, 0.0, 1.0, 1)])] == [
        1.0,
        0.0,
    ]


def test_ties_have_no_best():
    same = np.random.default_rng(0).normal(size=N)
    arms = arms_of(
        {"a": dict.fromkeys("012", same + 1), "b": dict.fromkeys("012", same + 1), "c": dict.fromkeys("012", same)}
    )
    key = next(iter(arms.columns))
    assert arms.best(key) is None and [rank.value for rank in arms.ranks[key].values()] == [1, 1, 3]


def test_differences_have_holms_correction():
    found = separate().differences()
    assert [one.arm for one in found] == ["high", "middle"]
    assert all(one.p_holm >= one.estimate.p for one in found) and all(one.p_holm < 0.05 for one in found)


def test_tables_mark_the_best():
    arms = separate()
    values, best = values_table(arms)
    assert best == {(1, 1)}
    lines = markdown(values, best).splitlines()
    assert lines[-2].startswith("| high | **") and "**" not in lines[-1]
    text = latex(values, best, ["50 % of it"])
    assert "\\textbf{" in text and "% 50 % of it" in text and r"AUROC $\uparrow$" in text and "$\\pm$" in text
    assert differences_table(arms, arms.differences()).rows[0][1].endswith(")*")


def test_ranks_are_in_all_tables(tmp_path):
    arms = separate()
    assert ranks_table(arms).rows[1:] == [["high", "1 (1 to 1)"], ["middle", "2 (2 to 2)"]]
    write_tables(tmp_path, Plan(Grid({}, {}), []), arms, arms.differences())
    for name, row in (("table.md", "| middle | 2 (2 to 2) |"), ("table.tex", r"middle & 2 (2 to 2) \\")):
        assert row in (tmp_path / name).read_text()


def test_a_metric_that_no_cell_has_is_a_note():
    arms = replace(separate(), missing=["no score is metric: auroc, label: Edemaa"])
    assert "no score is metric: auroc, label: Edemaa" in notes(arms, [])


def test_a_value_that_lacks_seeds_says_so():
    """A cell that failed, or whose score is not defined, would not be seen in a mean."""
    arms = separate()
    (arms.cells["high"]["1"].rows[0]).update(value=None)
    arms = replace(arms, n_seeds=3)
    assert [row[1].endswith(" [2 of 3 seeds]") for row in values_table(arms)[0].rows] == [False, True, False]
    assert differences_table(arms, arms.differences()).rows[0][1].endswith(" [2 of 3 seeds]")


def test_latex_is_escaped():
    from eval.summary.blocks import Table

    text = latex(Table(["cell", "x"], [["a_b & 50%", "1"], ["[{view}] $\\^~", "2"]], title="t"), set(), [])
    assert r"a\_b \& 50\% & 1 \\" in text
    # A bracket behind the end of a row would be its option.
    assert r"{}[\{view\}] \$\textbackslash{}\textasciicircum{}\textasciitilde{} & 2 \\" in text


def test_means_have_the_decimals_of_the_value():
    assert mean_text(estimate([0.5, 0.6], [np.zeros(0)] * 2, None)) == "0.550 ± 0.071"
    assert mean_text(estimate([0.5], [np.zeros(0)], None)) == "0.500"
