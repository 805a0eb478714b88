"""Retrieval metrics: ranks, precision at k, and chance levels of recall at k, mean reciprocal rank and median rank.

A gallery is sorted by decreasing similarity. The rank of a query is the place, from 1, of the first relevant item.
Among ties irrelevant items come first, so that constant embeddings retrieve nothing.
"""

import numpy as np

DECIMALS = 6  # float32 features of one image in two batches agree to this precision: closer similarities are ties


def cosine(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosine similarities (queries, gallery) in float64, rounded to make ties exact; 0 for zero vectors.

    Args:
        queries: shape (queries, dimension).
        gallery: shape (gallery, dimension).
    """
    return np.round(unit(queries) @ unit(gallery).T, DECIMALS)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float64; rows of zeros stay zero (`mmd.unit_rows` refuses them)."""
    vectors = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def first_ranks(similarity: np.ndarray, relevant: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """The rank of the first relevant item of each query, shape (queries,); NaN if there is none.

    Args:
        similarity: shape (queries, gallery).
        relevant: which items are relevant to a query, bool, same shape.
        allowed: which items are in a query's gallery at all, bool, same shape; default: all.
    """
    allowed = np.ones_like(relevant) if allowed is None else allowed
    relevant = relevant & allowed
    best = np.where(relevant, similarity, -np.inf).max(axis=1, initial=-np.inf)
    before = (allowed & ~relevant & (similarity >= best[:, None])).sum(axis=1)
    return np.where(relevant.any(axis=1), before + 1.0, np.nan)


def precision_at(similarity: np.ndarray, relevant: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Share of relevant items among the first k (1 or more), shape (queries,); NaN if a gallery has fewer than k items.

    Other arguments as in `first_ranks`.
    """
    allowed = np.ones_like(relevant) if allowed is None else allowed
    if similarity.shape[1] < k:
        return np.full(len(similarity), np.nan)
    similarity = np.where(allowed, similarity, -np.inf)
    last = np.partition(similarity, -k, axis=1)[:, -k, None]  # the similarity at place k
    above, tied = similarity > last, (similarity == last) & allowed
    from_ties = k - above.sum(axis=1) - (tied & ~relevant).sum(axis=1)
    found = (above & relevant).sum(axis=1) + from_ties.clip(min=0)
    return np.where(allowed.sum(axis=1) >= k, found / k, np.nan)


def chance_recall(items: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Expected recall at k of a random order: the share of queries with rank ≤ k, 1 - C(n-p, k) / C(n, k) for each.

    Args:
        items: n, the size of each query's gallery.
        relevant: p, the number of relevant items of each query; queries without any do not count.
        k: number of items.
    """
    missed = np.ones(len(items))
    for i in range(k):
        missed *= (items - relevant - i).clip(min=0) / (items - i).clip(min=1)
    return float(np.mean(1 - missed[relevant > 0])) if (relevant > 0).any() else float("nan")


def chance_reciprocal_rank(items: np.ndarray, relevant: np.ndarray) -> float:
    """Expected mean reciprocal rank of a random order; arguments as in `chance_recall`."""
    pairs, counts = _distinct(items, relevant)
    means = [(-np.diff(_later(n, p)) / np.arange(1, n - p + 2)).sum() for n, p in pairs]
    return float(np.average(means, weights=counts)) if len(pairs) else float("nan")


def chance_median_rank(items: np.ndarray, relevant: np.ndarray) -> float:
    """Median rank of a random order; arguments as in `chance_recall`."""
    pairs, counts = _distinct(items, relevant)
    if not len(pairs):
        return float("nan")
    later = np.zeros(max(n - p + 2 for n, p in pairs))
    for (n, p), count in zip(pairs, counts, strict=True):
        later[: n - p + 2] += _later(n, p) * count / counts.sum()
    return float(np.argmax(later <= 0.5 + 1e-9))


def _distinct(items: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table = np.stack([items, relevant], axis=1)[relevant > 0].astype(int)
    pairs, counts = np.unique(table, axis=0, return_counts=True)
    return pairs, counts


def _later(n: int, p: int) -> np.ndarray:
    """P(rank > r) for r = 0 … n - p + 1 in a random order with p of n items relevant."""
    r = np.arange(n - p + 1)
    return np.concatenate([[1.0], np.cumprod((n - p - r) / (n - r))])
