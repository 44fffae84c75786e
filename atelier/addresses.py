"""Where we may be sent to by callers: which URLs, and which addresses their names may have. Pure.

Addresses are judged by the tables below, not by properties of `ipaddress`: there
64:ff9b::7f00:1 (NAT64 of 127.0.0.1), 2002:7f00:1:: (6to4) and fec0::1 are "global". Of IPv6 only
2000::/3 is public, less what is reserved in it, so whatever embeds an IPv4 address is not.

Everything that is wrong has one text: who tries addresses learns nothing of what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2_048
DEFAULT_PORTS = (443, 8443)
_SCHEME_PORTS = {"http": 80, "https": 443}

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # private
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, where clouds tell secrets
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation
        "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24",  # AS112, AMT
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",  # benchmarks
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)  # fmt: skip
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
    )
)  # fmt: skip


class RefusedError(Exception):
    """We go there for nobody."""


@dataclass(frozen=True)
class Target:
    """Where a URL leads. `host` is in ASCII and lower case, an IPv6 address without brackets;
    `path` begins with a slash and has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _SCHEME_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True)
class Rules:
    """What is allowed beyond https to public addresses.

    Attributes:
        networks: that are allowed though they are not public; literals of them, too.
        ports: empty: any.
        plain_http: whether http will do.
    """

    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = DEFAULT_PORTS
    plain_http: bool = False

    @property
    def refusal(self) -> str:
        """What is said of all that is refused."""
        schemes = "http or https" if self.plain_http else "https"
        ports = f", on port {' or '.join(map(str, self.ports))}" if self.ports else ""
        return (
            f"must be a URL with {schemes} and the name of a host{ports}, at most"
            f" {MAX_URL_CHARACTERS} characters, without user, password or fragment; every address"
            " of the host must be public, or of a network that the operator allows"
        )

    def target(self, url: str) -> Target:
        """Read a URL; nobody is asked yet what addresses its host has.

        Raises:
            RefusedError: it is none that may be asked.
        """
        # Readers of URLs differ about what these mean: there must be nothing to differ about.
        if len(url) > MAX_URL_CHARACTERS or any(c <= " " or c in "\\#\x7f" for c in url):
            raise RefusedError
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise RefusedError from None
        scheme = parts.scheme
        if scheme not in (("https", "http") if self.plain_http else ("https",)):
            raise RefusedError
        port = _SCHEME_PORTS[scheme] if port is None else port
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if (
            "@" in parts.netloc
            or not path.isascii()
            or not port
            or (self.ports and port not in self.ports)
        ):
            raise RefusedError
        return Target(scheme, self._host(host), port, path)

    def check(self, addresses: Iterable[str]) -> None:
        """All of a host's addresses, or of those that it has one.

        Raises:
            RefusedError: there is none, or not all are allowed.
        """
        found = list(addresses)
        if not found or not all(self._allows(address) for address in found):
            raise RefusedError

    def _host(self, host: str) -> str:
        """In the form that is looked up and told to the server."""
        literal = _literal(host)
        if literal is not None:
            if not self._in_networks(literal):
                raise RefusedError
            return str(literal)
        try:
            name = host.rstrip(".") if host.isascii() else host.encode("idna").decode("ascii")
        except UnicodeError:
            raise RefusedError from None
        labels = name.lower().split(".")
        # The last label tells numbers that resolvers take for addresses: 2130706433, 0x7f.1, 127.1.
        if (
            len(name) > 253
            or not all(_is_label(label) for label in labels)
            or labels[-1][0].isdigit()
        ):
            raise RefusedError
        return ".".join(labels)

    def _allows(self, text: str) -> bool:
        address = _literal(text)
        return address is not None and (is_public(address) or self._in_networks(address))

    def _in_networks(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether it is somebody's in the internet, and nothing of ours or beside us."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) < 64 and plain.isalnum() and plain.isascii() and label[0] != "-"
