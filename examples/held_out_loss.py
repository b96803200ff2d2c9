#!/usr/bin/env python3
"""Print the loss of tiny-llama, in nats a token, on text it was not trained on.

    pip install "mlx[cpu]" mlx-lm
    python held_out_loss.py MODEL...

Each MODEL is tiny-llama's folder or one made from it, such as a quantized copy,
loaded by mlx_lm. The text is held_out.txt beside this file, in windows of 256
tokens. Quantized weights are dequantized first: MLX multiplies them slowly on a
CPU, and the loss moves by a few thousandths only. A model takes about a minute.
"""

import argparse
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm import load
from mlx_lm.utils import dequantize_model

TEXT = Path(__file__).with_name("held_out.txt")
CHAPTER_BREAK = "\n\n\n"
CONTEXT = 256


def held_out_loss(model, tokenizer, window_count):
    stream = []
    for chapter in TEXT.read_text(encoding="utf-8").rstrip("\n").split(CHAPTER_BREAK):
        stream += tokenizer.encode(chapter, add_special_tokens=False) + [tokenizer.eos_token_id]
    losses = []
    for start in range(0, len(stream) - CONTEXT + 1, CONTEXT)[:window_count]:
        targets = stream[start:start + CONTEXT]
        inputs = [tokenizer.bos_token_id] + targets[:-1]
        logits = model(mx.array([inputs])).astype(mx.float32)
        loss = nn.losses.cross_entropy(logits[0], mx.array(targets), reduction="mean")
        losses.append(loss.item())
    return sum(losses) / len(losses)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--windows", type=int, help="only the first N windows (default: all)",
                        metavar="N")
    args = parser.parse_args()
    for folder in args.models:
        model, tokenizer = load(folder)
        loss = held_out_loss(dequantize_model(model), tokenizer, args.windows)
        print(f"{loss:.4f}  {folder}", flush=True)


if __name__ == "__main__":
    main()
