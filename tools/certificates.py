"""Make certificates for TLS on this machine, in a folder. Needs trustme."""

from __future__ import annotations

import sys
from pathlib import Path

import trustme


def make(folder: Path) -> None:
    """Write ca.pem and server.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
