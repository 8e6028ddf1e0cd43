"""Secrets are recognised, by the names of their keys and by how they look, and left out of whatever is written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.checkpoint.contents import TAG

REDACTED = "<redacted>"

_NAMES = {"password", "passwd", "passphrase", "secret", "secrets", "apikey", "credential", "credentials", "token"}
_PAIRS = {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("auth", "key"), ("account", "key")}
# `pad_token`, `eos_token` and their like are a tokenizer's, not a user's.
_TOKENIZER = frozenset({"pad", "eos", "bos", "sos", "unk", "mask", "sep", "cls", "start", "end", "special", "image"})
_LOOKS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bAIza[\w-]{30,}"
    r"|\bxox[abprs]-[\w-]{10,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
# Without a default: that would be the value itself.
_WHOLE_INTERPOLATION = re.compile(r"\s*\$\{[^,]*(?:,\s*(?:null|''|\"\")?\s*)?\}\s*", re.DOTALL)
_KEY_VALUE = re.compile(r"(?P<key>[\w.\-/@]+)(?P<between>\s*[:=]\s*)(?P<value>'[^']*'|\"[^\"]*\"|[^,{}\[\]]+)")


def is_secret(key: str, value: Any) -> bool:
    """Whether a value is not to be written down. An interpolation says only where the value is, so it may be."""
    if not isinstance(value, str) or not value or value == "???":
        return False
    named = _secret_name(key) and not _WHOLE_INTERPOLATION.fullmatch(value)
    return named or _LOOKS.search(value) is not None


def _secret_name(key: str) -> bool:
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", key.replace("-", "_"))]
    if not words:
        return False
    if tuple(words[-2:]) in _PAIRS:
        return True
    return words[-1] in _NAMES and not (words[-1] == "token" and not _TOKENIZER.isdisjoint(words))


def redact(value: Any, key: str = "") -> Any:
    """A copy of a tree of plain values without its secrets."""
    if isinstance(value, Mapping):
        if TAG in value and isinstance(value.get("items"), list):
            return {**value, "items": _redacted_items(value, key)}
        return {name: redact(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner, key) for inner in value]
    return REDACTED if is_secret(key, value) else value


def _redacted_items(form: Mapping[str, Any], key: str) -> list[Any]:
    """What is in a tuple or the like that was encoded (config/encoding.py), or in a dict, in pairs with its keys."""
    items: list[Any] = form["items"]
    if form[TAG] in ("dict", "ordered") and all(isinstance(pair, list) and len(pair) == 2 for pair in items):
        return [[redact(pair[0]), redact(pair[1], str(pair[0]))] for pair in items]
    return [redact(inner, key) for inner in items]


def redact_overrides(words: Sequence[str]) -> list[str]:
    """Overrides, or a whole command line, without their secrets: `observers.x.token=<redacted>`."""
    return [_redacted_word(word) for word in words]


def _redacted_word(word: str) -> str:
    key, equals, value = word.partition("=")
    bare = value.strip("'\"")
    if equals and is_secret(key.rpartition(".")[2], bare):
        return f"{key}={REDACTED}"
    if equals and value.lstrip().startswith(("{", "[")):
        return f"{key}={_KEY_VALUE.sub(_redacted_pair, value)}"
    return REDACTED if is_secret("", word) else word


def _redacted_pair(match: re.Match[str]) -> str:
    if is_secret(match["key"], match["value"].strip(" '\"")):
        return f"{match['key']}{match['between']}{REDACTED}"
    return match[0]
