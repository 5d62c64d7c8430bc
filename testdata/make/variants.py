"""Further variants of LoRA with the reference stack's numbers, in the layout of `golden/variants`: tied embeddings, trained
norms and their biases, several features in one adapter.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python testdata/make/variants.py testdata/golden [NAME...]

Nothing is downloaded: the models are those of `golden/models`. Takes a minute on one core.
"""
import json
import os
import shutil
import sys

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FOLDER, STEPS, LR, DECAY, CLIP, SHOWN = "variants_more", 3, 1e-3, 0.01, 1.0, 12
QV = ["q_proj", "v_proj"]

# name: (model, arguments of LoraConfig, keep PEFT's own start, LoRA+)
CASES = {
    "tied_tokens": ("llama_tied", dict(target_modules=QV, trainable_token_indices=[1, 2, 60, 61]), False, None),
    "tied_whole": ("llama_tied", dict(target_modules=QV, modules_to_save=["embed_tokens"]), False, None),
    "tied_embedding": ("llama_tied", dict(target_modules=["embed_tokens", "q_proj"]), False, None),
    "norms_whole": ("llama3_rope", dict(target_modules=QV, modules_to_save=["norm"]), False, None),
    "scaled_embedding": ("gemma2", dict(target_modules=["embed_tokens", "q_proj"]), False, None),
    "norm_biases": ("starcoder2", dict(target_modules=["q_proj", "c_fc"], bias="all"), False, None),
    "fused": ("phi3", dict(target_modules=["qkv_proj", "gate_up_proj"], use_dora=True,
                           rank_pattern={"qkv_proj": 2}), False, None),
    "pissa_rslora": ("llama3_rope", dict(target_modules=QV, init_lora_weights="pissa", use_rslora=True), True, None),
    "pissa_dora": ("llama3_rope", dict(target_modules=QV, init_lora_weights="pissa", use_dora=True), True, None),
    "loraplus_embedding": ("llama3_rope", dict(target_modules=["embed_tokens", "q_proj"]), False,
                           dict(lr=2e-4, loraplus_lr_ratio=16.0, loraplus_lr_embedding=1e-4)),
}


def start(path, arguments, own, seed):
    """A model with an adapter; unless its own start is the point, A and B are random, so that all have gradients."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **arguments))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if not own and ("lora_A" in name or "lora_B" in name or "lora_embedding" in name):
                p.copy_(torch.randn(p.shape, generator=generator) * (0.1 if "A" in name.rsplit("lora_", 1)[1] else 0.05))
    return model.train()


def stored_name(name):
    for old, new in ((".lora_magnitude_vector.default.weight", ".lora_magnitude_vector"), (".modules_to_save.default", ""),
                     (".default", "")):
        name = name.replace(old, new)
    return name


def save(model, folder, name, **more):
    for config in model.peft_config.values():
        config.base_model_name_or_path = name
    model.save_pretrained(folder, save_embedding_layers=False, **more)
    if os.path.exists(os.path.join(folder, "README.md")):
        os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    config = json.load(open(path))
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key].sort()
    with open(path, "w", newline="\n") as f:
        json.dump(config, f, indent=1)


def write(path, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in sorted(tensors.items())}, path)


def make(golden, name, number):
    base, arguments, own, plus = CASES[name]
    path = os.path.join(golden, "models", base, "model")
    inputs = {k: v.long() for k, v in load_file(os.path.join(golden, "models", base, "inputs.safetensors")).items()}
    out = os.path.join(golden, FOLDER, name)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    mask = inputs["attention_mask"]
    model = start(path, arguments, own, 7000 + number)

    def run():
        return model(input_ids=inputs["input_ids"], attention_mask=mask, labels=inputs["labels"], use_cache=False)

    def logits(of):
        return (of.logits * mask[:, :, None])[:, :SHOWN]

    original = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
    rest = {}
    for full, p in model.named_parameters():
        plain = full.replace("base_model.model.", "").replace(".base_layer", "")
        if own and ".layers.0." in full and plain in original and not torch.equal(p, original[plain]):
            rest[plain] = p
    if rest:
        write(os.path.join(out, "residual_layer0.safetensors"), rest)
    # The stored start is that of an adapter beside the changed weights.
    config = model.peft_config["default"]
    kind, config.init_lora_weights = config.init_lora_weights, True
    save(model, os.path.join(out, "adapter"), base)
    config.init_lora_weights = kind

    first = run()
    first.loss.backward()
    trained = {stored_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    write(os.path.join(out, "grads.safetensors"), {n: p.grad for n, p in trained.items()})
    model.zero_grad(set_to_none=True)
    parameters = list(trained.values())
    if plus:
        optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, weight_decay=0.0, foreach=False, **plus)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY, foreach=False)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = run().loss
        loss.backward()
        losses.append(float(loss.detach()))
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, CLIP)))
        optimizer.step()
    with torch.no_grad():
        last = run()
    write(os.path.join(out, "logits.safetensors"), {"logits": logits(first), "logits_after": logits(last)})
    files = {}
    if rest and "use_dora" not in arguments:
        folder = os.path.join(out, "adapter_converted")
        save(model, folder, base, path_initial_model_for_weight_conversion=os.path.join(out, "adapter"))
        files["adapter_converted/"] = "a plain LoRA of twice the rank for the original weights"
    save(model, os.path.join(out, "adapter_step3"), base)
    case = {
        "case": f"{FOLDER}/{name}", "model": f"models/{base}/model",
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
        "lora_config": arguments, "loraplus": plus, "loss": losses[0], "losses": losses, "loss_after": float(last.loss),
        "grad_norms": norms, "compare": "products" if own else "tensors", "extra_files": files,
    }
    with open(os.path.join(out, "case.json"), "w", newline="\n") as f:
        json.dump(case, f, indent=1)
        f.write("\n")
    print(name, losses, case["loss_after"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number, name in enumerate(CASES):
        if name in sys.argv[2:] or len(sys.argv) == 2:
            make(sys.argv[1], name, number)
