"""Sections of the report: what is beside what, in which order, and which numbers are at the top."""

import pytest

from eval.scores import Result, score_row
from eval.summary.blocks import Section
from eval.summary.plots import FLOOR, REAL, SYNTHETIC, THINNED
from eval.summary.sections import own_scales, sections_of
from eval.summary.tables import basis, label_tables, networks_table, reaches, references, score_table
from eval.summary.verdicts import copy_search, repeated_prompts, summary, tiles


def row(step: str, metric: str, value: float | None, variant: str | None = None, **others) -> dict:
    counts = {"n_real": 24, "n_synthetic": 24, "extractor": "runs/some/classifier"}
    names = {"step": step, "variant": variant, "model": None if others.get("images") == "real" else "A", "part": step}
    return score_row(metric, value, **(counts | others)) | names


def fidelity_rows(variant: str = "a/b/xrv-all") -> list[dict]:
    more = {"value_at_floor_n": 3.4, "floor": 1.1, "floor_n": 12, "ci_low": 2.0, "ci_high": 4.0}
    more |= {"floor_splits": 10, "floor_low": 0.9, "floor_high": 1.3}
    few = "2 real and 1 synthetic images: fewer than 10 on a side"
    return [
        row("fidelity", "fd", 3.0, variant, **more),
        row("fidelity", "kid", 0.2, variant, **more | {"value_at_floor_n": 0.3, "floor": -0.01, "floor_low": -0.02}),
        row("fidelity", "recall", 0.4, variant, floor=0.9),
        row("fidelity", "kid", 0.3, variant, label="Edema", floor=0.01),
        row("fidelity", "kid", -0.00024, variant, label="Lung Opacity", floor=-0.00316, ci_low=-0.01, ci_high=0.01),
        row("fidelity", "kid", None, variant, label="Fracture", note=few),
    ]


def all_rows() -> list[dict]:
    rows = fidelity_rows()
    for side, value in (("real", 0.95), ("synthetic", 0.81)):
        for label in ("Edema", "macro"):
            of = {"n_positive": 5, "n_negative": 19} | ({"n_labels": 1} if label == "macro" else {})
            rows.append(row("classifier", "auroc", value, label=label, images=side, ci_low=0.7, ci_high=0.99) | of)
            rows.append(row("classifier", "average_precision", value, label=label, images=side) | of | {"chance": 0.2})
        rows.append(row("alignment", "alignment", value / 2, images=side))
        rows.append(row("alignment", "alignment_over_shuffled", value / 3, images=side))
        rows.append(row("retrieval", "text_to_image_recall@10", value, images=side) | {"chance": 0.4})
        rows.append(row("retrieval", "precision@10", value, label="macro", images=side) | {"chance": 0.3})
        rows.append(row("diversity", "vendi", 10 * value, images=side))
        rows.append(row("reports", "bleu", value / 9, images=side) | {"shuffled": 0.01})
    copies = {"n_copies": 0, "n_train": 1435, "threshold": 0.981, "n_calibration": 1160, "sensitivity": 1.0}
    interval = {"ci_low": 0.0, "ci_high": 0.019}
    rows.append(row("privacy", "copy_share", 0.0, images="synthetic", floor=0.0, **interval) | copies)
    rows.append(row("privacy", "copy_correlation_max", 0.948, images="synthetic", floor=0.937) | {"threshold": 0.981})
    rows.append(row("text encoder", "kept_cka", 0.7, label="everyday captions", images=None))
    return rows


def section(rows: list[dict], anchor: str) -> Section:
    (found,) = [one for one in sections_of(rows) if one.anchor == anchor]
    return found


def marks(section: Section, card: int = 0) -> dict[str, list[tuple[str, float]]]:
    """Kind and value of the marks of a plot, by line."""
    return {line.label: [(one.kind, one.value) for one in line.marks] for line in section.cards[card].lines}


def test_every_step_has_a_section_in_the_order_of_the_page_and_an_unknown_one_a_table():
    found = sections_of([row("brightness", "mean", 0.5), *reversed(all_rows())])
    assert [one.anchor for one in found] == [
        *("fidelity", "classifier", "labels", "alignment", "retrieval", "diversity", "privacy", "reports"),
        *("text-encoder", "brightness"),
    ]
    assert found[-1].tables[0].rows[0][:2] == ["mean", "0.500"]
    assert sections_of([]) == []


