"""What can go wrong with an export, in words for whoever started it. Pure."""

from __future__ import annotations


class ExportError(Exception):
    """The model was not published; the message names the file or option, and the remedy."""


class CheckpointError(ExportError):
    """The checkpoint cannot be exported as it is."""


class ParityError(ExportError):
    """The export is not the checkpoint; says which comparison failed and by how much."""
