"""Small templates, one for each thing that the language of chat templates can do, as transformers renders them.

    pip install transformers==5.24.0 jinja2==3.1.6
    python testdata/make/chat_templates.py testdata/golden/chat_templates

`language.json` has expressions, statements and whitespace control; `conversations.json` what is done to messages before
and after rendering. What Python prints with an address in memory is left out.
"""
import datetime
import itertools
import json
import pathlib
import platform
import re
import sys

import jinja2
import transformers
import transformers.utils.chat_template_utils as utils

NOW = datetime.datetime(2025, 3, 4, 15, 6, 7)
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo <é>"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}}]
SPECIAL = {"bos_token": "<s>"}
VARIABLES = {
    "d": {"a": 1, "nested": {"k": [1, 2.5, None, True]}, "é": "ü"},
    "nested": [[1, [2]], {"x": {"y": "z"}}],
}
SETUP = "{% set ns = namespace(x=1, y='z') %}{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}"

HERE = pathlib.Path(__file__).with_suffix("")
# One to a line, printed by {{ }}.
EXPRESSIONS = (HERE / "expressions.txt").read_text().splitlines()
# Whole templates, one to a line, as strings of JSON.
STATEMENTS = [json.loads(line) for line in (HERE / "statements.txt").read_text().splitlines()]

VALUES = """
none true false 0 1 -3 7 2.5 -0.0 1e20 1.5e-7 '' 'abc' [] [1,2] ['b','A','a'] (1,) {} {'a':1,'b':[2]} missing messages
range(3) 'Ünï' d 1.0 '12' nested ns m tools
""".split()
OPERATORS = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]
FILTERS = """
abs batch(2)|list batch(2,'x')|list capitalize center(9) count default('d') default('d',true) dictsort escape
filesizeformat first float float(1) format(1) groupby('a') indent(2) indent(2,true) int int(5) items|list join join(',')
last length list lower map('upper')|list map(attribute='a')|list max min pprint reject|list rejectattr('a')|list
replace('a','b') reverse|list round round(1) round(1,'ceil') select|list select('string')|list selectattr('a')|list
selectattr('a','eq',1)|list slice(2)|list slice(3,'x')|list sort sort(reverse=true) sort(case_sensitive=true) string
striptags sum sum(start=10) title tojson tojson(indent=2) tojson(sort_keys=true,ensure_ascii=true) trim trim('a')
tojson(separators=(',',':')) truncate(5,true,'',0) unique|list upper urlencode wordcount wordwrap(3) attr('a')
""".split()
TESTS = """
boolean callable defined divisibleby(2) eq(1) escaped even false float ge(1) in([1,'abc']) integer iterable lower lt(1)
mapping ne(1) none number odd sameas(none) sequence string true undefined upper
""".split()
METHODS = [
    "capitalize()", "casefold()", "center(8,'*')", "count('a')", "endswith(('x','c'))", "expandtabs()", "find('b')",
    "index('b')", "isalnum()", "isalpha()", "isascii()", "isdecimal()", "isdigit()", "isidentifier()", "islower()",
    "isnumeric()", "isprintable()", "isspace()", "istitle()", "isupper()", "join(['x','y'])", "join([1])", "ljust(6,'.')",
    "lower()", "lstrip()", "partition(' ')", "removeprefix('a')", "removesuffix('c')", "replace('a','X',1)", "rfind('b')",
    "rindex('b')", "rjust(6)", "rpartition(' ')", "rsplit(' ',1)", "rsplit(none,1)", "split()", "split(' ')",
    "split(none,1)", "split(sep=' ',maxsplit=1)", "split('')", "splitlines()", "splitlines(true)", "startswith('b',1)",
    "strip('ac')", "swapcase()", "title()", "upper()", "zfill(6)", "nosuch()", "nosuch", "format_map({'a':1})",
]
TEXTS = [
    "'abc'", "''", "' a b  c '", "'-5'", r"'a\nb\r\nc\x0bd'", "'ÜNÏ straße'", r"'they\'re bill\'s'", "'²½'", r"'a\tb'",
    "'Hello World'", "'ǆx ﬁn'", "'日本 語'",
]
LIST_METHODS = ["append(1)", "copy()", "count(1)", "index(1)", "index(9)", "pop()", "append", "length", "items", "nosuch"]
DICT_METHODS = ["clear()", "copy()", "get('a')", "get('z',5)", "items()", "keys()", "values()", "pop('a')", "items", "get",
                "update", "a", "b", "nosuch", "items()|list", "update({})", "fromkeys(['x'],1)"]
SLICES = ["1:", "1:3", ":-1", "::-1", "-3:", "5:1:-2", "10:", "::0", "0", "-1", "9", "'a'", "1.0", "true", "none:none"]

BEFORE = ["", "a", " ", "\n", "a\n", "a \n ", "a\n\t", "\n\n  ", "\r\n ", "\u00a0"]
BLOCKS = ["{% if true %}", "{%- if true %}", "{% if true -%}", "{%+ if true %}", "{% if true +%}", "{%+ if true +%}"]
ENDS = ["{% endif %}", "{%- endif %}", "{% endif -%}", "{%+ endif +%}"]
OTHERS = ["{{ 1 }}", "{{- 1 }}", "{{ 1 -}}", "{{+ 1 }}", "{#c#}", "{#-c-#}", "{#c-#}", "{#+c+#}", "{% raw %} r {% endraw %}",
          "{%- raw -%} r {%- endraw -%}", "{% raw %}\nr\n{% endraw %}", "{%+ raw %} r {% endraw +%}"]
