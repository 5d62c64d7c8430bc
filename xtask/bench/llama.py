"""Speed of greedy decoding with llama.cpp.

job: {"out", "gguf", "threads", "prompt", "new_tokens"}

The prompt is not timed: the clock starts when the first new token is there.
"""
import json
import os
import sys
import time

from llama_cpp import Llama


def main():
    with open(sys.argv[1]) as f:
        job = json.load(f)
    llama = Llama(job["gguf"], n_ctx=1024, n_threads=job["threads"], n_threads_batch=job["threads"], verbose=False)
    tokens = llama.generate(llama.tokenize(job["prompt"].encode()), temp=0.0, repeat_penalty=1.0)
    next(tokens)
    start = time.perf_counter()
    for _ in range(job["new_tokens"] - 1):
        next(tokens)
    seconds = time.perf_counter() - start
    with open(os.path.join(job["out"], "results.json"), "w") as f:
        json.dump({"tokens_per_second": (job["new_tokens"] - 1) / seconds}, f)


main()
