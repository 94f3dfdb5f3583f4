"""What pyproject.toml can't say, or not in a way that both old and new setuptools accept.

The extension in C is optional: where it can't be built, the package does without. The environment
variable TRIO_WEBSOCKET_PURE, set to anything, leaves it out, which makes a wheel for any machine.
"""

import os
import platform
import re
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

is_pure = bool(os.environ.get("TRIO_WEBSOCKET_PURE"))
is_pure = is_pure or platform.python_implementation() != "CPython"  # others are slower with it
# One binary for all versions, except free-threaded ones, which have no stable ABI.
is_stable = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildExtension(build_ext):
    """Build the extension under one name; if that fails, say so, and continue without it."""

    def get_ext_filename(self, fullname):
        """Return a name that every Python finds: 3.15 would put the platform into it."""
        return re.sub(r"\.abi3-[^.]+\.so$", ".abi3.so", super().get_ext_filename(fullname))

    def build_extension(self, ext):
        """Build `ext`, or log why not, and what to do."""
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
    # Setuptools before 77, the newest for Python 3.8, refuses `license = "MIT"` in pyproject.toml,
    # and the table that it wants there instead is deprecated.
    license="MIT",
    ext_modules=[] if is_pure else [speedups],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp38"}} if is_stable else {},
)
