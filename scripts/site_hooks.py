"""Hooks of MkDocs for the pages of docs/: insert tables and help texts from the code, adapt links between languages."""

import functools
import os
import re
import subprocess
import sys

from config_docs import PROJECT, settings_tables

CHINESE = "[\u3001-\u3017\u4e00-\u9fff\uff01-\uff5e“”]"  # characters and marks


def on_page_markdown(markdown: str, page, config, files) -> str:
    markdown = re.sub(r"\A(# .*\n)\n\[(?:中文|English)\]\(.*\)\n", r"\1", markdown)  # the site has a menu of languages
    markdown = re.sub(r"(\]\([\w/]+)\.zh(\.md)", r"\1\2", markdown)  # the site chooses the language of a page itself
    markdown = re.sub(rf"({CHINESE})\n *(?={CHINESE})", r"\1", markdown)  # a line break would be shown as a blank
    markdown = markdown.replace("<!-- settings -->", settings_tables())
    return re.sub(r"<!-- command: (.+?) -->", lambda found: f"```text\n{command_help(found[1])}```", markdown)


@functools.cache
def command_help(name: str) -> str:
    """The text that ``mindloc NAME --help`` prints."""
    command = [sys.executable, "-m", "mindloc", *name.split(), "--help"]
    environment = {**os.environ, "COLUMNS": "100", "MINDLOC_PROGRAM": "mindloc", "PYTHONPATH": str(PROJECT / "src")}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
