"""Synthetic requests, drawn from the per-client statistics that ServeGen measured in production.

ServeGen (arXiv:2505.09999) publishes how fast and how unevenly each client sent requests in each
10 minutes, and what lengths its requests had in each 6 hours: statistics, not a log. What is drawn
here repeats those rates, that burstiness and those lengths. It is *not* recorded traffic.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.files import columns
from rapgym.workload import sources
from rapgym.workload.loaders import require
from rapgym.workload.trace import RequestTrace

DAY_S = 86_400
WINDOW_S = 600
LENGTH_WINDOW_S = 21_600
LARGEST_DRAW = 50_000_000  # requests; more would not fit in the memory of a small machine
LARGEST_TOKENS = {"prompt": 262_144, "output": 32_768}  # no tail of lengths goes beyond

_AT = np.array([0.0, 0.5, 0.9, 0.99, 1.0])  # probabilities between which quantiles are log-linear


@dataclass(frozen=True, slots=True, eq=False)
class ServegenClients:
    """How each client of one workload sent requests, window by window (600 s, those with traffic).

    The file's fitted parameters are left out: the Gamma ones restate rate and CV, and the Weibull
    ones reproduce neither (the fitted mean is off by a fifth in the median, the CV as well).
    """

    workload: str
    client: IntArray  # [K], ascending
    t_s: FloatArray  # start of the window, ascending within a client, [K]
    rate_rps: FloatArray  # > 0, [K]
    iat_cv: FloatArray  # standard deviation over mean of inter-arrival times, > 0, [K]
    weibull: BoolArray  # the family that fits best: Weibull, else Gamma, [K]


@dataclass(frozen=True, slots=True, eq=False)
class ServegenLengths:
    """Mean, p50, p90 and p99 of each client's tokens, window by window (6 h).

    Clients of large length files are missing: 37 % of the requests of language/m-large, 29 % of
    m-mid, 57 % of m-small.
    """

    workload: str
    client: IntArray  # [K], ascending
    t_s: FloatArray  # start of the window, ascending within a client, [K]
    prompt: FloatArray  # [K, 4]: mean, p50, p90, p99
    output: FloatArray  # [K, 4]


def servegen_clients(workload: str) -> ServegenClients:
    """ServeGen's measured rates and burstiness, such as of "language/m-large"."""
    name = "servegen-clients"
    table = _by_client(name, _servegen(name, workload, {
        "client": "int", "t_s": "float", "rate_rps": "float", "iat_cv": "float",
        "pattern": "text"}))  # fmt: skip
    require(name, bool(((table["rate_rps"] > 0) & (table["iat_cv"] > 0)).all()),
             "a rate or CV is not positive")  # fmt: skip
    pattern = table["pattern"]
    require(name, bool(np.isin(pattern, ("Gamma", "Weibull")).all()),
             "a pattern is neither Gamma nor Weibull")  # fmt: skip
    return ServegenClients(workload, table["client"], table["t_s"], table["rate_rps"],
                           table["iat_cv"], pattern == "Weibull")  # fmt: skip


def servegen_lengths(workload: str) -> ServegenLengths:
    """ServeGen's measured lengths; the multimodal workload has none."""
    name, statistics = "servegen-lengths", ("mean", "p50", "p90", "p99")
    fields = {side: [f"{side}_{each}" for each in statistics] for side in ("in", "out")}
    kinds: dict[str, columns.Kind] = dict.fromkeys(fields["in"] + fields["out"], "float")
    table = _by_client(name, _servegen(name, workload, {"client": "int", "t_s": "float", **kinds}))
    prompt, output = (np.stack([table[field] for field in fields[side]], 1) for side in fields)
    for tokens in (prompt, output):
        ascending = (tokens >= 0).all() and (np.diff(tokens[:, 1:]) >= 0).all()
        require(name, bool(ascending), "quantiles of tokens are negative or do not ascend")
    return ServegenLengths(workload, table["client"], table["t_s"], prompt, output)


