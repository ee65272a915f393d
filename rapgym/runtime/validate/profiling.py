"""A device profile fitted to measured rows: what the device adds to bytes, and how long it takes."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.errors import InvalidSpec
from rapgym.model import blocks
from rapgym.model.memory import Footprint
from rapgym.model.profiles import DeviceProfile, Latency, Work
from rapgym.runtime.validate.records import Record
from rapgym.world.records import World

LEAST_ROWS = 3
MARGIN = 2.0  # times the most by which a calibration row exceeds what is predicted for it


def least_squares(features: FloatArray, wanted: FloatArray) -> FloatArray:
    """Coefficients >= 0 with the least squared error: [K, F], [K] -> [F].

    Tries every subset of features, so it is exact, and meant for a handful of them.
    """
    count = features.shape[1]
    best, least = np.zeros(count), float((wanted**2).sum())
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            part = features[:, chosen]
            found = np.linalg.lstsq(part, wanted, rcond=None)[0]
            error = float(((part @ found - wanted) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(count), error
                best[list(chosen)] = found
    return best


def exact_bytes(footprint: Footprint, record: Record, world: World) -> tuple[int, int]:
    """What shapes alone say that a row's first kept set takes, and its prompt tokens."""
    row = record["trial"]["row"]
    prompt = int(world.rows.prompt_tokens[row])
    tokens = prompt + int(world.rows.reserved_tokens[row])
    kept = blocks.kept_of(record["outcome"]["kept"], world.blocks)
    return int(footprint.used_bytes(kept, np.array(tokens), np.array(prompt))), prompt


def fitted(name: str, world: World, records: Sequence[Record]) -> tuple[DeviceProfile, Record]:
    """The profile of these rows, and how well it describes them.

    Args:
        world: of the rows, with the ideal profile.

    Raises:
        InvalidSpec: too few rows to fit anything.
    """
    if len(records) < LEAST_ROWS:
        raise InvalidSpec(f"a profile needs {LEAST_ROWS} rows at least, not {len(records)}")
    exact = np.array([exact_bytes(world.footprint, record, world) for record in records])
    peaks = np.array([max(record["measured"]["peak_bytes"]) for record in records])
    above = (peaks - exact[:, 0]).astype(float)
    context, slope = least_squares(
        np.stack([np.ones(len(above)), exact[:, 1].astype(float)], axis=1), above
    )
    left = above - np.ceil(context) - slope * exact[:, 1]
    latency, errors = fitted_latency(world.blocks, records)
    profile = DeviceProfile(
        name=name,
        context_bytes=ceil(context),
        activation_bytes_per_token=float(slope),
        margin_bytes=max(0, ceil(MARGIN * left.max())),
        restore_bytes_per_s=restore_rate(records),
        reaction_s=reaction(records)["reaction_s"],
        latency=latency,
    )
    residuals = {
        "rows": len(records),
        "bytes_above_shapes": [int(above.min()), int(above.max())],
        "bytes_residual": [int(left.min()), int(left.max())],
        "peak_relative": float(np.abs(left / peaks).max()),
        **errors,
    }
    return profile, residuals


def restore_rate(records: Sequence[Record]) -> float | None:
    """Bytes a second at which blocks came back, over all rows; None where none did."""
    total = sum(record["measured"]["restored_bytes"] for record in records)
    seconds = sum(record["measured"]["restore_s"] for record in records)
    return total / seconds if total and seconds else None


def reaction(records: Sequence[Record]) -> Record:
    """How long serving pauses in an emergency: until a decode step has ended and blocks have left.

    Returns:
        `emergencies`, in how many the limit fell in mid-row; `release_s` and `longest_release_s`, what
        blocks took to leave in them; `step_s` of a mean decode step; `reaction_s`, release and step.
        None where there was nothing to measure.
    """
    releases = [s for record in records for s in record["measured"]["emergency_drop_s"]]
    steps = sum(part["decode_steps"] for part in segments(records))
    step_s = sum(part["decode_s"] for part in segments(records)) / steps if steps else None
    release_s = sum(releases) / len(releases) if releases else None
    return {
        "emergencies": len(releases),
        "release_s": release_s,
        "longest_release_s": max(releases, default=None),
        "step_s": step_s,
        "reaction_s": None if release_s is None or step_s is None else release_s + step_s,
    }


