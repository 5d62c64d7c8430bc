"""Verdicts of the Berkeley Function Calling Leaderboard's own check: its `ast_checker`, as the package has it.

    pip download --no-deps bfcl-eval==2026.3.23    # a wheel, to be unzipped
    python testdata/make/bfcl.py FOLDER/bfcl_eval < testdata/bfcl/cases.jsonl > new && mv new testdata/bfcl/cases.jsonl

A line of the input has `category`, `functions`, `possible` (the package's forms) and `calls` ([{"name", "arguments"}]); it is
written again with `valid` and `reason`. The functions and calls of `cases.jsonl` are our own. `cargo xtask bfcl compare` sends
its items through this script too.
"""
import json
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(sys.argv[1]).resolve().parent))
# The table of models imports the clients of all of them; the check only asks it whether dots of names become underscores.
models = types.ModuleType("bfcl_eval.constants.model_config")
models.MODEL_CONFIG_MAPPING = {"local": types.SimpleNamespace(underscore_to_dot=False)}
sys.modules[models.__name__] = models

from bfcl_eval.constants.enums import Language
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

for line in sys.stdin:
    item = json.loads(line)
    calls = [{call["name"]: call["arguments"]} for call in item["calls"]]
    try:
        said = ast_checker(item["functions"], calls, item["possible"], Language.PYTHON, item["category"], "local")
        valid, reason = said["valid"], said.get("error_type") if not said["valid"] else None
    except Exception as error:
        valid, reason = False, f"exception:{type(error).__name__}"
    print(json.dumps({**item, "valid": valid, "reason": reason}, ensure_ascii=False))
