"""Compositional prompts: the table of searches, and encoders whose share of searches is known."""

import re

import numpy as np
import pytest

from eval.radiology_text.composition import (
    ATTRIBUTES,
    FINDINGS,
    MEAN,
    SEARCHES,
    SIDES,
    TEXTS,
    Finding,
    Template,
    composition_rows,
    searches,
    shares_won,
    won,
)

TWO = (Finding("effusion", "fluid", True, False), Finding("mass", "lump", False, True))
SWAPPED = Template("order", "{first} above {second}", "{second} below {first}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            Template("side", "{value} {finding}", "{finding} on the {value}", SIDES, "sided"),
            [
                ("Fluid on the left.", "Left effusion.", "Right effusion.", ("effusion",)),
                ("Fluid on the right.", "Right effusion.", "Left effusion.", ("effusion",)),
            ],
        ),
        (
            Template("size", "{value} {finding}", "{finding}, {value}", (("small", "tiny"), ("large", "big")), "sized"),
            [
                ("Lump, tiny.", "Small mass.", "Large mass.", ("mass",)),
                ("Lump, big.", "Large mass.", "Small mass.", ("mass",)),
            ],
        ),
        (
            SWAPPED,
            [
                ("Lump below fluid.", "Effusion above mass.", "Mass above effusion.", ("effusion", "mass")),
                ("Fluid below lump.", "Mass above effusion.", "Effusion above mass.", ("effusion", "mass")),
            ],
        ),
        (
            Template("finding", "with {first}", "{first} is seen"),
            [
                ("Fluid is seen.", "With effusion.", "With mass.", ("effusion", "mass")),
                ("Lump is seen.", "With mass.", "With effusion.", ("effusion", "mass")),
            ],
        ),
    ],
)
def test_pairs_differ_in_one_attribute_and_each_prompt_is_searched_for(template, expected):
    assert [tuple(one)[1:] for one in searches([template], TWO)] == expected


def test_no_search_is_there_twice_and_none_is_its_own_answer():
    assert len({(one.query, one.other) for one in SEARCHES}) == len(SEARCHES)
    assert all(len({one.query, one.same, one.other}) == 3 for one in SEARCHES)
    assert {one.query for one in SEARCHES}.isdisjoint(one.same for one in SEARCHES)
    assert len({finding.paraphrase for finding in FINDINGS}) == len(FINDINGS)


def test_a_tie_is_half_a_search_and_no_number_is_none():
    cosines = np.array([[0.9, 0.8], [0.8, 0.9], [0.9, 0.9], [np.nan, 0.9]])
    np.testing.assert_array_equal(won(cosines), [1, 0, 0.5, np.nan])


def shares(vectors):
    """Values of the rows of an encoder by attribute."""
    rows = composition_rows(vectors, vectors)
    assert not any(row["value"] > 0 for row in rows if row["metric"] == "composition_gain")
    return {row["label"]: row["value"] for row in rows if row["metric"] == "composition_tuned"}


def by_meaning():
    """An encoder that knows which texts say the same: those that a search joins share a random direction."""
    meaning = {one.query: one.same for one in SEARCHES}
    places = {text: i for i, text in enumerate(TEXTS)}
    noise = np.random.default_rng(0).normal(size=(len(TEXTS), 64))
    return noise[[places[meaning.get(text, text)] for text in TEXTS]]


def bag_of_words():
    texts = [re.findall("[a-z]+", text.lower()) for text in TEXTS]
    words = sorted({word for text in texts for word in text})
    return np.array([[text.count(word) for word in words] for text in texts])


def test_an_encoder_of_meanings_wins_all_searches_and_a_blind_one_half():
    assert set(shares(by_meaning()).values()) == {1}
    assert set(shares(np.ones((len(TEXTS), 3))).values()) == {0.5}
    assert np.isnan(list(shares(np.full((len(TEXTS), 3), np.nan)).values())).all()


def test_words_without_their_order_do_not_tell_which_of_two_findings_is_where():
    found = shares(bag_of_words())
    assert {found[label] for label in ATTRIBUTES if label.startswith("two findings")} == {0.5}
    assert found["left or right"] > 0.9


def test_the_gain_has_a_paired_interval_and_the_mean_is_over_attributes():
    rows = {(row["metric"], row["label"]): row for row in composition_rows(bag_of_words(), by_meaning())}
    for label in (*ATTRIBUTES, MEAN):
        base, tuned, gain = (rows[f"composition_{which}", label] for which in ("base", "tuned", "gain"))
        assert gain["value"] == pytest.approx(tuned["value"] - base["value"])
        assert gain["ci_low"] <= gain["value"] <= gain["ci_high"]
        np.testing.assert_allclose(gain["draws"], np.subtract(tuned["draws"], base["draws"]))
        assert base["chance"] == 0.5 and tuned["cosine_equivalent"] == pytest.approx(1)
    values = [rows["composition_base", label]["value"] for label in ATTRIBUTES]
    assert rows["composition_base", MEAN]["value"] == pytest.approx(np.mean(values))
    assert (rows["composition_base", "which finding"]["n_pairs"]) == 2 * 91  # two wordings of 14 findings, two by two


def test_a_search_about_two_findings_counts_as_often_as_the_product_of_their_draws():
    draws = np.array([{"pneumonia": 3, "rib fracture": 2, "chest tube": 1}.get(one.name, 0) for one in FINDINGS])
    results = np.array([[float("rib fracture" in one.findings), 1.0] for one in SEARCHES])
    found = dict(zip(ATTRIBUTES, shares_won(results, draws[None])[:, 0], strict=True))
    np.testing.assert_allclose(found["with or without"], [2 / 6, 1])
    np.testing.assert_allclose(found["which finding"], [(3 * 2 + 2 * 1) / (3 * 2 + 2 * 1 + 3 * 1), 1])
    assert np.isnan(found["small or large"]).all()  # none of the three has a size
