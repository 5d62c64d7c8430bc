"""PEFT trains from a given adapter on given token ids: mean loss over the label tokens, clipping, AdamW, constant rate.

job: {"out", "threads", "planted", "rows", "rows_of_step", "cases": [{"name", "base", "adapter", "lr", "dtype", "four_bit", "sums_in_f32"}]}

bitsandbytes' kernels for AVX-512 are wrong for some shapes: of a 4-bit base the bytes that it holds are decoded by its
portable functions, once, into plain linears.

bf16 is what a trainer means by it: autocast of a model in f32. It rounds what linears give, logits included, which we do
not. With `sums_in_f32` the two products of an adapted linear are added before they are rounded: operands are rounded as
before, but what a young adapter adds is not swallowed by the rounding of what the base gave.
"""
import contextlib

import four_bit
import peers
import torch
from peft import PeftModel
from peft.tuners.lora import layer
from torch.nn.functional import linear

JOB = peers.job()
ROWS = peers.rows(JOB["rows"])


def rounded(x):
    return x.to(torch.bfloat16).float()


def sum_in_f32(self, x):
    """An adapted linear of plain LoRA; operands in bf16, products and their sum in f32."""
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    with torch.autocast("cpu", enabled=False):
        x = rounded(x)
        share = linear(rounded(linear(x, rounded(a))), rounded(b)) * self.scaling["default"]
        return linear(x, rounded(self.base_layer.weight), self.base_layer.bias) + share


@contextlib.contextmanager
def summed(in_f32):
    """PEFT's linears as they are, or with their sum in f32."""
    given = layer.Linear.forward
    layer.Linear.forward = sum_in_f32 if in_f32 else given
    yield
    layer.Linear.forward = given


def train(case):
    base = peers.load(case["base"], **({"device_map": {"": "cpu"}} if case["four_bit"] else {}))
    if case["four_bit"]:
        base = four_bit.plain(base)
    model = PeftModel.from_pretrained(base, case["adapter"], is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=case["lr"] * (1.1 if JOB["planted"] else 1.0), weight_decay=0.0)
    losses = []
    for start in range(0, len(ROWS), JOB["rows_of_step"]):
        step = ROWS[start:start + JOB["rows_of_step"]]
        # Rows of one length: a batch without padding.
        precision = torch.autocast("cpu", torch.bfloat16) if case["dtype"] == "bf16" else contextlib.nullcontext()
        with precision, summed(case["sums_in_f32"]):
            logits = model(input_ids=torch.tensor([row["input_ids"] for row in step])).logits
        sums = [peers.summed_loss(found, row["labels"]) for found, row in zip(logits, step)]
        loss = sum(loss for loss, _ in sums) / sum(n for _, n in sums)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return {"losses": losses, "trained": sum(p.numel() for p in trained)}


peers.write(JOB["out"], peers.each(JOB["cases"], train), {})