def segments(records: Sequence[Record]) -> Iterator[Record]:
    """Every part of a row that was served."""
    for record in records:
        yield from record["measured"]["segments"]


def fitted_latency(n: int, records: Sequence[Record]) -> tuple[Latency, Record]:
    """Seconds of each kind of work, linear in kept blocks; and the relative error of each."""
    parts = [part for part in segments(records) if part["prefill_tokens"]]
    kept = np.array([_counts(part, n) for part in parts]).reshape(-1, 3)
    tokens = np.array([part["prefill_tokens"] for part in parts], dtype=float)
    spent = np.array([part["prefill_s"] for part in parts])
    prefill = _relative_fit(kept * tokens[:, None], spent)

    decoding = [part for part in segments(records) if part["decode_steps"]]
    counts = np.array([_counts(part, n) for part in decoding]).reshape(-1, 3)
    steps = np.array([part["decode_steps"] for part in decoding], dtype=float)
    rows = np.array([part["decode_tokens"] for part in decoding], dtype=float)
    took = np.array([part["decode_s"] for part in decoding])
    features = np.concatenate([counts * steps[:, None], counts * rows[:, None]], axis=1)
    decode = _relative_fit(features, took)

    dropped = sum(record["measured"]["dropped_blocks"] for record in records)
    drop_s = sum(record["measured"]["drop_s"] for record in records)
    latency = Latency(
        prefill_token=Work(*prefill.tolist()),
        decode_step=Work(*decode[:3].tolist()),
        decode_token=Work(*decode[3:].tolist()),
        drop_block_s=drop_s / dropped if dropped else 0.0,
    )
    return latency, {
        "prefill_relative": _error(kept * tokens[:, None] @ prefill, spent),
        "decode_relative": _error(features @ decode, took),
    }


def _counts(part: Record, n: int) -> tuple[float, float, float]:
    """What `Work` is linear in: one, kept attention blocks, kept FFN blocks."""
    kept = blocks.kept_of(part["kept"], n)
    return 1.0, float(np.count_nonzero(kept[0::2])), float(np.count_nonzero(kept[1::2]))


def _relative_fit(features: FloatArray, spent: FloatArray) -> FloatArray:
    """Least squares of relative errors, so that short rows count as much as long ones."""
    return least_squares(features / spent[:, None], np.ones(len(spent)))


def _error(predicted: FloatArray, spent: FloatArray) -> float | None:
    """Median relative error."""
    return float(np.median(np.abs(predicted / spent - 1))) if len(spent) else None


def predicted_seconds(profile: DeviceProfile, n: int, record: Record) -> dict[str, float]:
    """What a profile says that the work of a row takes, by kind; the work itself is as it was done.

    Raises:
        InvalidSpec: the profile has no latency.
    """
    latency = profile.latency
    if latency is None:
        raise InvalidSpec(f"device profile {profile.name} says nothing of seconds")
    found: dict[str, Any] = {"prefill": 0.0, "decode": 0.0}
    for part in record["measured"]["segments"]:
        kept = blocks.kept_of(part["kept"], n)
        found["prefill"] += part["prefill_tokens"] * float(latency.prefill_token.seconds(kept))
        found["decode"] += part["decode_steps"] * float(latency.decode_step.seconds(kept))
        found["decode"] += part["decode_tokens"] * float(latency.decode_token.seconds(kept))
    found["drop"] = record["measured"]["dropped_blocks"] * latency.drop_block_s
    rate = profile.restore_bytes_per_s
    found["restore"] = record["measured"]["restored_bytes"] / rate if rate else 0.0
    return found
