"""The contracts that are known, by pipeline and by encoder: the rows of ours and those that plug-ins bring."""

import difflib
import re

from ..plugins import theirs
from .contract import ReaderContract
from .contract_rows import CONTRACTS


def contracts() -> tuple[ReaderContract, ...]:
    """The table, and the rows that other people's families bring (see ``EncoderFamily.contracts``)."""
    return CONTRACTS + tuple(row for load in theirs("families").values() for row in load().contracts)


def contracts_of(pipeline: str) -> tuple[ReaderContract, ...]:
    """The contract of each seat of a pipeline, by its class name; () if it is not supported (see ``nearest``)."""
    return tuple(contract for contract in contracts() if pipeline in contract.pipelines)


def readers_of(architecture: str) -> tuple[ReaderContract, ...]:
    """Every contract in whose seat this transformers class sits. Whether the weights are the same is another matter."""
    return tuple(contract for contract in contracts() if architecture in contract.architectures)


def nearest(pipeline: str) -> str:
    """The supported pipeline class whose name is most like this one, in its words and its letters."""

    def likeness(name: str) -> float:
        words, wanted = (re.findall("[A-Z][a-z]*|[0-9]+", text) for text in (name, pipeline))
        letters = difflib.SequenceMatcher(None, name, pipeline).ratio()
        return letters + difflib.SequenceMatcher(None, words, wanted).ratio()

    return max((name for contract in contracts() for name in contract.pipelines), key=likeness)
