import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.files import FileRecord, digest_of, record_of
from runner.checkpoint.manifest import Manifest, parse_manifest, read_manifest, to_bytes
from runner.errors import DamagedError, FormatError
from runner.records import Progress

WHERE = Path("run/checkpoints/step-000000007/manifest.json")


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "run": "abc",
        "generation": 3,
        "progress": Progress(7, 1, 2, 64, 7),
        "created": "2026-01-02T03:04:05+00:00",
        "seconds": 1.5,
        "reasons": ("every_steps", "end"),
        "metrics": {"val_loss": 0.25},
        "parent": 2,
        "facts": {"torch": "2.13", "world": {"size": 1}, "name": "größe"},
        "files": {"model.safetensors": record_of([b"x" * 100]), "empty": record_of([])},
    }
    return Manifest(**(values | changes))


def sealed(values: dict[str, Any]) -> bytes:
    """The text of a manifest with a right digest, whatever it says."""
    body = json.dumps(values, indent=1).removesuffix("\n}").encode()
    return body + f',\n "digest": "{digest_of(body)}"\n}}\n'.encode()


def changed(**changes: Any) -> bytes:
    values = json.loads(to_bytes(manifest()))
    del values["digest"]
    return sealed(values | changes)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(to_bytes(manifest()))
    assert read_manifest(tmp_path) == manifest()
    assert manifest().size == 100
    without_parent = manifest(parent=None, metrics={}, files={}, facts={})
    assert parse_manifest(to_bytes(without_parent), WHERE) == without_parent


def test_metrics_that_are_not_finite_are_plain_json_and_come_back() -> None:
    raw = to_bytes(manifest(metrics={"a": math.nan, "b": math.inf, "c": -math.inf}))
    assert json.loads(raw, parse_constant=pytest.fail)["metrics"] == {"a": "nan", "b": "inf", "c": "-inf"}
    metrics = parse_manifest(raw, WHERE).metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)


def test_every_flipped_byte_is_noticed() -> None:
    raw = to_bytes(manifest())
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        with pytest.raises(DamagedError, match=r"manifest\.json: is damaged: its text is not what was written"):
            parse_manifest(bytes(damaged), WHERE)


def test_every_cut_and_bytes_too_many_are_noticed() -> None:
    raw = to_bytes(manifest())
    for cut in [*(raw[:length] for length in range(len(raw))), raw + b"\n", b"\n" + raw]:
        with pytest.raises(DamagedError):
            parse_manifest(cut, WHERE)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=re.escape(f"{tmp_path / 'manifest.json'}: is missing")):
        read_manifest(tmp_path)


def test_a_newer_format_is_refused_naming_what_it_needs() -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(changed(format=4, reader=3, something="new"), WHERE)
    assert str(caught.value) == (
        f"{WHERE}: format 4, which needs a reader of format 3; this runner reads formats up to 2; "
        "update runner to load it"
    )


def test_a_newer_format_that_this_reader_understands_is_read_and_what_is_new_in_it_is_passed_over() -> None:
    values = json.loads(to_bytes(manifest()))
    files = {name: record | {"compression": "none"} for name, record in values["files"].items()}
    newer = changed(format=3, reader=2, something="new", progress=values["progress"] | {"tokens": 5}, files=files)
    assert parse_manifest(newer, WHERE) == manifest(format=3, reader=2)


def test_a_newer_format_that_lacks_what_this_reader_needs_is_refused() -> None:
    values = json.loads(to_bytes(manifest()))
    del values["digest"], values["seconds"]
    with pytest.raises(FormatError, match=r"not a manifest of format 3 \(unknown or missing entries \['seconds'\]\)"):
        parse_manifest(sealed(values | {"format": 3, "reader": 2}), WHERE)


def as_format_1(values: dict[str, Any]) -> dict[str, Any]:
    def split(chunks: str) -> list[str]:
        return [chunks[begin : begin + 32] for begin in range(0, len(chunks), 32)]

    files = {name: record | {"chunks": split(record["chunks"])} for name, record in values["files"].items()}
    return {key: value for key, value in values.items() if key != "digest"} | {"format": 1, "reader": 1, "files": files}


