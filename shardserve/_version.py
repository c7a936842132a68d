"""The version, once. May hold nothing else: setuptools reads it without importing the package."""

__version__ = "0.1.0"
