"""Export formats: one a file, each read back and compared with its original before it counts."""

from niwaki.search.export._base import TOLERANCE, Exporter, ExportError, Subject
from niwaki.search.export._card import Card, versions
from niwaki.search.export._write import check_export, export_model, exporter

__all__ = [
    "TOLERANCE", "Card", "ExportError", "Exporter", "Subject", "check_export", "export_model", "exporter", "versions",
]
