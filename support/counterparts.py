"""Real proxies and servers, which `make counterparts` unpacks. Each runs for a block.

Each listens on a free port of 127.0.0.1. Its configuration is in a folder of the test. It is ended
by its process group.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import AsyncIterator, Iterator, Mapping

import pytest
import trio

ROOT = Path(__file__).resolve().parents[1] / ".venvs" / "counterparts" / "root"
_FOLDERS = ("usr/sbin", "usr/bin", "usr/lib/squid")

USER = "wsuser"
#: With characters that have a meaning in a URL, or in HTTP's Basic authentication.
PASSWORD = "p@ss:w/rd%"
USERINFO = f"{USER}:p%40ss%3Aw%2Frd%25@"
# Of PASSWORD, as `openssl passwd` prints them.
_SHA_512 = (
    "$6$saltsalt$FQm5CfgNRGuUEFJXKpQJfKPOFKX.Pz4phZ/iQfuwzvzgfycT1CErXPU4zRHeE245kB1XWXC11PiyO9b7"
    "eAxjk."
)
_MD5 = "$1$saltsalt$CMVK90eStYVm3OO0ijsvM1"
#: tinyproxy's configuration allows no other characters.
SIMPLE_PASSWORD = "pa.ss-word"
SIMPLE_USERINFO = f"{USER}:{SIMPLE_PASSWORD}@"

_SECONDS_TO_START = 20


def reason_to_skip() -> str | None:
    """Return the reason why tests can't use the programs, or None if they can."""
    if os.environ.get("CI"):
        return "real proxies are not used in CI"
    if not (ROOT.parent / "unpacked").exists():
        return "real proxies are missing: run make counterparts"
    return None


def require() -> None:
    """Skip the test if the programs are missing, or in CI."""
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)


