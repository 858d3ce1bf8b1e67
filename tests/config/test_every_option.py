"""Every option is written down somewhere in a test or a shipped config with something else than its default, and every
choice too. That it has its effect is for the test that sets it.
"""

import typing
from collections import defaultdict

import option_evidence
import pytest
from option_evidence import DEFAULTS, UNKNOWN

from mindloc.config.schema import Config


@pytest.fixture(scope="module")
def values() -> dict[str, list]:
    """section.key -> the values that it is set to somewhere."""
    found = defaultdict(list)
    for key, value, words in option_evidence.settings():
        found[key].append(value)
        if value is UNKNOWN:  # from a variable: then the choices that the code around it names count as made
            found[key] += words & set(CHOICES.get(key, ()))
    return found


def is_default(key: str, value: object) -> bool:
    return value is not UNKNOWN and (list(value) if isinstance(value, tuple) else value) == DEFAULTS[key]


def choices_of(hint: object) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [choice for part in typing.get_args(hint) for choice in choices_of(part)]


CHOICES = {
    f"{section}.{key}": choices_of(hint)
    for section, cls in typing.get_type_hints(Config).items()
    for key, hint in typing.get_type_hints(cls).items()
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_option_is_set_somewhere(values, key):
    assert [value for value in values[key] if not is_default(key, value)], f"nothing sets {key}; write a test of it"


@pytest.mark.parametrize(("key", "choice"), [(key, choice) for key, of_key in CHOICES.items() for choice in of_key])
def test_every_choice_is_made_somewhere(values, key, choice):
    made = {value for value in values[key] if isinstance(value, str)}
    assert choice in made or choice == DEFAULTS[key], f"nothing sets {key}={choice}; write a test of it"


def test_a_value_from_a_variable_is_sought_around_it(tmp_path, monkeypatch):
    code = tmp_path / "test_it.py"
    code.write_text(
        "MODES = ['masked']\n"
        "OTHER = ['random']\n"
        "def run(mode): config.sampling.mode = mode\n"
        "def test_one(): run('exclusive')\n"
        "@parametrize('mode', MODES)\n"
        "def test_two(mode): config.sampling.mode = mode\n"
        "def test_three(): 'cosine'\n"
    )
    monkeypatch.setattr(option_evidence, "_test_files", lambda: [code])
    monkeypatch.setattr(option_evidence, "PROJECT", tmp_path)  # no shipped configs
    words = [words - {"mode"} for key, value, words in option_evidence.settings() if value is UNKNOWN]
    assert words == [{"exclusive"}, {"masked"}]
