"""What embeddings of the same texts by two encoders tell: a linear probe, and how alike the two sets are."""

import numpy as np

from eval.metrics.retrieval import unit


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray, regularisation: float = 1.0) -> np.ndarray:
    """Scores of a logistic regression on standardised embeddings.

    Args:
        train: shape (n, width).
        labels: 1, 0 or NaN, which is left out, shape (n,).
        test: shape (m, width).
        regularisation: C of scikit-learn's LogisticRegression.

    Returns:
        Log-odds of the finding, shape (m,).
    """
    from sklearn.linear_model import LogisticRegression

    known = np.isfinite(labels)
    centre, spread = train[known].mean(axis=0), train[known].std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    model = LogisticRegression(C=regularisation, max_iter=2000)
    model.fit((train[known] - centre) / spread, labels[known].astype(int))
    return np.asarray(model.decision_function((test - centre) / spread))


def linear_cka(before: np.ndarray, after: np.ndarray) -> float:
    """Linear centred kernel alignment of two sets of embeddings of the same texts (Kornblith et al. 2019, 1905.00414).

    Args:
        before: shape (n, width).
        after: shape (n, other width).

    Returns:
        1 where one is the other rotated, scaled and shifted, 0 where they have nothing in common; NaN for a constant.
    """
    x, y = before - before.mean(axis=0, dtype=np.float64), after - after.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norm) if norm > 0 else float("nan")


def neighbours_kept(before: np.ndarray, after: np.ndarray, k: int) -> np.ndarray:
    """Share of each text's k nearest others by cosine that are the same in both sets, shape (n,)."""
    nearest = []
    for vectors in (before, after):
        similarity = unit(vectors) @ unit(vectors).T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(np.argsort(-similarity, axis=1, kind="stable")[:, :k])
    shared = (nearest[0][:, :, None] == nearest[1][:, None, :]).any(axis=2)
    return np.asarray(shared.mean(axis=1))
