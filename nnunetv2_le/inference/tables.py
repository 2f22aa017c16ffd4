"""The tables of a run, always made anew from the records of its cases.

Parts that several machines predicted into one folder, a resumed run and a rerun therefore give the
same tables. Floats are written in full precision; what is undefined is an empty field.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunetv2_le.errors import OutputError, first_few
from nnunetv2_le.inference.whole_files import is_part, replace_whole, write_json

logger = logging.getLogger(__name__)

# what files raise that were cut off, are empty, or hold something else
_NO_RECORD = (OSError, ValueError, KeyError, TypeError, AttributeError)

_Rows = dict[str, list[dict[str, Any]]]

_COMPONENTS = "uncertainty_per_component.csv"

CASE_COLUMNS_LAST = ("empty_prediction", "num_members")
FAILED_ENDING = ".failed"


def write_tables(folder: Path, description: dict[str, Any]) -> None:
    """Write ``uncertainty.csv``, its sister tables, ``uncertainty.json`` and ``failed.csv``.

    Another process may finish its part at the same moment: the tables are made again until no
    record came in meanwhile, and only those that did are read. A file that is no record is named
    in a warning and left out.

    Args:
        folder: OUT.
        description: what ``uncertainty.json`` says of columns, settings and versions; a table of
            components without a row has its ``component_columns`` all the same.

    Raises:
        OutputError: the folder cannot be written to.
    """
    try:
        _write_tables(folder, description)
    except OSError as error:
        raise OutputError(
            f"The tables cannot be written to {folder} ({error.strerror or error}). Free space "
            "or choose another folder, then go on with --continue_prediction."
        ) from error


def _write_tables(folder: Path, description: dict[str, Any]) -> None:
    write_json(folder / "uncertainty.json", description, output=folder)
    of_components = ("case", "label", "label_name", *description["component_columns"])
    known: dict[Path, _Rows | None] = {}
    seen: list[Path] | None = None
    while seen != (now := _files(folder, "")):
        seen = now
        known = {path: known.get(path) or _rows(path) for path in _files(folder, ".json")}
        cases = [rows for rows in known.values() if rows]
        for name in _TABLES:
            rows = [row for of_case in cases for row in of_case[name]]
            header = of_components if name == _COMPONENTS else ()
            _write_csv(folder / name, rows, header=header, output=folder)
        _write_failed(folder)
    # macOS keeps notes in files named ._*
    broken = [p.name for p, rows in known.items() if rows is None and not p.name.startswith("._")]
    if broken:
        logger.warning(
            "%d files of %s cannot be read as the record of a case (%s): the tables are without "
            "them. Run again with --continue_prediction to predict these cases anew, or remove "
            "the files.",
            len(broken),
            folder / "cases",
            first_few(broken),
        )


def _rows(path: Path) -> _Rows | None:
    """Rows of all tables from the record of a case; None of what is no record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: list(rows(record)) for name, rows in _TABLES.items()}
    except FileNotFoundError:  # another run may take one away at any time
        return {}
    except _NO_RECORD:
        return None


def is_record(path: Path) -> bool:
    """Whether a file holds the record of a case, from which the tables can be made."""
    return bool(_rows(path))


def record_names(folder: Path) -> list[str]:
    """Names of all finished cases, sorted."""
    return [path.name[: -len(".json")] for path in _files(folder, ".json")]


def note_failure(folder: Path, case: str, reason: str) -> None:
    """Remember why a case failed; a later success removes the note."""
    path = folder / "cases" / f"{case}{FAILED_ENDING}"
    text = reason.encode(errors="backslashreplace")  # it may name a file of another encoding
    replace_whole(path, lambda part: part.write_bytes(text), output=folder)


def forget_failure(folder: Path, case: str) -> None:
    """The case is done after all."""
    (folder / "cases" / f"{case}{FAILED_ENDING}").unlink(missing_ok=True)


def _files(folder: Path, ending: str) -> list[Path]:
    """Files of cases by name, without those that are being written."""
    files = (folder / "cases").glob(f"*{ending}")
    return sorted(path for path in files if not is_part(path))


def _write_failed(folder: Path) -> None:
    rows = []
    for path in _files(folder, FAILED_ENDING):
        case = path.name[: -len(FAILED_ENDING)]
        if is_record(path.with_name(f"{case}.json")):  # brought back from what was set aside
            continue
        with suppress(OSError):  # another run may take one away at any time
            reason = path.read_text(encoding="utf-8", errors="replace")
            rows.append({"case": case, "reason": reason})
    if rows:
        _write_csv(folder / "failed.csv", rows, output=folder)
    else:
        (folder / "failed.csv").unlink(missing_ok=True)


def _case_rows(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    last = {name: record[name] for name in CASE_COLUMNS_LAST}
    judged = record.get("judgement") or {"numbers": {}, "texts": {}}
    yield {
        "case": record["case"],
        **record["scores"],
        **last,
        **judged["numbers"],
        **judged["texts"],
    }


def _label_rows(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    judged = (record.get("judgement") or {}).get("labels", {})
    for name, scores in record["labels"].items():
        last = {column: record[column] for column in CASE_COLUMNS_LAST}
        label = _label_value(record["label_values"][name])
        yield {
            "case": record["case"],
            "label": label,
            "label_name": name,
            **scores,
            **last,
            **judged.get(name, {}),
        }


def _component_rows(record: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for component in record["components"]:
        z, y, x = component["centre_voxels"]
        yield {
            "case": record["case"],
            "label": _label_value(record["label_values"][component["label"]]),
            "label_name": component["label"],
            "component": component["component"],
            "centre_z": z,
            "centre_y": y,
            "centre_x": x,
            "volume_ml": component["volume_ml"],
            **component["scores"],
        }


_TABLES: dict[str, Callable[[dict[str, Any]], Iterable[dict[str, Any]]]] = {
    "uncertainty.csv": _case_rows,
    "uncertainty_per_label.csv": _label_rows,
    _COMPONENTS: _component_rows,
}


def _label_value(value: int | list[int]) -> str:
    """A label's value; of a region the values that it joins."""
    return str(value) if isinstance(value, int) else "+".join(map(str, value))


def _write_csv(
    path: Path, rows: Sequence[dict[str, Any]], *, output: Path, header: Sequence[str] = ()
) -> None:
    """Columns are those of the header, then of the first row, then those that only later have."""
    columns = list(dict.fromkeys([*header, *(name for row in rows for name in row)])) or ["case"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
    content = text.getvalue()
    replace_whole(path, lambda part: part.write_text(content, encoding="utf-8"), output=output)
