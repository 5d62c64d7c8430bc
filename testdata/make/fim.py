"""Source files in fill-in-the-middle order with fixed cuts, as token ids, for the token names of several model families.

    pip install tokenizers==0.23.3
    python testdata/make/fim.py testdata/golden/models/llama3_rope/model/tokenizer.json testdata/golden/sft/fim.json

The permutation is that of `fim.permute` in bigcode's Megatron-LM, written anew: a document is cut in two places, its three
parts are tokenized apart, PSM is PRE prefix SUF suffix MID middle, and SPM (the second variant of Bavarian et al. 2022) is
PRE SUF suffix MID prefix middle. Where the place of a file stands is that of the papers of each family.
"""
import json
import sys

from tokenizers import Tokenizer

FAMILIES = {
    "starcoder": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>"],
    "starcoder2": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"],
    "santacoder": ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    "qwen": ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"],
    "deepseek": ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
}

FILES = [
    {"repository": "acme/counter", "path": "src/größe.py", "text": "def größe(n):\n    return n + 1  # 数字 😀\n"},
    {"repository": "acme/counter", "path": "web/a.js", "text": "let a = '<fim_middle>';\r\n\tlet b = '<|fim_prefix|>' + \"<|file_sep|>\";\n"},
]

CUTS = [(0, 0), (4, 15), (9, 9), (10, 36), (0, 36), (36, 36)]


def place(family, file):
    """What stands before the text of a file: parts before the prefix token, and parts at the start of the prefix."""
    repo, path = file["repository"], file["path"]
    names = FAMILIES[family]
    if family == "starcoder":
        return [], [names[3], repo, names[4], f"{path}\n"]
    if family == "starcoder2":
        return [names[3], repo, names[4]], [f"{path}\n"]
    if family == "qwen":
        return [names[3], f"{repo}\n", names[4], f"{path}\n"], []
    comment = "#" if path.endswith(".py") else "//"
    return [], [f"{comment} {path}\n"]


def parts(family, file, cut=None, spm=False):
    text, names = file["text"], FAMILIES[family]
    before, start = place(family, file)
    if cut is None:
        *front, path = [*before, *start]
        return [*front, path + text]
    prefix, middle, suffix = text[: cut[0]], text[cut[0] : cut[1]], text[cut[1] :]
    own = [*start[:-1], start[-1] + prefix] if start else [prefix]
    if spm:
        return [*before, names[0], names[1], suffix, names[2], *own, middle]
    return [*before, names[0], *own, names[1], suffix, names[2], middle]


def main(source, target):
    cases = []
    for family, names in FAMILIES.items():
        tokenizer = Tokenizer.from_file(source)
        tokenizer.add_special_tokens(names)
        tokenizer.encode_special_tokens = True
        control = {name: tokenizer.token_to_id(name) for name in names}
        eos = tokenizer.token_to_id("</s>")

        def ids(pieces):
            out = []
            for piece in pieces:
                out += [control[piece]] if piece in control else tokenizer.encode(piece, add_special_tokens=False).ids
            return out + [eos]

        for number, file in enumerate(FILES):
            cases.append({"family": family, "file": number, "ids": ids(parts(family, file))})
            for first, second in CUTS:
                for spm in [False, True]:
                    pieces = parts(family, file, (first, second), spm)
                    cases.append({"family": family, "file": number, "cut": [first, second], "spm": spm, "ids": ids(pieces)})
    result = {"tokens": FAMILIES, "files": FILES, "cases": cases}
    with open(target, "w", encoding="utf-8") as out:
        json.dump(result, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
