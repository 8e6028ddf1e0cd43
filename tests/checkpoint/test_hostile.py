"""Checkpoints that somebody has forged, with checksums that are right: refused clearly, and nothing outside is touched.

What only the bytes of a tensor file can do is in test_tensors, packed files are in test_hostile_archives.
"""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import forge, keeping

from runner.checkpoint.files import FileRecord
from runner.checkpoint.handle import Checkpoint
from runner.checkpoint.manifest import read_manifest, to_bytes
from runner.checkpoint.store import CheckpointStore
from runner.errors import CheckpointError
from runner.records import Saved

Save = Callable[..., Saved]
MakeStore = Callable[..., CheckpointStore]


@pytest.fixture
def checkpoint(make_store: MakeStore, save: Save) -> Path:
    store = make_store(keep=keeping(1))
    save(store, 1)
    return store.checkpoints[0].path


def refused(checkpoint: Path) -> str:
    """What is said when everything is read that can be; something must be."""
    with pytest.raises(CheckpointError) as caught:
        opened = Checkpoint.open(checkpoint)
        opened.verify()
        for name in opened.manifest.files:
            if not name.endswith(".safetensors"):
                opened.document(name)
        opened.config  # noqa: B018
        opened.overrides  # noqa: B018
        opened.tensors()
        opened.state()
    return str(caught.value)


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    size = 8 + struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:size]), raw[size:]


def with_header(header: dict[str, Any] | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def change(name: str, **more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(more)


# "head.weight" has 48 bytes, "head.bias" 16 behind it.
LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an overlap": (change("head.bias", data_offsets=[44, 60]), "overlaps the one before it"),
    "the same place twice": (change("head.bias", data_offsets=[0, 16]), "overlaps"),
    "a hole": (change("head.bias", data_offsets=[52, 68]), "leaves a hole before it"),
    "an end beyond the file": (
        change("head.bias", shape=[2**20], data_offsets=[48, 48 + 2**22]),
        "describes tensors up to byte",
    ),
    "offsets beyond any file": (
        change("head.bias", shape=[2**58], data_offsets=[48, 48 + 2**60]),
        "describes tensors up to byte",
    ),
    "negative offsets": (change("head.bias", data_offsets=[-16, 0]), "the offsets"),
    "offsets the wrong way round": (change("head.bias", data_offsets=[64, 48]), "needs 16"),
    "offsets that are no numbers": (change("head.bias", data_offsets=["48", "64"]), "the offsets"),
    "a number that is no whole one": (change("head.bias", data_offsets=[48.0, 64.0]), "the offsets"),
    "a shape of more bytes than there are": (change("head.bias", shape=[2**40, 2**40]), "the shape"),
    "an absurd number of dimensions": (change("head.bias", shape=[1] * 100_000), "the shape"),
    "an empty tensor of an absurd shape": (
        change("head.bias", shape=[0, 2**62, 2**62], data_offsets=[48, 48]),
        "the shape",
    ),
    "a negative length": (change("head.bias", shape=[-4]), "the shape"),
    "a shape that is true": (change("head.bias", shape=[True]), "the shape"),
    "another dtype": (change("head.bias", dtype="F64"), "needs 32"),
    "a dtype that there is not": (change("head.bias", dtype="X1"), "has the dtype 'X1'"),
    "a dtype that is no text": (change("head.bias", dtype=["F32"]), "has the dtype"),
    "more than is known of a tensor": (change("head.bias", more=1), "describes the tensor"),
    "metadata that is no text": (lambda header: header.update(__metadata__={"a": 1}), "has the metadata"),
    "a tensor that the state does not know": (
        lambda header: header.update({"evil": header.pop("head.bias")}),
        "head.bias",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_by_name(lie: str, checkpoint: Path) -> None:
    tell, said = LIES[lie]
    file = checkpoint / "model.safetensors"
    header, data = header_of(file)
    assert header["head.weight"]["data_offsets"] == [0, 48] and header["head.bias"]["data_offsets"] == [48, 64]
    tell(header)
    forge(checkpoint, file.name, with_header(header, data))
    message = refused(checkpoint)
    assert said in message
    assert str(checkpoint) in message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "has 0 bytes, wanted a tensor file"),
        (b"\0" * 7, "has 7 bytes, wanted a tensor file"),
        (struct.pack("<Q", 2**63) + b"{}", "says its header has 9223372036854775808 bytes, in a file of 10"),
        (struct.pack("<Q", 3) + b"{}", "says its header has 3 bytes"),
        (with_header("[]", b""), "wanted a mapping of names"),
        (with_header("{", b""), "its header cannot be read"),
        (with_header("[" * 100_000, b""), "its header cannot be read"),
        (with_header('{"a": NaN}', b""), "describes the tensor 'a'"),
        (with_header("{}", b"rest"), "describes tensors up to byte 10, the file ends at 14"),
        (
            with_header("{" + ",".join(['"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'] * 2) + "}", b"x"),
            "stands there twice",
        ),
    ],
)
def test_a_tensor_file_that_is_none_is_refused(raw: bytes, said: str, checkpoint: Path) -> None:
    forge(checkpoint, "model.safetensors", raw)
    assert said in refused(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "../victim",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "~/x",
        "a\\b",
        "a\0b",
        "x" * 300,
        ".hidden",
        "nul\n",
        "-rf",
        "manifest.json",
    ],
)
def test_a_name_that_leads_away_is_refused_and_never_removed(
    name: str, checkpoint: Path, make_store: MakeStore, save: Save
) -> None:
    victim = checkpoint.parent / "victim"
    victim.write_text("precious")
    manifest = read_manifest(checkpoint)
    record = manifest.files["config.yaml"]
    (checkpoint / "manifest.json").write_bytes(to_bytes(replace(manifest, files={**manifest.files, name: record})))
    assert "manifest.json" in refused(checkpoint)
    store = make_store(keep=keeping(1))
    for step in (2, 3):
        save(store, step)
    assert victim.read_text() == "precious"
    assert checkpoint.exists()


