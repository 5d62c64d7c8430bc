"""PEFT reads our adapters, transformers our merged and trained folders; and PEFT makes adapters for us to read.

job: {"out", "rows", "threads", "planted", "read": [{"name", "base", "adapter", "merged"}],
      "full": [{"name", "folder"}], "make": [{"name", "base", "folder", "arguments"}]}
"""
import os

import peers
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file

JOB = peers.job()
ROWS = peers.rows(JOB["rows"])
TENSORS = {}


def evaluated(name, model):
    logits, loss = peers.evaluate(model, ROWS)
    TENSORS.update({f"{name}/{i}": row for i, row in enumerate(logits)})
    return loss


def plant(model, *names):
    """The small error of `--plant`, in the first parameter with one of these names."""
    with torch.no_grad():
        next(p for n, p in sorted(model.named_parameters()) if any(name in n for name in names)).mul_(1.01)


def read(case):
    model = PeftModel.from_pretrained(peers.load(case["base"]), case["adapter"]).eval()
    # PEFT leaves out what it does not know and what it misses: what it holds must be what the file has.
    stored = load_file(os.path.join(case["adapter"], "adapter_model.safetensors"))
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    left = sorted(stored.keys() - held.keys()), sorted(held.keys() - stored.keys())
    changed = [k for k in stored.keys() & held.keys() if not torch.equal(stored[k], held[k])]
    if JOB["planted"]:
        plant(model, "lora_B", "lora_embedding_B")
    loss = evaluated(f"{case['name']}/peft", model)
    evaluated(f"{case['name']}/merged", peers.load(case["merged"]))
    return {"loss": loss, "unexpected": left[0], "missing": left[1], "changed": changed}


def full(case):
    model = peers.load(case["folder"])
    if JOB["planted"]:
        # Where a norm follows, it would undo the scale of an MLP.
        plant(model, "q_proj")
    return {"loss": evaluated(case["name"], model)}


def make(case):
    torch.manual_seed(1)
    base = peers.load(case["base"])
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **case["arguments"]))
    # A start of zeros would prove nothing.
    with torch.no_grad():
        for _, p in sorted((n, p) for n, p in model.named_parameters() if p.requires_grad):
            p.add_(0.05 * torch.randn(p.shape))
    model.save_pretrained(case["folder"])
    if JOB["planted"]:
        plant(model, "lora_B", "lora_embedding_B")
    return {"loss": evaluated(case["name"], model.eval())}


results = peers.each(JOB["read"], read) | peers.each(JOB["full"], full) | peers.each(JOB["make"], make)
peers.write(JOB["out"], results, TENSORS)
