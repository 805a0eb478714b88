"""Compositional prompts: of two that differ in one attribute, is a paraphrase nearest to the one that says the same?

    pair: "Left pleural effusion."  "Right pleural effusion."   paraphrase: "There is pleural fluid on the left side."

Each prompt of a pair has a paraphrase that searches both: a prompt that is near to everything wins one search and loses
the other, and chance is 0.5. Pairs with and without a finding compare equivalent sentences with contradicting ones;
pairs of two findings have the same words, which only their order tells apart.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from eval.metrics.bootstrap import RESAMPLES, bootstrap_counts, percentiles
from eval.metrics.retrieval import DECIMALS, unit
from eval.scores import Rows, score_row

CHANCE = 0.5
MEAN = "mean of the attributes"


class Finding(NamedTuple):
    """A finding in two wordings, and the attributes that it has."""

    name: str
    paraphrase: str
    sided: bool
    sized: bool


FINDINGS = (
    Finding("pleural effusion", "pleural fluid", True, True),
    Finding("pneumothorax", "air in the pleural space", True, True),
    Finding("consolidation", "airspace opacity", True, True),
    Finding("atelectasis", "volume loss", True, False),
    Finding("pneumonia", "lung infection", True, False),
    Finding("lung nodule", "nodular opacity", True, True),
    Finding("lung mass", "mass-like opacity", True, True),
    Finding("pleural thickening", "thickened pleura", True, False),
    Finding("rib fracture", "broken rib", True, False),
    Finding("chest tube", "pleural drain", True, False),
    Finding("pericardial effusion", "pericardial fluid", False, True),
    Finding("hiatal hernia", "herniated stomach", False, True),
    Finding("cardiomegaly", "enlarged heart", False, False),
    Finding("pulmonary edema", "fluid in the lungs", False, False),
)


class Template(NamedTuple):
    """Two wordings with a place for the attribute: `{value}`, or the order of `{first}` and `{second}`."""

    attribute: str
    prompt: str
    paraphrase: str
    values: tuple[tuple[str, str], ...] = ()
    """Both values in the wording of the prompt and of the paraphrase; none where the findings change places."""
    only: str = ""
    """Of which findings: "sided" or "sized" ones, or all."""


SIDES = (("left", "left"), ("right", "right"))
SIZES = (("small", "minimal"), ("large", "extensive"))
EXTREMES = (("tiny", "very small"), ("huge", "very large"))
PRESENCE = (("with", "seen"), ("without", "not seen"))
EVIDENCE = (("evidence of", "can be"), ("no evidence of", "cannot be"))
TEMPLATES = (
    Template("left or right", "{value} {finding}", "there is {finding} on the {value} side", SIDES, "sided"),
    Template("left or right", "{finding} on the {value}", "{value}-sided {finding}", SIDES, "sided"),
    Template("small or large", "{value} {finding}", "the {finding} is {value}", SIZES, "sized"),
    Template("small or large", "{value} {finding}", "{finding}, {value}", EXTREMES, "sized"),
    Template("with or without", "chest radiograph {value} {finding}", "{finding} is {value}", PRESENCE),
    Template("with or without", "{value} {finding}", "{finding} {value} identified", EVIDENCE),
    Template("which finding", "chest radiograph with {first}", "{first} is seen"),
    Template("which finding", "evidence of {first}", "{first} can be identified"),
    # One paraphrase keeps the order of the findings and one reverses it, so that their order alone decides nothing.
    *(
        Template("two findings, left and right", "left {first} and right {second}", paraphrase, only="sided")
        for paraphrase in ("{first} on the left, {second} on the right", "{second} on the right, {first} on the left")
    ),
    *(
        Template("two findings, with and without", "{first} without {second}", paraphrase)
        for paraphrase in ("{first} is seen, but no {second}", "no {second}, but {first} is seen")
    ),
)
ATTRIBUTES = tuple(dict.fromkeys(template.attribute for template in TEMPLATES))


class Search(NamedTuple):
    """A paraphrase, the prompt that says the same, and the one that differs in the attribute."""

    attribute: str
    query: str
    same: str
    other: str
    findings: tuple[str, ...]
    """Names of the findings in it, one or two."""


def searches(templates: Sequence[Template] = TEMPLATES, findings: Sequence[Finding] = FINDINGS) -> list[Search]:
    """All searches of a table of templates over a table of findings, two for each pair of prompts."""
    made = []
    for template in templates:
        for variants, about in _variants(template, findings):
            prompts = [_sentence(template.prompt, prompt) for prompt, _ in variants]
            queries = [_sentence(template.paraphrase, paraphrase) for _, paraphrase in variants]
            for query, same, other in ((queries[0], *prompts), (queries[1], *prompts[::-1])):
                made.append(Search(template.attribute, query, same, other, about))
    return made


Words = dict[str, str]


def _variants(
    template: Template, findings: Sequence[Finding]
) -> Iterator[tuple[list[tuple[Words, Words]], tuple[str, ...]]]:
    """For each pair of prompts what fills the places, in the prompts and in the paraphrases, and the findings."""
    possible = [one for one in findings if not template.only or getattr(one, template.only)]
    if template.values:
        for one in possible:
            words = [
                ({"value": v, "finding": one.name}, {"value": w, "finding": one.paraphrase}) for v, w in template.values
            ]
            yield words, (one.name,)
        return
    for pair in combinations(possible, 2):
        words = [
            ({"first": a.name, "second": b.name}, {"first": a.paraphrase, "second": b.paraphrase})
            for a, b in (pair, pair[::-1])
        ]
        yield words, tuple(one.name for one in pair)


def _sentence(template: str, words: Words) -> str:
    text = template.format(**words)
    return f"{text[0].upper()}{text[1:]}."


SEARCHES = searches()
TEXTS = list(dict.fromkeys(text for one in SEARCHES for text in (one.query, one.same, one.other)))


def similarities(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each search with the equivalent prompt and with the other, shape (searches, 2).

    Args:
        vectors: embeddings of `TEXTS`, shape (texts, width).
    """
    place = {text: i for i, text in enumerate(TEXTS)}
    rows = np.array([[place[one.query], place[one.same], place[one.other]] for one in SEARCHES])
    query, same, other = (unit(vectors)[column] for column in rows.T)
    return np.round(np.stack([(query * same).sum(axis=1), (query * other).sum(axis=1)], axis=1), DECIMALS)


