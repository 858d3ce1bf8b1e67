"""mindloc: where is this drone image on the map?"""

import sys

__version__ = "0.1.0"

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    raise SystemExit(
        f"mindloc needs Python 3.10 to 3.12, as MindSpore does; this is Python {sys.version.split()[0]}. "
        "Make an environment with: python3.11 -m venv .venv"
    )
