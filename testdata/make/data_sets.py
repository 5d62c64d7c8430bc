"""Which files datasets takes for which split, for `testdata/data_sets/`: by the names of files, and by cards.

    python testdata/make/data_sets.py     (datasets 5.2.0)

Every tree of empty files is made in a temporary folder and given to the functions that `load_dataset` uses.
"""

import json, os, tempfile

import yaml
from datasets.data_files import get_data_patterns, DataFilesDict, sanitize_patterns
from datasets.load import infer_module_for_data_files
from datasets.packaged_modules import _ALL_ALLOWED_EXTENSIONS, _MODULE_TO_EXTENSIONS
from datasets.utils.metadata import MetadataConfigs
from datasets.load import create_builder_configs_from_metadata_configs
from huggingface_hub import DatasetCardData

cases = [
    ["README.md", "data.jsonl"],
    ["a.csv", "b.csv", "notes/c.csv"],
    ["train.jsonl", "test.jsonl"],
    ["data/train.jsonl", "data/valid.jsonl", "data/eval.jsonl"],
    [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
        "README.md",
    ],
    [
        "data/train_sft-00000-of-00001.parquet",
        "data/train_gen-00000-of-00001.parquet",
        "data/test_sft-00000-of-00001-0f1e2d3c.parquet",
    ],
    ["data/train-00000-of-00001.parquet", "other/test-00000-of-00001.parquet"],
    ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"],
    ["train/deep/er/a.jsonl", "validation/a.jsonl", "x.jsonl"],
    ["my_train_split/a.csv", "my-val/a.csv", "evaluation/a.csv"],
    ["training.csv", "dev.csv", "testing.csv"],
    ["training1.csv", "devel.csv", "latest.csv", "x.csv"],
    ["train1.json", "train2.json", "val_1.json"],
    ["mytrain.csv", "contest.csv"],
    ["sub/x-train.jsonl", "sub/y.dev.jsonl", "sub/z 2 test 3.jsonl"],
    ["data.jsonl.gz", "more.jsonl.gz"],
    ["data.csv", "data.jsonl", "data.parquet"],
    ["a.csv", "b.csv", "c.jsonl"],
    ["a.csv", "b.tsv", "c.jsonl"],
    ["train.csv", "train.jsonl", "test.jsonl"],
    [".hidden.jsonl", ".dir/x.jsonl", "a.jsonl"],
    ["__cache__/x.jsonl", "a.jsonl"],
    ["config.json", "dataset_info.json", "a.json"],
    ["notes.txt", "a.jsonl"],
    ["one.txt", "two.txt"],
    ["train-test.jsonl"],
    ["train/dev/a.jsonl", "train/b.jsonl"],
    ["2023/train/a.jsonl", "2024/train/a.jsonl", "2024/test/a.jsonl"],
    ["train_1/x.csv", "train/x.csv", "b_train/x.csv", "training/x.csv"],
    ["b-train.csv", "train.csv", "a_training.csv"],
    ["data/train-00000-of-00001.jsonl", "data/extra.jsonl"],
    ["data/a/train-00000-of-00001.jsonl", "data/b/test-00000-of-00001.jsonl"],
    ["Train.csv", "TEST.csv"],
]


def make(files):
    d = tempfile.mkdtemp()
    for f in files:
        p = os.path.join(d, f)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        open(p, "w").write("x")
    return d


def run(files):
    d = make(files)
    pats = get_data_patterns(d)
    df = DataFilesDict.from_patterns(pats, base_path=d, allowed_extensions=_ALL_ALLOWED_EXTENSIONS)
    m, _ = infer_module_for_data_files(df)
    df = df.filter(extensions=_MODULE_TO_EXTENSIONS[m])
    return [[str(k), [os.path.relpath(f, d) for f in v]] for k, v in df.items()]


out = []
for c in cases:
    out.append({"files": sorted(c), "splits": run(c)})
cards = [
    (
        "configs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train*}\n  - {split: test, path: [main/test-0.csv, main/test-1.csv]}\n- config_name: socratic\n  data_dir: soc\n",
        [
            "main/train-0.csv",
            "main/train-1.csv",
            "main/test-0.csv",
            "main/test-1.csv",
            "soc/train.csv",
            "soc/dev.csv",
            "README.md",
        ],
    ),
    (
        "configs:\n- config_name: default\n  data_files: '**/x*.jsonl'\n",
        ["a/x1.jsonl", "a/b/x2.jsonl", "x0.jsonl", ".h/x.jsonl", "__p/x.jsonl", "y.jsonl"],
    ),
    ("configs:\n- config_name: default\n  data_files: a/*\n", ["a/x1.jsonl", "a/b/x2.jsonl", "a/.x.jsonl"]),
    (
        "configs:\n- config_name: default\n  data_files: a/**\n",
        ["a/x1.jsonl", "a/b/x2.jsonl", "a/.x.jsonl", "a/README.md"],
    ),
    (
        "configs:\n- config_name: d\n  data_dir: en\n  data_files: ['p?.csv', 'q[0-3].csv']\n",
        ["en/p1.csv", "en/p12.csv", "en/q3.csv", "en/q4.csv", "p1.csv"],
    ),
    ("configs:\n- config_name: d\n  data_files: __p/*.csv\n", ["__p/a.csv", "b.csv"]),
    ("configs:\n- config_name: d\n  data_files: .h/*.csv\n", [".h/a.csv", ".h/.b.csv", "b.csv"]),
]
cardout = []
for text, files in cards:
    d = make(files)
    mc = MetadataConfigs.from_dataset_card_data(DatasetCardData(**yaml.safe_load(text)))
    cfgs, default = create_builder_configs_from_metadata_configs("datasets.packaged_modules.csv.csv", mc, base_path=d)
    for c in cfgs:
        base = os.path.join(d, c.data_dir) if c.data_dir else d
        df = c.data_files.resolve(base) if hasattr(c.data_files, "resolve") else c.data_files
        cardout.append(
            {
                "card": text,
                "files": sorted(files),
                "default": default,
                "config": c.name,
                "splits": [[str(k), [os.path.relpath(f, d) for f in v]] for k, v in df.items()],
            }
        )
folder = os.path.join(os.path.dirname(__file__), "..", "data_sets")
os.makedirs(folder, exist_ok=True)
for name, rows in [("splits", out), ("cards", cardout)]:
    with open(os.path.join(folder, f"{name}.jsonl"), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
