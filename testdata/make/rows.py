"""The same 200 chats as JSON Lines, as a table of separated values and as Parquet in several forms.

    pip install pyarrow==26.0.1
    python testdata/make/rows.py testdata/rows

Texts hold what breaks readers: quotes, separators, line breaks, wide characters. Only some messages have a `name`, so the
columnar files hold nulls where the JSON has no field.
"""
import csv
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq

ODD = ["plain", 'with "quotes"', "one, two; three", "two\nlines", "tab\there", "größe", "数字", "😀 ok", "a|b", "'single'"]


def chat(i):
    user = {"role": "user", "content": f"What comes after {i}? ({ODD[i % len(ODD)]})"}
    if i % 7 == 0:
        user["name"] = f"u{i}"
    messages = [user, {"role": "assistant", "content": f"After {i} comes {i + 1}.\n{ODD[(i * 3) % len(ODD)]}"}]
    if i % 3 == 0:
        messages.insert(0, {"role": "system", "content": "Count."})
    return {"messages": messages, "source": f"made, row {i}"}


def main(folder):
    rows = [chat(i) for i in range(200)]
    with open(f"{folder}/rows.jsonl", "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(f"{folder}/rows.csv", "w", encoding="utf-8", newline="") as f:
        table = csv.writer(f)
        table.writerow(["messages", "source"])
        table.writerows([json.dumps(r["messages"], ensure_ascii=False), r["source"]] for r in rows)
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())])
    schema = pa.schema([("messages", pa.list_(message)), ("source", pa.string())])
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, f"{folder}/rows.parquet", row_group_size=64)
    pq.write_table(table, f"{folder}/rows-plain.parquet", compression="none", use_dictionary=False)
    pq.write_table(table, f"{folder}/rows-zstd.parquet", compression="zstd", data_page_version="2.0")
    large = pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("content", pa.large_string()), ("name", pa.string())])
    large = pa.schema([("messages", pa.large_list(large)), ("source", pa.large_string())])
    large = pa.Table.from_pylist(rows, schema=large)
    pq.write_table(large, f"{folder}/rows-large.parquet", compression="lz4")
    texts = pa.table({"messages": [json.dumps(r["messages"]) for r in rows], "source": [r["source"] for r in rows]})
    pq.write_table(texts, f"{folder}/rows-text.parquet", compression="gzip")
    numbers = pa.table({"text": pa.array(range(20), pa.int64())})
    pq.write_table(numbers, f"{folder}/numbers.parquet")
    pq.write_table(table, f"{folder}/brotli.parquet", compression="brotli")


main(sys.argv[1])
