"""Encoded arguments (encoding.py) as somebody would have typed them in Python. Imports and builds nothing."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

from runner.checkpoint.contents import TAG
from runner.checkpoint.files import digest_of
from runner.config.decoding import check_extent

_POSITIONAL = "_args_"


def as_python(form: Any) -> str:
    """`(8, 8)` for `{"$": "tuple", "items": [8, 8]}`. What nobody has encoded stands there as it is."""
    try:
        check_extent(form)
    except ValueError as error:
        return f"<{error}>"
    try:
        return _told(form)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return f"<{repr(form)[:60]}>"


def short_name(target: str) -> str:
    """An import path as one types it: `torch.nn.ReLU` for `torch.nn.modules.activation.ReLU`."""
    parts = target.split(".")
    if parts[:3] == ["torch", "nn", "modules"] and len(parts) == 5:
        return f"torch.nn.{parts[-1]}"
    if parts[:2] == ["torch", "optim"] and len(parts) == 4 and parts[2] != "lr_scheduler":
        return f"torch.optim.{parts[-1]}"
    return target


def _told(form: Any) -> str:
    if isinstance(form, list):
        return f"[{_all(form)}]"
    if not isinstance(form, Mapping):
        return repr(form)
    if TAG not in form:
        return f"{{{', '.join(f'{key!r}: {_told(item)}' for key, item in form.items())}}}"
    return _TELLERS[form[TAG]](form)


def _all(forms: list[Any]) -> str:
    return ", ".join(map(_told, forms))


def _tuple(form: Mapping[str, Any]) -> str:
    return f"({_all(form['items'])}{',' if len(form['items']) == 1 else ''})"


def _pairs(form: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{_told(key)}: {_told(item)}' for key, item in form['items'])}}}"


def _tensor(form: Mapping[str, Any]) -> str:
    what = "parameter" if form.get("parameter") else form[TAG]
    # So that two with other numbers do not read alike.
    digest = digest_of(form["base64"].encode())[:8]
    return f"<{what} of {form['dtype']}, {_shape(form['shape'])}, #{digest}>"


def _shape(lengths: list[Any]) -> str:
    return f"({', '.join(map(str, lengths))}{',' if len(lengths) == 1 else ''})"


def _call(form: Mapping[str, Any]) -> str:
    return f"{short_name(form['of'])}({arguments_as_python(form['arguments'])})"


def arguments_as_python(arguments: Mapping[str, Any]) -> str:
    """What stands between the parentheses of a call."""
    rest = [_told(item) for item in arguments.get(_POSITIONAL, [])]
    named = [f"{name}={_told(item)}" for name, item in arguments.items() if name != _POSITIONAL]
    return ", ".join([*rest, *named])


def _partial(form: Mapping[str, Any]) -> str:
    inside = arguments_as_python(form["arguments"])
    return f"partial({short_name(form['of'])}{', ' if inside else ''}{inside})"


_TELLERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "tuple": _tuple,
    "set": lambda form: f"{{{_all(form['items'])}}}" if form["items"] else "set()",
    "frozenset": lambda form: f"frozenset({{{_all(form['items'])}}})",
    "dict": _pairs,
    "ordered": lambda form: f"OrderedDict({_pairs(form)})",
    "counter": lambda form: f"Counter({_pairs(form)})",
    "range": lambda form: f"range({_all(form['items'])})",
    "slice": lambda form: f"slice({_all(form['items'])})",
    "path": lambda form: f"Path({form['value']!r})",
    "type": lambda form: str(form["name"]),
    "arguments": lambda form: f"Namespace({arguments_as_python(form['value'])})",
    "namespace": lambda form: f"SimpleNamespace({arguments_as_python(form['value'])})",
    "omegaconf": lambda form: f"OmegaConf.create({_told(form['value'])})",
    "name": lambda form: short_name(form["value"]),
    "member": lambda form: f"{short_name(form['of'])}.{form['value']}",
    "call": _call,
    "partial": _partial,
    "tensor": _tensor,
    "array": _tensor,
    "missing": lambda _: "...",
    "int": lambda form: str(int(form["hex"], 16)),
    "float": lambda form: str(form["value"]),
    "complex": lambda form: f"complex({_all(form['parts'])})",
    "bytes": lambda form: repr(base64.b64decode(form["base64"], validate=True)),
    "size": lambda form: f"torch.Size([{', '.join(map(str, form['lengths']))}])",
    "dtype": lambda form: f"torch.{form['name']}",
    "device": lambda form: f"torch.device({form['name']!r})",
    "number": lambda form: f"numpy.{form['dtype']}({_told(form['value'])})",
}
