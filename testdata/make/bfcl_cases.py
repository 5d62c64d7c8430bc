"""Calls of functions of a stock room, right and wrong ones, to be judged by the check of the Berkeley Function Calling
Leaderboard.

    python testdata/make/bfcl_cases.py | python testdata/make/bfcl.py FOLDER/bfcl_eval > testdata/bfcl/cases.jsonl
"""
import json

ARGUMENTS = {
    "item": {"type": "string"},
    "note": {"type": "any"},
    "pieces": {"type": "integer"},
    "weight": {"type": "float"},
    "fragile": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "sizes": {"type": "array", "items": {"type": "float"}},
    "corner": {"type": "tuple", "items": {"type": "integer"}},
    "grid": {"type": "array", "items": {"type": "array"}},
    "box": {"type": "dict"},
    "lines": {"type": "array", "items": {"type": "dict"}},
    "bare": {"type": "array"},
    "odd": {"type": "bytes"},
}


def function(name, arguments, required=()):
    properties = {argument: ARGUMENTS[argument] for argument in arguments}
    parameters = {"type": "dict", "properties": properties, "required": list(required)}
    return {"name": name, "parameters": parameters}


def case(functions, possible, calls, category="simple_python"):
    calls = [{"name": name, "arguments": arguments} for name, arguments in calls]
    possible = [{name: allowed} for name, allowed in possible]
    print(json.dumps({"category": category, "functions": functions, "possible": possible, "calls": calls}, ensure_ascii=False))


def put(allowed, given, required=(), called="stock.put"):
    """A call of one function whose arguments are those that are allowed or given."""
    arguments = [name for name in ARGUMENTS if name in allowed or name in given]
    case([function("stock.put", arguments, required)], [("stock.put", allowed)], [(called, given)])


def values(argument, allowed, given):
    for value in given:
        put({argument: allowed}, {argument: value})


# Names, required and optional arguments, numbers of calls.
put({"item": ["lamp"]}, {"item": "lamp"}, ["item"])
put({"item": ["lamp"]}, {"item": "lamp"}, ["item"], called="stock_put")
put({"item": ["lamp"]}, {}, ["item"])
put({"item": ["lamp", ""]}, {}, ["item"])
put({"item": ["lamp"], "note": ["dry", ""]}, {"item": "lamp"}, ["item"])
put({"item": ["lamp"], "note": ["dry"]}, {"item": "lamp"}, ["item"])
put({"item": ["lamp"]}, {"item": "lamp", "note": "dry"}, ["item"])
LAMP = function("stock.put", ["item"])
case([LAMP], [("stock.put", {"item": ["lamp"]})], [("stock.put", {"item": "lamp", "colour": "red"})])
for n in [0, 2]:
    case([LAMP], [("stock.put", {"item": ["lamp"]})], [("stock.put", {"item": "lamp"})] * n)

# Texts.
values("item", ["lamp", "bulb"], ["Lamp", "LAMP-", "la mp.", "lamps", "l_a/m*p^,", "lamp'", 5, None, ["lamp"], ""])
values("item", ["Ann's lamp, 3 m"], ['ann"s lamp 3m', "Anns lamp, 3 m"])
values("item", ["größe ÄÖ"], ["GRÖSSE äö", "GRÖßE äö"])
values("item", [""], ["", "x"])
values("item", [7, ""], [7, "7", 8])
values("note", ["dry"], ["DRY", 3])
values("note", [3], [3, "3"])

# Numbers and flags.
values("pieces", [5], [5, 5.0, "5", 6, True, None])
values("pieces", [1], [1, True])
values("pieces", ["count"], ["count", "Count", 4])
values("pieces", [4.0], [4, 4.0, 5])
values("weight", [2.0], [2, 2.0, 2.5, "2", True])
values("weight", [2], [2, 2.0, 2.5])
values("fragile", [True], [True, False, 1, "true"])
values("fragile", [1], [True, 1])
values("fragile", ["", False], [False, True])

