"""Tables of examples: files (JSONL, CSV, Parquet) and datasets of the Hugging Face hub."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet

from lowrung.config.schema import SourceConf
from lowrung.errors import UsageError
from lowrung.finetune.data.examples import Example, RowError, form_of, from_row

SHOWN = 3
"""The number of bad rows that a message names; in a file with the wrong columns every row is bad."""

csv.field_size_limit(2**31 - 1)  # Python's limit of 131,072 characters is shorter than many a document

NumberedRow = tuple[str, Any]
"""The position of a row in its table (``line 7``), and the row."""


def read_file(source: SourceConf, setting: str) -> list[Example]:
    """Reads all examples of a file, by its ending; a BOM and CRLF are no matter.

    Args:
        source: names the file and its columns.
        setting: the setting that named the file, for messages: ``data.path``.

    Raises:
        UsageError: when there is no such file, or with the rows that are no examples.
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
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{setting} must be UTF-8, but {file} has other bytes at {error.start}. Save it as UTF-8, for example"
            f" with `iconv -t utf-8`."
        ) from None
    except OSError as error:
        raise UsageError(f"{setting} must be readable, but {file} is not: {error.strerror or error}.") from None
    except (csv.Error, pyarrow.ArrowInvalid) as error:
        raise UsageError(f"{setting} must be a {file.suffix} file, but {file} is not one: {error}.") from None


def _json_lines(file: Path) -> Iterator[NumberedRow]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"line {number}", _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return RowError(f"it is not JSON: {error}")


def _csv(file: Path) -> Iterator[NumberedRow]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        for row in reader:
            extra = row.pop(None, None)  # what DictReader calls cells beyond the header
            where = f"line {reader.line_num}"
            if extra is not None or None in row.values():
                yield (
                    where,
                    RowError(f"it has more or fewer cells than the header, which has {len(reader.fieldnames or ())}"),
                )
            else:
                yield where, row


def _parquet(file: Path) -> Iterator[NumberedRow]:
    number = 0
    for batch in parquet.ParquetFile(file).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def read_hub(source: SourceConf, setting: str) -> list[Example]:
    """Downloads a dataset of the hub, or takes it from the hub's cache, and reads one split of it.

    Args:
        source: names the dataset (or a folder that `datasets.load_dataset` reads), its subset, split and columns.
        setting: the setting that named the dataset, for messages: ``data.path``.

    Raises:
        UsageError: when it cannot be had, or with the rows that are no examples.
    """
    path = str(source.path)
    try:
        table = datasets.load_dataset(path, source.subset, split=source.split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(
            f"{setting} must be a dataset of the hub that you may read, but {path!r} is not: {_first_line(error)} For a"
            " gated or private one run `hf auth login`; for a file of yours use data=file."
        ) from None
    except ConnectionError as error:
        raise UsageError(
            f"{setting}={path} is not in the cache, and the hub cannot be reached: {_first_line(error)} Connect, or use"
            " data=file with a file of yours."
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"{setting}={path}, subset {source.subset}, split {source.split!r} cannot be loaded: {_first_line(error)}"
        ) from None
    return _examples(((f"row {number}", row) for number, row in enumerate(table, 1)), source, setting)


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."


def _examples(rows: Iterable[NumberedRow], source: SourceConf, setting: str) -> list[Example]:
    """All examples; all have the form of the first row."""
    what = f"{setting}={source.path}"
    form = None
    examples: list[Example] = []
    bad: list[str] = []
    for where, row in rows:
        try:
            names = _columns_of(row)
            form = form or _form(names, source, setting)
            other = form_of(names, source)
            if other not in (form, None):
                raise RowError(f"all rows must have one form, but this one has {other}, and those before have {form}")
            examples.append(from_row(row, source, form))
        except RowError as error:
            bad.append(f"{what}, {where}: {error}.")
    if bad:
        more = [f"{what}: {len(bad) - SHOWN} more rows like these."] if len(bad) > SHOWN else []
        raise UsageError([*bad[:SHOWN], *more])
    if not examples:
        raise UsageError(f"{what} must hold examples, but it is empty.")
    return examples


def _columns_of(row: Any) -> list[str]:
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, Mapping):
        raise RowError(f"it must be an object with named cells, but is a {type(row).__name__}")
    return [str(name) for name in row]


def _form(names: list[str], source: SourceConf, setting: str) -> str:
    form = form_of(names, source)
    if form is None:
        group = setting.rsplit(".", 1)[0]
        raise UsageError(
            f"{setting}={source.path} must have the column {source.messages_column!r}, or {source.prompt_column!r} and"
            f" {source.completion_column!r}, or {source.text_column!r}, but it has {', '.join(names) or 'none'}."
            f" Name yours: {group}.prompt_column=... {group}.completion_column=... (or messages_column, or"
            " text_column)."
        )
    return form
