"""Which label is suspiciously easy to reach: the anomaly index over the norms of all labels (paper, sec. 3.4).

    K labels

NumPy only: deciding needs no network.
"""

import numpy as np
from numpy.typing import NDArray

# Makes the median absolute deviation of normal data estimate its standard deviation (eq. 6; Wang et al. 2019).
CONSISTENCY = 1.4826


def anomaly_indices(norms_K: NDArray[np.float64], among_K: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """AI_t = |m_t - median(m)| / (1.4826 * median |m_i - median(m)|), eq. (6).

    Only a norm below the median is suspicious; labels at or above it have index 0. Where the median absolute deviation
    is zero (half the norms equal) the index is undefined and every entry is NaN. Both medians are those of all norms,
    or of those `among_K` where the others were not drawn by chance.
    """
    typical_K = norms_K if among_K is None else norms_K[among_K]
    deviations_K = norms_K - np.median(typical_K)
    spread = CONSISTENCY * np.median(np.abs(typical_K - np.median(typical_K)))
    if spread == 0:
        return np.full_like(norms_K, np.nan)
    indices_K: NDArray[np.float64] = np.maximum(-deviations_K, 0.0) / spread
    return indices_K


def flagged(norms_K: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """The paper's rule: a label is suspect when its norm is below the median and its index exceeds the threshold."""
    indices_K = anomaly_indices(norms_K)
    return np.nan_to_num(indices_K, nan=0.0) > threshold