def test_distances_have_the_floor_and_the_value_at_its_own_number_of_images():
    shown = section(fidelity_rows(), "fidelity")
    assert [card.title for card in shown.cards] == [
        "Distances: b/xrv-all",
        "Precision, recall, density, coverage: b/xrv-all",
        "KID ↓ of each label, equal numbers of images: b/xrv-all",
    ]
    assert marks(shown)["Fréchet distance ↓"] == [(SYNTHETIC, 3.0), (THINNED, 3.4), (FLOOR, 1.1)]
    assert shown.cards[0].lines[0].marks[0].interval == (2.0, 4.0)
    assert shown.cards[0].lines[0].marks[2].interval == (0.9, 1.3)  # lowest and highest split of the floor
    assert shown.cards[0].legend[THINNED] == "the same, 12 against 12 images"
    assert shown.cards[0].legend[FLOOR].endswith("12 against 12; mean, lowest and highest of 10 random splits")
    assert marks(shown, 2) == {
        "Edema (24 + 24)": [(SYNTHETIC, 0.3), (FLOOR, 0.01)],
        "Lung Opacity (24 + 24)": [(SYNTHETIC, -0.00024), (FLOOR, -0.00316)],
    }
    assert [table.title for table in shown.folded] == ["b/xrv-all"] and len(shown.folded[0].rows) == 6


def test_extractors_have_a_plot_each_and_without_a_floor_only_the_value():
    rows = [row("fidelity", "fd", 1.0, "x"), row("fidelity", "fd", 2.0, "y")]
    shown = section(rows, "fidelity")
    assert [card.title for card in shown.cards] == ["Distances: x", "Distances: y"]
    assert marks(shown) == {"Fréchet distance ↓": [(SYNTHETIC, 1.0)]} and list(shown.cards[0].legend) == [SYNTHETIC]
    assert networks_table(rows).rows == [["Fréchet distance ↓", "1.000 (no floor)", "2.000 (no floor)"]]


def test_each_remark_is_shown_once_beside_the_plot():
    rows = [row("fidelity", metric, 0.0, "x", notes=["few images", "mixed; up?"]) for metric in ("fd", "kid")]
    shown = section(rows, "fidelity")
    assert shown.cards[0].notes == ["few images", "mixed; up?"]
    assert shown.folded[0].rows[0][-1] == "1, 2" and shown.folded[0].footnotes == ["few images", "mixed; up?"]


def test_a_value_stands_beside_the_floor_at_the_same_number_of_images():
    note = "floor at 12 + 12 images: the halves of the real ones are smaller than 24"
    table = score_table([one | {"notes": [note]} for one in fidelity_rows()[:2]])
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert cells["value"] == "3.000" and cells["value at the reference's N"] == "3.400"
    assert cells["reference"] == "real against real: 1.100 [0.900 to 1.300], N = 12"
    assert cells["reaches real images"] == "no"
    assert "of" not in cells and "notes" not in cells  # a column says it


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"n_positive": 10, "n_negative": 150}, "10 positive, 150 negative"),
        (
            {"n_positive": 106, "n_negative": 694, "n_labels": 5, "images": "real"},
            "106 positive answers of 5 findings in 24 images",
        ),
        ({"metric": "pearson_r", "n_positive": 10}, "24 pairs of a real and a synthetic image"),
        ({"n_pairs": 62, "n_prompts": 18}, "62 pairs within 18 texts"),
        ({"n_pairs": 1500, "n_groups": 112, "images": "synthetic"}, "1,500 pairs of 112 texts"),
        ({"n_pairs": 1500, "n_groups": 86, "images": "real"}, "1,500 pairs of 86 patients"),
        ({"metric": "vendi", "images": "synthetic"}, "24 synthetic"),
        ({"metric": "repeated_prompt_share", "n_prompts": 18, "n_train": 1435}, "18 texts with several samples"),
        ({"n_queries": 40}, "40 searches"),
        ({"n_train": 1435}, "24 real + 24 synthetic + 1,435 training"),
        ({"n_prompts": 18, "n_train": 1435}, "18 prompts + 1,435 training"),
    ],
)
def test_a_value_says_what_it_rests_on(columns, text):
    assert basis(row("x", "fd", 0.5) | columns) == text


