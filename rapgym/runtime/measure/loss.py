"""Per-token loss of a kept set, and how far its next-token distribution is from dense."""

from dataclasses import dataclass
from typing import Any

import torch

# Logits of this many tokens stay in a CPU's last-level cache; larger and smaller are slower.
CHUNK = 128
# On an accelerator a chunk's logits are as many numbers: enough to keep it busy.
DEVICE_LOGITS = 1 << 27


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """One value for each predicted token of a batch, float32 [sequences, length - 1]."""

    nll: torch.Tensor
    kl: torch.Tensor | None = None  # D(dense || this), nats
    agrees: torch.Tensor | None = None  # 1 where the most probable token is dense's


@dataclass(frozen=True, slots=True)
class DenseReference:
    """What divergence is measured against, for the predicted tokens in order."""

    probabilities: list[torch.Tensor]  # chunks of [tokens, vocabulary], in the model's dtype
    negentropy: torch.Tensor  # sum of p ln p, [tokens]
    top: torch.Tensor  # most probable token, [tokens]


def _chunks(head: Any, normed: torch.Tensor) -> Any:
    tokens = CHUNK
    if normed.device.type != "cpu":
        tokens = max(CHUNK, DEVICE_LOGITS // head.weight.shape[0])
    for rows in normed[:, :-1].reshape(-1, normed.shape[-1]).split(tokens):
        yield head(rows)


def dense_reference(head: Any, normed: torch.Tensor) -> DenseReference:
    """Probabilities of the dense model, kept in its own dtype to halve the memory."""
    probabilities, negentropy, top = [], [], []
    for logits in _chunks(head, normed):
        log_p = torch.log_softmax(logits.float(), -1)
        p = log_p.exp().to(logits.dtype)
        probabilities.append(p)
        # With the rounded p, so that the divergence of dense from itself is exactly what rounding
        # leaves, not a difference of two roundings.
        negentropy.append((p.float() * log_p).sum(-1))
        top.append(logits.argmax(-1))
    return DenseReference(probabilities, torch.cat(negentropy), torch.cat(top))


def token_loss(
    head: Any, normed: torch.Tensor, tokens: torch.Tensor, dense: DenseReference | None = None
) -> TokenLoss:
    """Loss of each next token, and the divergence from `dense` where that is given.

    Args:
        normed: what the head reads, [sequences, length, hidden].
        tokens: int64 [sequences, length]; token t + 1 is predicted at t.
    """
    targets = tokens[:, 1:].reshape(-1)
    shape = (tokens.shape[0], tokens.shape[1] - 1)
    nll, kl, agrees, start = [], [], [], 0
    for index, logits in enumerate(_chunks(head, normed)):
        part = slice(start, start + len(logits))
        start = part.stop
        exact = logits.float()
        log_sum = torch.logsumexp(exact, -1)
        nll.append(log_sum - exact.gather(1, targets[part, None])[:, 0])
        if dense is not None:
            p = dense.probabilities[index]
            p = p.float()
            cross, mass = torch.linalg.vecdot(p, exact), p.sum(-1)
            kl.append(dense.negentropy[part] - cross + mass * log_sum)
            agrees.append((exact.argmax(-1) == dense.top[part]).float())
    if dense is None:
        return TokenLoss(torch.cat(nll).view(shape))
    return TokenLoss(
        torch.cat(nll).view(shape), torch.cat(kl).view(shape), torch.cat(agrees).view(shape)
    )
