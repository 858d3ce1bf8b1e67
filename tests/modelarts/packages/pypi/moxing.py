"""What PyPI offers under this name: somebody else's package, without ``file``."""

__version__ = "1.0"