def program(name: str) -> Path:
    """Return the path of a program."""
    return next(path for path in (ROOT / folder / name for folder in _FOLDERS) if path.exists())


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that other users can read: as root, some programs change their user."""
    with tempfile.TemporaryDirectory(prefix="counterparts-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    port: int,
    name: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[None]:
    """Run a program for a block, which begins when the port accepts connections.

    :param folder: Where it runs, and where its output goes.
    """
    command = [str(program(name)), *arguments]
    log = folder / f"{name}-{port}.log"
    libraries = [*ROOT.glob("usr/lib/*-linux-gnu*"), *ROOT.glob("lib/*-linux-gnu*")]
    async with trio.open_nursery() as nursery:
        with log.open("wb") as output:
            run = functools.partial(
                trio.run_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=folder,
                start_new_session=True,
                env={
                    **os.environ,
                    "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
                    **(environment or {}),
                },
            )
            process: trio.Process = await nursery.start(run)
        try:
            await _wait_for_port(port, process, log)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


async def _wait_for_port(port: int, process: trio.Process, log: Path) -> None:
    with trio.move_on_after(_SECONDS_TO_START):
        while process.poll() is None:
            with contextlib.suppress(OSError):
                async with await trio.open_tcp_stream("127.0.0.1", port):
                    return
            await trio.sleep(0.02)
    text = log.read_text("utf-8", "replace")
    pytest.fail(f"{process.args!r} does not listen:\n{text[-2000:]}")


# -- HTTP proxies


@contextlib.asynccontextmanager
async def squid(folder: Path, *, has_password: bool = False) -> AsyncIterator[int]:
    """Run an HTTP proxy that answers in HTTP/1.1, and return its port."""
    port = free_port()
    access = "http_access allow all"
    if has_password:
        helper, passwords = program("basic_ncsa_auth"), folder / "squid.passwords"
        passwords.write_text(f"{USER}:{_MD5}\n")
        access = (
            f"auth_param basic program {helper} {passwords}\n"
            "acl known proxy_auth REQUIRED\n"
            "http_access allow known\n"
            "http_access deny all"
        )
    share = ROOT / "usr/share/squid"
    config = folder / "squid.conf"
    config.write_text(
        f"http_port 127.0.0.1:{port}\n"
        f"{access}\n"
        "cache deny all\n"
        "access_log none\n"
        "cache_store_log none\n"
        "cache_log /dev/null\n"
        "logfile_daemon /bin/true\n"
        "unlinkd_program /bin/true\n"
        "pid_filename none\n"
        "netdb_filename none\n"
        "pinger_enable off\n"
        "cache_effective_user proxy\n"
        f"coredump_dir {folder}\n"
        f"mime_table {share}/mime.conf\n"
        f"icon_directory {share}/icons\n"
        f"error_directory {share}/errors/templates\n"
    )
    name = f"counterpart{port}"
    try:
        async with running(folder, port, "squid", "-N", "-f", str(config), "-n", name):
            yield port
    finally:
        for path in Path("/dev/shm").glob(f"{name}-*"):  # squid was killed
            path.unlink()


@contextlib.asynccontextmanager
async def tinyproxy(
    folder: Path, *, has_password: bool = False, allows: int | None = None
) -> AsyncIterator[int]:
    """Run an HTTP proxy that answers in HTTP/1.0, and return its port.

    :param allows: The only port that it connects to; None for any.
    """
    port = free_port()
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 600", "MaxClients 100"]
    if has_password:
        lines.append(f"BasicAuth {USER} {SIMPLE_PASSWORD}")
    if allows is not None:
        lines.append(f"ConnectPort {allows}")
    config = folder / "tinyproxy.conf"
    config.write_text("\n".join([*lines, ""]))
    async with running(folder, port, "tinyproxy", "-d", "-c", str(config)):
        yield port


# -- TLS in front of a proxy


@contextlib.asynccontextmanager
async def stunnel(folder: Path, certificate: Path, port: int) -> AsyncIterator[int]:
    """Run TLS in front of a port, and return the port of TLS."""
    tls_port = free_port()
    config = folder / "stunnel.conf"
    config.write_text(
        "foreground = yes\n"
        "pid =\n"
        f"cert = {certificate}\n"
        "[proxy]\n"
        f"accept = 127.0.0.1:{tls_port}\n"
        f"connect = 127.0.0.1:{port}\n"
    )
    async with running(folder, tls_port, "stunnel4", str(config)):
        yield tls_port


@contextlib.asynccontextmanager
async def haproxy(folder: Path, certificate: Path, port: int) -> AsyncIterator[int]:
    """Run TLS in front of a port, and return the port of TLS."""
    tls_port = free_port()
    config = folder / "haproxy.conf"
    config.write_text(
        "defaults\n"
        "  mode tcp\n"
        "  timeout connect 60s\n"
        "  timeout client 600s\n"
        "  timeout server 600s\n"
        "listen proxy\n"
        f"  bind 127.0.0.1:{tls_port} ssl crt {certificate}\n"
        f"  server proxy 127.0.0.1:{port}\n"
    )
    async with running(folder, tls_port, "haproxy", "-db", "-f", str(config)):
        yield tls_port


# -- SOCKS


@contextlib.asynccontextmanager
async def microsocks(folder: Path, *, has_password: bool = False) -> AsyncIterator[int]:
    """Run a SOCKS 5 proxy, and return its port."""
    port = free_port()
    password = ("-u", USER, "-P", PASSWORD) if has_password else ()
    async with running(folder, port, "microsocks", "-i", "127.0.0.1", "-p", str(port), *password):
        yield port


@contextlib.asynccontextmanager
async def dante(folder: Path, *, has_password: bool = False) -> AsyncIterator[int]:
    """Run a SOCKS 4 and 5 proxy, and return its port."""
    port = free_port()
    method = "username" if has_password else "none"
    config = folder / "danted.conf"
    config.write_text(
        "logoutput: stderr\n"
        f"internal: 127.0.0.1 port = {port}\n"
        "external: 127.0.0.1\n"
        "clientmethod: none\n"
        f"socksmethod: {method}\n"
        "client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }\n"
        "socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 }\n"
    )
    environment = _with_user(folder) if has_password else None
    pid_file = str(folder / "danted.pid")
    arguments = ("-f", str(config), "-p", pid_file)
    async with running(folder, port, "danted", *arguments, environment=environment):
        yield port


def _with_user(folder: Path) -> dict[str, str]:
    """Return an environment in which the system has one more user: `USER`."""
    passwords = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(f"{passwords}{USER}:x:4321:4321::/:/bin/false\n")
    shutil.copy("/etc/group", folder / "group")
    (folder / "shadow").write_text(f"{USER}:{_SHA_512}:19000:0:99999:7:::\n")
    return {
        "LD_PRELOAD": "libnss_wrapper.so",
        "NSS_WRAPPER_PASSWD": str(folder / "passwd"),
        "NSS_WRAPPER_GROUP": str(folder / "group"),
        "NSS_WRAPPER_SHADOW": str(folder / "shadow"),
    }


# -- servers


@contextlib.asynccontextmanager
async def nginx(folder: Path, server: str) -> AsyncIterator[int]:
    """Run a web server, and return its port.

    :param server: The contents of its block ``server``; ``PORT`` is its port.
    """
    port = free_port()
    config = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        "daemon off;\n"
        "master_process off;\n"
        f"pid {folder}/nginx.pid;\n"
        "error_log stderr;\n"
        "events {}\n"
        "http {\n"
        "access_log off;\n"
        "map $http_upgrade $connection_upgrade { default upgrade; '' close; }\n"
        f"{temporary}"
        f"server {{\n{server.replace('PORT', str(port))}\n}}\n"
        "}\n"
    )
    async with running(folder, port, "nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)):
        yield port