def test_labels_are_joined_by_name():
    by_classifier, by_distance = label_tables(all_rows())
    (edema,) = by_classifier.rows
    assert dict(zip(by_classifier.header, edema, strict=True)) == {
        "finding": "Edema",
        "positives, synthetic": "5 of 24",
        "positives, real": "5 of 24",
        "AUROC ↑ synthetic": "0.810 (0.700 to 0.990)",
        "AUROC ↑ real": "0.950 (0.700 to 0.990)",
        "average precision ↑ synthetic": "0.810",
        "average precision ↑ real": "0.950",
        "its chance": "0.200",
    }
    by_label = {line[0]: dict(zip(by_distance.header, line, strict=True)) for line in by_distance.rows}
    assert by_label["Edema"]["KID ↓"] == "0.300" and by_label["Edema"]["KID, real against real"] == "0.010"
    assert by_label["Fracture"]["KID ↓"] == "–" and "by some/classifier" in by_distance.text
    assert label_tables([row("classifier", "auroc", 0.5, label="macro")]) == []


def test_the_first_network_gives_the_number_at_the_top_and_it_has_something_to_compare_with():
    later = [one | {"variant": "other", "value": 99.0} for one in fidelity_rows()]
    shown = {tile.title: (tile.value, tile.reference) for tile in tiles(all_rows() + later)}
    at_floor = "some/classifier; 3.400 at 12 images, where real against real is 1.100 [0.900 to 1.300]"
    assert shown["Fréchet distance ↓"] == ("3.000", at_floor)
    assert shown["Recall of real variety ↑"] == ("0.400", "some/classifier; no floor")
    positives = "95 % interval 0.700 to 0.990; 5 positives in 1 findings"
    assert shown["AUROC, mean of findings ↑"] == ("0.810", positives)
    assert shown["Image found by prompt, first 10 ↑"] == ("0.810", "chance 0.400")
    copies = "of 24 synthetic images; 95 % interval of the share 0.000 to 0.019"
    assert shown["Copies of training images ↓"] == ("0", copies)
    assert len(shown) == 6 and tiles([row("fidelity", "fd", None, "x")]) == []


def test_real_is_above_synthetic_whatever_the_order_of_rows():
    shown = section(all_rows()[::-1], "classifier")
    expected = [(REAL, 0.95), (SYNTHETIC, 0.81)]
    assert marks(shown) == {"Mean of the findings": expected, "Edema (5)": expected}


def test_chance_is_drawn_for_each_finding():
    rows = [row("classifier", "average_precision", 0.6, label=name, images="synthetic") for name in ("Edema", "Mass")]
    rows = [one | {"chance": chance} for one, chance in zip(rows, (0.1, 0.3), strict=True)]
    (card,) = section(rows, "classifier").cards
    assert card.bars and [line.at for line in card.lines] == [0.1, 0.3]


def test_agreement_with_the_real_image_is_drawn_under_plain_names():
    rows = [
        row("classifier", metric, 0.6, label=label, images="synthetic")
        for metric, label in (("agreement_f1", "macro"), ("agreement_auroc_micro", None), ("pearson_r", "macro"))
    ]
    shown = marks(section(rows, "classifier"))
    assert list(shown) == ["F1 ↑", "AUROC, all answers in one ranking (micro) ↑", "Pearson's r of the probabilities ↑"]


def test_the_search_for_copies_tells_its_threshold_calibration_and_sensitivity():
    shown = copy_search(all_rows())
    assert shown[0] == (
        "0 of 24 synthetic images are taken for copies of training images (share 0.000, 95 % interval 0.000 to 0.019)."
    )
    assert "a correlation of 0.981 or more. It was fitted to the best matches of 1,160 real images" in shown[1]
    assert "it finds 100 % of altered training images" in shown[2]
    assert shown[3].endswith("with a training image: 0.948; of a held-out real image 0.937.")
    assert section(all_rows(), "privacy").points == shown


