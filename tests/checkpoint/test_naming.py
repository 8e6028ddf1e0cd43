import math
from pathlib import Path
from typing import Any

import pytest

from runner.checkpoint.naming import LONGEST, check_template, name_of, safe_name
from runner.records import Progress

AT = Progress(step=450, epoch=3, batch=7, samples=57600)


@pytest.mark.parametrize(
    ("template", "metrics", "name"),
    [
        ("step-{step:09d}", {}, "step-000000450"),
        ("epoch{epoch:02d}-loss{val_loss:.4f}", {"val_loss": 0.31256}, "epoch03-loss0.3126"),
        ("{step}-{epoch}-{batch}-{samples}", {}, "450-3-7-57600"),
        ("{samples:,}", {}, "57,600"),
        ("epoch={epoch} val_accuracy={val_accuracy:.1%}", {"val_accuracy": 0.975}, "epoch=3 val_accuracy=97.5%"),
        ("{val_top-5 accuracy:g}", {"val_top-5 accuracy": 0.5}, "0.5"),
        ("{loss:.2e}-{lr:+.0e}", {"loss": -0.00123, "lr": 3e-4}, "_1.23e-03-+3e-04"),
        ("{step:_>6}", {}, "___450"),
        # Without a field every checkpoint has one name, and is told apart by the number behind it.
        ("checkpoint", {}, "checkpoint"),
        ("{{step}}", {}, "{step}"),
        # A metric cannot stand for a counter.
        ("{step}", {"step": 7.0}, "450"),
    ],
)
def test_a_name_is_made_of_counters_and_metrics(template: str, metrics: dict[str, float], name: str) -> None:
    check_template(template)
    assert name_of(template, AT, metrics) == (name, [])


@pytest.mark.parametrize(
    ("metrics", "name", "what"),
    [
        ({}, "epoch3-none", "was not measured at the step of a checkpoint; 'none' stands in its name"),
        ({"val_loss": math.nan}, "epoch3-nan", "is nan; 'nan' stands in its name"),
        ({"val_loss": math.inf}, "epoch3-inf", "is inf; 'inf' stands in its name"),
        ({"val_loss": -math.inf}, "epoch3--inf", "is -inf; '-inf' stands in its name"),
    ],
)
def test_a_value_that_is_missing_or_not_finite_is_told(metrics: dict[str, float], name: str, what: str) -> None:
    template = "epoch{epoch}-{val_loss:08.4f}"
    assert name_of(template, AT, metrics) == (name, [f"checkpoint.name is {template!r} and val_loss {what}"])
    # The same whenever the same is missing.
    assert name_of(template, Progress(step=9), metrics)[1] == name_of(template, AT, metrics)[1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a-b"),
        ("../../etc/passwd", "______etc-passwd"),
        ("..", "checkpoint"),
        (".", "checkpoint"),
        ("", "checkpoint"),
        (" ", "checkpoint"),
        (".hidden", "_hidden"),
        (".tmp-0123abcd-step-1", "_tmp-0123abcd-step-1"),
        ("/absolute", "_absolute"),
        ("-rf x", "_rf x"),
        ("nul\0byte", "nul-byte"),
        ("line\nfeed\ttab\x1b[31m", "line-feed-tab-[31m"),
        ("right\u202eleft", "right-left"),
        ("half\ud800", "half-"),
        ('c:\\x*?"<>|', "c--x------"),
        ("ends. . ", "ends"),
        ("aside", "_aside"),
        ("Aside", "_Aside"),
        ("checkpoints", "_checkpoints"),
        ("manifest.json", "_manifest.json"),
        ("run.json", "_run.json"),
        ("aside-1", "aside-1"),
        ("NUL", "_NUL"),
        ("con.txt", "_con.txt"),
        ("Com1", "_Com1"),
        ("console", "console"),
        ("épochs 3 – 最良", "épochs 3 – 最良"),
    ],
)
def test_a_name_is_safe_on_every_system(text: str, name: str) -> None:
    assert safe_name(text) == name
    # What is safe stays as it is.
    assert safe_name(name) == name


