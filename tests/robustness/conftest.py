"""Small images, made once."""

from __future__ import annotations

import pytest

import xsave
from tests.robustness.images import Images, native_images, xen_images


@pytest.fixture(scope="session")
def images(manager: xsave.PluginManager) -> Images:
    """A different image for each Xen format, and the xl one as native with each codec."""
    return Images({**xen_images(), **native_images(manager)})
