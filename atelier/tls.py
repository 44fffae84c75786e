"""TLS of a server: its certificate, read anew when the file changes, without a restart."""

from __future__ import annotations

from pathlib import Path

import grpc
import structlog

log = structlog.get_logger()


class CertificateFiles:
    """A certificate's chain and its private key, as PEM; and whose certificates callers may show.

    Whoever renews them replaces the files; the next connection gets the new ones, those that stand
    go on. Files that cannot be read, or do not belong together, leave what was there before.

    Args:
        authority: certificates of those that callers' own are signed by; None: callers need none.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path | None = None) -> None:
        self._paths = [key, certificate, *([authority] if authority else [])]
        self._seen = self._stamps()

    def credentials(self) -> grpc.ServerCredentials:
        """For a server's port.

        Raises:
            OSError: a file cannot be read.
        """
        mutual = len(self._paths) == 3
        return grpc.dynamic_ssl_server_credentials(
            self._read(), self._if_changed, require_client_authentication=mutual
        )

    def _if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC for every connection, from a thread of its own; None: as before."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            configuration = self._read()
        except OSError as error:
            log.warning("certificate cannot be read, the one before stays", error=str(error))
            return None
        self._seen = stamps
        log.info("certificate changed", path=str(self._paths[1]))
        return configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        key, certificate, *authority = (path.read_bytes() for path in self._paths)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], *authority)

    def _stamps(self) -> list[tuple[int, int]]:
        return [(stat.st_mtime_ns, stat.st_ino) for stat in map(Path.stat, self._paths)]
