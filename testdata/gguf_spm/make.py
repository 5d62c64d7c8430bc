"""Makes model.gguf, a SentencePiece vocabulary in a GGUF file, and ids.json, what the reference gives for some texts.

    python3 make.py

Needs sentencepiece, transformers, tokenizers, gguf and numpy. `ids` are those of the fast tokenizer with merges as transformers derives them;
`sentencepiece` those of SentencePiece itself, which treats special tokens in a text as plain text.
"""
import io
import json
import os

import gguf
import numpy as np
import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers.convert_slow_tokenizer import generate_merges

HERE = os.path.dirname(os.path.abspath(__file__))
WORDS = "the river ran past old mills and over stones where children fish in summer rain falls on roofs of red tiles 1987 and 2024 were wet years über naïve café señor 東京 is far from Zürich".split()
CORPUS = [" ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(12)) for i in range(400)]
TEXTS = [
    "", " ", "  two  spaces", "the river ran", "The River RAN!", "rain falls on roofs, 1987-2024.", "über naïve café", "東京 and 大阪", "emoji 🦀 here",
    "tab\tand\nnewline\r\n", "trailing ", "<s>the</s>", "the<|im_start|>river", "a_b▁c", "\u00a0nbsp", "x" * 40, "e\u0301 combining", "fn main() { println!(\"{}\", 1_000); }",
]


def main():
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True, character_coverage=0.995,
                                   normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    tokens = [sp.id_to_piece(i) for i in range(n)] + ["<|im_start|>"]
    scores = [sp.get_score(i) for i in range(n)] + [0.0]
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    kinds = [kind(i) for i in range(n)] + [4]

    path = os.path.join(HERE, "model.gguf")
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(128)
    w.add_embedding_length(32)
    w.add_block_count(1)
    w.add_feed_forward_length(64)
    w.add_head_count(4)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), dtype=np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    # As the reference converts such vocabularies.
    vocab = {sp.id_to_piece(i): i for i in range(n)}
    merges = generate_merges(vocab, [(sp.id_to_piece(i), sp.get_score(i)) for i in range(n)])
    fast = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast.add_tokens([AddedToken("<|im_start|>", normalized=False)])
    fast.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    cases = []
    for text in TEXTS:
        e = fast.encode(text, add_special_tokens=False)
        cases.append({"text": text, "ids": e.ids, "decoded": fast.decode(e.ids, skip_special_tokens=False), "sentencepiece": sp.encode(text)})
    json.dump({"bos": 1, "cases": cases}, open(os.path.join(HERE, "ids.json"), "w"), ensure_ascii=False, indent=1)
    for c in cases:
        print(repr(c["text"]), c["ids"] == c["sentencepiece"], c["ids"][:12], c["sentencepiece"][:12])


main()
