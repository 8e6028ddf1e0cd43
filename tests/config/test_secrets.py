from typing import Any

import pytest

from runner.config.secrets import REDACTED, is_secret, redact, redact_overrides

GITHUB = "ghp_" + "a1B2" * 9


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("token", "abc", True),
        ("hf_token", "abc", True),
        ("password", "abc", True),
        ("apiKey", "abc", True),
        ("api_key", "abc", True),
        ("WANDB_API_KEY", "abc", True),
        ("aws_secret_access_key", "abc", True),
        ("client_secret", "abc", True),
        ("x", GITHUB, True),
        ("x", "sk-" + "abcdefgh" * 3, True),
        ("url", "postgres://ada:geheim@host/db", True),
        ("x", "-----BEGIN RSA PRIVATE KEY-----\nMII", True),
        ("pad_token", "<pad>", False),
        ("eos_token", "<|endoftext|>", False),
        ("max_tokens", "12", False),
        ("tokenizer", "bytes", False),
        ("key", "abc", False),
        ("monkey", "abc", False),
        ("token", 5, False),
        ("token", "", False),
        ("token", None, False),
        ("token", "???", False),
        ("token", "${oc.env:TOKEN}", False),
        ("token", "${oc.env:TOKEN,null}", False),
        ("token", "${oc.env:TOKEN,''}", False),
        ("token", "${oc.env:TOKEN,geheim}", True),
        ("token", "${oc.decode:${oc.env:TOKEN}}", False),
        ("token", "${oc.decode:${oc.env:TOKEN,geheim}}", True),
        ("token", "${oc.env:TOKEN,sk-abcdefghabcdefgh}", True),
        ("url", "https://example.org/a@b", False),
        ("lr", "1e-3", False),
    ],
)
def test_a_secret_is_known_by_its_key_or_by_its_look(key: str, value: Any, secret: bool) -> None:
    assert is_secret(key, value) is secret


def test_a_tree_is_copied_without_its_secrets() -> None:
    tree = {
        "a": {"token": "abc", "n": 1},
        "passwords": ["x"],
        "password": ["x", "y"],
        "list": [{"api_key": "k"}, GITHUB],
    }
    assert redact(tree) == {
        "a": {"token": REDACTED, "n": 1},
        "passwords": ["x"],
        "password": [REDACTED, REDACTED],
        "list": [{"api_key": REDACTED}, REDACTED],
    }
    assert tree["a"] == {"token": "abc", "n": 1}


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("+observers.wandb.api_key=abc", "+observers.wandb.api_key=<redacted>"),
        ("++a.token='x y'", "++a.token=<redacted>"),
        ("a.token=${oc.env:X}", "a.token=${oc.env:X}"),
        (f"a.x={GITHUB}", "a.x=<redacted>"),
        ("+a={token:abc,n:3}", "+a={token:<redacted>,n:3}"),
        ("+a=[{password: 'x, y'}, 3]", "+a=[{password: <redacted>}, 3]"),
        ("-m", "-m"),
        (GITHUB, "<redacted>"),
    ],
)
def test_overrides_lose_their_secrets(word: str, clean: str) -> None:
    assert redact_overrides([word]) == [clean]


def test_secrets_in_arguments_that_were_encoded_are_left_out() -> None:
    forms = {
        "password": {"$": "tuple", "items": ["a", ["b"]]},
        "options": {"$": "dict", "items": [["password", "c"], [1, "d"]]},
        "sizes": {"$": "tuple", "items": [8, "e"]},
    }
    assert redact(forms) == {
        "password": {"$": "tuple", "items": [REDACTED, [REDACTED]]},
        "options": {"$": "dict", "items": [["password", REDACTED], [1, "d"]]},
        "sizes": {"$": "tuple", "items": [8, "e"]},
    }
