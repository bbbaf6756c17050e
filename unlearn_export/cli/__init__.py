"""The command line: it parses, calls the library, prints. Results go to stdout, progress to stderr."""

from . import erasing, families, measuring, packaging, proving, video  # each adds its commands to main
from .common import main

__all__ = ["erasing", "families", "main", "measuring", "packaging", "proving", "video"]
