"""What sharing prefixes saves: the same kept sets measured in prefix order and from their first block.

Interleaved in one run on a random Llama of SmolLM2's shape, so that no weights are needed; what
counts is the ratio.
"""

import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rapgym.runtime import designs
from rapgym.runtime.forward import PrefixForward, prefix_order

ROUNDS, SETS = 3, 24


def main() -> None:
    torch.set_num_threads(1)
    config = LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                         tie_word_embeddings=True)  # fmt: skip
    network = LlamaForCausalLM(config).eval()
    network.bfloat16()
    tokens = torch.randint(0, 49152, (1, 512), generator=torch.Generator().manual_seed(0))
    attention, ffn = list(range(24, 52, 2)), list(range(25, 41, 2))
    kept = designs.grid(60, attention, ffn)[:: len(attention) * len(ffn) // SETS][:SETS]
    kept = [kept[i] for i in prefix_order(kept)]
    shared, alone = [], []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            begin, forward = time.perf_counter(), PrefixForward(network, tokens)
            for each in kept:
                forward.normed(each)
            shared.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for each in kept:
                PrefixForward(network, tokens).normed(each)
            alone.append(time.perf_counter() - begin)
    ratio = np.median(np.array(alone) / np.array(shared))
    print(f"{len(kept)} sets of the grid: {ratio:.2f} times as fast with shared prefixes")


if __name__ == "__main__":
    main()
