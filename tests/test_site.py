"""The documentation site builds without warnings, loads nothing from other hosts, and takes texts from the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindloc.cli import COMMANDS

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
MAKERS = ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings", "jieba")
TRANSLATED = {"index", "first_steps", "data", "training", "search", "export", "commands", "settings", "ascend", "gpu"}
TRANSLATED |= {"coming_from_game4loc", "coming_from_sgm_net"}


@pytest.fixture(scope="module")
def site_hooks():
    sys.path.insert(0, str(PROJECT / "scripts"))
    try:
        yield importlib.import_module("site_hooks")
    finally:
        sys.path.remove(str(PROJECT / "scripts"))


def sections(page: str) -> list[str]:
    """Commands on a page, each under a heading of its name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = re.findall(r"(?m)^## (.*)\n\n.*\n\n<!-- command: (.*) -->$", text)
    assert [heading for heading, _ in shown] == re.findall(r"(?m)^## (.*)", text)
    assert all(heading == command for heading, command in shown)
    return [command for _, command in shown]


def test_every_command_has_a_section_in_both_languages():
    shown = sections("commands.md")
    assert {command.split()[0] for command in shown} == set(COMMANDS)
    assert len(set(shown)) == len(shown)
    assert sections("commands.zh.md") == shown


def test_a_command_is_documented_by_its_help(site_hooks):
    page = site_hooks.on_page_markdown("## pca\n\n<!-- command: pca -->\n", None, None, None)
    assert (
        page.startswith("## pca\n\n```text\nUsage: mindloc pca ") and page.endswith("```\n") and "--dimension" in page
    )


def test_the_user_pages_exist_in_chinese():
    assert {name for name in TRANSLATED if not (DOCS / f"{name}.zh.md").exists()} == set()


def test_links_lead_to_the_page_in_the_readers_language(site_hooks):
    text = "# 数据\n\n[English](data.md)\n\n见[搜索](search.zh.md)与[结果](results/speed.md)，\n两者。\n"
    assert site_hooks.on_page_markdown(text, None, None, None) == (
        "# 数据\n\n见[搜索](search.md)与[结果](results/speed.md)，两者。\n"  # a Chinese line is joined with the next
    )


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    missing = [name for name in MAKERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -r requirements-docs.txt")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    assert "WARNING" not in built.stderr

    pages = list((tmp_path / "site").rglob("*.html"))
    names = {path.relative_to(tmp_path / "site").with_suffix("").as_posix() for path in pages}
    assert {path.stem for path in DOCS.glob("*.md") if ".zh" not in path.name} <= names
    assert {f"zh/{name}" for name in TRANSLATED} <= names
    loaded = (
        r'<(?:script|img|iframe)[^>]* src="?(?:https?:)?//|<link[^>]* rel="?(?:stylesheet|preload|preconnect)[^>]*//'
    )
    assert [path for path in pages if re.search(loaded, path.read_text(encoding="utf-8"))] == []
    settings = (tmp_path / "site" / "settings.html").read_text(encoding="utf-8")
    assert "<code>train.grad_cache</code>" in settings
