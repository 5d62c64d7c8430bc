"""The files of `golden/gguf` in the program that they are for: next-token probabilities of llama.cpp beside the fixtures'.

    pip install xllamacpp==2026.10.11549 safetensors==0.8.0 numpy torch==2.15.0
    python testdata/make/gguf_in_llama.py testdata/golden [NAME...]

For each file the first row of its inputs is given to llama.cpp as token ids, up to a few lengths; its log probabilities of
all next tokens are compared with those of `logits.safetensors`. Products of Q8_0 weights round the activations to 8 bits
there, so differences of some hundredths are no error, and a wrong name or order gives differences above 1.
"""
import json
import os
import sys
import urllib.request

import torch
import xllamacpp
from safetensors.torch import load_file

LENGTHS = (3, 9, 19)


def server(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = 128
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    return xllamacpp.Server(params)


def distribution(llama, ids, size):
    """Log probabilities of the token after these."""
    ask = {"prompt": ids, "n_predict": 1, "n_probs": size, "cache_prompt": False, "logit_bias": [["a", 1000.0]]}
    request = urllib.request.Request(f"{llama.listening_address}/completion", json.dumps(ask).encode())
    answer = json.load(urllib.request.urlopen(request))
    found = torch.full((size,), float("nan"))
    for each in answer["completion_probabilities"][0]["top_logprobs"]:
        found[each["id"]] = each["logprob"]
    return found


def main(root, names):
    worst = 0.0
    for name in names:
        folder = os.path.join(root, "gguf", name)
        case = json.load(open(os.path.join(folder, "case.json")))
        inputs = load_file(os.path.join(root, os.path.dirname(case["source_model"]), "inputs.safetensors"))
        logits = load_file(os.path.join(folder, "logits.safetensors"))["logits"]
        expected = torch.log_softmax(logits.float(), -1)
        llama = server(os.path.join(folder, "model.gguf"))
        differences = []
        for length in LENGTHS:
            ids = inputs["input_ids"][0, :length].tolist()
            found = distribution(llama, ids, expected.shape[-1])
            differences.append((found - expected[0, length - 1]).abs().nan_to_num(99.0).max().item())
        worst = max(worst, *differences)
        print(f"{name:18} {' '.join(f'{d:.4f}' for d in differences)}", flush=True)
    print(f"worst {worst:.4f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or sorted(os.listdir(os.path.join(sys.argv[1], "gguf"))))
