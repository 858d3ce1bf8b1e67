"""The backbone "tiny" with two blocks instead of six: a third of the time to compile, and the same code."""

import contextlib
import dataclasses

import pytest


@contextlib.contextmanager
def shallow_tiny():
    """While this lasts; also where a checkpoint of it is loaded."""
    from mindloc.models.vit_rope import SIZES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", dataclasses.replace(SIZES["tiny"], depth=2))
        yield