AFTER = ["", "b", "\n", "\nb", " \n b", "\n\nb", "\r\nb", "\n  b"]


def templates():
    """Everything that `language.json` has; of the tables every seventh entry, which meets every row and column."""
    yield from (f"{{{{ {text} }}}}" for text in EXPRESSIONS)
    yield from STATEMENTS
    tables = [f"{a} {o} {b}" for o in OPERATORS for a in VALUES for b in VALUES]
    tables += [f"({value})|{name}" if value != "m" else f"m|{name}" for name in FILTERS for value in VALUES]
    tables += [f"{value} is {word}{name}" for name in TESTS for word in ("", "not ") for value in VALUES]
    yield from (f"{SETUP}{{{{ {text} }}}}" for text in tables[::7])
    yield from (f"{{{{ {text}.{name} }}}}" for name in METHODS for text in TEXTS)
    yield from (f"{{{{ {value}.{name} }}}}" for name in LIST_METHODS for value in ("[1,2,1]", "(1,2)"))
    dicts = ("{'a':1,'b':{'c':2}}", "{'items':1,'keys':2,'update':3,'get':4}")
    yield from (f"{{{{ {value}.{name} }}}}" for name in DICT_METHODS for value in dicts)
    sliced = ("'abcdef'", "[0,1,2,3,4]", "(0,1,2)", "range(6)", "'日本語x'")
    yield from (f"{{{{ {value}[{part}] }}}}" for value in sliced for part in SLICES)
    whitespace = [f"{a}{tag}{b}x{{% endif %}}" for a, tag, b in itertools.product(BEFORE, BLOCKS, AFTER)]
    whitespace += [f"{{% if true %}}x{a}{tag}{b}" for a, tag, b in itertools.product(BEFORE, ENDS, AFTER)]
    whitespace += ["".join(parts) for parts in itertools.product(BEFORE, OTHERS, AFTER)]
    whitespace += [f" \n {a} \n {b} \n " for a, b in itertools.product(OTHERS, OTHERS)]
    yield from whitespace[::3]


def render(template, messages, **options):
    """The text and the spans, or the error."""
    spans = re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None and not options.get("continue_final_message")
    try:
        messages = utils._normalize_chat_messages(messages)
        texts, found = utils.render_jinja_template(
            [messages], chat_template=template, return_assistant_tokens_mask=spans, **options
        )
    except Exception as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    done = {"rendered": texts[0]}
    if spans:
        done["assistant_spans"] = [list(span) for span in found[0]]
    return done


def language():
    cases = []
    for template in templates():
        done = render(template, MESSAGES, tools=TOOLS, add_generation_prompt=True, **SPECIAL, **VARIABLES)
        if " at 0x" not in done.get("rendered", ""):
            # Messages of errors are Python's.
            kind = {"error": done["error"]["type"]} if "error" in done else done
            cases.append({"template": template, **kind})
    return {"messages": MESSAGES, "tools": TOOLS, "special_tokens": SPECIAL, "kwargs": VARIABLES, "cases": cases}


CONVERSATION = """{%- for message in messages -%}
{{ message }}{% if message.role == 'assistant' %} {{ message.content if raw else message.content | trim }}{% endif %}

{% endfor %}{{ documents }}"""


def conversations():
    user = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "a"}
    chats = {
        "null": [{**user, "name": None}, {**answer, "tool_calls": None, "x": {"y": None}}],
        "thinking": [user, {**answer, "thinking": "T"}],
        "reasoning": [user, {**answer, "reasoning": "R"}],
        "reasoning_content": [user, {**answer, "reasoning_content": "C"}],
        "all three": [user, {**answer, "reasoning": "R", "thinking": "T", "reasoning_content": "C"}],
        "null reasoning": [user, {**answer, "reasoning_content": None, "reasoning": "R"}],
    }
    cases = [(name, messages, {}) for name, messages in chats.items()]
    for content in ["so far", "so far ", " a b\n", "", " ", [{"type": "text", "text": "part "}], [{"type": "image"}]]:
        for raw in (True, False):
            options = {"continue_final_message": True, "raw": raw}
            cases.append((f"continue {content!r} {raw}", [user, {**answer, "content": content}], options))
    cases.append(("continue nothing", [user, {"role": "assistant"}], {"continue_final_message": True}))
    cases.append(("documents", [user], {"documents": [{"title": "t", "text": "é"}]}))
    out = []
    for name, messages, options in cases:
        done = render(CONVERSATION, messages, **options)
        own = {"continue_final_message": options.get("continue_final_message", False)}
        kwargs = {key: value for key, value in options.items() if key not in own}
        out.append({"id": name, "messages": messages, "tools": None, "kwargs": kwargs, **own, **done})
    return {"template": CONVERSATION, "special_tokens": {}, "has_generation": False, "cases": out}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def main(folder):
    utils.datetime = Clock
    versions = {"transformers": transformers.__version__, "jinja2": jinja2.__version__, "python": platform.python_version()}
    for name, what, made in [
        ("language", "one template for each thing that the language can do", language()),
        ("conversations", "what is done to messages before and after rendering", conversations()),
    ]:
        head = {"name": name, "what": what, "now": NOW.isoformat(), "versions": versions}
        cases = made.pop("cases")
        lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
        text = json.dumps({**head, **made}, ensure_ascii=False, indent=1)[:-2]
        pathlib.Path(folder, f"{name}.json").write_text(f'{text},\n "cases": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main(sys.argv[1])
