"""The commit record of a checkpoint: `manifest.json`, written and synced last.

A directory is a checkpoint if and only if it holds a manifest that reads well. The file is JSON whose last entry is
the xxh3-128 of all the text before that entry, in every format version, so a changed byte anywhere in it is noticed.
Listings read nothing else; no torch here.

Format 1   `chunks` of a file was a list of digests.
Format 2   they are one text: a listing of great checkpoints spends most of its time on them.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from runner.checkpoint.files import DIGEST_LENGTH, check_name, digest_of, read_small
from runner.checkpoint.files import FileRecord as FileRecord
from runner.errors import DamagedError, FormatError
from runner.records import Progress

MANIFEST_NAME = "manifest.json"

FORMAT = 2
"""The version in which manifests are written."""
READER = 2
"""The oldest reader that understands what is written; also the newest that this program is."""

SIZE_LIMIT = 256 * 1024 * 1024
_TAIL = ',\n "digest": "%s"\n}\n'
_TAIL_LENGTH = len(_TAIL % ("0" * 32))
_PROGRESS = frozenset(field.name for field in fields(Progress))
_RECORD = frozenset(field.name for field in fields(FileRecord))
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint is, and what each of its files held when it was written."""

    run: str
    """The id of the run that wrote it."""
    generation: int
    """Counts the checkpoints of a run in the order in which they were written; the newest has the greatest."""
    progress: Progress
    created: str
    """ISO 8601, UTC."""
    seconds: float
    """For how long the run had trained, over all attempts."""
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    parent: int | None
    """The generation that this one went on from."""
    facts: Mapping[str, Any]
    """Versions, device, threads, git commit and the like: plain JSON."""
    files: Mapping[str, FileRecord]
    format: int = FORMAT
    reader: int = READER

    @property
    def size(self) -> int:
        """Bytes in all files together, the manifest aside."""
        return sum(record.size for record in self.files.values())


_ENTRIES = frozenset({*(field.name for field in fields(Manifest)), "digest"})


def to_bytes(manifest: Manifest) -> bytes:
    """The file's text. Raises TypeError for facts that are not plain JSON."""
    values = {
        "format": manifest.format,
        "reader": manifest.reader,
        "run": manifest.run,
        "generation": manifest.generation,
        "progress": asdict(manifest.progress),
        "created": manifest.created,
        "seconds": manifest.seconds,
        "reasons": list(manifest.reasons),
        "metrics": {name: _written(float(value)) for name, value in manifest.metrics.items()},
        "parent": manifest.parent,
        "facts": dict(manifest.facts),
    }
    try:
        # A line for each entry, and one for each file. json's own indentation is many times slower.
        lines = [f' "{name}": {json.dumps(value, allow_nan=False)}' for name, value in values.items()]
        of_files = [f"  {json.dumps(name)}: {json.dumps(asdict(record))}" for name, record in manifest.files.items()]
    except (TypeError, ValueError) as error:
        raise TypeError(f"the facts or metrics for a checkpoint are not plain JSON: {error}") from error
    lines.append(' "files": {' + ",".join(f"\n{line}" for line in of_files) + "}")
    body = "{\n" + ",\n".join(lines)
    return (body + _TAIL % digest_of(body.encode("ascii"))).encode("ascii")


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the checkpoint in `directory`. Raises DamagedError or FormatError."""
    path = directory / MANIFEST_NAME
    return parse_manifest(read_small(path, SIZE_LIMIT), path)


def parse_manifest(raw: bytes, where: Path) -> Manifest:
    """A manifest from its text. `where` is named in errors."""
    body, tail = raw[:-_TAIL_LENGTH], raw[-_TAIL_LENGTH:]
    if tail != (_TAIL % digest_of(body)).encode("ascii"):
        raise DamagedError(
            f"{where}: is damaged: its text is not what was written (checksum differs); use another checkpoint"
        )
    try:
        values = _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: is not JSON ({error}); wanted a checkpoint's manifest") from error
    if not isinstance(values, dict) or type(values.get("reader")) is not int:
        raise FormatError(f"{where}: is not a checkpoint's manifest: it does not say who can read it")
    if values["reader"] > READER:
        raise FormatError(
            f"{where}: format {values.get('format')!r}, which needs a reader of format {values['reader']}; "
            f"this runner reads formats up to {READER}; update runner to load it"
        )
    try:
        return _manifest(_migrated(values), where)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{where}: is not a manifest of format {values.get('format')!r} ({error}); use another checkpoint"
        ) from error


def _migrated(values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a manifest as this version has them, whatever version wrote them."""
    written = _count(values["format"], "format")
    for older in range(written, FORMAT):
        values = _STEPS[older](values)
    missing, unknown = _ENTRIES - values.keys(), values.keys() - _ENTRIES
    # A newer version may say more than this one understands; if that mattered, it would need a newer reader.
    if missing or (unknown and written <= FORMAT):
        raise ValueError(f"unknown or missing entries {sorted(unknown if written <= FORMAT else ()) + sorted(missing)}")
    return values