# Lists.
values("tags", [["a", "b"]], [["a", "b"], ["A", "b "], ["b", "a"], [], "a", ["a", 1], ["a", "b", "c"], [["a", "b"]]])
values("tags", ["", ["a"]], [[], ["a"], [1], ["b"]])
values("tags", [""], [[], ["a"]])
values("tags", ["every"], ["every", "Every", list("every")])
values("tags", ["a b"], [["a", "", "b"], ["a", " ", "b"]])
values("tags", [["a"], 3], [["a"], ["b"]])
values("sizes", [[1.0, 2.5]], [[1.0, 2.5], [1, 2.5], [1.0, 2.0]])
values("sizes", [[1, 2]], [[1, 2], [1.0, 2.0], [1.0, 2]])
values("corner", [[0, 1]], [[0, 1], [1, 0], [0.0, 1.0], "0,1"])
values("grid", [[[1, 2], [3]]], [[[1, 2], [3]], [[1, 2], [4]], [[1.0, 2], [3]], [1]])

# Objects, and lists of them.
BOX = [{"wide": [3, 4], "name": ["Big Box", ""]}]
values("box", BOX, [{"wide": 3}, {"wide": 4, "name": "big-box"}, {"wide": 5}, {"name": "Big Box"}, {"wide": 3, "high": 1}])
values("box", BOX, [{}, {"wide": 3.0}, {"wide": "3"}, "box", []])
values("box", ["", {"wide": [3]}], [{"wide": 3}, {}])
values("box", [{"wide": [3]}, {"wide": [4]}], [{"wide": 4}])
values("box", [""], [{}])
values("box", ["whole"], ["whole", {}, {"wide": 3}])
values("box", [{"in": [{"a": 1}]}], [{"in": {"a": 1}}, {"in": {"a": 1.0}}, {"in": {"a": 2}}])
values("box", [{"tags": [["A"]]}], [{"tags": ["A"]}, {"tags": ["a"]}])
LINES = [{"item": ["lamp"], "pieces": [1, ""]}, {"item": ["bulb"], "pieces": [2]}]
values("lines", [LINES], [[{"item": "lamp"}, {"item": "Bulb", "pieces": 2}], [{"item": "lamp"}], [], [{"item": "lamp"}, "bulb"], [1, 2]])
values("lines", [LINES], [[{"item": "bulb", "pieces": 2}, {"item": "lamp"}]])
values("lines", ["", LINES], [[], [1], [{"item": "lamp"}, {"item": "bulb", "pieces": 2}]])

# What a function does not say.
values("bare", [["a"]], [["a"]])
values("odd", ["a"], ["a"])
incomplete = function("stock.put", ["item"])
del incomplete["parameters"]["required"]
case([incomplete], [("stock.put", {"item": ["lamp"]})], [("stock.put", {"item": "lamp"})])

# Several functions, several calls.
TWO = [function("stock.put", ["item"], ["item"]), function("stock.take", ["item", "pieces"], ["item"])]
TAKE = ("stock.take", {"item": ["lamp"], "pieces": [2]})
PUT = ("stock.put", {"item": ["bulb"]})
right = [("stock.take", {"item": "lamp", "pieces": 2}), ("stock.put", {"item": "bulb"})]
case(TWO, [TAKE], right[:1], "live_multiple")
case(TWO, [TAKE], [("stock.put", {"item": "lamp"})], "live_multiple")
case(TWO, [TAKE], right, "live_multiple")
case(TWO, [("stock.move", {"item": ["lamp"]})], [("stock.move", {"item": "lamp"})], "live_multiple")
case(TWO, [TAKE], right[:1])
for calls in [right, right[::-1], right[:1], right[:1] * 2, right + right[:1], []]:
    case(TWO, [TAKE, PUT], calls, "parallel_multiple")
case(TWO[:1], [PUT, ("stock.put", {"item": ["lamp", "bulb"]})], [("stock.put", {"item": "lamp"}), right[1]], "parallel")
case(TWO[:1], [("stock.put", {"item": ["lamp", "bulb"]}), PUT], [right[1], ("stock.put", {"item": "lamp"})], "parallel")
