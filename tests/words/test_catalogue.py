from __future__ import annotations

import string
from collections.abc import Callable

import pytest

from edge_agent.words import codes, explanation, language, t
from edge_agent.words.catalogue import japanese

Gather = Callable[[], dict[str, str]]


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_sentence_of_the_project_has_a_japanese_one(all_sentences: Gather) -> None:
    missing = {text: where for text, where in all_sentences().items() if text not in japanese()}
    assert not missing, f"add these to a file in edge_agent/words/ja: {missing}"


def test_every_japanese_sentence_has_the_places_of_its_english_one() -> None:
    for english, text in japanese().items():
        assert places(english) == places(text), english
        assert text.strip(), english


def test_words_that_are_looked_up_by_name_have_a_japanese_one() -> None:
    from edge_agent.config.messages import WORDS

    assert WORDS | {"frames", "rows", "files", "source", "server", "arrival"} <= set(japanese())


def test_every_error_code_of_the_project_is_explained_in_both_languages(all_codes: Gather, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {code: where for code, where in all_codes().items() if code not in codes()}
    assert not missing, f"add these to a file in edge_agent/words/codes: {missing}"
    for code in codes():
        said = []
        for reader in ("en", "ja"):
            monkeypatch.setenv("EDGE_AGENT_LANG", reader)
            found = explanation(code)
            assert found is not None
            said += [found.meaning, found.cure]
        assert all(said), code
        assert said[0] != said[2], code


@pytest.mark.parametrize(
    ("variables", "reader"),
    [
        ({"EDGE_AGENT_LANG": "ja"}, "ja"),
        ({"EDGE_AGENT_LANG": "en", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LC_ALL": "ja_JP.UTF-8", "LANG": "en_US.UTF-8"}, "ja"),
        ({"LC_MESSAGES": "ja_JP", "LANG": "en_US.UTF-8"}, "ja"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"EDGE_AGENT_LANG": "", "LANG": "ja_JP.eucJP"}, "ja"),
    ],
)
def test_the_language_follows_the_environment(variables: dict[str, str], reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGE_AGENT_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == reader


def test_values_are_filled_in_and_are_not_formats_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "en")
    assert t("{file} is right.", file="{0}{evil.__class__}") == "{0}{evil.__class__} is right."
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    assert t("{file} is right.", file="炉.toml") == "炉.toml に誤りはありません。"
    assert t("a sentence that nobody translated: {n}", n=5) == "a sentence that nobody translated: 5"


def test_every_way_in_which_a_landing_service_refuses_is_explained() -> None:
    from edge_agent.wire.refusal import Code

    assert {f"LANDING_{code}" for code in Code} <= set(codes())