def _servegen(name: str, workload: str, kinds: dict[str, columns.Kind]) -> columns.Columns:
    """The rows of one workload."""
    table = columns.read(sources.path_of(name), name, {"workload": "text", **kinds})
    workloads = table.pop("workload")
    if not (rows := workloads == workload).any():
        known = ", ".join(np.unique(workloads))
        raise InvalidSpec(f"{name} has no workload {workload!r}; there are {known}")
    return {column: array[rows] for column, array in table.items()}


def _by_client(name: str, table: columns.Columns) -> columns.Columns:
    """The rows sorted by client; within a client, the file's times must ascend."""
    order = np.argsort(table["client"], kind="stable")
    table = {column: array[order] for column, array in table.items()}
    client, t_s = table["client"], table["t_s"]
    ascending = (np.diff(client) > 0) | (np.diff(t_s) > 0)
    fine = client[0] >= 0 and (t_s >= 0).all() and ascending.all()
    require(name, bool(fine), "a client's windows are negative, unsorted or named twice")
    return table


def arrivals(
    workload: str, *, days: int, share: float, seed: int, start_day: int = 0
) -> RequestTrace:
    """Synthetic requests of `days` days of a ServeGen workload, as one of 1/share replicas sees them.

    Each client is a renewal process with the rate and the coefficient of variation of inter-arrival
    times that were measured in each window, Gamma or Weibull as measured. It runs through the edges
    of windows, and through windows without traffic, on a clock that ticks as fast as the client's
    rate: bursts are not cut. Each request reaches this replica with probability `share`. That
    thinning is exact: a gap between two requests that do is a sum of a geometric number of gaps; it
    keeps the law of the window in which it begins.

    Lengths follow, per client and length window, the measured p50, p90 and p99, log-linear between
    them; the two tails are bent until the mean is the measured one as well (`length_knots`). Prompt
    and output are drawn independently. A client without length records draws each request from the
    pool of those that have one, weighted by their requests in that window.

    Args:
        workload: such as "language/m-large".
        days: whole days to draw, from `start_day` on; ServeGen has 14 of the language workloads.
        share: in (0, 1].
        seed: the same arguments give the same trace.

    Raises:
        DataUnavailable: ServeGen's files are not on this machine.
        InvalidSpec: no such workload or days, or the draw would be larger than `LARGEST_DRAW`.
        InvalidTrace: a file is not what it should be, or so little was asked for that no request
            was drawn.
    """
    if not 0 < share <= 1 or days < 1 or start_day < 0 or seed < 0:
        raise InvalidSpec(f"{workload}: need 0 < share <= 1, days >= 1, start_day >= 0, seed >= 0")
    clients = servegen_clients(workload)
    lengths = servegen_lengths(workload)
    recorded = math.ceil((clients.t_s.max() + WINDOW_S) / DAY_S)
    if start_day + days > recorded:
        raise InvalidSpec(f"{workload} has {recorded} days, not {start_day} + {days}")
    start_s, stop_s = start_day * DAY_S, (start_day + days) * DAY_S
    inside = (clients.t_s >= start_s) & (clients.t_s < stop_s)
    expected = share * WINDOW_S * float(clients.rate_rps[inside].sum())
    if not 1 <= expected <= LARGEST_DRAW:
        raise InvalidSpec(
            f"{workload}: about {expected:.3g} requests would be drawn; change share or days so that "
            f"it is between 1 and {LARGEST_DRAW}"
        )
    cdf = _Lengths(clients, lengths)
    parts = []
    for client in np.unique(clients.client[inside]):
        rows = inside & (clients.client == client)
        rng = np.random.default_rng([seed, zlib.crc32(workload.encode()), int(client)])
        span = clients.rate_rps[rows] * WINDOW_S
        window, place = _places(rng, span, clients.iat_cv[rows], clients.weibull[rows], share)
        t_s = clients.t_s[rows][window] + place / span[window] * WINDOW_S
        parts.append((t_s, *cdf.draw(rng, int(client), t_s)))
    arrival_s, prompt, output = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(arrival_s, kind="stable")
    name = f"synthetic {workload} days {start_day}-{start_day + days} share {share:g} seed {seed}"
    return RequestTrace(name, np.round(arrival_s[order] - start_s, 6), prompt[order], output[order])


