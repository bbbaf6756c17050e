"""The command line: it parses, calls the library, prints. Results go to stdout, progress to stderr."""

import os

# torch's threads sleep soon when they wait for each other: where another process needs the cores as well, spinning made
# drawing 25 times slower. It is read when torch is imported, which the commands do.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from . import erasing, measuring, packaging, video  # each adds its commands to main
from .common import main

__all__ = ["erasing", "main", "measuring", "packaging", "video"]
