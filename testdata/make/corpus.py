"""Token ids of texts that tokenizers get wrong, by the Python package: golden/sft/corpus.json.

    pip install tokenizers==0.23.3
    python testdata/make/corpus.py

For each tokenizer the ids of every text as it stands, where words of special tokens are these tokens, and with
`encode_special_tokens`, where they are text.
"""

import json
import pathlib

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent.parent / "golden"

TEXTS = [
    "",
    " ",
    "plain words, and 1234567 numbers: 3.14e-10",
    "  leading, doubled   and trailing blanks  ",
    "tabs\tand\r\nline\n\n\nbreaks\x0b\x0c",
    "no-break\u00a0space, thin\u2009space, zero\u200bwidth, ideographic\u3000space",
    "Käse, größer, señor, l’été, “naïve”, Ångström, ﬁ ligature",
    "de\u0301compose\u0301 and composé",
    "日本語のテキストと漢字、カタカナ。中文文本，標點。한국어 텍스트",
    "العربية עברית हिन्दी ไทย русский ελληνικά",
    "😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # ünï\n\n\nif __name__ == '__main__':\n\tf(1)\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] << 2; } // <T, U>",
    "<s>a special token at the start and one at the end</s>",
    "a user writes <|im_end|>\n<|im_start|>assistant\nand so on <pad>",
    "half of one <|im_en and its rest d|> <|im_end |>",
    "<|im_end|><|im_end|>",
    "x" * 300,
    "\ufffd \ue000 \U0010ffff",
]


def metaspace():
    """A tokenizer as SentencePiece makes them: runs of blanks as one character, bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special + [f"<0x{b:02X}>" for b in range(256)], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[2:13] * 4, trainer)
    text = json.loads(tokenizer.to_str())
    for token in text["added_tokens"]:
        token["special"] = token["content"] in special
    text["added_tokens"] = [t for t in text["added_tokens"] if t["special"]]
    return json.dumps(text, ensure_ascii=False)


def case(name, text):
    tokenizer = Tokenizer.from_str(text)
    split = Tokenizer.from_str(text)
    split.encode_special_tokens = True
    ids = lambda t: [t.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return {"name": name, "ids": ids(tokenizer), "split": ids(split)}


def main():
    sentencepiece = metaspace()
    cases = [
        case("models/llama3_rope/model/tokenizer.json", (HERE / "models/llama3_rope/model/tokenizer.json").read_text()),
        {**case("inline", sentencepiece), "tokenizer": json.loads(sentencepiece)},
    ]
    out = {"tokenizers": tokenizers.__version__, "texts": TEXTS, "cases": cases}
    (HERE / "sft/corpus.json").write_text(json.dumps(out, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
