"""The backbone "tiny" with two blocks instead of six: same code, a third of the compile time."""

import contextlib
import dataclasses

import pytest


@contextlib.contextmanager
def shallow_tiny():
    """Context in which "tiny" has two blocks; also needed to load a checkpoint of it."""
    from mindloc.models.vit_rope import SIZES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], depth=2))
        yield
