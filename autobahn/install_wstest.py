"""Install wstest, the program of the Autobahn test suite, into a separate folder.

    python autobahn/install_wstest.py .venvs/wstest

wstest runs on Python 2.7 only. The script uses the first of these: $WSTEST_PYTHON2, a python2.7 on
PATH or in pyenv, or the packages of Debian 11. It unpacks these packages below the folder, with
apt-get but without root.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, Sequence

PIP = "pip==20.3.4"  # the last release for Python 2.7
# Exact versions of all packages that wstest imports. The build pins are needed to build the rest.
BUILD_PINS = ["setuptools==44.0.0", "typing==3.10.0.0", "incremental==16.10.1"]
PINS = [
    "argparse==1.4.0",
    "attrs==21.4.0",
    "autobahn==0.10.9",
    "autobahntestsuite==25.10.1",
    "Automat==22.10.0",
    "constantly==15.1.0",
    "hyperlink==21.0.0",
    "idna==2.10",
    "jinja2==2.11.3",
    "linecache2==1.0.0",
    "markupsafe==1.1.1",
    "PyHamcrest==1.10.1",
    "six==1.16.0",
    "traceback2==1.4.0",
    "Twisted==19.10.0",
    "txaio==2.1.0",
    "unittest2==1.1.0",
    "zope.interface==4.6.0",
]
SPEEDUPS = ["wsaccel==0.6.6"]  # needs a C compiler; without it a run takes three times as long

DEBIAN_PACKAGES = [
    "libexpat1",
    "libffi7",
    "libpython2.7-dev",
    "libpython2.7-minimal",
    "libpython2.7-stdlib",
    "libssl1.1",
    "python2.7-minimal",
]
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Runs on Python 2.7. The suite doesn't use TLS, so pyOpenSSL, which is hard to build, is left out.
MAIN = """\
import functools, sys, types
import twisted.internet
twisted.internet.ssl = sys.modules["twisted.internet.ssl"] = types.ModuleType("ssl")
twisted.internet.ssl.ClientContextFactory = object
from autobahntestsuite import wstest, fuzzing
# wstest would listen on every interface.
fuzzing.listenWS = functools.partial(fuzzing.listenWS, interface="127.0.0.1")
wstest.run()
"""
SCRIPT = """\
#!/bin/sh
unset PYTHONHOME
{variables} exec '{python}' -s -u '{main}' "$@"
"""


class InstallError(Exception):
    pass


def call(log: Path, argv: Sequence[str], **variables: str) -> None:
    with open(log, "ab") as out:
        done = subprocess.run(
            argv,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
    if done.returncode:
        raise InstallError(f"this command failed, see {log}: {' '.join(argv)}")


def is_python27(path: str, **variables: str) -> bool:
    code = "import sys, zlib, select; sys.exit(sys.version_info[:2] != (2, 7))"
    done = subprocess.run(
        [path, "-c", code], env={**os.environ, **variables}, stderr=subprocess.DEVNULL
    )
    return done.returncode == 0


def python27_candidates() -> Iterator[str]:
    for name in (os.environ.get("WSTEST_PYTHON2"), "python2.7", "python2"):
        path = name and shutil.which(name)
        if path:
            yield path
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from map(str, pyenv.glob("versions/2.7*/bin/python2.7"))


def unpack_debian(folder: Path, log: Path) -> None:
    """Unpack Debian 11's Python 2.7, from the mirror that apt is configured to use."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and DEBIAN_KEYRING.exists()):
        raise InstallError("no Python 2.7 found, and this is not Debian: see autobahn/README.md")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)"],
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    mirrors = [uri for uri in targets.split() if uri.endswith("/debian/")]
    if not mirrors:
        raise InstallError("no Python 2.7 found, and apt has no Debian mirror: try apt-get update")
    with tempfile.TemporaryDirectory() as scratch:
        apt = Path(scratch)
        for name in ("lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(
            f"deb [signed-by={DEBIAN_KEYRING}] {mirrors[0]} bullseye main\n"
        )
        settings = {
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": apt / "lists",
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "Acquire::Check-Valid-Until": "false",
            "APT::Sandbox::User": getpass.getuser(),
            "Debug::NoLocking": "true",
        }
        apt_get = ["apt-get", *(f"-o{name}={value}" for name, value in settings.items())]
        call(log, [*apt_get, "update"])
        script = 'cd "$0" && "$@"'  # "download" writes into the current directory
        call(log, ["sh", "-c", script, scratch, *apt_get, "download", *DEBIAN_PACKAGES])
        for package in apt.glob("*.deb"):
            call(log, ["dpkg-deb", "-x", str(package), str(folder)])


def find_python27(folder: Path, log: Path) -> tuple[str, dict[str, str]]:
    """Return the interpreter and the environment variables that it needs."""
    for path in python27_candidates():
        if is_python27(path):
            return path, {}
    print("no Python 2.7 on this machine: unpacking Debian's", file=sys.stderr)
    unpack_debian(folder, log)
    usr = folder / "usr"
    variables = {
        "LD_LIBRARY_PATH": ":".join(map(str, usr.glob("lib/*-linux-gnu*"))),
        "CPATH": f"{usr}/include/python2.7:{usr}/include",
    }
    path = str(usr / "bin/python2.7")
    if not is_python27(path, **variables):
        raise InstallError(f"Debian's Python 2.7 does not run here: {path}")
    return path, variables


def install_packages(folder: Path, log: Path, python: str, variables: dict[str, str]) -> None:
    pip, lib = folder / "pip", folder / "lib"
    call(log, [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(pip), PIP])
    pip_install = [python, "-s", "-m", "pip", "install", "--no-deps", "--target", str(lib)]
    variables = {
        **variables,
        "PYTHONPATH": f"{lib}:{pip}",
        "PIP_USER": "0",
        "PIP_REQUIRE_VIRTUALENV": "0",
    }
    call(log, [*pip_install, *BUILD_PINS], **variables)
    call(log, [*pip_install, *PINS], **variables)
    (lib / "zope" / "__init__.py").touch()  # otherwise only a .pth file makes it a package
    try:
        call(log, [*pip_install, *SPEEDUPS], **variables)
    except InstallError as error:
        print(f"continuing without {SPEEDUPS[0]}: {error}", file=sys.stderr)


def install(folder: Path) -> Path:
    """Return the path of wstest. Install it into ``folder`` first, if necessary."""
    folder = folder.resolve()
    script = folder / "wstest"
    stamp = folder / "installed"
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == version:
        return script
    print(f"installing wstest into {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "install.log"
    python, variables = find_python27(folder / "python2", log)
    install_packages(folder, log, python, variables)
    main = folder / "main.py"
    main.write_text(MAIN)
    variables = {**variables, "PYTHONPATH": str(folder / "lib")}
    assignments = " ".join(f"{name}='{value}'" for name, value in variables.items())
    script.write_text(SCRIPT.format(python=python, main=main, variables=assignments))
    script.chmod(0o755)
    call(log, [str(script), "--autobahnversion"])
    stamp.write_text(version)
    return script


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(install(Path(sys.argv[1])))
    except InstallError as failure:
        sys.exit(str(failure))
