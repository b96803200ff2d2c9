#!/usr/bin/env python3
"""Train tiny-llama: a 1.3-million-parameter Llama that writes like Jane Austen.

    apt-get update
    pip install torch transformers tokenizers safetensors
    python train_tiny_llama.py OUT

The text is Jane Austen's six novels (1811-1818, public domain), taken from the
Debian package r-cran-janeaustenr, which `apt-get download` fetches and nothing
installs. The tenth chapter of every novel is held out: it trains neither the
tokenizer nor the model, and is written to held_out.txt beside OUT.

OUT becomes a Hugging Face checkpoint folder: bfloat16 weights in two shards,
config, byte-level BPE tokenizer. The same seed, thread count and library
versions give the same weights.
"""

import argparse
import json
import math
import re
import struct
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

PACKAGE = "r-cran-janeaustenr"
DATABASE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
HELD_OUT_CHAPTER = 10
BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
CONTEXT = 256

MODEL_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.05,
    "intermediate_size": 384,
    "max_position_embeddings": CONTEXT,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": transformers.__version__,
    "use_cache": True,
    "vocab_size": 1024,
}


# ---- text ----

def fetch_package():
    """Download and unpack the Debian package; return the bytes of its R database."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE],
                       cwd=folder, check=True)
        (package,) = Path(folder).glob("*.deb")
        print("text:", package.name)
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        return (Path(folder) / DATABASE).read_bytes()


def read_novels(database):
    """Yield each novel as one string.

    An .rdb file is a row of records: a 4-byte length and a zlib stream. Each one
    here holds a character vector (one string a line) in R's XDR serialization.
    """
    while database:
        stream = zlib.decompressobj()
        record = stream.decompress(database[4:])
        database = stream.unused_data

        encoding_bytes, = struct.unpack_from(">i", record, 14)
        at = 18 + encoding_bytes + 4
        line_count, = struct.unpack_from(">i", record, at)
        at += 4
        lines = []
        for _ in range(line_count):
            length, = struct.unpack_from(">i", record, at + 4)
            at += 8
            lines.append(record[at:at + length].decode("utf-8"))
            at += length
        yield "\n".join(lines)


def split_chapters(novel):
    """Return the chapters of a novel: headings, title page and editor's notes dropped."""
    body = novel.partition("A NOTE ON THE TEXT")[0].replace("_", "")
    chapters = []
    for part in re.split(r"(?mi)^\s*chapter\s+\w+\s*$", body)[1:]:
        paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", part))
        chapters.append("\n\n".join(
            p for p in paragraphs
            if re.search("[a-z]", p) and p[0] not in "[*" and p != "Finis"))
    return chapters


def load_text():
    """Return (training chapters, held-out chapters)."""
    training, held_out = [], []
    for novel in read_novels(fetch_package()):
        chapters = split_chapters(novel)
        held_out.append(chapters.pop(HELD_OUT_CHAPTER - 1))
        training += chapters
    return training, held_out


# ---- tokenizer ----

def train_tokenizer(chapters):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(chapters, trainers.BpeTrainer(
        vocab_size=MODEL_CONFIG["vocab_size"],
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)])
    return tokenizer


def encode(tokenizer, chapters):
    """All chapters as one stream of tokens, each chapter closed by EOS."""
    ids = []
    for chapter in chapters:
        ids += tokenizer.encode(chapter, add_special_tokens=False).ids + [EOS_ID]
    return torch.tensor(ids)


# ---- training ----

def windows(stream, starts):
    """Inputs and targets of CONTEXT tokens: BOS, then the stream from each start."""
    targets = torch.stack([stream[s:s + CONTEXT] for s in starts])
    inputs = F.pad(targets[:, :-1], (1, 0), value=BOS_ID)
    return inputs, targets


