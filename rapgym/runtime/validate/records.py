"""What a replayed row leaves on disk: a trial, what happened, what was measured; numbers and keys only."""

from dataclasses import asdict
from typing import Any

import numpy as np

from rapgym.model import blocks
from rapgym.runtime.device.segments import Measured, Segment
from rapgym.runtime.validate.trials import Trial
from rapgym.world.records import Outcome
from rapgym.world.shield import Reason

# Where a token stands in its request: dropping blocks costs more where more text stands before.
POSITION_BOUNDS = (64, 128, 256, 512)

Record = dict[str, Any]


def outcome_record(outcome: Outcome) -> Record:
    """One lane's outcome."""
    seconds = outcome.seconds
    return {
        "kept": blocks.key(outcome.kept[0]),
        "kept_end": blocks.key(outcome.kept_end[0]),
        "reason": Reason(outcome.reason[0]).name.lower(),
        "limit_bytes": int(outcome.limit_bytes[0]),
        "used_bytes": int(outcome.used_bytes[0]),
        "nll": float(outcome.nll[0]),
        "measured": bool(outcome.measured[0]),
        "loss_s": float(seconds.loss[0]),
        "stall_s": float(seconds.stall[0]),
        "emergency_s": float(seconds.emergency[0]),
        "refused_s": float(seconds.refused[0]),
    }


def measured_record(measured: Measured) -> Record:
    """What a row did to the machine; tokens as counts, sums and sums of squares of their nats."""
    return {
        "limit_bytes": list(measured.limit_bytes),
        "peak_bytes": list(measured.peak_bytes),
        "over_bytes": measured.over_bytes,
        "segments": [segment_record(segment) for segment in measured.segments],
        "drop_s": measured.drop_s,
        "emergency_drop_s": list(measured.emergency_drop_s),
        "dropped_blocks": measured.dropped_blocks,
        "restore_s": measured.restore_s,
        "restored_blocks": measured.restored_blocks,
        "restored_bytes": measured.restored_bytes,
        "broke": measured.broke,
    }


def segment_record(segment: Segment) -> Record:
    """A part of a row; `tokens` holds [count, sum, sum of squares] of prompts, of answers, and by
    position in the request.
    """
    nats = segment.nats
    position = np.concatenate([np.zeros(0, dtype=np.int64), *(p.position for p in segment.parts)])
    answer = np.concatenate([np.zeros(0, dtype=bool), *(p.answer for p in segment.parts)])
    bucket = np.searchsorted(POSITION_BOUNDS, position, side="right")

    def moments(marked: Any) -> list[float]:
        found = nats[marked]
        return [len(found), float(found.sum()), float((found**2).sum())]

    scalars = ("kept", "seconds", "prefill_s", "prefill_tokens", "decode_s", "decode_tokens",
               "decode_steps")  # fmt: skip
    return {name: getattr(segment, name) for name in scalars} | {
        "tokens": {
            "prompt": moments(~answer),
            "answer": moments(answer),
            "position": [moments(bucket == i) for i in range(len(POSITION_BOUNDS) + 1)],
        }
    }


def row_record(trial: Trial, outcome: Outcome, measured: Measured) -> Record:
    """A finished trial."""
    return {
        "trial": asdict(trial),
        "outcome": outcome_record(outcome),
        "measured": measured_record(measured),
    }
