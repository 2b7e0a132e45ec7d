"""Certificates that tests make: an authority of their own, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def authority(folder: Path, **hosts: str) -> Path:
    """`ca.pem` and `ca.key` in a folder; of each name a `.pem` and a `.key` for a host (`IP:127.0.0.1`)."""
    files = ("-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    openssl(folder, "req", "-x509", *EC, *files, "-subj", "/CN=ca")
    for name, host in hosts.items():
        asked = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
        openssl(folder, "req", *EC, "-keyout", f"{name}.key", "-out", f"{name}.csr", *asked)
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", "2", "-out", f"{name}.pem")
    return folder
