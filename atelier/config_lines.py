"""Configuration that all parts share: logs, where they listen, and the lines between them.

Part of `config`, which has the rest and says what holds for all of it.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach HOST:PORT."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, whoever it stands for
        return False


def _loopback(address: str) -> str:
    if not is_loopback(address):
        raise ValueError(
            f"{address} is not loopback, and this port knows nobody: use 127.0.0.1:PORT; only"
            " gateway and scheduler listen to others, with TLS, and know their callers"
        )
    return address


def _addresses(text: str) -> str:
    """gRPC takes several addresses as numbers only."""
    if "," in text:
        for address in text.split(","):
            try:
                ipaddress.IPv4Address(address.rpartition(":")[0])
            except ValueError:
                raise ValueError(
                    f"{address}: of several addresses each must be IPv4:PORT, such as"
                    " 10.0.0.1:7000,10.0.0.2:7000; a name that resolves to all of them will do too"
                ) from None
    return text


Addresses = Annotated[str, AfterValidator(_addresses)]
LoopbackAddress = Annotated[str, AfterValidator(_loopback)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ATELIER_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # passwords and keys are among it
    )

    log_level: str = "info"
    log_format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal


T = TypeVar("T", bound=Settings)


def from_environment(kind: type[T], part: str) -> T:
    """A part's settings. What is wrong with them is told on standard error by their names, never
    with their values, and ends the process."""
    try:
        return kind()
    except ValidationError as error:
        for line in faults(error):
            sys.stderr.write(f"{part}: {line}\n")
        sys.exit(2)


def faults(error: ValidationError) -> list[str]:
    """What is wrong, a line each; never a value."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        name = ".".join(map(str, fault["loc"])).upper()
        told = fault["msg"].removeprefix("Value error, ")
        lines.append(f"ATELIER_{name}: {told}" if name else told)
    return lines


class PeerSettings(Settings):
    """Of the lines between gateway, agent and scheduler: what this part shows the others."""

    # PEM files, read anew when they change: its own certificate, and those that all parts' are
    # signed by. Without them lines are plain, and stay on loopback.
    peer_certificate: Path | None = None
    peer_key: Path | None = None
    peer_authority: Path | None = None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = [self.peer_certificate, self.peer_key, self.peer_authority]
        if any(given) and not all(given):
            raise ValueError(
                "ATELIER_PEER_CERTIFICATE, ATELIER_PEER_KEY and ATELIER_PEER_AUTHORITY: give all,"
                " or none"
            )
        return self


class LineSettings(PeerSettings):
    """Of who speaks to the scheduler."""

    scheduler_address: Addresses
    # That its certificate must have; empty: the address's host. Of several addresses one name.
    scheduler_name: str = ""

    @model_validator(mode="after")
    def _nobody_listens_in(self) -> Self:
        addresses = self.scheduler_address.split(",")
        if self.peer_certificate:
            if len(addresses) > 1 and not self.scheduler_name:
                raise ValueError(
                    "ATELIER_SCHEDULER_NAME: of several addresses say which name the certificates"
                    " of all of them have"
                )
        elif far := [address for address in addresses if not is_loopback(address)]:
            raise ValueError(
                f"{far[0]} is not loopback: prompts and pictures would go there in clear, to"
                " whoever answers; set ATELIER_PEER_CERTIFICATE, _KEY and _AUTHORITY, or go by a"
                " tunnel"
            )
        return self


class CallerSettings(Settings):
    """Of who calls a gateway: the `atelier` commands."""

    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None  # goes before api_key
    # PEM files: whose certificates a gateway's must lead to (None: as this machine does), and the
    # caller's own.
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError(
                "ATELIER_CLIENT_CERTIFICATE and ATELIER_CLIENT_KEY: give both, or none"
            )
        return self
