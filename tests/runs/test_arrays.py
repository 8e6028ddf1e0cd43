"""Arrays in files: what is read, what is refused, and that nothing in them is run."""

from pathlib import Path

import numpy as np
import pytest

from runner.errors import ConfigError, DataError
from runner.runs.arrays import check_name, read_array, write_rows


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "rows", "names"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]], ()),
        ("a,b\n1,2\n", [[1, 2]], ("a", "b")),
        (' a , "b, c"\r\n1,2\r\n', [[1, 2]], ("a", "b, c")),
        ("1,2", [[1, 2]], ()),
        ("\n1,2\n\n3,4\n\n", [[1, 2], [3, 4]], ()),
        ("\ufeffx\n1\n2\n", [[1], [2]], ("x",)),
        (" 1.5 ,-2e-3\n", [[1.5, -0.002]], ()),
        ('"1","2"\n', [[1, 2]], ()),
        ("nan,inf\n-inf,0\n", [[np.nan, np.inf], [-np.inf, 0]], ()),
    ],
)
def test_csv_is_numbers_between_commas(
    text: str, rows: list[list[float]], names: tuple[str, ...], tmp_path: Path
) -> None:
    array, found = read_array(written(tmp_path / "x.csv", text))
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, np.array(rows, dtype=np.float64))
    assert found == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has shape \(0, 0\), and so no sample; wanted at least one row"),
        ("a,b\n", r"has shape \(0, 2\), and so no sample"),
        ("1,2\n3,four\n", "line 2, column 2 is 'four'; wanted a number"),
        ("1,2\n\n3,\n", "line 3, column 2 is ''; wanted a number"),
        ("a,1\n3,4\n", "line 1, column 1 is 'a'; wanted a number"),
        ("1,2\n3\n", "line 2 has 1 columns, and the first has 2; wanted as many in each"),
        ("a,b\n1,2,3\n", "line 2 has 3 columns, and the first has 2"),
        ("1;2\n3;4\n", "line 2, column 1 is '3;4'; wanted a number; columns are parted by commas"),
        ("1\n3;4\n", "line 2, column 1 is '3;4'; wanted a number; columns are parted by commas"),
        ("1\n3\t4\n", r"line 2, column 1 is '3\\t4'; wanted a number; columns are parted by commas"),
        ('1,"2\n', "line 1 cannot be read"),
        ("1,1_0_x\n", "line 1, column 2 is '1_0_x'; wanted a number"),
    ],
)
def test_csv_that_is_none_is_refused_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_array(written(tmp_path / "x.csv", text))


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.csv: is no UTF-8 text \(invalid continuation byte at byte 0\)"):
        read_array(written(tmp_path / "x.csv", "é,1\n", "latin-1"))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "u1", "i8", "?"])
def test_npy_is_read_as_it_was_written(dtype: str, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "y.npy", np.asfortranarray(array))
    for name in ("x.npy", "y.npy"):
        found, names = read_array(tmp_path / name)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype and names == ()


class Evil:
    def __reduce__(self) -> object:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([Evil()]), "x.npy: is no array of numbers .* Python objects in it are never unpickled"),
        (np.array(["a"]), "x.npy: holds <U1; wanted real or whole numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), r"x.npy: holds \[\('a', '<f4'\)\]; wanted real or whole numbers"),
        (np.zeros(2, dtype=complex), "x.npy: holds complex128; wanted real or whole numbers"),
        (np.float32(1), r"x.npy: has shape \(\), and so no sample"),
        (np.zeros((0, 3)), r"x.npy: has shape \(0, 3\), and so no sample"),
    ],
)
def test_npy_that_holds_anything_else_is_refused(value: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_array(tmp_path / "x.npy")


def test_what_is_no_npy_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, a=np.zeros(1), b=np.zeros(1))
    with pytest.raises(DataError, match=r"holds several arrays, as numpy\.savez writes; wanted one"):
        read_array(tmp_path / "x.npy")
    for content, message in ((b"", "is empty; wanted what numpy.save writes"), (b"1,2,3\n", "is no array of numbers")):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_array(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.zeros(1000))
    (tmp_path / "x.npy").write_bytes((tmp_path / "y.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="is no array of numbers"):
        read_array(tmp_path / "x.npy")
    for name, message in (
        ("gone.npy", "No such file"),
        ("gone.csv", "No such file"),
        (".", "arrays are in files that"),
    ):
        with pytest.raises((DataError, ConfigError), match=message):
            read_array(tmp_path / name)


def test_another_ending_is_refused() -> None:
    for name in ("x.npz", "x.txt", "x"):
        with pytest.raises(ConfigError, match=r"arrays are in files that end in \.npy or \.csv; choose one of these"):
            check_name(Path(name))
    check_name(Path("X.NPY"))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "?"])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 3)])
def test_what_is_written_in_batches_is_what_numpy_reads(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    rows = (np.random.default_rng(0).standard_normal(shape) * 3).astype(dtype)
    for suffix in (".npy", ".csv"):
        file = tmp_path / f"x{suffix}"
        with file.open("wb") as opened:
            if suffix == ".csv" and len(shape) > 2:
                with pytest.raises(ConfigError, match=r"shape \(5, 2, 3\), and a .csv file holds one row for each"):
                    write_rows(suffix, iter([rows]), 5, opened.write)
                continue
            assert write_rows(suffix, iter([rows[:2], rows[2:4], rows[4:]]), 5, opened.write) == shape
        if suffix == ".npy":
            found = np.load(file)
            assert found.dtype == rows.dtype
        elif dtype == "?":
            continue
        else:
            found = np.loadtxt(file, delimiter=",", dtype=dtype, ndmin=2).reshape(shape)
        # The shortest text of a number gives the same bits again.
        np.testing.assert_array_equal(found, rows)