def _places(
    rng: np.random.Generator, span: FloatArray, cv: FloatArray, weibull: BoolArray, share: float
) -> tuple[IntArray, FloatArray]:
    """Where one client's kept requests lie: window, and place in it in units of one mean gap.

    Args:
        span: expected requests of each window before thinning, [K]; its length in those units.
        cv, weibull: law of the gaps that begin in each window, [K].
    """
    shape = np.where(weibull, _weibull_shape(cv), 1 / cv**2)
    windows, places = [], []
    # A stationary start: what is left of the gap in progress, then gaps until one request is kept.
    ahead = _residual(rng, shape[0], bool(weibull[0])) + float(
        _gaps(rng, shape[0], bool(weibull[0]), rng.geometric(share, 1) - 1)[0]
    )
    for window, length in enumerate(span):
        while ahead < length:
            missing = (length - ahead) * share
            kept = rng.geometric(share, int(missing + 3 * math.sqrt(missing)) + 4)
            gaps = _gaps(rng, shape[window], bool(weibull[window]), kept)
            place = ahead + np.concatenate(([0.0], np.cumsum(gaps)))
            inside = min(int(np.searchsorted(place, length)), len(gaps))
            windows.append(np.full(inside, window))
            places.append(place[:inside])
            ahead = float(place[inside])  # the request after those inside
        ahead -= length
    return np.concatenate([np.empty(0, np.int64), *windows]), np.concatenate([np.empty(0), *places])


def _gaps(rng: np.random.Generator, shape: float, weibull: bool, count: IntArray) -> FloatArray:
    """Sums of `count` gaps of mean 1 each, [M] -> [M]; a count may be 0."""
    if not weibull:
        return np.asarray(rng.standard_gamma(shape * count) / shape)
    sums = np.concatenate(([0.0], np.cumsum(rng.weibull(shape, int(count.sum())))))
    ends = np.cumsum(count)
    return np.asarray((sums[ends] - sums[ends - count]) / math.gamma(1 + 1 / shape))


def _residual(rng: np.random.Generator, shape: float, weibull: bool) -> float:
    """What is left of the gap in progress at a random instant: a uniform part of a long gap."""
    if not weibull:
        return float(rng.random() * rng.standard_gamma(shape + 1) / shape)
    return float(rng.random() * rng.standard_gamma(1 + 1 / shape) ** (1 / shape)
                 / math.gamma(1 + 1 / shape))  # fmt: skip


def _weibull_shape(cv: FloatArray) -> FloatArray:
    """The shape whose Weibull law has this coefficient of variation, [K] -> [K]."""
    shapes = np.geomspace(1000, 0.05, 4000)
    moments = [math.lgamma(1 + 2 / k) - 2 * math.lgamma(1 + 1 / k) for k in shapes]
    log_cv = np.log(np.expm1(np.array(moments))) / 2
    found: FloatArray = np.exp(np.interp(np.log(cv), log_cv, np.log(shapes)))
    return found


