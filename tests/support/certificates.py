"""An authority, and what it signs: real certificates, made by openssl for a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from atelier.tls import PeerFiles


class Authority:
    """Signs certificates for names such as URI:spiffe://example.org/a or IP:127.0.0.1."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl(
            "req", "-x509", *_NEW, "-subj", f"/CN={name}", "-out", self.certificate,
            "-keyout", self._key, "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def signed(self, name: str, *names: str) -> PeerFiles:
        """A certificate with these names, and its key; files of `name`, written anew."""
        asked, key = self._folder / f"{name}.csr", self._folder / f"{name}.key"
        certificate = self._folder / f"{name}.pem"
        subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={','.join(names)}"]
        _openssl("req", *_NEW, *subject, "-out", asked, "-keyout", key)
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key,
            "-days", "2", "-copy_extensions", "copy", "-out", certificate,
        )  # fmt: skip
        return PeerFiles(certificate, key, self.certificate)


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
