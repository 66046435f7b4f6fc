"""What a student is taught by: one loss a file, found by the file's name."""

from niwaki.distill.losses._base import Loss

__all__ = ["Loss"]