def length_knots(statistics: FloatArray, largest: int) -> FloatArray:
    """Logarithms of the quantiles at `_AT` of distributions with measured mean, p50, p90 and p99.

    Between knots the quantile function is log-linear. Its ends are ours: by default the lower one
    mirrors the slope between p50 and p90, and p99 lies midway (in logarithms) between p90 and the
    upper one. Both are then moved together, the lower between 1 and p50, the upper between p99 and
    `largest`, until the mean is the measured one, or as near as that allows.

    Args:
        statistics: mean, p50, p90, p99 of tokens, [K, 4].

    Returns:
        [K, 5], ascending along the second axis.
    """
    mean = statistics[:, 0]
    p50, p90, p99 = np.log(np.clip(statistics[:, 1:], 1, largest)).T
    low, high = (
        np.maximum(p50 - (p90 - p50) * 1.25, 0),
        np.minimum(2 * p99 - p90, math.log(largest)),
    )

    def bent(by: FloatArray) -> FloatArray:
        """The knots with both ends at `by`: -1 lowest, 0 default, 1 highest."""
        down, up = np.clip(-by, 0, 1), np.clip(by, 0, 1)
        return np.stack([
            low * (1 - down) + (p50 - low) * up, p50, p90, p99,
            high - (high - p99) * down + (math.log(largest) - high) * up], axis=1)  # fmt: skip

    least, most = np.full(len(mean), -1.0), np.ones(len(mean))
    for _ in range(40):
        middle = (least + most) / 2
        short = knot_mean(bent(middle)) < mean
        least, most = np.where(short, middle, least), np.where(short, most, middle)
    return bent(most)


def knot_mean(knots: FloatArray) -> FloatArray:
    """Mean of the distribution that `length_knots` describes, [K, 5] -> [K]."""
    rise = np.diff(knots, axis=1)
    flat = rise < 1e-9
    average = np.exp(knots[:, :-1]) * np.where(flat, 1, np.expm1(rise) / np.where(flat, 1, rise))
    total: FloatArray = (average * np.diff(_AT)).sum(axis=1)
    return total


class _Lengths:
    """Draws prompt and output tokens of a client's requests."""

    def __init__(self, clients: ServegenClients, lengths: ServegenLengths) -> None:
        self.lengths = lengths
        self.knots = {side: length_knots(getattr(lengths, side), largest)
                      for side, largest in LARGEST_TOKENS.items()}  # fmt: skip
        # Requests that each record speaks of: its client's in its window.
        record = {key: row for row, key in enumerate(
            zip(lengths.client.tolist(), lengths.t_s.tolist(), strict=True))}  # fmt: skip
        opening = (clients.t_s // LENGTH_WINDOW_S * LENGTH_WINDOW_S).tolist()
        rows = [record.get(key, -1)
                for key in zip(clients.client.tolist(), opening, strict=True)]  # fmt: skip
        known = np.array(rows) >= 0
        self.weight = np.bincount(np.array(rows)[known], clients.rate_rps[known], len(record))

    def draw(
        self, rng: np.random.Generator, client: int, t_s: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """Tokens of the requests of one client at `t_s` (ascending), [M] -> two times [M]."""
        own = np.flatnonzero(self.lengths.client == client)
        if len(own):
            after = np.searchsorted(self.lengths.t_s[own], t_s, side="right")
            record = own[np.maximum(after - 1, 0)]
        else:
            record = self._pooled(rng, t_s)
        return self._tokens(rng, "prompt", record), self._tokens(rng, "output", record)

    def _pooled(self, rng: np.random.Generator, t_s: FloatArray) -> IntArray:
        """A record for each request, drawn from all of its window, or of the last that has any."""
        filled = np.unique(self.lengths.t_s[self.weight > 0])
        latest = np.maximum(np.searchsorted(filled, t_s, side="right") - 1, 0)
        record = np.empty(len(t_s), np.int64)
        for index in np.unique(latest):
            here = latest == index
            pool = np.flatnonzero((self.lengths.t_s == filled[index]) & (self.weight > 0))
            weight = self.weight[pool] / self.weight[pool].sum()
            record[here] = rng.choice(pool, int(here.sum()), p=weight)
        return record

    def _tokens(self, rng: np.random.Generator, side: str, record: IntArray) -> IntArray:
        at = rng.random(len(record))
        segment = np.searchsorted(_AT, at, side="right") - 1
        knots = self.knots[side]
        below, above = knots[record, segment], knots[record, segment + 1]
        part = (at - _AT[segment]) / (_AT[segment + 1] - _AT[segment])
        tokens: IntArray = np.rint(np.exp(below + (above - below) * part)).astype(np.int64)
        return np.maximum(tokens, 1)
