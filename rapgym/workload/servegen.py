"""Synthetic requests, drawn from the per-client statistics that ServeGen measured in production.

ServeGen (arXiv:2505.09999) publishes how fast and how unevenly each client sent requests in each
10 minutes, and what lengths its requests had in each 6 hours: statistics, not a log. What is drawn
here repeats those rates, that burstiness and those lengths. It is *not* recorded traffic.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import columns, headed, incoming, limits, places, writing
from rapgym.jobs.progress import Progress
from rapgym.workload import sources, stream
from rapgym.workload.loaders import require
from rapgym.workload.trace import RequestTrace

DAY_S = 86_400
WINDOW_S = 600
LENGTH_WINDOW_S = 21_600
TICKS = 1 << 12  # of a client's clock to one mean gap: all places are whole numbers of them
MOST_A_WINDOW = 3_000_000  # requests of one client, so that places in microseconds fit in 64 bits
LARGEST_CV = 1050.0  # of the smallest shape that `stream.gamma_quantile` knows
STATISTICS = places.TRACES / "servegen-statistics.csv.xz"
WORKLOADS = ("language/m-large", "language/m-mid", "language/m-small")  # those shipped
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


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """All that is measured of one workload."""

    clients: ServegenClients
    lengths: ServegenLengths


def measured(workload: str) -> Statistics:
    """The statistics as the raw files have them, such as of "language/m-large".

    Raises:
        DataUnavailable: ServeGen's files are not on this machine.
        InvalidTrace, WrongChecksum: a file is not what it should be.
        InvalidSpec: there is no such workload.
    """
    return Statistics(servegen_clients(workload), servegen_lengths(workload))


@lru_cache(maxsize=4)
def statistics(workload: str) -> Statistics:
    """The statistics that rapgym ships: a draw needs no raw file.

    Raises:
        InvalidSpec: there is no such workload.
        InvalidTrace: the file is damaged.
    """
    if workload not in WORKLOADS:
        raise InvalidSpec(f"no statistics of {workload!r}; there are {', '.join(WORKLOADS)}")
    try:
        header, lines = headed.unpack(
            incoming.bounded(STATISTICS, limits.PACKED), limits.STATISTICS, limits.TABLE_ROWS
        )
        number = str(header["workloads"].index(workload))
        cells = [line.split(",") for line in lines[1:]]
        clients, lengths = (
            [line[2:] for line in cells if line[:2] == [kind, number]] for kind in ("c", "l")
        )
        who, window, requests, cv, weibull = _columns(clients, 4)
        told = (requests / WINDOW_S, cv, weibull.astype(bool))
        found = ServegenClients(workload, who, window * WINDOW_S, *told)
        who, window, *tokens = _columns(lengths, 9)
        prompt, output = np.stack(tokens[:4], 1), np.stack(tokens[4:], 1)
        return Statistics(
            found, ServegenLengths(workload, who, window * LENGTH_WINDOW_S, prompt, output)
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidTrace(f"{STATISTICS} cannot be read: {error}; install rapgym anew") from error


def _columns(lines: list[list[str]], lists: int) -> list[np.ndarray]:
    """Of lines of a client's number and lists of numbers: client, window and the other columns."""
    parts = [[np.array(cell.split(" "), dtype=np.float64) for cell in line[1:]] for line in lines]
    if any(len(part) != lists for part in parts):
        raise ValueError(f"a line has not {lists} lists")
    who = np.repeat([int(line[0]) for line in lines], [len(part[0]) for part in parts])
    window = np.concatenate([np.cumsum(part[0]) for part in parts])
    return [who, window, *(np.concatenate(column) for column in list(zip(*parts, strict=True))[1:])]


