"""What the tests of the methods share."""

from training import train

__all__ = ["train"]
