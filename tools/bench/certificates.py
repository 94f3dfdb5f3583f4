"""Certificates for TLS on this machine, into a folder: it runs where trustme is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import trustme


def main(folder: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
