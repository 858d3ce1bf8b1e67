"""One process of a server that copies a directory: python copying_process.py URL SCRATCH. Prints the copy's path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "packages" / "platform"))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from mindloc.errors import StoreError
from mindloc.modelarts import stores as object_store
from mindloc.modelarts.incoming import bring_directory, start_id
from mindloc.modelarts.stores import build_store

object_store.PAUSES_S = (0.0,)
url, scratch = sys.argv[1:]
try:
    print(bring_directory(build_store(url), url, Path(scratch), start_id()))
except StoreError as error:
    sys.exit(f"error: {error}")
