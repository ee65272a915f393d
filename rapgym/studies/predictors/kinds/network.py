"""A small network, written out in NumPy."""

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.quality import predictor
from rapgym.quality.predictor import Sets
from rapgym.studies.predictors.kinds.shared import Fit, a_sixth

HIDDEN, SEEDS, NET_STEPS, DECAYS = 32, 4, 300, (0.0, 0.03)


def network(sets: Sets, rng: np.random.Generator) -> Fit:
    """The mean of networks of two hidden layers over the dropped blocks, beside a sum of effects.

    Its first layer adds up a vector of each dropped block: a deep set with learned elements. Each
    seed stops where a sixth of the rows, its own, are predicted best; weight decay is chosen so too.
    """
    single = predictor.basis_of(sets).single
    tried = np.flatnonzero((~sets.kept).any(axis=0))
    d, members = len(tried), SEEDS * len(DECAYS)
    # The first row is the dense set, whose answer is taken off.
    x = np.concatenate([np.zeros((1, d)), ~sets.kept[:, tried]]).astype(np.float32)
    other = x[1:] * (sets.text != 0)[:, None]
    target = sets.nll.astype(np.float32)
    judged = np.tile([a_sixth(sets, rng) for _ in range(SEEDS)], (len(DECAYS), 1))
    decay = np.repeat(np.array(DECAYS, dtype=np.float32), SEEDS)

    def drawn(*shape: int, gain: float) -> FloatArray:
        return (gain * rng.standard_normal((members, *shape))).astype(np.float32)

    values = [
        drawn(d, HIDDEN, gain=0.5 / np.sqrt(d)), drawn(1, HIDDEN, gain=0.3),
        drawn(HIDDEN, HIDDEN, gain=1 / np.sqrt(HIDDEN)), drawn(1, HIDDEN, gain=0.1),
        drawn(HIDDEN, 1, gain=0.1 / np.sqrt(HIDDEN)),
        np.tile(single[tried].astype(np.float32)[:, None], (members, 1, 1)),
        np.zeros((members, d, 1), dtype=np.float32),
    ]  # fmt: skip
    decayed = [v.shape[1] > 1 and i < 5 for i, v in enumerate(values)]
    first = [np.zeros_like(v) for v in values]
    second = [np.zeros_like(v) for v in values]
    best, least = [v.copy() for v in values], np.full(members, np.inf)
    counts = (~judged).sum(axis=1, keepdims=True)
    for step in range(1, NET_STEPS + 1):
        one, two, said = _forward(x, values)
        error = (said + (other @ values[6])[..., 0]) - target
        if step % 5 == 1:
            loss = np.where(judged, np.abs(error), 0).sum(axis=1) / judged.sum(axis=1)
            better = loss < least
            least = np.where(better, loss, least)
            for kept_best, value in zip(best, values, strict=True):
                kept_best[better] = value[better]
        # A loss that is quadratic to a few hundredths of a nat and linear beyond.
        slope = np.where(judged, 0, error / np.sqrt(error**2 + 0.05**2)) / counts
        back = np.concatenate([-slope.sum(axis=1, keepdims=True), slope], axis=1)[..., None]
        to_two = (back @ values[4].transpose(0, 2, 1)) * (1 - two**2)
        to_one = (to_two @ values[2].transpose(0, 2, 1)) * (1 - one**2)
        gradients = [
            x.T @ to_one, to_one.sum(axis=1, keepdims=True),
            one.transpose(0, 2, 1) @ to_two, to_two.sum(axis=1, keepdims=True),
            two.transpose(0, 2, 1) @ back, x[1:].T @ slope[..., None], other.T @ slope[..., None],
        ]  # fmt: skip
        rate = 0.02 * 0.5 * (1 + np.cos(np.pi * step / NET_STEPS))
        for i, gradient in enumerate(gradients):
            first[i] += 0.1 * (gradient - first[i])
            second[i] += 0.01 * (gradient**2 - second[i])
            mean, square = first[i] / (1 - 0.9**step), second[i] / (1 - 0.99**step)
            # Effects move in hundredths of a nat.
            own_rate = rate * (0.2 if i >= 5 else 1.0)
            values[i] -= (own_rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
            if decayed[i]:
                values[i] *= 1 - rate * decay[:, None, None]
    chosen = int(least.reshape(len(DECAYS), SEEDS).mean(axis=1).argmin())
    final = [v[chosen * SEEDS : (chosen + 1) * SEEDS] for v in best]

    def answer(kept: BoolArray) -> FloatArray:
        asked = np.concatenate([np.zeros((1, d)), ~kept[:, tried]]).astype(np.float32)
        return _forward(asked, final)[2].mean(axis=0).astype(np.float64)

    return answer


def _forward(x: FloatArray, values: list[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Both hidden layers, and what each member says of the rows after the first, [members, J]."""
    one = np.tanh(x @ values[0] + values[1])
    two = np.tanh(one @ values[2] + values[3])
    out = (two @ values[4])[..., 0]
    return one, two, out[:, 1:] - out[:, :1] + (x[1:] @ values[5])[..., 0]
