import json

import pyarrow
import pytest
from pyarrow import parquet

from lowrung.config.schema import SourceConf
from lowrung.errors import UsageError
from lowrung.finetune.data import bad_rows, tables
from lowrung.finetune.data.examples import Example
from tests.sources import pairs, write_rows

ROWS = pairs(3)
EXPECTED = [Example.pair(row["prompt"], row["completion"]) for row in ROWS]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def table(path, **columns):
    return tables.read_file(SourceConf("file", str(path), **columns), "data.path")


def read(path, **columns):
    found = table(path, **columns)
    assert not found.bad
    return found.examples


def problems(path, **columns):
    """Those of the file, or else of its rows."""
    try:
        return bad_rows.problems(table(path, **columns).bad)
    except UsageError as error:
        return error.problems


def csv_text(rows):
    return "prompt,completion\n" + "".join(f'"{row["prompt"]}",{row["completion"]}\n' for row in rows)


class TestForms:
    @pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
    def test_three_kinds_of_file_hold_the_same(self, tmp_path, ending):
        file = tmp_path / f"rows.{ending}"
        if ending == "jsonl":
            write_rows(file, ROWS)
        elif ending == "csv":
            file.write_text(csv_text(ROWS))
        else:
            parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
        assert read(file) == EXPECTED

    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_a_bom_and_crlf_are_no_matter(self, tmp_path, ending):
        text = "".join(json.dumps(row) + "\n" for row in ROWS) if ending == "jsonl" else csv_text(ROWS)
        file = tmp_path / f"rows.{ending}"
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        assert read(file) == EXPECTED

    def test_blank_lines_between_json_lines_are_skipped(self, tmp_path):
        file = tmp_path / "rows.jsonl"
        file.write_text("\n" + "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n")
        assert read(file) == EXPECTED

    def test_columns_go_by_any_name(self, tmp_path):
        rows = [{"id": n, "question": row["prompt"], "answer": row["completion"]} for n, row in enumerate(ROWS)]
        path = write_rows(tmp_path / "rows.jsonl", rows)
        assert read(path, prompt_column="question", completion_column="answer") == EXPECTED

    def test_messages_are_a_chat(self, tmp_path):
        (example,) = read(write_rows(tmp_path / "rows.jsonl", [{"messages": CHAT}]))
        assert example == Example(tuple(CHAT), (1,), is_chat=True)

    def test_prompt_and_completion_may_be_messages(self, tmp_path):
        system = {"role": "system", "content": "Be brief."}
        row = {"prompt": [system, CHAT[0]], "completion": [CHAT[1]]}
        (example,) = read(write_rows(tmp_path / "rows.jsonl", [row]))
        assert example == Example((system, *CHAT), (2,), is_chat=True)

    def test_text_is_learnt_whole(self, tmp_path):
        assert read(write_rows(tmp_path / "rows.jsonl", [{"text": "Once"}])) == [Example(text="Once")]

    def test_csv_cells_may_hold_line_breaks_and_long_texts(self, tmp_path):
        file = tmp_path / "rows.csv"
        long = "x" * 200_000
        file.write_text(f'prompt,completion\n"two\nlines","{long}"\n')
        assert read(file) == [Example.pair("two\nlines", long)]


class TestBadFiles:
    def test_a_missing_file(self, tmp_path):
        assert problems(tmp_path / "no.jsonl") == [
            f"data.path must name a file, but {tmp_path / 'no.jsonl'} does not exist."
        ]

    def test_a_folder(self, tmp_path):
        (tmp_path / "rows.csv").mkdir()
        assert problems(tmp_path / "rows.csv")[0].endswith("is a folder.")

    def test_an_unknown_ending(self, tmp_path):
        assert "must be a .jsonl, .csv or .parquet file, but is" in problems(tmp_path / "rows.xlsx")[0]

    @pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.csv", ""), ("b.csv", "prompt,completion\n")])
    def test_an_empty_file(self, tmp_path, name, content):
        (tmp_path / name).write_text(content)
        assert problems(tmp_path / name) == [f"data.path={tmp_path / name} must hold examples, but it is empty."]

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_another_encoding(self, tmp_path, encoding):
        (tmp_path / "a.jsonl").write_text('{"prompt": "é", "completion": "ü"}', encoding=encoding)
        (problem,) = problems(tmp_path / "a.jsonl")
        assert "must be UTF-8" in problem
        assert "iconv" in problem

    def test_a_parquet_file_that_is_none(self, tmp_path):
        (tmp_path / "a.parquet").write_text("nonsense")
        assert "must be a .parquet file, but" in problems(tmp_path / "a.parquet")[0]

    def test_columns_of_other_names(self, tmp_path):
        path = write_rows(tmp_path / "a.jsonl", [{"question": "?", "answer": "!"}])
        (problem,) = problems(path)
        assert "but it has question, answer. Name yours: data.prompt_column=... data.completion_column=..." in problem


