"""One training run of the reference stack on given token ids, as a plain PyTorch loop: nothing of a trainer is timed.

job: {"out", "model", "rows", "rows_of_step", "method", "dtype", "checkpointing", "lr", "rank", "alpha", "threads", "environment",
"started"}

Batches are padded at the end to the longest row of the step, as the field's trainers do; a batch without padding gets no
mask, which is the faster path. Tokens are counted without padding. `started` is the wall time at which the process was asked for.
"""
import json
import os
import resource
import sys
import time

# Nothing is fetched. What holds the libraries to an instruction set must be there before they are loaded.
with open(sys.argv[1]) as f:
    JOB = json.load(f)
os.environ.update(JOB["environment"], HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from transformers import AutoModelForCausalLM


def load(job):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
    options = {"dtype": dtype, "attn_implementation": "sdpa"}
    if job["method"] == "qlora":
        from transformers import BitsAndBytesConfig

        options["device_map"] = {"": "cpu"}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(job["model"], **options)
    model.config.use_cache = False
    if job["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    if job["method"] != "full":
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    return model.train()


def batch(rows):
    """Ids, labels, mask (none if there is no padding), number of tokens and of labels that count."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(values, fill):
        return torch.tensor([v + [fill] * (width - len(v)) for v in values])

    ids = padded([row["input_ids"] for row in rows], 0)
    labels = padded([row["labels"] for row in rows], -100)
    mask = padded([[1] * len(row["input_ids"]) for row in rows], 0)
    tokens = int(mask.sum())
    return ids, labels, mask if tokens < mask.numel() else None, tokens, int((labels[:, 1:] != -100).sum())


def peak():
    """Largest resident memory of this process; the system's own count includes what the parent had."""
    try:
        with open("/proc/self/status") as f:
            return 1024 * next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most


def main():
    job = JOB
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    with open(job["rows"]) as f:
        rows = [json.loads(line) for line in f]
    model = load(job)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["lr"], weight_decay=0.0)
    loaded = time.time() - job["started"]
    steps = []
    for first in range(0, len(rows), job["rows_of_step"]):
        start = time.perf_counter()
        ids, labels, mask, tokens, count = batch(rows[first:first + job["rows_of_step"]])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=count).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        steps.append({"loss": float(loss.detach()), "tokens": tokens, "label_tokens": count, "seconds": seconds})
    results = {
        "steps": steps,
        "trainable_parameters": sum(p.numel() for p in trained),
        "peak_rss_bytes": peak(),
        "load_seconds": loaded,
    }
    with open(os.path.join(job["out"], "results.json"), "w") as f:
        json.dump(results, f, indent=1)


main()
