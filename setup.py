"""What pyproject.toml can't say in a way that both old and new setuptools accept."""

from setuptools import setup

# Setuptools before 77, the newest for Python 3.8, refuses `license = "MIT"` in pyproject.toml,
# and the table that it wants there instead is deprecated.
setup(license="MIT")
