"""Sections of the report: what is beside what, in which order, and which numbers are at the top."""

import pytest

from eval.scores import score_row
from eval.summary.blocks import Section
from eval.summary.plots import FLOOR, REAL, SYNTHETIC, THINNED
from eval.summary.sections import own_scales, per_label, sections_of, tiles


def row(step: str, metric: str, value: float | None, variant: str | None = None, **others) -> dict:
    counts = {"n_real": 24, "n_synthetic": 24, "extractor": "runs/some/classifier"}
    return score_row(metric, value, **(counts | others)) | {"step": step, "variant": variant}


def fidelity_rows(variant: str = "a/b/xrv-all") -> list[dict]:
    more = {"value_at_floor_n": 3.4, "floor": 1.1, "floor_n": 12, "ci_low": 2.0, "ci_high": 4.0}
    few = "2 real and 1 synthetic images: fewer than 10 on a side"
    return [
        row("fidelity", "fd", 3.0, variant, **more),
        row("fidelity", "kid", 0.2, variant, **more | {"value_at_floor_n": 0.3, "floor": -0.01}),
        row("fidelity", "recall", 0.4, variant, floor=0.9),
        row("fidelity", "kid", 0.3, variant, label="Edema", floor=0.01),
        row("fidelity", "kid", -0.00024, variant, label="Lung Opacity", floor=-0.00316, ci_low=-0.01, ci_high=0.01),
        row("fidelity", "kid", None, variant, label="Fracture", note=few),
    ]


def all_rows() -> list[dict]:
    rows = fidelity_rows()
    for side, value in (("real", 0.95), ("synthetic", 0.81)):
        for label in ("Edema", "macro"):
            rows.append(row("classifier", "auroc", value, label=label, images=side, ci_low=0.7, ci_high=0.99))
        rows.append(row("alignment", "alignment", value / 2, images=side))
        rows.append(row("alignment", "alignment_over_shuffled", value / 3, images=side))
        rows.append(row("retrieval", "text_to_image_recall@10", value, images=side) | {"chance": 0.4})
        rows.append(row("retrieval", "precision@10", value, label="macro", images=side) | {"chance": 0.3})
        rows.append(row("diversity", "vendi", 10 * value, images=side))
        rows.append(row("reports", "bleu", value / 9, images=side) | {"shuffled": 0.01})
    rows.append(row("privacy", "copy_share", 0.0, images="synthetic", floor=0.0) | {"n_copies": 0})
    rows.append(row("utility", "utility_auroc", 0.8, label="macro", images=None) | {"arm": "R+3S"})
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
        *("fidelity", "classifier", "labels", "alignment", "retrieval", "diversity", "privacy", "reports", "utility"),
        *("text-encoder", "brightness"),
    ]
    assert found[-1].tables[0].rows[0][:3] == ["mean", "both", "0.500"]
    assert sections_of([]) == []


def test_distances_have_the_floor_and_the_value_at_its_own_number_of_images():
    shown = section(fidelity_rows(), "fidelity")
    assert [card.title for card in shown.cards] == [
        "Distances: b/xrv-all",
        "Precision, recall, density, coverage: b/xrv-all",
        "KID of each label, equal numbers of images",
    ]
    assert marks(shown)["Fréchet distance"] == [(SYNTHETIC, 3.0), (THINNED, 3.4), (FLOOR, 1.1)]
    assert shown.cards[0].lines[0].marks[0].interval == (2.0, 4.0)
    assert shown.cards[0].legend[THINNED] == "the same, 12 against 12 images"
    assert marks(shown, 2) == {
        "Edema (24 + 24)": [(SYNTHETIC, 0.3), (FLOOR, 0.01)],
        "Lung Opacity (24 + 24)": [(SYNTHETIC, -0.00024), (FLOOR, -0.00316)],
    }
    assert [table.title for table in shown.folded] == ["b/xrv-all"] and len(shown.folded[0].rows) == 6


def test_extractors_have_a_plot_each_and_without_a_floor_only_the_value():
    rows = [row("fidelity", "fd", 1.0, "x"), row("fidelity", "fd", 2.0, "y")]
    shown = section(rows, "fidelity")
    assert [card.title for card in shown.cards] == ["Distances: x", "Distances: y"]
    assert marks(shown) == {"Fréchet distance": [(SYNTHETIC, 1.0)]} and list(shown.cards[0].legend) == [SYNTHETIC]


