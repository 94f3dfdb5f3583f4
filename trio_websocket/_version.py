"""The version of the distribution."""

__version__ = "0.13.0.dev0"
