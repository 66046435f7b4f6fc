"""Where data come from: one source a file, found by the file's name."""

from niwaki.distill.sources._base import Parts, Source

__all__ = ["Parts", "Source"]