def test_each_remark_is_shown_once_beside_the_plot():
    rows = [row("fidelity", metric, 0.0, "x", notes=["few images", "mixed; up?"]) for metric in ("fd", "kid")]
    shown = section(rows, "fidelity")
    assert shown.cards[0].notes == ["few images", "mixed; up?"]
    assert shown.folded[0].rows[0][-1] == "few images; mixed; up?"


def test_labels_are_joined_by_name():
    shown = per_label(all_rows())
    table = shown.tables[0]
    by_label = {line[0]: dict(zip(table.header[1:], line[1:], strict=True)) for line in table.rows}
    assert by_label["Edema"] == {
        "AUROC real": "0.950",
        "AUROC synthetic": "0.810",
        "KID": "0.300",
        "KID floor": "0.010",
    }
    assert by_label["Fracture"]["KID"] == "–" and by_label["Fracture"]["AUROC real"] == ""
    assert "macro" not in by_label and shown.text.startswith("KID is by some/classifier")
    assert per_label([row("classifier", "auroc", 0.5, label="macro")]) is None


def test_the_first_network_gives_the_number_at_the_top_and_it_has_something_to_compare_with():
    later = [one | {"variant": "other", "value": 99.0} for one in fidelity_rows()]
    shown = {tile.title: (tile.value, tile.reference) for tile in tiles(all_rows() + later)}
    at_floor = "runs/some/classifier; 3.400 at 12 images, where real against real is 1.100".removeprefix("runs/")
    assert shown["Fréchet distance"] == ("3.000", at_floor)
    assert shown["Recall of real variety"] == ("0.400", "some/classifier; no floor")
    assert shown["AUROC, mean of findings"] == ("0.810", "95 % interval 0.700 to 0.990")
    assert shown["Image found by prompt, first 10"] == ("0.810", "chance 0.400")
    assert shown["Copies of training images"] == ("0", "of 24 synthetic images")
    assert len(shown) == 6 and tiles([row("fidelity", "fd", None, "x")]) == []


def test_real_is_above_synthetic_whatever_the_order_of_rows():
    shown = section(all_rows()[::-1], "classifier")
    expected = [(REAL, 0.95), (SYNTHETIC, 0.81)]
    assert marks(shown) == {"mean of the findings": expected, "Edema": expected}
    assert shown.cards[0].bars and shown.cards[0].at == 0.5


def test_a_value_is_compared_with_real_images_or_else_with_its_baseline():
    rows = [row("diversity", f"m{i}", 0.1 * (i + 1), images="synthetic", floor=0.9) for i in range(5)]
    rows.append(row("diversity", "m0", 0.5, images="real"))
    shown = own_scales(rows)
    assert marks(shown)["m0"] == [(SYNTHETIC, 0.1), (REAL, 0.5)]
    assert marks(shown)["m1"] == [(SYNTHETIC, 0.2), (FLOOR, 0.9)]
    assert [len(card.lines) for card in shown.cards] == [4, 1] and set(shown.legend) == {SYNTHETIC, REAL, FLOOR}


def test_searches_have_one_chance_level():
    shown = section(all_rows(), "retrieval")
    assert marks(shown, 1) == {"recall@10": [(REAL, 0.95), (SYNTHETIC, 0.81), (FLOOR, 0.4)]}


def test_reports_are_compared_with_other_images_prompts():
    (table,) = section(all_rows(), "reports").tables
    assert [line[4] for line in table.rows] == ["0.010", "0.010"] and table.header[4] == "reference"


def test_probes_are_above_those_before_fine_tuning():
    rows = [row("text encoder", f"probe_auroc_{k}", v, label="Edema") for k, v in (("tuned", 0.7), ("base", 0.9))]
    assert marks(section(rows, "text-encoder")) == {"Edema": [(SYNTHETIC, 0.7), (FLOOR, 0.9)]}


@pytest.mark.parametrize(("value", "ci_low", "left"), [(0.4, None, 0.4), (0.8, 0.3, 0.3), (0.8, 0.7, 0.5)])
def test_an_arm_worse_than_chance_is_on_the_axis(value, ci_low, left):
    rows = [row("utility", "utility_auroc", value, label="macro", ci_low=ci_low, ci_high=0.9) | {"arm": "S"}]
    assert section(rows, "utility").cards[0].bounds == (left, 1.0)
