"""Helpers and fixtures of the tests: `from tests.support import ...`."""
