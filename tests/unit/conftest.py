"""What the tests of copying copy from and into."""

from __future__ import annotations

import pytest

from bamboo_sessions import JsonFileStorage, MemoryStorage


@pytest.fixture(params=["memory", "json_files"])
def source(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else JsonFileStorage(tmp_path / "from")


@pytest.fixture(params=["memory", "json_files"])
def target(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else JsonFileStorage(tmp_path / "to")
