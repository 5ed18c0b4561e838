"""What the tests ask of the platform that they run on."""

import pytest

from rings import needs_io_uring

FILE_MECHANISMS = [pytest.param("io_uring", marks=needs_io_uring), "threads"]
"""What PROACTOR_FILES may be, the default first; that is skipped where the kernel refuses it."""