@pytest.mark.parametrize(
    ("value", "said"),
    [(3.4, "farther from the real ones than these are from each other"), (1.0, "does not tell"), (0.5, "no success")],
)
def test_a_distance_is_judged_by_the_range_of_real_halves(value, said):
    (line,) = summary([fidelity_rows("x")[0] | {"value_at_floor_n": value}])
    assert f"Fréchet distance by x between 12 and 12 images: {value:.3f}; of two halves" in line and said in line


def test_without_the_spread_of_the_floor_that_is_said():
    (line,) = summary([fidelity_rows("x")[0] | {"floor_low": None, "floor_high": None}])
    assert line.endswith("How much such a split varies is not known from a single one.")


def test_overlapping_intervals_are_no_difference():
    rows = [
        row("classifier", "auroc", v, label="macro", images=side) for v, side in ((0.8, "synthetic"), (0.9, "real"))
    ]
    ends = [{"ci_low": 0.7, "ci_high": 0.85}, {"ci_low": 0.84, "ci_high": 0.95}]
    (line,) = summary([one | end for one, end in zip(rows, ends, strict=True)])
    assert "the intervals overlap, no difference is shown" in line
    ends[1]["ci_low"] = 0.86
    (line,) = summary([one | end for one, end in zip(rows, ends, strict=True)])
    assert line.startswith("The classifier recognises the findings of the prompts less than in real images")


def test_a_value_is_compared_with_real_images_or_else_with_its_baseline():
    rows = [row("diversity", f"m{i}", 0.1 * (i + 1), images="synthetic", floor=0.9) for i in range(5)]
    rows.append(row("diversity", "m0", 0.5, images="real"))
    shown = own_scales(rows)
    assert marks(shown)["m0"] == [(SYNTHETIC, 0.1), (REAL, 0.5)]
    assert marks(shown)["m1"] == [(SYNTHETIC, 0.2), (FLOOR, 0.9)]
    assert [len(card.lines) for card in shown.cards] == [3, 2]  # two columns of about equal height
    assert [set(card.legend) for card in shown.cards] == [{SYNTHETIC, REAL, FLOOR}, {SYNTHETIC, FLOOR}]


def test_searches_have_one_chance_level():
    shown = section(all_rows(), "retrieval")
    assert marks(shown, 1) == {"recall@10 ↑": [(REAL, 0.95), (SYNTHETIC, 0.81), (FLOOR, 0.4)]}


def test_reports_are_compared_with_other_images_prompts():
    (table,) = section(all_rows(), "reports").tables
    assert [dict(zip(table.header, line, strict=True))["reference"] for line in table.rows] == [
        "other images' prompts: 0.010",
        "real images: 0.106\nother images' prompts: 0.010",
    ]


@pytest.mark.parametrize("kind", ["probe_auroc", "composition"])
def test_probes_and_searches_are_above_those_before_fine_tuning(kind):
    rows = [row("text encoder", f"{kind}_{k}", v, label="Edema") for k, v in (("tuned", 0.7), ("base", 0.9))]
    assert marks(section(rows, "text-encoder")) == {"Edema": [(SYNTHETIC, 0.7), (FLOOR, 0.9)]}


def test_similarities_of_text_encoders_stand_beside_chance_and_the_base_is_named():
    own = {"base": "runs/begun", "chance": 0.5}
    rows = [row("text encoder", "kept_cosine", 0.6, label="everyday captions", images=None) | own]
    rows += [row("text encoder", "composition_tuned", 0.7, label="left or right", images=None) | own]
    found = section(rows, "text-encoder")
    assert list(found.cards[0].notes) == ["before: runs/begun"]
    assert list(marks(found, 1).values()) == [[(SYNTHETIC, 0.6), (FLOOR, 0.5)]]


