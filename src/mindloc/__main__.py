"""``python -m mindloc COMMAND``: the commands beside train.py, eval.py and export.py."""

import sys

from mindloc.cli import main

if __name__ == "__main__":
    sys.exit(main())
