"""TLS of servers, and of lines between our own parts: certificates are read anew when their files
change, without a restart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from atelier.config_lines import PeerSettings

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
        return _stamps(self._paths)


@dataclass(frozen=True)
class PeerFiles:
    """What a part of ours shows the others, and whose certificates it trusts. PEM."""

    certificate: Path
    key: Path
    authority: Path

    def of_server(self) -> grpc.ServerCredentials:
        """For a port that only parts of ours speak to.

        Raises:
            OSError: a file cannot be read.
        """
        return CertificateFiles(self.certificate, self.key, self.authority).credentials()

    def of_client(self) -> grpc.ChannelCredentials:
        """For a channel, as the files are now.

        Raises:
            OSError: a file cannot be read, or certificate and key do not belong together.
        """
        ssl.create_default_context().load_cert_chain(self.certificate, self.key)
        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )

    def stamps(self) -> list[tuple[int, int]]:
        """Differ when a file has changed.

        Raises:
            OSError: one is not there.
        """
        return _stamps([self.certificate, self.key, self.authority])


def peers_of(settings: PeerSettings) -> PeerFiles | None:
    """What a part shows the others; None where lines are plain."""
    if not (settings.peer_certificate and settings.peer_key and settings.peer_authority):
        return None
    return PeerFiles(settings.peer_certificate, settings.peer_key, settings.peer_authority)


def _stamps(paths: list[Path]) -> list[tuple[int, int]]:
    return [(stat.st_mtime_ns, stat.st_ino) for stat in map(Path.stat, paths)]
