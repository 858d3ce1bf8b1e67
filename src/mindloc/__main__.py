"""``python -m mindloc COMMAND``: all commands, among them those of train.py, eval.py and export.py."""

import sys

from mindloc.cli import main

if __name__ == "__main__":
    sys.exit(main())