def write_statistics(path: Path = STATISTICS) -> None:
    """Write the file that `statistics` reads, from the raw files.

    A line holds one client's windows: steps between their numbers, and what was measured in each.
    Rates are whole numbers of requests in 600 s again, as they were before the source rounded them;
    nothing else is changed, and none is left out.
    """
    lines = ["kind,workload,client,lists"]
    for number, workload in enumerate(WORKLOADS):
        found = measured(workload)
        clients, lengths = found.clients, found.lengths
        windows, requests = clients.t_s // WINDOW_S, requests_of(clients)
        for client in np.unique(clients.client):
            rows = clients.client == client
            told = (requests[rows], clients.iat_cv[rows], clients.weibull[rows].astype(int))
            lines.append(_line("c", number, client, windows[rows], *told))
        for client in np.unique(lengths.client):
            rows = lengths.client == client
            tokens = (*lengths.prompt[rows].T, *lengths.output[rows].T)
            opening = lengths.t_s[rows] // LENGTH_WINDOW_S
            lines.append(_line("l", number, client, opening, *tokens))
    named = [sources.source_of(name) for name in ("servegen-clients", "servegen-lengths")]
    header = {
        "schema": 1,
        "workloads": list(WORKLOADS),
        "sources": {
            source.name: {
                "sha256": source.sha256,
                "licence": source.licence,
                "attribution": source.attribution,
            }
            for source in named
        },
    }
    with writing.written_aside(path) as file:
        file.write(headed.pack(header, lines, xz=True))


def _line(kind: str, workload: int, client: int, windows: FloatArray, *told: np.ndarray) -> str:
    lists = [np.diff(windows, prepend=0), *told]
    words = (
        " ".join(np.format_float_positional(n, trim="-") for n in one.tolist()) for one in lists
    )
    return ",".join([kind, str(workload), str(client), *words])


def requests_of(clients: ServegenClients) -> IntArray:
    """Requests of each client in each of its windows, [K]."""
    found: IntArray = np.rint(clients.rate_rps * WINDOW_S).astype(np.int64)
    return found


