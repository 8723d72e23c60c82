"""The prepared home of the platform's tests, for the example that sweeps."""

from __future__ import annotations

from tests.platform_tests.conftest import prepared_home

__all__ = ["prepared_home"]
