import pytest

from runner.config.words import Words, read_line, split_flags, split_words
from runner.errors import ConfigError


def test_launch_words_are_taken_off_as_raw_text() -> None:
    words, rest = split_words(["optimizer.lr=1", "+resume=my runs/a=b,c.d@step=3", "+trust=[a.b, c]", "+trust=d", "-m"])
    assert words == Words(resume="my runs/a=b,c.d@step=3", trust=("a.b", "c", "d"))
    assert rest == ["optimizer.lr=1", "-m"]


@pytest.mark.parametrize(
    ("typed", "names"),
    [("[model]", ("model",)), ("model", ("model",)), ("a,b", ("a", "b")), ("['a', \"b\"]", ("a", "b")), ("[]", ())],
)
def test_lists_of_names_are_read_in_every_spelling(typed: str, names: tuple[str, ...]) -> None:
    assert split_words([f"+allow={typed}"])[0].allow == names


def test_an_override_that_only_looks_like_a_launch_word_stays() -> None:
    assert split_words(["resume=x", "++resume2=x", "+model.resume=x"])[1] == [
        "resume=x",
        "++resume2=x",
        "+model.resume=x",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["+resume="], "+resume: no value; type +resume=latest"),
        (["+trust"], "+trust: no value; type +trust=[mypackage]"),
        (["+resume=a", "+resume=b"], "+resume is typed 2 times; one run can be resumed at a time"),
    ],
)
def test_a_launch_word_without_sense_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_words(argv)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("argv", "flags", "overrides"),
    [
        (["a=1", "-m", "b=2"], ["-m"], ["a=1", "b=2"]),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg=job"], ["a=1", "b=2"]),
        (["-c", "job", "-p", "model"], ["--cfg=job", "--package=model"], []),
        (["--info", "a=1"], ["--info=all"], ["a=1"]),
        (["--info", "defaults", "a=1"], ["--info=defaults"], ["a=1"]),
        (["a=1", "--config-dir=/x=y", "-cn", "mine"], ["--config-dir=/x=y", "--config-name=mine"], ["a=1"]),
        (["--shell-completion", "install=bash"], ["--shell-completion"], ["install=bash"]),
        (["~model", "--", "-x=1"], [], ["~model", "-x=1"]),
    ],
)
def test_flags_may_stand_anywhere(argv: list[str], flags: list[str], overrides: list[str]) -> None:
    assert split_flags(argv) == (flags, overrides)


@pytest.mark.parametrize("argv", [["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"]])
def test_the_flag_that_unpickles_a_file_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"executes what is pickled in its file; use [+]resume=RUN"):
        split_flags(argv)


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--cfg: no value; type --cfg VALUE"):
        split_flags(["--cfg"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--multi-run", "--multi-run: no such flag; did you mean '--multirun'?"),
        ("--qqq", "--qqq: no such flag; see runner --help and runner --hydra-help"),
        ("-x", "-x: no such flag; see runner --help and runner --hydra-help"),
        ("-m=2", "-m=2: no such flag; see runner --help and runner --hydra-help"),
    ],
)
def test_a_flag_that_there_is_not_is_refused(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_flags(["seed=3", argument])
    assert str(caught.value) == message


def test_a_whole_line_is_taken_apart() -> None:
    assert read_line(["+resume=x", "+reset=[optimizer]", "a=1", "-m", "b=2"]) == (
        Words(resume="x", reset=("optimizer",)),
        ["-m"],
        ["a=1", "b=2"],
    )


@pytest.mark.parametrize("word", ["+allow=[model]", "+reset=[model]"])
def test_a_word_about_a_resume_without_one_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_line([word, "seed=3"])
    assert str(caught.value) == f"{word}: says how to go on with a run; add +resume=RUN, or leave it out"


@pytest.mark.parametrize(
    ("typed", "override"),
    [
        ("init_from=RUN@step=3", 'init_from="RUN@step=3"'),
        ("++init_from=a=b.pt", '++init_from="a=b.pt"'),
        ("init_from=a.pt", "init_from=a.pt"),
        ("init_from=a.pt,b.pt", "init_from=a.pt,b.pt"),
        ("init_from=a.pt,RUN@step=3", 'init_from=a.pt,"RUN@step=3"'),
        ('init_from="a=b"', 'init_from="a=b"'),
        ("init_from='a=b'", "init_from='a=b'"),
        ("model.init_from=a=b", "model.init_from=a=b"),
    ],
)
def test_a_path_to_begin_from_may_hold_an_equals_sign(typed: str, override: str) -> None:
    assert read_line([typed])[2] == [override]
