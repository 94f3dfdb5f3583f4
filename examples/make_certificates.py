"""Make certificates for tests: a new CA, and a server certificate that it signs.

    python -m pip install trustme
    python examples/make_certificates.py                   # into the folder certificates/

The server certificate is valid for localhost, 127.0.0.1 and ::1. Use it for tests only. The script
discards the CA's private key. Only a client that is started with `--ca` should trust the CA.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

try:
    import trustme
except ImportError:
    sys.exit("This script needs trustme. Install it with: python -m pip install trustme")


def write_private(path: Path, pem: bytes) -> None:
    """Write a file with a private key, which only its owner can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make test certificates for localhost.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("certificates"), help="default: %(default)s"
    )
    folder: Path = parser.parse_args().folder
    ca = trustme.CA()
    server = ca.issue_cert("localhost", "127.0.0.1", "::1")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_private(folder / "server.pem", server.private_key_and_cert_chain_pem.bytes())
        (folder / "ca.pem").write_bytes(ca.cert_pem.bytes())
    except OSError as error:
        print(f"Can't write the certificates: {error}", file=sys.stderr)
        return 1
    print(f"{folder / 'server.pem'}: for the server, private key and certificate")
    print(f"{folder / 'ca.pem'}: for clients, the CA certificate to trust")
    print(f"Try: python examples/echo_server.py --tls {folder}")
    print(f"and: python examples/client.py wss://localhost:8000 --ca {folder / 'ca.pem'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