def test_format_1_is_migrated() -> None:
    long = FileRecord(100, digest_of(b"ab" * 32), 50, "ab" * 32)
    written = manifest(files={"long": long, "empty": record_of([])})
    older = as_format_1(json.loads(to_bytes(written)))
    assert older["files"]["long"]["chunks"] == ["ab" * 16, "ab" * 16]
    assert parse_manifest(sealed(older), WHERE) == dataclasses.replace(written, format=1, reader=1)


@pytest.mark.parametrize("chunks", [None, ["ab"], ["ab" * 16, 1], "ab" * 32])
def test_digests_of_format_1_that_make_no_sense_are_refused(chunks: object) -> None:
    record = dataclasses.asdict(FileRecord(100, digest_of(b"ab" * 32), 50, "ab" * 32)) | {"chunks": chunks}
    with pytest.raises(FormatError, match="is not a manifest of format 1"):
        parse_manifest(changed(format=1, reader=1, files={"a": record}), WHERE)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", ".tmp-x", "a\x00b", "a\\b", "é", "x" * 101]
)
def test_file_names_that_leave_the_directory_are_refused(name: str) -> None:
    record = dataclasses.asdict(record_of([b"x"]))
    with pytest.raises(FormatError, match="wanted a plain name inside the checkpoint's directory"):
        parse_manifest(changed(files={name: record}), WHERE)


RECORD = dataclasses.asdict(record_of([b"x"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"manifest.json": RECORD}}, "the manifest lists itself"),
        ({"files": {"a": RECORD | {"size": -1}}}, "size is -1"),
        ({"files": {"a": RECORD | {"size": 2**62}}}, "in 1 chunks"),
        ({"files": {"a": RECORD | {"size": True}}}, "size is True"),
        ({"files": {"a": RECORD | {"chunk_bytes": 0}}}, "chunks of 0"),
        ({"files": {"a": RECORD | {"chunk_bytes": 2**40}}}, "chunks of 1099511627776"),
        ({"files": {"a": RECORD | {"chunks": ""}}}, "in 0 chunks"),
        ({"files": {"a": RECORD | {"chunks": "0" * 31}}}, "in 0 chunks"),
        ({"files": {"a": RECORD | {"chunks": "0" * 32}}}, "is not that of its chunks"),
        ({"files": {"a": RECORD | {"chunks": "é" * 32}}}, "is not a manifest of format 2"),
        ({"files": {"a": RECORD | {"chunks": ["0" * 32]}}}, "wanted text"),
        ({"files": {"a": RECORD | {"digest": "0" * 32}}}, "is not that of its chunks"),
        ({"files": {"a": {}}}, "the record of 'a' has the entries []"),
        ({"files": []}, "files is [], wanted a mapping"),
        ({"generation": -1}, "generation is -1"),
        ({"generation": 1.0}, "generation is 1.0"),
        ({"progress": {"step": 1}}, "progress is {'step': 1}"),
        ({"metrics": {"a": "much"}}, "a is 'much', wanted a number"),
        ({"metrics": {"a": True}}, "a is True, wanted a number"),
        ({"reasons": [1]}, "reasons is 1, wanted text"),
        ({"reasons": "end"}, "reasons is 'end', wanted a list"),
        ({"run": None}, "run is None, wanted text"),
        ({"surprise": 1}, "unknown or missing entries ['surprise']"),
        ({"format": 0}, "is not a manifest of format 0"),
        ({"format": "2"}, "format is '2', wanted a whole number"),
        ({"reader": "1"}, "does not say who can read it"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_manifest(changed(**changes), WHERE)
    assert message in str(caught.value)
    assert str(WHERE) in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"reader": ' + b"1" * 5000, b'{"reader": NaN', b'["reader"', b"\xff"]
)
def test_text_that_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(text + f',\n "digest": "{digest_of(text)}"\n}}\n'.encode(), WHERE)


@pytest.mark.parametrize("facts", [{"path": Path("x")}, {"value": math.nan}])
def test_facts_that_are_not_json_are_refused_when_written(facts: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="the facts or metrics for a checkpoint are not plain JSON"):
        to_bytes(manifest(facts=facts))