def arrivals(
    workload: str, *, days: int, share: float, seed: int, start_day: int = 0, quiet: bool = True
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

    Every number is the inverse of a law at a uniform number of our own (`rapgym.workload.stream`),
    and gaps are rounded to 1 / `TICKS` of the mean gap before they are summed, so that the trace is
    the same on every machine, but for a chance of about one in a thousand.

    Args:
        workload: one of `WORKLOADS`.
        days: whole days to draw, from `start_day` on; ServeGen has 14 of the language workloads.
        share: in (0, 1].
        seed: the same arguments give the same trace.
        quiet: without a line of progress.

    Raises:
        InvalidSpec: no such workload or days, or the draw would be larger than `LARGEST_DRAW`.
        InvalidTrace: the statistics are damaged, or so little was asked for that no request was
            drawn.
    """
    if not 0 < share <= 1 or days < 1 or start_day < 0 or seed < 0:
        raise InvalidSpec(f"{workload}: need 0 < share <= 1, days >= 1, start_day >= 0, seed >= 0")
    found = statistics(workload)
    clients = found.clients
    recorded = math.ceil((clients.t_s.max() + WINDOW_S) / DAY_S)
    if start_day + days > recorded:
        raise InvalidSpec(f"{workload} has {recorded} days, not {start_day} + {days}")
    start_s, stop_s = start_day * DAY_S, (start_day + days) * DAY_S
    asked = np.flatnonzero((clients.t_s >= start_s) & (clients.t_s < stop_s))
    requests = requests_of(clients)
    expected = share * float(requests[asked].sum())
    if not 1 <= expected <= LARGEST_DRAW:
        raise InvalidSpec(
            f"{workload}: about {expected:.3g} requests would be drawn; change share or days so that "
            f"it is between 1 and {LARGEST_DRAW}"
        )
    if requests.max() > MOST_A_WINDOW or clients.iat_cv.max() > LARGEST_CV:
        raise InvalidSpec(
            f"{workload}: a client has more than {MOST_A_WINDOW} requests in {WINDOW_S} s, or a "
            f"variation above {LARGEST_CV:g}"
        )
    clocks, lengths = _Clocks(workload, seed, clients, asked, share), _Lengths(found)
    # Windows one after the other, all clients of each at once.
    asked = asked[np.argsort(clients.t_s[asked], kind="stable")]
    parts = []
    with Progress(f"draw {workload}", days * DAY_S / WINDOW_S, quiet=quiet) as progress:
        for rows in np.split(asked, np.flatnonzero(np.diff(clients.t_s[asked])) + 1):
            row, place, number = clocks.kept_requests(rows)
            begins_us = round((clients.t_s[rows[0]] - start_s) * 1e6)
            arrival_us = begins_us + place * (WINDOW_S * 1_000_000) // (requests[row] * TICKS)
            order = np.argsort(arrival_us, kind="stable")
            prompt, output = lengths.draw(clocks, row[order], number[order])
            parts.append((arrival_us[order], prompt, output))
            progress.advance()
    arrival_us, prompt, output = (np.concatenate(column) for column in zip(*parts, strict=True))
    name = f"synthetic {workload} days {start_day}-{start_day + days} share {share:g} seed {seed}"
    return RequestTrace(name, arrival_us / 1e6, prompt.astype(np.int64), output.astype(np.int64))


class _Clocks:
    """The clients of a workload, each on its own clock of `TICKS` to a mean gap."""

    def __init__(
        self, workload: str, seed: int, clients: ServegenClients, asked: IntArray, share: float
    ) -> None:
        """Every client stands at its first window of `asked`, what is left of a gap ahead of it."""
        self.share = share
        known, self.client = np.unique(clients.client, return_inverse=True)  # of each row, [K]
        self.requests, self.weibull = requests_of(clients), clients.weibull
        self.shape = np.where(
            clients.weibull, _weibull_shape(clients.iat_cv), 1 / clients.iat_cv**2
        )
        self.keys = {
            use: np.array(
                [stream.key("servegen", seed, workload, int(client), use) for client in known]
            )
            for use in ("start", "count", "gap", "prompt", "output", "pool")
        }
        self.kept = np.zeros(len(known), dtype=np.int64)  # requests drawn so far
        self.gaps = np.zeros(len(known), dtype=np.int64)  # numbers of Weibull gaps used so far
        self.ahead = np.zeros(len(known), dtype=np.int64)  # ticks to the next kept request
        for row in asked[np.unique(self.client[asked], return_index=True)[1]]:
            self.ahead[self.client[row]] = self._start(row)

    def uniform(self, use: str, row: IntArray, index: IntArray) -> FloatArray:
        """Numbers for one use, of the clients of these rows."""
        return stream.uniform(self.keys[use][self.client[row]], index)

    def _start(self, row: int) -> int:
        """Ticks to the first kept request of a client that has been there for ever.

        A uniform part of the gap in progress, which is likelier a long one; then gaps, until one
        ends with a request that is kept.
        """
        shape, one = np.array([self.shape[row]]), np.array([row])
        part, long, count = (self.uniform("start", one, np.array([index])) for index in range(3))
        if self.weibull[row]:
            gap = stream.gamma_quantile(long, 1 + 1 / shape) ** (1 / shape)
            left = float((part * gap)[0]) / math.gamma(1 + 1 / shape[0])
        else:
            left = float((part * stream.gamma_quantile(long, shape + 1) / shape)[0])
        passed = stream.geometric(count, self.share) - 1
        ticks = round(left * TICKS)
        if passed[0]:
            ticks += int(self._sums(one, passed, self.uniform("start", one, np.array([3])),
                                    "start", np.array([4]))[0])  # fmt: skip
        return ticks

    def _sums(
        self, row: IntArray, count: IntArray, u: FloatArray, use: str, first: IntArray
    ) -> IntArray:
        """Ticks of `count` >= 1 gaps each, [M] -> [M].

        Args:
            u: from which a sum of Gamma gaps follows, as that is Gamma itself.
            use, first: the numbers from which Weibull gaps follow, one by one.
        """
        sums = np.empty(len(row), dtype=np.int64)
        weibull = self.weibull[row]
        shape = self.shape[row[~weibull]]
        gaps = stream.gamma_quantile(u[~weibull], shape * count[~weibull]) / shape
        sums[~weibull] = np.rint(gaps * TICKS)
        for part in np.split(np.flatnonzero(weibull), np.flatnonzero(np.diff(row[weibull])) + 1):
            if len(part):  # of one row, whose gaps follow each other in the stream
                one, several = row[part[0]], count[part]
                ends = np.cumsum(several)
                scale = TICKS / math.gamma(1 + 1 / self.shape[one])
                sums[part] = np.diff(
                    stream.weibull_sums(
                        self.keys[use][self.client[one]],
                        int(first[part[0]]),
                        self.shape[one],
                        scale,
                        ends,
                    ),
                    prepend=0,
                )
        return sums

    def kept_requests(self, rows: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The requests of one window that are kept; the clocks go on to its end.

        Args:
            rows: of the statistics, one a client, all of one window.

        Returns:
            Row, place in ticks from the start of the window on its client's clock, and number among
            its client's, each int64 [M].
        """
        span = self.requests[rows] * TICKS
        found = [np.empty((3, 0), dtype=np.int64)]
        who = self.client[rows]
        while len(active := np.flatnonzero(self.ahead[who] < span)):
            here, until = who[active], span[active]
            missing = (until - self.ahead[here]) / TICKS * self.share
            trials = (missing + 3 * np.sqrt(missing)).astype(np.int64) + 4
            owner = np.repeat(np.arange(len(active)), trials)
            first = np.cumsum(trials) - trials
            number = np.arange(len(owner)) + (self.kept[here] - first)[owner]
            row = rows[active][owner]
            count = stream.geometric(self.uniform("count", row, number), self.share)
            used = np.cumsum(count) - count
            number_of_gap = used + (self.gaps[here] - used[first])[owner]
            ticks = self._sums(row, count, self.uniform("gap", row, number), "gap", number_of_gap)
            passed = np.cumsum(ticks)
            place = passed - ticks + (self.ahead[here] - (passed - ticks)[first])[owner]
            inside = place < until[owner]
            kept = np.bincount(owner[inside], minlength=len(active))
            last = first + np.maximum(kept - 1, 0)
            # Each has at least one inside: the gap after its last leads to the next request.
            self.ahead[here] = (place + ticks)[last]
            self.gaps[here] = (number_of_gap + count)[last]
            self.kept[here] += kept
            found.append(np.stack([row[inside], place[inside], number[inside]]))
        self.ahead[who] -= span
        row, place, number = np.concatenate(found, axis=1)
        return row, place, number


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
    """Draws prompt and output tokens of requests."""

    def __init__(self, found: Statistics) -> None:
        clients, lengths = found.clients, found.lengths
        self.knots = {side: length_knots(getattr(lengths, side), largest)
                      for side, largest in LARGEST_TOKENS.items()}  # fmt: skip
        self.record = _records(clients, lengths)  # of each row of the clients, -1 without, [K]
        # Requests that each record speaks of: its client's in its window.
        opening = clients.t_s // LENGTH_WINDOW_S * LENGTH_WINDOW_S
        own = np.flatnonzero(self.record >= 0)
        own = own[lengths.t_s[self.record[own]] == opening[own]]
        weight = np.bincount(self.record[own], requests_of(clients)[own], len(lengths.client))
        # Whoever has no record draws from all of its window, or of the last that has any.
        filled = np.unique(lengths.t_s[weight > 0])
        self.latest = np.maximum(np.searchsorted(filled, clients.t_s, side="right") - 1, 0)
        self.pools = [
            np.flatnonzero((lengths.t_s == t_s) & (weight > 0)) for t_s in filled.tolist()
        ]
        self.shares = [np.cumsum(weight[pool]) for pool in self.pools]

    def draw(self, clocks: _Clocks, row: IntArray, number: IntArray) -> tuple[IntArray, IntArray]:
        """Tokens of requests of one window: their rows and numbers, [M] -> two times int32 [M]."""
        record = self.record[row]
        if len(pooled := np.flatnonzero(record < 0)):
            pool = self.latest[row[pooled[0]]]
            shares = self.shares[pool]
            at = clocks.uniform("pool", row[pooled], number[pooled]) * shares[-1]
            record[pooled] = self.pools[pool][np.searchsorted(shares, at, side="right")]
        prompt, output = (
            self._tokens(side, record, clocks.uniform(side, row, number))
            for side in ("prompt", "output")
        )
        return prompt, output

    def _tokens(self, side: str, record: IntArray, at: FloatArray) -> IntArray:
        segment = np.searchsorted(_AT, at, side="right") - 1
        knots = self.knots[side]
        below, above = knots[record, segment], knots[record, segment + 1]
        part = (at - _AT[segment]) / (_AT[segment + 1] - _AT[segment])
        return np.maximum(np.rint(np.exp(below + (above - below) * part)), 1).astype(np.int32)


def _records(clients: ServegenClients, lengths: ServegenLengths) -> IntArray:
    """The length record of each row of the clients: its client's last at that time, or its first.

    -1 where its client has none, [K].
    """
    found = np.full(len(clients.client), -1, dtype=np.int64)
    for client in np.unique(lengths.client):
        own, rows = (np.flatnonzero(each.client == client) for each in (lengths, clients))
        after = np.searchsorted(lengths.t_s[own], clients.t_s[rows], side="right")
        found[rows] = own[np.maximum(after - 1, 0)]
    return found