@pytest.mark.parametrize("size", [2**62, 10**15, 2**40])
def test_an_absurd_size_is_refused_before_memory_is_taken(size: int, checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    record = manifest.files["state.json"]
    for absurd in (
        replace(record, size=size),
        replace(record, size=size, chunk_bytes=2**62),
        FileRecord.of(2**30, [record.digest]) if size == 2**40 else replace(record, chunk_bytes=0),
    ):
        files = {**manifest.files, "state.json": absurd}
        (checkpoint / "manifest.json").write_bytes(to_bytes(replace(manifest, files=files)))
        assert str(checkpoint) in refused(checkpoint)


def test_a_sparse_file_as_large_as_its_record_is_no_reason_to_take_its_memory(checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    # As many digests as 16 GiB need: none is that of zeros.
    absurd = FileRecord.of(2**34, ["0" * 32] * 2**12)
    (checkpoint / "manifest.json").write_bytes(
        to_bytes(replace(manifest, files={**manifest.files, "model.safetensors": absurd}))
    )
    os.truncate(checkpoint / "model.safetensors", 2**34)
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint.open(checkpoint).tensors()


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "state.json", "model.safetensors"])
def test_a_link_out_of_the_checkpoint_is_not_followed(name: str, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / name
    (tmp_path / "secret").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    assert str(file) in refused(checkpoint)


STATES: dict[str, str] = {
    "a tag that there is not": '{"$":"call","name":"os.system"}',
    "a tensor of another file": '{"$":"tensor","name":"../optimizer"}',
    "a dtype that is a function": '{"$":"dtype","name":"load"}',
    "an absurd number": '{"$":"int","hex":"0x' + "f" * 200 + 'g"}',
    "text as a number": '{"$":"number","dtype":"object","value":1}',
    "an absurd depth": "[" * 50_000 + "]" * 50_000,
    "a length that is none": '{"$":"size","lengths":[1e400]}',
    "a device that is none": '{"$":"device","name":"x"}',
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_means_harm_is_refused(kind: str, checkpoint: Path) -> None:
    text = f'{{"format":1,"state":{{"model":{{}},"other":{STATES[kind]}}}}}'
    forge(checkpoint, "state.json", text.encode())
    assert "state.json" in refused(checkpoint)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"config": []}',
        b'{"config": {}, "overrides": {}}',
        b'{"config": null}',
    ],
)
def test_a_config_that_is_none_is_refused(data: bytes, checkpoint: Path) -> None:
    forge(checkpoint, "config.json", data)
    assert "config.json" in refused(checkpoint)