@pytest.mark.parametrize(
    ("metric", "columns", "real", "reached"),
    [
        ("fd", {"value_at_floor_n": 1.2, "floor": 1.0, "floor_low": 0.9, "floor_high": 1.3}, None, "yes"),
        ("fd", {"value_at_floor_n": 1.4, "floor": 1.0, "floor_low": 0.9, "floor_high": 1.3}, None, "no"),
        ("recall", {"value_at_floor_n": 0.8, "floor": 0.9, "floor_low": 0.85, "floor_high": 1.0}, None, "no"),
        ("density", {"value_at_floor_n": 1.4, "floor": 1.0, "floor_low": 0.9, "floor_high": 1.3}, None, "no, above"),
        ("auroc", {"ci_low": 0.4, "ci_high": 0.6}, (0.7, 0.9), "no"),
        ("auroc", {"ci_low": 0.4, "ci_high": 0.8}, (0.7, 0.9), "yes"),
        ("auroc", {"ci_low": 0.4, "ci_high": 0.6}, (None, None), "no"),  # real 0.8, all resamples equal
        ("nn_distance_ratio", {"ci_low": 0.9, "ci_high": 1.1}, None, "yes"),
        ("nn_distance_ratio", {"ci_low": 0.4, "ci_high": 0.6}, None, "no, below"),
        ("authpct", {"ci_low": 92.0, "ci_high": 98.0, "floor": 66.0}, None, "no, above"),
        ("alignment", {"ci_low": 0.4, "ci_high": 0.6}, (0.7, 0.9), ""),  # only differences can be read
    ],
)
def test_a_value_reaches_that_of_real_images_or_not(metric, columns, real, reached):
    of_real = None if real is None else row("x", metric, 0.8, images="real", ci_low=real[0], ci_high=real[1])
    assert reaches(row("x", metric, 0.5, images="synthetic") | columns, of_real) == reached


def test_each_reference_is_named_and_there_once():
    real = row("diversity", "vendi", 5.0, images="real")
    assert references(row("diversity", "vendi", 4.0, images="synthetic", floor=5.0), real) == "real images: 5.000"
    near = row("privacy", "nn_distance_ratio", 0.9, images="synthetic", floor=1.01)
    assert references(near) == "held-out real images: 1.010\naim: 1"
    searched = row("retrieval", "mrr", 0.9, images="synthetic") | {"chance": 0.2}
    assert references(searched, row("retrieval", "mrr", 0.95, images="real")) == "real images: 0.950\nchance: 0.200"
    within = row("diversity", "ms_ssim_within_prompts", 0.7, images="synthetic")
    absent = row("diversity", "ms_ssim_within_prompts", None, images="real")
    assert references(within, absent) == "real images: none: no text has images of two patients"


def test_equal_resamples_are_named_instead_of_an_interval():
    result = Result([row("classifier", "auroc", 1.0, ci_low=1.0, ci_high=1.0) | {"n_positive": 10, "n_negative": 14}])
    table = score_table(result.rows)
    cells = dict(zip(table.header, table.rows[0], strict=True))
    assert cells["95 % interval"] == "none" and table.footnotes == ["no interval: all resamples equal (n = 10)"]


def test_the_search_tells_what_its_sensitivity_and_upper_end_rest_on():
    (share, *others) = [one for one in all_rows() if one["step"] == "privacy"]
    said = " ".join(
        copy_search([share | {"n_tested": 100, "n_found": 98, "sensitivity": 0.98, "n_units": 160}, *others])
    )
    assert "finds 98 of 100 (0.930 to 0.994) altered training images" in said
    assert "not tested on copies smoothed by a generator" in said and "The upper end is 3/160, for 160 prompts." in said
    assert "1,160 real images (24 held-out and 1,136 training images)" in said


def test_prompts_that_repeat_an_image_are_counted():
    one = row("privacy", "repeated_prompt_share", 1 / 18, images="synthetic", ci_low=0.0, ci_high=0.17) | {
        "n_prompts": 18
    }
    (line,) = repeated_prompts([one])
    assert line.startswith(
        "1 of 18 prompts with several samples gives near-identical samples (share 0.056, 95 % interval"
    )
    (line,) = repeated_prompts([one | {"value": 0.0}])
    assert line.startswith("0 of 18 prompts") and line.endswith("The upper end is 3/18.")
