"""Chats of a file to token ids, as transformers' users do it: datasets, a chat template, a fast tokenizer."""
import json
import os
import sys
import time

with open(sys.argv[1]) as f:
    JOB = json.load(f)
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(JOB["model"])


def ids(batch):
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in batch["messages"]]
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)


def main():
    start = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=JOB["rows"], split="train", cache_dir=JOB["cache"])
    rows = rows.map(ids, batched=True, num_proc=JOB["processes"], remove_columns=["messages"])
    seconds = time.perf_counter() - start
    tokens = sum(len(row) for batch in rows.iter(1000) for row in batch["input_ids"])
    versions = {m.__name__: m.__version__ for m in (datasets, tokenizers, transformers)}
    with open(os.path.join(JOB["out"], "results.json"), "w") as f:
        json.dump({"seconds": seconds, "tokens": tokens, "versions": versions}, f)


if __name__ == "__main__":
    main()
