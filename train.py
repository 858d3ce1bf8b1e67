"""Train a drone-to-satellite encoder: python train.py --config world_tiny."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a plain clone

from mindloc.cli import main

if __name__ == "__main__":
    sys.exit(main(command="train"))
