"""pass@k: how likely one of k programs passes, estimated from n of which c passed (Chen et al. 2021, arXiv:2107.03374).

1 - C(n - c, k) / C(n, k) is unbiased; 1 - (1 - c / n)^k isn't.
"""

from __future__ import annotations

import math

PREFIX = "pass@"


def pass_at_k(n: int, c: int, k: int) -> float:
    """The estimate of one document; 1 <= k <= n, 0 <= c <= n."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def tries_of(metric: str) -> int | None:
    """The k of a metric `pass@k`; None for another name."""
    k = metric.removeprefix(PREFIX)
    return int(k) if metric.startswith(PREFIX) and k.isdecimal() and len(k) < 7 and int(k) > 0 else None
