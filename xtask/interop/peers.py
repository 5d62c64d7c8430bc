"""What the scripts of `cargo xtask interop` share: the job file, rows of token ids, models of the reference stack.

A script reads one JSON job and writes `results.json` and tensors into the job's folder `out`. It only reports what the
reference stack computes; what is compared and how close it must be is decided by `xtask/src/interop/`.
"""
import json
import os
import sys
import traceback

# Nothing is fetched, and what is compiled differs between machines.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TORCHDYNAMO_DISABLE="1")

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()


def job():
    with open(sys.argv[1]) as f:
        read = json.load(f)
    torch.set_num_threads(read.get("threads") or torch.get_num_threads())
    return read


def rows(path):
    """Rows of `{"input_ids", "labels"}`, labels not shifted, -100 for what is not supervised."""
    with open(path) as f:
        return [json.loads(line) for line in f]


def load(folder, dtype=torch.float32, **more):
    """A model in evaluation mode, with the plainest attention: the one whose sums are easiest to follow."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **more)
    model.config.use_cache = False
    return model.eval()


def summed_loss(logits, labels):
    """Sum of the token losses of one row, and their number."""
    labels = torch.tensor(labels[1:])
    loss = torch.nn.functional.cross_entropy(logits[:-1].float(), labels, ignore_index=-100, reduction="sum")
    return loss, int((labels != -100).sum())


@torch.no_grad()
def evaluate(model, data):
    """Logits of each row by itself, so that no padding is involved, and the mean loss over all label tokens."""
    logits = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in data]
    losses = [summed_loss(found, row["labels"]) for found, row in zip(logits, data)]
    return logits, float(sum(loss for loss, _ in losses)) / sum(n for _, n in losses)


def each(cases, check):
    """Runs `check` on every case; an exception is a result, so that the other cases are still seen."""
    results = {}
    for case in cases:
        try:
            results[case["name"]] = check(case)
        except Exception as error:
            traceback.print_exc()
            results[case["name"]] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return results


def write(out, results, tensors):
    save_file({k: v.detach().float().contiguous().clone() for k, v in tensors.items()}, os.path.join(out, "tensors.safetensors"))
    with open(os.path.join(out, "results.json"), "w") as f:
        json.dump(results, f, indent=1)
