"""Importers of measured runs that users have, in the formats other tools write. All of a file, or nothing."""

from .base import Format, Given
from .run import FORMATS, Imported, import_runs

__all__ = ["FORMATS", "Format", "Given", "Imported", "import_runs"]
