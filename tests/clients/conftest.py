"""The house that the clients call: the same as the end-to-end tests'."""

from tests.e2e.conftest import stack

__all__ = ["stack"]
