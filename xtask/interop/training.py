"""PEFT trains from a given adapter on given token ids: mean loss over the label tokens, clipping, AdamW, constant rate.

job: {"out", "threads", "planted", "rows", "rows_of_step", "lr", "cases": [{"name", "base", "adapter", "dtype", "four_bit"}]}

bitsandbytes does not train on a CPU as on a GPU: of a 4-bit base its own bytes are decoded by its portable functions,
once, into plain linears.
"""
import four_bit
import peers
import torch
from peft import PeftModel

JOB = peers.job()
ROWS = peers.rows(JOB["rows"])


def train(case):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    base = peers.load(case["base"], dtype, **({"device_map": {"": "cpu"}} if case["four_bit"] else {}))
    if case["four_bit"]:
        base = four_bit.plain(base).to(dtype)
    model = PeftModel.from_pretrained(base, case["adapter"], is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=JOB["lr"] * (1.1 if JOB["planted"] else 1.0), weight_decay=0.0)
    losses = []
    for start in range(0, len(ROWS), JOB["rows_of_step"]):
        step = ROWS[start:start + JOB["rows_of_step"]]
        # Rows of one length: a batch without padding.
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