def won(cosines: np.ndarray) -> np.ndarray:
    """1 for a search that finds the equivalent prompt, 0 for the other, 0.5 for a tie, NaN for NaN, shape (searches,).

    A tie counts as in an AUROC: an encoder that cannot see the attribute is at chance.
    """
    return np.asarray((np.sign(cosines[:, 0] - cosines[:, 1]) + 1) / 2)


def composition_rows(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Rows:
    """Share of searches won by either encoder and the paired difference, per attribute and as their mean.

    The interval resamples findings: a search about two of them counts as often as the product of their draws.

    Args:
        before: embeddings of `TEXTS`, shape (texts, width).
        after: the same by the other encoder, shape (texts, other width).
        seed: of the resamples.
    """
    cosines = {"base": similarities(before), "tuned": similarities(after)}
    results = np.stack([won(cosines["base"]), won(cosines["tuned"])], axis=1)
    draws = bootstrap_counts(len(FINDINGS), RESAMPLES, seed)
    shares = shares_won(results, np.stack([np.ones(len(FINDINGS)), *draws]))  # the first of them is the value itself
    shares = np.concatenate([shares, shares.mean(axis=0, keepdims=True)])
    by_metric = {"base": shares[..., 0], "tuned": shares[..., 1], "gain": shares[..., 1] - shares[..., 0]}
    rows = []
    for metric, values in by_metric.items():
        for label, of_label in zip((*ATTRIBUTES, MEAN), values, strict=True):
            own = [i for i, one in enumerate(SEARCHES) if label in (one.attribute, MEAN)]
            pairs = {frozenset((SEARCHES[i].same, SEARCHES[i].other)) for i in own}
            row = score_row(f"composition_{metric}", float(of_label[0]), percentiles(of_label[1:]), label=label)
            row |= {"images": None, "n_pairs": len(pairs), "n_prompts": len(set().union(*pairs))}
            if metric in cosines:
                near, far = (float(one) for one in cosines[metric][own].mean(axis=0))
                row |= {"chance": CHANCE, "cosine_equivalent": near, "cosine_other": far}
            rows.append(row)
    return rows


def shares_won(results: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted means of results (searches, 2) per attribute and draw of findings (draws, findings).

    Returns:
        Shape (attributes, draws, 2); NaN where no search of the attribute was drawn.
    """
    place = {one.name: i for i, one in enumerate(FINDINGS)}
    counts = np.concatenate([counts, np.ones((len(counts), 1))], axis=1)  # the last column for an absent second finding
    pairs = np.array([[place[one.findings[0]], place.get("".join(one.findings[1:]), -1)] for one in SEARCHES])
    weights = counts[:, pairs[:, 0]] * counts[:, pairs[:, 1]]
    means = []
    for attribute in ATTRIBUTES:
        own = np.array([one.attribute == attribute for one in SEARCHES])
        total = weights[:, own].sum(axis=1, keepdims=True)
        means.append(weights[:, own] @ results[own] / np.where(total > 0, total, np.nan))
    return np.stack(means)
