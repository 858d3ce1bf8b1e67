"""Boot file of a ModelArts job: python modelarts/start.py --data_url ... --train_url ... (docs/ascend.md)"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a plain clone

from mindloc.modelarts.job import main

if __name__ == "__main__":
    sys.exit(main())