@pytest.mark.parametrize("char", ["x", "é", "最", "𝄞"])
def test_a_name_finds_room_with_a_prefix_and_a_number(tmp_path: Path, char: str) -> None:
    name = safe_name(char * 300)
    assert LONGEST - 4 < len(name.encode()) <= LONGEST and set(name) == {char}
    (tmp_path / f".tmp-01234567-{name}-9999-9999").mkdir()


def test_every_name_is_one_inside_its_directory(tmp_path: Path) -> None:
    for code in [*range(0x300), *range(0x2000, 0x2070), 0xD800, 0xDC80, 0xFEFF, 0xFFFF, 0x10FFFF]:
        for text in (chr(code), chr(code) * 2, f"{chr(code)}x", f"x{chr(code)}"):
            name = safe_name(text)
            path = tmp_path / name
            path.mkdir()
            assert path.parent == tmp_path and [entry.name for entry in tmp_path.iterdir()] == [name]
            path.rmdir()


FIELDS = "wanted step, epoch, batch, samples, loss, lr, or a score such as val_loss"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{steps}", f"{{steps}} is neither a counter nor a metric; {FIELDS}; did you mean {{step}}?"),
        ("{Epoch}", f"{{Epoch}} is neither a counter nor a metric; {FIELDS}; did you mean {{epoch}}?"),
        ("{valloss}", f"{{valloss}} is neither a counter nor a metric; {FIELDS}; did you mean {{val_loss}}?"),
        ("{time}", f"{{time}} is neither a counter nor a metric; {FIELDS}"),
        ("{}", f"{{}} is neither a counter nor a metric; {FIELDS}"),
        ("{0}", f"{{0}} is neither a counter nor a metric; {FIELDS}"),
        ("{step.__class__}", f"{{step.__class__}} is neither a counter nor a metric; {FIELDS}"),
        (
            "{val_loss.real}",
            f"{{val_loss.real}} is neither a counter nor a metric; {FIELDS}; did you mean {{val_loss}}?",
        ),
        ("{val_loss[0]}", f"{{val_loss[0]}} is neither a counter nor a metric; {FIELDS}; did you mean {{val_loss}}?"),
        ("{step!r}", "{step!r} converts; wanted a field and a format, such as {step:09d}"),
        ("{step:.}", "{step:.} has a format that does not suit it; wanted one such as {step:09d}"),
        ("{step:c}", "{step:c} has a format that does not suit it; wanted one such as {step:09d}"),
        ("{step:999999999d}", "{step:999999999d} has a format that does not suit it; wanted one such as {step:09d}"),
        ("{step:{epoch}}", "{step:{epoch}} has a format that does not suit it; wanted one such as {step:09d}"),
        ("{val_loss:02d}", "{val_loss:02d} has a format that does not suit it; wanted one such as {val_loss:.4f}"),
        ("{val_loss:s}", "{val_loss:s} has a format that does not suit it; wanted one such as {val_loss:.4f}"),
        (
            "{val_loss:.9999f}",
            "{val_loss:.9999f} has a format that does not suit it; wanted one such as {val_loss:.4f}",
        ),
        ("{step", "expected '}' before end of string"),
        ("step}", "Single '}' encountered in format string"),
    ],
)
def test_a_template_that_cannot_name_is_refused(template: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_template(template)
    assert str(caught.value) == f"checkpoint.name is {template!r}: {problem}"


def test_an_empty_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.name is ''; wanted a text such as step-\{step:09d\}"):
        check_template("")


def test_every_format_that_is_let_through_works() -> None:
    values: list[Any] = [1e300, -1e300, 5e-324, 0.0, -0.0, 0.5]
    for form in ("", "f", ".999f", "999", "e", ",.2f", "_", "z.1f", "#g", "n", "%", "=+09.3f", "/>9"):
        check_template(f"{{val_loss:{form}}}")
        for value in values:
            name, warnings = name_of(f"{{val_loss:{form}}}", AT, {"val_loss": value})
            assert name and len(name) <= LONGEST and "/" not in name and not warnings
    for form in ("d", "b", "x", "#o", "_d", "f", "%", "09,d"):
        check_template(f"{{step:{form}}}")
        name_of(f"{{step:{form}}}", Progress(step=10**18), {})
