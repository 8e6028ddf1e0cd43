"""Arrays in files, a sample in each row: .npy of any shape, and .csv of numbers between commas. No pickle is read.

A first line of a .csv file in which nothing is a number has the names of the columns.
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runner.errors import ConfigError, DataError

SUFFIXES = (".npy", ".csv")

Array: TypeAlias = NDArray[Any]


def check_name(file: Path) -> None:
    """Raise ConfigError unless a file's name says that it holds an array."""
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{file}: arrays are in files that end in {' or '.join(SUFFIXES)}; choose one of these")


def read_array(file: Path) -> tuple[Array, tuple[str, ...]]:
    """The numbers in a file, (samples, ...), and the names of the columns, where it has some. Raises DataError.

    Those of a .npy file are not read before they are used.
    """
    check_name(file)
    try:
        array, names = _read_npy(file) if file.suffix.lower() == ".npy" else _read_csv(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}); name a file that you may read") from error
    if not array.ndim or not len(array):
        raise DataError(f"{file}: has shape {array.shape}, and so no sample; wanted at least one row")
    return array, names


def _read_npy(file: Path) -> tuple[Array, tuple[str, ...]]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        if file.is_file() and not file.stat().st_size:
            raise DataError(f"{file}: is empty; wanted what numpy.save writes") from error
        reason = " ".join(str(error).split())
        raise DataError(
            f"{file}: is no array of numbers ({reason}); wanted what numpy.save writes; Python objects in it are never "
            "unpickled"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{file}: holds several arrays, as numpy.savez writes; wanted one, as numpy.save writes")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{file}: holds {array.dtype}; wanted real or whole numbers")
    return array, ()


def _read_csv(file: Path) -> tuple[Array, tuple[str, ...]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}); wanted numbers") from error
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        numbered = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise DataError(
            f"{file}: line {rows.line_num} cannot be read ({error}); wanted numbers between commas"
        ) from error
    names: tuple[str, ...] = ()
    if numbered and not any(map(_is_number, numbered[0][1])):
        names = tuple(cell.strip() for cell in numbered[0][1])
        del numbered[0]
    width = len(names) or (len(numbered[0][1]) if numbered else 0)
    for line, row in numbered:
        if len(row) != width:
            raise DataError(
                f"{file}: line {line} has {len(row)} columns, and the first has {width}; wanted as many in each"
            )
    try:
        array = np.array([row for _, row in numbered], dtype=np.float64)
    except ValueError as error:
        raise DataError(_wrong_cell(file, numbered)) from error
    return array.reshape(len(numbered), width), names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _wrong_cell(file: Path, numbered: list[tuple[int, list[str]]]) -> str:
    line, column, cell = next(
        (line, column, cell)
        for line, row in numbered
        for column, cell in enumerate(row, start=1)
        if not _is_number(cell)
    )
    hint = "; columns are parted by commas" if len(numbered[0][1]) == 1 and set(";\t ") & set(cell.strip()) else ""
    return f"{file}: line {line}, column {column} is {cell!r:.60}; wanted a number{hint}"


def write_rows(suffix: str, batches: Iterator[Array], count: int, write: Callable[[bytes], object]) -> tuple[int, ...]:
    """Write batches of rows, `count` in all, as a file that ends in `suffix`; the shape of the whole.

    Raises ConfigError for rows that it cannot hold.
    """
    shape: tuple[int, ...] | None = None
    for batch in batches:
        if shape is None:
            shape = (count, *batch.shape[1:])
            write(_beginning(suffix, batch, shape))
        if suffix == ".npy":
            write(np.ascontiguousarray(batch).tobytes())
        else:
            write("".join(f"{','.join(map(str, row))}\n" for row in batch.reshape(len(batch), -1)).encode())
    assert shape is not None, "there is at least one batch"
    return shape


def _beginning(suffix: str, batch: Array, shape: tuple[int, ...]) -> bytes:
    if suffix == ".npy":
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(batch.dtype)
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        return header.getvalue()
    if len(shape) > 2:
        raise ConfigError(
            f"the outputs have shape {shape}, and a .csv file holds one row for each sample; write a .npy file"
        )
    return b""