def loss_of(model, inputs, targets):
    return F.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out_loss(model, stream):
    losses = [loss_of(model, *windows(stream, [s])).item()
              for s in range(0, len(stream) - CONTEXT + 1, CONTEXT)]
    return sum(losses) / len(losses)


def learning_rate(step, args):
    """Linear warmup, then half a cosine down to zero."""
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    progress = (step - args.warmup) / (args.steps - args.warmup)
    return args.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(model, training, held_out, args):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay},
         {"params": norms, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.95), fused=True)
    began, recent = time.time(), []
    for step in range(args.steps):
        starts = torch.randint(len(training) - CONTEXT + 1, (args.batch,)).tolist()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        loss = loss_of(model, *windows(training, starts))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % args.report == 0 or step + 1 == args.steps:
            print(f"step {step + 1:5d}/{args.steps}  loss {sum(recent) / len(recent):.4f}  "
                  f"held out {held_out_loss(model, held_out):.4f}  "
                  f"{time.time() - began:6.0f} s", flush=True)
            recent = []


# ---- checkpoint ----

def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def save_weights(model, out, shard_count=2):
    """Shards of about equal size and their index, named as Hugging Face names them."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()
               if name != "lm_head.weight"}  # tied to model.embed_tokens.weight
    total_bytes = sum(t.nbytes for t in tensors.values())
    shards, seen_bytes = [{} for _ in range(shard_count)], 0
    for name, tensor in tensors.items():
        shards[seen_bytes * shard_count // total_bytes][name] = tensor
        seen_bytes += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{shard_count:05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    write_json(out / "model.safetensors.index.json", {
        "metadata": {"total_parameters": sum(t.numel() for t in tensors.values()),
                     "total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items()))})


def save_tokenizer(tokenizer, out):
    tokenizer.save(str(out / "tokenizer.json"))
    special = {"bos_token": BOS, "eos_token": EOS}
    write_json(out / "special_tokens_map.json", special)
    write_json(out / "tokenizer_config.json", {
        "added_tokens_decoder": {
            str(i): {"content": token, "lstrip": False, "normalized": False,
                     "rstrip": False, "single_word": False, "special": True}
            for i, token in ((BOS_ID, BOS), (EOS_ID, EOS))},
        **special,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast"})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--warmup", type=int, default=100, help="steps of rising learning rate")
    parser.add_argument("--batch", type=int, default=8, help="windows of 256 tokens in a step")
    parser.add_argument("--lr", type=float, default=6e-3, help="the highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--report", type=int, default=250, help="steps between two lines")
    parser.add_argument("--seed", type=int, default=1811)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, transformers {transformers.__version__},",
          " ".join(f"{k} {v}" for k, v in vars(args).items() if k != "out"))

    training_chapters, held_out_chapters = load_text()
    tokenizer = train_tokenizer(training_chapters)
    training = encode(tokenizer, training_chapters)
    held_out = encode(tokenizer, held_out_chapters)
    print(f"training: {len(training_chapters)} chapters, {len(training)} tokens; "
          f"held out: {len(held_out_chapters)} chapters, {len(held_out)} tokens")

    model = LlamaForCausalLM(LlamaConfig(**MODEL_CONFIG)).float()
    print(f"model: {sum(p.numel() for p in model.parameters())} parameters")
    train(model, training, held_out, args)

    model.bfloat16()
    args.out.mkdir(parents=True, exist_ok=True)
    save_weights(model, args.out)
    save_tokenizer(tokenizer, args.out)
    write_json(args.out / "config.json", MODEL_CONFIG)
    write_json(args.out / "generation_config.json", {
        "_from_model_config": True, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID,
        "transformers_version": transformers.__version__})
    (args.out.parent / "held_out.txt").write_text(
        "\n\n\n".join(held_out_chapters) + "\n", encoding="utf-8")
    print(f"held-out loss of the bfloat16 weights: {held_out_loss(model.float(), held_out):.4f}")


if __name__ == "__main__":
    main()
