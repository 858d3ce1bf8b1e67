"""Tables of all settings of a config, from the fields and comments of its sections; used by site_hooks.py."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

sys.path.insert(0, str(PROJECT / "src"))  # runs from a plain clone

from mindloc.config import Config, config_to_dict  # noqa: E402
from mindloc.config.loader import readers_of_keys  # noqa: E402
from mindloc.config.meanings import SECTIONS, field_comments  # noqa: E402
from mindloc.config.messages import described, fields_of, shown  # noqa: E402


def settings_tables() -> str:
    """The heading and the table of each section, in Markdown."""
    comments, defaults, readers = field_comments(SECTIONS), config_to_dict(Config()), readers_of_keys()
    parts = []
    for section, field in Config.model_fields.items():
        rows = [f"## {section}\n", f"{field.annotation.__doc__}\n"]
        rows += ["| key | values | default | meaning | read with |", "|---|---|---|---|---|"]
        for name, of_key in fields_of(Config, section).items():
            key = f"{section}.{name}"
            values = ", ".join(f"`{choice}`" for choice in of_key["enum"]) if "enum" in of_key else described(of_key)
            meaning = comments[field.annotation.__name__, name].replace("|", "\\|")
            read_with = "; ".join(f"{choice}={', '.join(names)}" for choice, names in readers.get(key, {}).items())
            rows.append(f"| `{key}` | {values} | `{shown(defaults[section][name])}` | {meaning} | {read_with} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)
