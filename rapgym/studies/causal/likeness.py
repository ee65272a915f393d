"""How like a twin is to the trace that it was made of: statistics, and what policies make of both."""

from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.studies.causal.twin import Fitted
from rapgym.workload.series import Series

SECONDS, ROWS = (1, 7, 30, 60), (1, 4, 16)  # lags of autocorrelations
FALLS = (0.5, 0.75, 0.9, 0.95, 0.99)  # quantiles
COVERAGE = (0.05, 0.25, 0.5, 0.75, 0.95)


def autocorrelation(values: FloatArray, lags: tuple[int, ...]) -> list[float]:
    """Of values in a row; 0 for a constant."""
    centred = values - values.mean()
    variance = float((centred**2).mean())
    return [
        round(float((centred[lag:] * centred[:-lag]).mean()) / variance, 3) if variance else 0.0
        for lag in lags
    ]


def statistics(rows: Series) -> dict[str, Any]:
    """Of a series: tenant tokens by second, what they rise within a row, and demand by row."""
    held = rows.tenant_tokens.astype(np.float64)
    tokens = (rows.prompt_tokens + rows.batch * rows.reserve_tokens).astype(np.float64)
    rise = held.max(axis=1) - held[:, 0]  # the limit falls by as much
    return {
        "rows": len(rows),
        "tenant_mean": round(float(held.mean())),
        "tenant_deviation": round(float(held.std())),
        "tenant_autocorrelation": autocorrelation(held.ravel(), SECONDS),
        "rise_within_row": [round(float(q)) for q in np.quantile(rise, FALLS)],
        "demand_mean": round(float(tokens.mean())),
        "demand_deviation": round(float(tokens.std())),
        "demand_autocorrelation": autocorrelation(tokens, ROWS),
    }


def prediction(found: Fitted) -> dict[str, Any]:
    """How a chain's number of neighbours was found, and how often the trace lay below its quantiles."""
    return {
        "states": len(found.chain),
        "neighbours": found.chain.successors.shape[1],
        "crps": {str(count): round(error, 1) for count, error in found.errors.items()},
        "below": {str(share): round(found.check.below(share), 3) for share in COVERAGE},
    }
