"""What the tests of the Hub share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_double import HubDouble

if TYPE_CHECKING:
    from hub_client import Client


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sealed artifact with a random encoder; not to be altered."""
    from hub_client import make_artifact  # torch takes seconds

    return make_artifact(tmp_path_factory.mktemp("artifact") / "encoder")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubDouble]:
    with HubDouble(tmp_path / "hub", token="hf_test", part_size=64 * 1024) as double:
        yield double


@pytest.fixture
def client(hub: HubDouble, tmp_path: Path) -> "Client":
    from hub_client import Client

    return Client(hub.url, tmp_path / "home")