class TestBadRows:
    """Each is named by its line, with what is wrong; the others are good."""

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"prompt": "?"}, "it has no 'completion'"),
            ({"prompt": "?", "completion": ""}, "completion must not be empty"),
            ({"prompt": "?", "completion": " \n"}, "completion must not be empty"),
            ({"prompt": 5, "completion": "x"}, "prompt must be a text, but is 5 (int)"),
            ({"prompt": "?", "completion": None}, "completion must be a text, but is None (NoneType)"),
            ({"prompt": "?", "completion": [CHAT[1]]}, "prompt and completion must both be texts or both be messages"),
            (
                {"messages": CHAT},
                "all rows must have one form, but this one has messages, and those before have prompt and completion",
            ),
            (["?", "!"], "it must be an object with named cells, but is a list"),
        ],
    )
    def test_of_pairs(self, tmp_path, row, message):
        path = write_rows(tmp_path / "a.jsonl", [ROWS[0], row, ROWS[1]])
        (problem,) = problems(path)
        assert problem.startswith(f"data.path={path}, line 2: ")
        assert message in problem

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ("Hi", "messages must be a list of {role, content}, but is 'Hi' (str)"),
            ([], "messages must not be empty"),
            (CHAT[:1], "must hold an assistant's message to learn, but has none"),
            (
                [{"role": "bot", "content": "x"}],
                "messages[0].role must be one of system, developer, user, assistant, tool, function, but is 'bot'",
            ),
            ([CHAT[0], {"role": "assistant", "content": ""}], "messages[1].content must not be empty"),
            ([CHAT[0], {"role": "assistant", "content": None}], "messages[1].content must be a text, but is None"),
            (["Hi"], "messages[0] must be {role, content}"),
        ],
    )
    def test_of_chats(self, tmp_path, messages, message):
        path = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}, {"messages": messages}])
        (problem,) = problems(path)
        assert ", line 2: " in problem
        assert message in problem

    def test_of_csv(self, tmp_path):
        file = tmp_path / "a.csv"
        file.write_text("prompt,completion\na,b\nc\nd,e,f\n")
        assert [problem.split(", line ")[1] for problem in problems(file)] == [
            "3: it has more or fewer cells than the header, which has 2.",
            "4: it has more or fewer cells than the header, which has 2. data.on_bad_rows=drop leaves them out.",
        ]

    def test_of_broken_json(self, tmp_path):
        file = tmp_path / "a.jsonl"
        file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
        (problem,) = problems(file)
        assert ", line 2: it is not JSON: " in problem

    def test_of_parquet(self, tmp_path):
        file = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([*ROWS, {"prompt": "x", "completion": None}]), file)
        (problem,) = problems(file)
        assert ", row 4: " in problem

    def test_many_are_counted(self, tmp_path):
        path = write_rows(tmp_path / "a.jsonl", [ROWS[0], *[{"prompt": "x", "completion": ""}] * 50])
        found = problems(path)
        assert len(found) == 4
        assert found[3] == "47 more rows like these. data.on_bad_rows=drop leaves them out."


