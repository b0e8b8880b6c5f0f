"""Tables of examples: files (JSONL, CSV, Parquet) and datasets of the Hugging Face hub."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet

from lowrung.config.schema import SourceConf
from lowrung.errors import UsageError, first_line
from lowrung.finetune.data import examples
from lowrung.finetune.data.bad_rows import BadRow, RowError
from lowrung.finetune.data.examples import Example, form_of, from_row

csv.field_size_limit(2**31 - 1)  # Python's limit of 131,072 characters is shorter than many a document

NumberedRow = tuple[str, Any]
"""The position of a row in its table (``line 7``), and the row; or why it cannot be read."""


@dataclasses.dataclass(frozen=True)
class Table:
    """What was read.

    Attributes:
        examples: the rows that are examples.
        bad: the others.
        unread: the columns that are not read, in words; empty where there are none.
    """

    examples: Sequence[Example]
    bad: Sequence[BadRow] = ()
    unread: str = ""


def read_file(source: SourceConf, setting: str) -> Table:
    """Reads all examples of a file, by its ending; a BOM and CRLF are no matter.

    Args:
        source: names the file and its columns.
        setting: the setting that named the file, for messages: ``data.path``.

    Raises:
        UsageError: when there is no such file, or none of its columns is known.
    """
    path = str(source.path)
    file = Path(path).expanduser().absolute()
    readers = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".parquet": _parquet}
    if file.suffix.lower() not in readers:
        raise UsageError(
            f"{setting} must be a .jsonl, .csv or .parquet file, but is {path!r}. A folder of such files, or a .json"
            " array, has to be written as one of them."
        )
    if not file.is_file():
        raise UsageError(
            f"{setting} must name a file, but {file} {'is a folder' if file.is_dir() else 'does not exist'}."
        )
    try:
        return _examples(readers[file.suffix.lower()](file), source, setting)
    except OSError as error:
        raise UsageError(f"{setting} must be readable, but {file} is not: {error.strerror or error}.") from None
    except (csv.Error, pyarrow.ArrowException) as error:
        raise UsageError(f"{setting} must be a {file.suffix} file, but {file} is not one: {error}.") from None


def _json_lines(file: Path) -> Iterator[NumberedRow]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"line {number}", _other_bytes(line) or _parsed(line)


def _other_bytes(text: str) -> RowError | None:
    """What is wrong with a text whose bytes are not all UTF-8: `surrogateescape` keeps those."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        return RowError(
            f"it must be UTF-8, but has the byte 0x{byte:02x} after {text[max(0, error.start - 20) : error.start]!r}."
            " Save the file as UTF-8, for example by `iconv -t utf-8`"
        )
    return None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_object, parse_constant=_no_json)
    except RowError as error:
        return error
    except RecursionError:
        return RowError("it is not JSON that can be read: it is nested too deeply")
    except ValueError as error:
        return RowError(f"it is not JSON: {error}")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON readers take the last of two values of one name, and drop the first in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RowError(f"it has {next(name for name in names if names.count(name) > 1)!r} more than once")
    return found


def _no_json(text: str) -> Any:
    raise RowError(f"it is not JSON: {text} is no JSON number")


def _csv(file: Path) -> Iterator[NumberedRow]:
    with file.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream, strict=True)
        names = list(reader.fieldnames or ())
        if bytes_of_header := _other_bytes(",".join(names)):
            raise csv.Error(str(bytes_of_header))
        if twice := {name for name in names if names.count(name) > 1}:
            raise csv.Error(f"its header has {', '.join(map(repr, sorted(twice)))} more than once")
        try:
            for row in reader:
                extra = row.pop(None, None)  # what DictReader calls cells beyond the header
                is_ragged = extra is not None or None in row.values()
                ragged = RowError(f"it has more or fewer cells than the header, which has {len(names)}")
                yield f"line {reader.line_num}", ragged if is_ragged else _other_bytes("\0".join(row.values())) or row
        except csv.Error as error:
            raise csv.Error(f"after line {reader.line_num}: {error}") from None


def _parquet(file: Path) -> Iterator[NumberedRow]:
    number = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", _without_nulls(row)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table in columns without the empty fields of its objects: there each object has all fields of all."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: cleaned(item) for name, item in value.items() if item is not None}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return {name: cleaned(value) for name, value in row.items()}


def read_hub(source: SourceConf, setting: str) -> Table:
    """Downloads a dataset of the hub, or takes it from the hub's cache, and reads one split of it.

    Args:
        source: names the dataset (or a folder that `datasets.load_dataset` reads), its subset, split and columns.
        setting: the setting that named the dataset, for messages: ``data.path``.

    Raises:
        UsageError: when it cannot be had, or none of its columns is known.
    """
    path = str(source.path)
    try:
        table = datasets.load_dataset(path, source.subset, split=source.split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(
            f"{setting} must be a dataset of the hub that you may read, but {path!r} is not: {first_line(error)}. For a"
            " gated or private one run `hf auth login`; for a file of yours use data=file."
        ) from None
    except ConnectionError as error:
        raise UsageError(
            f"{setting}={path} is not in the cache, and the hub cannot be reached: {first_line(error)}. Connect, or use"
            " data=file with a file of yours."
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"{setting}={path}, subset {source.subset}, split {source.split!r} cannot be loaded: {first_line(error)}."
        ) from None
    rows = ((f"row {number}", _without_nulls(row)) for number, row in enumerate(table, 1))
    return _examples(rows, source, setting)


def _examples(rows: Iterable[NumberedRow], source: SourceConf, setting: str) -> Table:
    """All examples; all have the form of the first row that has one."""
    what = f"{setting}={source.path}"
    form = None
    found: list[Example] = []
    bad: list[BadRow] = []
    names: dict[str, None] = {}
    for position, row in rows:
        where = f"{what}, {position}"
        try:
            columns = _columns_of(row)
            names |= dict.fromkeys(columns)
            form = form or form_of(columns, source)
            found.append(from_row(row, source, _same(form, form_of(columns, source)), where))
        except RowError as error:
            bad.append(BadRow(where, str(error)))
    if form is None and names:
        raise UsageError(_unknown_columns(list(names), source, setting))
    if not found and not bad:
        raise UsageError(f"{what} must hold examples, but it is empty.")
    unread = [name for name in names if form and name not in examples.columns(form, source)]
    return Table(found, bad, f"{what}: not read: {', '.join(unread)}" if unread else "")


def _columns_of(row: Any) -> list[str]:
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, Mapping):
        raise RowError(f"it must be an object with named cells, but is a {type(row).__name__}")
    return [str(name) for name in row]


def _same(form: str | None, other: str | None) -> str:
    """The form of all rows, which a row lacks cells of, or has; not one that has another form."""
    if form is None:
        raise RowError("it has none of the columns that are learnt")
    if other not in (form, None):
        raise RowError(f"all rows must have one form, but this one has {other}, and those before have {form}")
    return form


def _unknown_columns(names: list[str], source: SourceConf, setting: str) -> str:
    group = setting.rsplit(".", 1)[0]
    if "conversations" in names:
        return (
            f"{setting}={source.path} must have the column {source.messages_column!r}, but it has {', '.join(names)}."
            f" Use {group}.messages_column=conversations."
        )
    return (
        f"{setting}={source.path} must have the column {source.messages_column!r}, or {source.prompt_column!r} and"
        f" {source.completion_column!r}, or {source.text_column!r}, but it has {', '.join(names) or 'none'}."
        f" Name yours: {group}.prompt_column=... {group}.completion_column=... (or messages_column, or"
        " text_column)."
    )
