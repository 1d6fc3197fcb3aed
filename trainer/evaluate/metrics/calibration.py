"""Calibration: whether a model is as sure as it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 15


def expected_error(values: Sequence[tuple[float, bool]]) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, section 3): Σ over bins n/N · |accuracy -
    confidence|.

    Values are [probability of what was predicted, whether that was right]; BINS bins of equal width, each with its
    upper bound.
    """
    confidence = np.array([sure for sure, _ in values], np.float64)
    right = np.array([hit for _, hit in values], np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    error = 0.0
    for each in range(BINS):
        inside = bins == each
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)
