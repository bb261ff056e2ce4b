"""Documents as points of a plane: those that use the same words lie near each other.

Below: scikit-learn. Above: `publishing`.

Texts become tf-idf weights of hashed words, then 50 numbers each by a truncated singular value
decomposition (latent semantic analysis, Deerwester et al. 1990). The first map shows the two
directions of most variance (PCA), the second t-SNE (van der Maaten and Hinton 2008), begun from
the first. On a map by t-SNE neighbours mean something; distances between clusters and their sizes
do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIN_DOCUMENTS = 20
"""Fewer make no map."""

MAX_DOCUMENTS = 600
"""The time of t-SNE grows with the square of them, and a picture holds no more."""

NUM_FEATURES = 1 << 14
NUM_DIRECTIONS = 50
PERPLEXITY = 30.0
SEED = 0

Points = NDArray[np.float64]
"""Two numbers for each document [documents, 2]."""


def place_documents(texts: Sequence[str]) -> tuple[Points, Points] | None:
    """Return the texts on both maps, PCA and t-SNE; None where they make no map.

    The same texts give the same points on the same machine; on another one t-SNE may differ, since
    it magnifies the rounding of sums.
    """
    if len(texts) < MIN_DOCUMENTS:
        return None
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Where all texts have the same words, shares of the variance are 0 / 0.
    with threadpool_limits(limits=1), np.errstate(all="ignore"):
        words = HashingVectorizer(n_features=NUM_FEATURES, alternate_sign=False).transform(texts)
        weights = TfidfTransformer(sublinear_tf=True).fit_transform(words)
        if weights.nnz == 0:
            return None
        directions = min(NUM_DIRECTIONS, len(texts) - 1)
        features = TruncatedSVD(directions, random_state=SEED).fit_transform(weights)
        flat = PCA(2, random_state=SEED).fit_transform(features)
        if np.ptp(flat, axis=0).min() < 1e-9:
            return None  # all alike
        spread = TSNE(
            perplexity=min(PERPLEXITY, (len(texts) - 1) / 3),
            init=flat / flat[:, 0].std() * 1e-4,
            random_state=SEED,
        ).fit_transform(features)
    return flat.astype(np.float64), spread.astype(np.float64)
