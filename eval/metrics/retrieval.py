"""Ranks of what belongs to a query in a gallery, and what chance gives, as pure functions of arrays.

A gallery is sorted by falling similarity. The rank of a query is the place, from 1, of the first item that belongs to
it. Among equal similarities what does not belong comes first, so that embeddings that are all the same find nothing.
"""

import numpy as np

DECIMALS = 6  # float32 features of one image from two batches agree to this much: closer similarities are ties


def cosine(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosine similarities (queries, gallery) in float64, rounded so that ties are ties; 0 for a vector of zeros.

    Args:
        queries: shape (queries, dimension).
        gallery: shape (gallery, dimension).
    """
    return np.round(unit(queries) @ unit(gallery).T, DECIMALS)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float64; rows of zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def first_ranks(similarity: np.ndarray, belongs: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """The rank of the first item that belongs to each query, shape (queries,), NaN where none does.

    Args:
        similarity: shape (queries, gallery).
        belongs: which items belong to a query, bool, same shape.
        allowed: which items are in a query's gallery at all, bool, same shape; default: all.
    """
    allowed = np.ones_like(belongs) if allowed is None else allowed
    belongs = belongs & allowed
    best = np.where(belongs, similarity, -np.inf).max(axis=1, initial=-np.inf)
    before = (allowed & ~belongs & (similarity >= best[:, None])).sum(axis=1)
    return np.where(belongs.any(axis=1), before + 1.0, np.nan)


def precision_at(similarity: np.ndarray, belongs: np.ndarray, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    """Share of the first k items that belong to each query, shape (queries,), NaN where the gallery has fewer than k.

    Args:
        similarity: shape (queries, gallery).
        belongs: which items belong to a query, bool, same shape.
        k: items looked at, 1 or more.
        allowed: which items are in a query's gallery at all, bool, same shape; default: all.
    """
    allowed = np.ones_like(belongs) if allowed is None else allowed
    if similarity.shape[1] < k:
        return np.full(len(similarity), np.nan)
    similarity = np.where(allowed, similarity, -np.inf)
    last = np.partition(similarity, -k, axis=1)[:, -k, None]  # the similarity at place k
    above, tied = similarity > last, (similarity == last) & allowed
    from_ties = k - above.sum(axis=1) - (tied & ~belongs).sum(axis=1)
    found = (above & belongs).sum(axis=1) + from_ties.clip(min=0)
    return np.where(allowed.sum(axis=1) >= k, found / k, np.nan)


def chance_recall(items: np.ndarray, belonging: np.ndarray, k: int) -> float:
    """Expected share of queries with a rank of at most k when the order is random: 1 - C(n-p, k) / C(n, k) each.

    Args:
        items: n, the size of each query's gallery.
        belonging: p, how many items belong to each query; queries without any do not count.
        k: items looked at.
    """
    missed = np.ones(len(items))
    for i in range(k):
        missed *= (items - belonging - i).clip(min=0) / (items - i).clip(min=1)
    return float(np.mean(1 - missed[belonging > 0])) if (belonging > 0).any() else float("nan")


def chance_reciprocal_rank(items: np.ndarray, belonging: np.ndarray) -> float:
    """Expected mean of 1 / rank when the order is random; arguments as in `chance_recall`."""
    pairs, counts = _distinct(items, belonging)
    means = [(-np.diff(_later(n, p)) / np.arange(1, n - p + 2)).sum() for n, p in pairs]
    return float(np.average(means, weights=counts)) if len(pairs) else float("nan")


def chance_median_rank(items: np.ndarray, belonging: np.ndarray) -> float:
    """The median of the ranks when the order is random; arguments as in `chance_recall`."""
    pairs, counts = _distinct(items, belonging)
    if not len(pairs):
        return float("nan")
    later = np.zeros(max(n - p + 2 for n, p in pairs))
    for (n, p), count in zip(pairs, counts, strict=True):
        later[: n - p + 2] += _later(n, p) * count / counts.sum()
    return float(np.argmax(later <= 0.5 + 1e-9))


def _distinct(items: np.ndarray, belonging: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table = np.stack([items, belonging], axis=1)[belonging > 0].astype(int)
    pairs, counts = np.unique(table, axis=0, return_counts=True)
    return pairs, counts


def _later(n: int, p: int) -> np.ndarray:
    """P(rank > r) for r = 0 … n - p + 1, with p of n items belonging and a random order."""
    r = np.arange(n - p + 1)
    return np.concatenate([[1.0], np.cumprod((n - p - r) / (n - r))])
