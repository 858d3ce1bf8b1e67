"""Train a drone-to-satellite encoder: python train.py --config configs/world_tiny.yaml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))  # runs from a plain clone

from mindloc.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
