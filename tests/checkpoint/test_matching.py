"""Which tensor of a file goes to which of a model."""

import pytest

from runner.checkpoint.matching import Matching, Spec, is_chosen, match, renamed, rule_problem, suggestion, unwrapped

F32 = Spec((2,), "float32")


def specs(*names: str) -> dict[str, Spec]:
    return dict.fromkeys(names, F32)


def matched(stored: dict[str, Spec], model: dict[str, Spec], **rules: object) -> Matching:
    return match(stored, model, **{"rename": {}, **rules})  # type: ignore[arg-type]


def test_equal_names_go_to_each_other() -> None:
    found = matched(specs("b", "a"), specs("a", "b"))
    assert dict(found.loaded) == {"a": "a", "b": "b"} and found.whole and not found.cast and not found.left_out


def test_what_one_side_lacks_is_named() -> None:
    found = matched(specs("a", "x"), specs("a", "b"))
    assert (dict(found.loaded), found.missing, found.unexpected) == ({"a": "a"}, ("b",), ("x",))
    assert not found.whole


@pytest.mark.parametrize(
    "name", ["module.a.w", "_orig_mod.a.w", "module._orig_mod.a.w", "_orig_mod.module.a.w", "a._orig_mod.w"]
)
def test_what_parallelism_and_compilation_add_is_taken_off(name: str) -> None:
    assert unwrapped(name) == "a.w"
    assert dict(matched(specs(name), specs("a.w")).loaded) == {"a.w": name}
    assert dict(matched(specs("a.w"), specs(name)).loaded) == {name: "a.w"}


def test_a_part_of_the_model_that_is_called_module_stays() -> None:
    assert dict(matched(specs("module.w", "w"), specs("module.w", "w")).loaded) == {"module.w": "module.w", "w": "w"}
    assert dict(matched(specs("module.module.w"), specs("module.w")).loaded) == {"module.w": "module.module.w"}
    assert unwrapped("module") == "module"


@pytest.mark.parametrize(
    ("name", "rules", "expected"),
    [
        ("model.a.w", {"model.": ""}, "a.w"),
        ("model.a.w", {"model.": "net."}, "net.a.w"),
        ("fc.w", {"fc.w": "head.w"}, "head.w"),
        ("a.model.w", {"model.": ""}, "a.model.w"),
        ("enc.3.attn.w", {"enc.*.attn.*": "blocks.*.attention.*"}, "blocks.3.attention.w"),
        ("enc.3.attn.w", {"enc.*.w": "x.*"}, "x.3.attn"),
        ("enc.w", {"*.w": "*.weight"}, "enc.weight"),
        ("enc.ww", {"*.w": "*.weight"}, "enc.ww"),
        ("a.b", {"a.": "x.", "a.b": "y"}, "x.b"),
        ("a.b", {"a.b": "y", "a.": "x."}, "y"),
        ("a[0].b", {"a[0].": "c."}, "c.b"),
        ("a", {}, "a"),
    ],
)
def test_the_first_rule_that_fits_renames(name: str, rules: dict[str, str], expected: str) -> None:
    assert renamed(name, rules) == expected


@pytest.mark.parametrize("left", ["model.", "*.model.*"])
def test_a_rule_also_fits_the_name_without_its_wrapper(left: str) -> None:
    rules = {left: left.replace("model", "net")}
    stored = specs("module.model.w") if left == "model." else specs("module.a.model.w")
    model = specs("net.w") if left == "model." else specs("a.net.w")
    assert matched(stored, model, rename=rules).whole


