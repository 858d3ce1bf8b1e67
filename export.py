"""Export a trained encoder: python export.py --checkpoint RUN --file_format MINDIR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a plain clone

from mindloc.cli import main

if __name__ == "__main__":
    sys.exit(main(command="export"))
