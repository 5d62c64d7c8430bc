"""Adapter folders that PEFT reads although they say more, or other things, than the model and the weights need, with the loss
that PEFT has for each: targets that the model does not have, a branch on a tied head, tables saved beside the branches, the
adapter's name in the keys, keys of later versions in the configuration.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python testdata/make/peft_folders.py testdata/golden

Nothing is downloaded: the models are those of `golden/models`. Takes some seconds on one core.
"""
import json
import os
import shutil
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from losses import loss, rows

# name: (model, arguments of LoraConfig, arguments of save_pretrained)
CASES = {
    "absent_targets": ("llama3_rope", dict(target_modules=["q_proj", "v_proj", "query_key_value", "c_attn"]), {}),
    "absent_modules": ("llama3_rope", dict(target_modules=["q_proj"], modules_to_save=["norm", "score"]), {}),
    "tied_head": ("llama_tied", dict(target_modules=["q_proj", "lm_head"]), {}),
    "tied_head_dora": ("llama_tied", dict(target_modules=["lm_head"], use_dora=True, use_rslora=True), {}),
    "tables": ("llama3_rope", dict(target_modules=["q_proj"]), dict(save_embedding_layers=True)),
    "tied_tables": ("llama_tied", dict(target_modules=["q_proj", "embed_tokens"]), dict(save_embedding_layers=True)),
    "later_keys": ("llama3_rope", dict(target_modules=["q_proj", "v_proj"]), {}),
    "adapter_name": ("llama3_rope", dict(target_modules=["q_proj", "v_proj"], use_dora=True), {}),
}

# What versions to come might write: features that are off, and one that no linear has.
LATER = {"a_feature": None, "another_feature": False, "its_strength": 0.0, "its_kind": "none", "its_parts": [],
         "its_config": {"on": False, "steps": 0}, "fan_in_fan_out": True, "qalora_group_size": 32}


def base(golden, name):
    folder = os.path.join(golden, "models", name, "model")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def main(golden):
    out = os.path.join(golden, "peft_folders")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    cases = {}
    for name, (model, arguments, saving) in CASES.items():
        torch.manual_seed(11)
        config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **arguments)
        made = get_peft_model(base(golden, model), config).eval()
        for parameter_name, parameter in made.named_parameters():
            if "lora_B" in parameter_name or "lora_embedding_A" in parameter_name or "modules_to_save" in parameter_name:
                parameter.data += 0.05 * torch.randn_like(parameter)
            if "magnitude" in parameter_name:
                parameter.data *= 1.1
        expected = loss(made)
        folder = os.path.join(out, name)
        made.save_pretrained(folder, **saving)
        os.remove(os.path.join(folder, "README.md"))
        path = os.path.join(folder, "adapter_config.json")
        about = json.load(open(path))
        about["base_model_name_or_path"] = model
        if name == "later_keys":
            about.update(LATER)
        json.dump(about, open(path, "w"), indent=2, sort_keys=True)
        again = loss(PeftModel.from_pretrained(base(golden, model), folder).eval())
        assert abs(again - expected) < 1e-6, (name, again, expected)
        if name == "adapter_name":
            # As the state of the model in memory names them, which is how some programs save it.
            path = os.path.join(folder, "adapter_model.safetensors")
            tensors = load_file(path)
            parts = ("lora_A", "lora_B", "lora_magnitude_vector")
            named = {}
            for key, tensor in tensors.items():
                for part in parts:
                    key = key.replace(f".{part}", f".{part}.default")
                named[key] = tensor
            save_file(named, path, metadata={"format": "pt"})
        cases[name] = {"model": model, "loss": expected, "base_loss": loss(base(golden, model)),
                       "keys": sorted(load_file(os.path.join(folder, "adapter_model.safetensors")))[:6]}
        print(name, cases[name])
    case = {"rows": rows(), "versions": {"torch": torch.__version__, "peft": __import__("peft").__version__},
            "cases": {n: {k: c[k] for k in ("model", "loss", "base_loss")} for n, c in cases.items()}}
    json.dump(case, open(os.path.join(out, "case.json"), "w"), indent=1)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])