@pytest.mark.parametrize(
    ("left", "right", "problem"),
    [
        ("a.", "", None),
        ("a.*", "b.*", None),
        ("", "x", "fits every name"),
        ("a.*.*", "b.*", r"2 \* on the left and 1 on the right"),
        ("a.", "b.*", r"0 \* on the left and 1 on the right"),
        ("a.*", "b", "gives many tensors one name"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told(left: str, right: str, problem: str | None) -> None:
    found = rule_problem(left, right)
    if problem is None:
        assert found is None
    else:
        with pytest.raises(ValueError, match=problem):
            raise ValueError(found)


def test_two_tensors_for_one_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a\.w' and 'module\.a\.w' both go to 'a\.w'; mend init\.rename"):
        matched(specs("a.w", "module.a.w"), specs("a.w"))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rename": {"modle.": ""}}, r"init\.rename has 'modle\.', which fits no name; the weights have 'model\.w'"),
        ({"include": ["hed.*"]}, r"init\.include has 'hed\.\*', which fits no name; the model has 'w'"),
        ({"exclude": ["hed.*"]}, r"init\.exclude has 'hed\.\*', which fits no name; the model has 'w'"),
    ],
)
def test_rules_that_fit_nothing_are_told(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matched(specs("model.w"), specs("w"), **rules)


def test_what_is_left_out_is_neither_missing_nor_unexpected() -> None:
    stored, model = specs("base.w", "head.w", "head.old"), specs("base.w", "head.w", "head.new")
    found = matched(stored, model, exclude=["head.*"])
    assert (dict(found.loaded), found.whole, found.left_out) == ({"base.w": "base.w"}, True, 2)
    assert matched(stored, model, include=["base.*"]) == found


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [(None, None, "abc"), (["a", "b"], None, "ab"), (None, ["b"], "ac"), (["[ab]"], ["b"], "a"), ([], None, "")],
)
def test_patterns_choose(include: list[str] | None, exclude: list[str] | None, chosen: str) -> None:
    assert "".join(name for name in "abc" if is_chosen(name, include, exclude)) == chosen


def test_another_shape_or_kind_is_a_mismatch_and_another_precision_a_cast() -> None:
    stored = {
        "shape": Spec((2, 3), "float32"),
        "kind": Spec((2,), "float32"),
        "half": Spec((2,), "bfloat16"),
        "count": Spec((), "int32"),
        "empty": Spec((0,), "float32"),
    }
    model = {
        "shape": Spec((3, 2), "float32"),
        "kind": Spec((2,), "int64"),
        "half": Spec((2,), "float32"),
        "count": Spec((), "int64"),
        "empty": Spec((0,), "float32"),
    }
    found = matched(stored, model)
    assert set(found.mismatched) == {"shape", "kind"} and set(found.loaded) == {"half", "count", "empty"}
    assert found.cast == {"half": ("bfloat16", "float32"), "count": ("int32", "int64")}
    assert [str(spec) for spec in found.mismatched["shape"]] == ["float32 [2, 3]", "float32 [3, 2]"]
    assert not found.missing and not found.unexpected and not found.whole


def test_a_tied_tensor_is_not_missing_when_the_other_name_is_there() -> None:
    model = specs("embed.w", "head.w", "x")
    assert matched(specs("embed.w", "x"), model, tied=[("embed.w", "head.w")]).whole
    assert matched(specs("x"), model, tied=[("embed.w", "head.w")]).missing == ("embed.w", "head.w")


@pytest.mark.parametrize(
    ("stored", "model", "expected"),
    [
        (("model.a.w", "model.b.w"), ("a.w", "b.w"), {"model.": ""}),
        (("model.a.w", "model.b.w", "loss.w"), ("net.a.w", "net.b.w"), {"model.": "net."}),
        (("a.w", "b.w"), ("a.w", "b.w"), None),
        (("x.y", "z"), ("a.w", "b.v"), None),
        (("a.w", "b.w"), ("net.a.w", "net.b.w"), {"*": "net.*"}),
    ],
)
def test_the_rule_that_was_probably_meant(
    stored: tuple[str, ...], model: tuple[str, ...], expected: dict[str, str] | None
) -> None:
    assert suggestion(stored, model) == expected