def _from_1_to_2(values: dict[str, Any]) -> dict[str, Any]:
    def joined(name: str, record: object) -> dict[str, Any]:
        chunks = [_text(chunk, "chunks") for chunk in _list(_mapping(record, name)["chunks"], "chunks")]
        if any(len(chunk) != DIGEST_LENGTH for chunk in chunks):
            raise ValueError(f"the digest of {name!r} is not that of its chunks")
        return {**_mapping(record, name), "chunks": "".join(chunks)}

    files = _mapping(values["files"], "files")
    return {**values, "files": {name: joined(name, record) for name, record in files.items()}}


# From each older format to the next. What a newer program wrote is never changed on the disk.
_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1_to_2}


def _manifest(values: dict[str, Any], where: Path) -> Manifest:
    newer = values["format"] > FORMAT
    progress = _mapping(values["progress"], "progress")
    if _PROGRESS - progress.keys() or (progress.keys() - _PROGRESS and not newer):
        raise ValueError(f"progress is {progress!r}, wanted {sorted(_PROGRESS)}")
    parent = values["parent"]
    return Manifest(
        run=_text(values["run"], "run"),
        generation=_count(values["generation"], "generation"),
        progress=Progress(**{name: _count(progress[name], f"progress.{name}") for name in _PROGRESS}),
        created=_text(values["created"], "created"),
        seconds=_number(values["seconds"], "seconds"),
        reasons=tuple(_text(reason, "reasons") for reason in _list(values["reasons"], "reasons")),
        metrics={name: _number(value, name) for name, value in _mapping(values["metrics"], "metrics").items()},
        parent=None if parent is None else _count(parent, "parent"),
        facts=_mapping(values["facts"], "facts"),
        files={
            name: _file(name, value, where, newer=newer) for name, value in _mapping(values["files"], "files").items()
        },
        format=_count(values["format"], "format"),
        reader=_count(values["reader"], "reader"),
    )


def _file(name: str, value: object, where: Path, *, newer: bool) -> FileRecord:
    check_name(name, where)
    if name == MANIFEST_NAME:
        raise ValueError("the manifest lists itself")
    record = _mapping(value, name)
    if not record.keys() >= _RECORD or (record.keys() != _RECORD and not newer):
        raise ValueError(f"the record of {name!r} has the entries {sorted(record)}")
    size, chunk_bytes = _count(record["size"], "size"), _count(record["chunk_bytes"], "chunk_bytes")
    chunks = _text(record["chunks"], "chunks")
    if not 1 <= chunk_bytes <= 2**30 or len(chunks) != -(-size // chunk_bytes) * DIGEST_LENGTH:
        raise ValueError(f"{name!r} has {size} bytes in {len(chunks) // DIGEST_LENGTH} chunks of {chunk_bytes}")
    if record["digest"] != digest_of(chunks.encode("ascii")):
        raise ValueError(f"the digest of {name!r} is not that of its chunks")
    return FileRecord(size, record["digest"], chunk_bytes, chunks)


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _number(value: object, name: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, wanted a number")
    return float(value)


def _count(value: object, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}, wanted a whole number from 0")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, wanted text")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}, wanted a list")
    return value


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}, wanted a mapping")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