class TestBrokenFiles:
    """What people's files hold by accident: the line is named, or the row is read as it should be."""

    GOOD = '{"prompt": "a", "completion": "b"}'

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ('{"prompt": "a", "completion": "so funny \\ud83d"}', "half of a character, \\ud83d, after"),
            ('{"prompt": "a", "completion": "\\udc8d"}', "half of a character, \\udc8d"),
            ('{"prompt": "a", "completion": "b", "completion": "c"}', "it has 'completion' more than once"),
            ('{"prompt": "a", "completion": NaN}', "it is not JSON: NaN is no JSON number"),
            ('{"prompt": "a", "completion": -Infinity}', "it is not JSON: -Infinity is no JSON number"),
            ('{"prompt": "a", "completion": ' + "9" * 5000 + "}", "it is not JSON: Exceeds the limit"),
            ('{"prompt": "a", "completion": 1' + "0" * 30 + "}", "completion must be a text, but is 1000000"),
            ('{"prompt": "a", "completion": ' + "[" * 100_000, "it is not JSON that can be read"),
            ('{"prompt": "a", "completion": "b"} {}', "it is not JSON: Extra data"),
            ("null", "it must be an object with named cells, but is a NoneType"),
        ],
        ids=["high", "low", "twice", "nan", "infinity", "digits", "number", "deep", "two", "null"],
    )
    def test_of_json(self, tmp_path, line, reason):
        (tmp_path / "a.jsonl").write_text(f"{self.GOOD}\n{line}\n{self.GOOD}\n")
        (problem,) = problems(tmp_path / "a.jsonl")
        assert ", line 2: " in problem
        assert reason in problem

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("\\ud83d\\ude00", "😀"), ("a\\u0000b", "a\0b"), ("a\u2028b", "a\u2028b"), ("a\\nb", "a\nb")],
        ids=["pair", "nul", "separator", "newline"],
    )
    def test_odd_characters_are_read(self, tmp_path, text, expected):
        (tmp_path / "a.jsonl").write_text(f'{{"prompt": "a", "completion": "{text}"}}\n', encoding="utf-8")
        assert read(tmp_path / "a.jsonl") == [Example.pair("a", expected)]

    @pytest.mark.parametrize("ending", ["jsonl", "csv"])
    def test_other_bytes(self, tmp_path, ending):
        rows = [self.GOOD, '{"prompt": "a", "completion": "é"}'] if ending == "jsonl" else ["prompt,completion", "a,é"]
        (tmp_path / f"a.{ending}").write_bytes("\n".join([*rows, rows[0].replace("é", "e")]).encode("latin-1"))
        (problem,) = problems(tmp_path / f"a.{ending}")
        assert ", line 2: it must be UTF-8, but has the byte 0xe9 after " in problem

    def test_a_header_that_names_a_column_twice(self, tmp_path):
        (tmp_path / "a.csv").write_text("prompt,completion,completion\na,b,c\n")
        assert "its header has 'completion' more than once" in problems(tmp_path / "a.csv")[0]

    def test_a_quote_that_is_not_closed(self, tmp_path):
        (tmp_path / "a.csv").write_text('prompt,completion\na,b\nc,"d\n')
        assert "after line 2: unexpected end of data" in problems(tmp_path / "a.csv")[0]

    def test_a_first_row_that_is_bad_does_not_say_what_form_all_have(self, tmp_path):
        path = write_rows(tmp_path / "a.jsonl", [{"id": 1}, *ROWS])
        (problem,) = problems(path)
        assert ", line 1: it has none of the columns that are learnt" in problem

    def test_columns_that_are_not_read_are_named(self, tmp_path):
        path = write_rows(tmp_path / "a.jsonl", [{**row, "id": 1, "source": "x"} for row in ROWS])
        assert table(path).unread == f"data.path={path}: not read: id, source"

    def test_sharegpt_is_told_its_column(self, tmp_path):
        chat = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
        path = write_rows(tmp_path / "a.jsonl", [{"conversations": chat}])
        assert problems(path)[0].endswith("Use data.messages_column=conversations.")
        assert read(path, messages_column="conversations") == [Example(tuple(CHAT), (1,), is_chat=True)]


TOOLS = [{"type": "function", "function": {"name": "stock"}}]


class TestTools:
    @pytest.mark.parametrize("as_text", [False, True])
    def test_they_are_a_column(self, tmp_path, as_text):
        row = {"messages": CHAT, "tools": json.dumps(TOOLS) if as_text else TOOLS}
        (example,) = read(write_rows(tmp_path / "a.jsonl", [row]))
        assert example.tools == TOOLS

    @pytest.mark.parametrize("tools", [None, "", []])
    def test_there_may_be_none(self, tmp_path, tools):
        assert read(write_rows(tmp_path / "a.jsonl", [{"messages": CHAT, "tools": tools}]))[0].tools is None

    @pytest.mark.parametrize("tools", ["stock", {"name": "stock"}, ["stock"]])
    def test_others_are_refused(self, tmp_path, tools):
        path = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT, "tools": tools}])
        assert "tools must be a list of JSON schemas, or such a JSON text, but is" in problems(path)[0]

    def test_parquet_gives_calls_only_the_fields_that_they_have(self, tmp_path):
        def calling(arguments):
            return [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]

        rows = [{"messages": calling({"item": 3})}, {"messages": calling({"size": "m"})}]
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
        called = [example.messages[1]["tool_calls"][0]["function"] for example in read(tmp_path / "a.parquet")]
        assert called == [{"name": "f", "arguments": {"item": 3}}, {"name": "f", "arguments": {"size": "m"}}]


class TestHub:
    def test_a_dataset_is_read_like_a_file(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", ROWS)
        assert tables.read_hub(SourceConf("hub", str(tmp_path), split="train"), "data.path").examples == EXPECTED

    def test_an_unknown_split_is_refused(self, tmp_path):
        write_rows(tmp_path / "train.jsonl", ROWS)
        with pytest.raises(UsageError, match=r"data.path=.*, split 'tset' cannot be loaded: Unknown split"):
            tables.read_hub(SourceConf("hub", str(tmp_path), split="tset"), "data.path")

    def test_without_a_network_the_message_says_so(self, monkeypatch):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match=r"data.path=nobody/nothing is not in the cache, and the hub cannot be"):
            tables.read_hub(SourceConf("hub", "nobody/nothing", split="train"), "data.path")
