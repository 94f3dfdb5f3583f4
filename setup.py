"""Settings that pyproject.toml can't express, or not for both old and new setuptools.

The C extension is optional: if it can't be built, the package works without it. If the environment
variable TRIO_WEBSOCKET_PURE is not empty, it is not built, which makes a wheel for any machine.
"""

import os
import platform
import re
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

is_pure = bool(os.environ.get("TRIO_WEBSOCKET_PURE"))
is_pure = is_pure or platform.python_implementation() != "CPython"  # elsewhere it is slower
# One binary for all versions, except free-threaded ones, which have no stable ABI.
is_stable = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildExtension(build_ext):
    """Build the extension under one name. If that fails, log the reason and continue."""

    def get_ext_filename(self, fullname):
        """Return a name that every Python finds. Python 3.15 would add the platform to it."""
        return re.sub(r"\.abi3-[^.]+\.so$", ".abi3.so", super().get_ext_filename(fullname))

    def build_extension(self, ext):
        """Build `ext`. If that fails, log the reason and a remedy."""
        try:
            super().build_extension(ext)
        except Exception as exc:
            self.warn(
                f"trio-websocket: {ext.name} was not built: {exc}. The library works without it, "
                "but needs more CPU time. To build it, install a C compiler and the headers of "
                "Python, and install trio-websocket again."
            )
            raise


speedups = Extension(
    "trio_websocket._sansio._speedups",
    sources=["trio_websocket/_sansio/_speedups.c"],
    define_macros=[("Py_LIMITED_API", "0x03080000")] if is_stable else [],
    py_limited_api=is_stable,
    optional=True,
)

setup(
    # Setuptools before 77 refuses `license = "MIT"` in pyproject.toml, and newer releases deprecate
    # the table that it requires instead. Python 3.8 needs a release before 77.
    license="MIT",
    ext_modules=[] if is_pure else [speedups],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp38"}} if is_stable else {},
)
