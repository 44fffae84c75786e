from pathlib import Path
from random import Random

import pytest

from atelier.embedded.part import PartError
from atelier.embedded.ports import RANGE, PortBook, share_of


def book(path: Path, *, seed: int = 1, taken: set[int] | None = None) -> PortBook:
    return PortBook(path / "ports.json", Random(seed), lambda port: port not in (taken or set()))


def test_a_port_is_remembered(tmp_path: Path) -> None:
    first = book(tmp_path)
    port = first.take("gateway")
    first.save()
    assert port in RANGE
    assert book(tmp_path, seed=2).take("gateway") == port


def test_nothing_is_remembered_that_was_not_saved(tmp_path: Path) -> None:
    book(tmp_path).take("gateway")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_somebody_took_is_replaced(tmp_path: Path) -> None:
    first = book(tmp_path)
    port = first.take("gateway")
    first.save()
    assert book(tmp_path, taken={port}).take("gateway") != port


def test_parts_never_share_a_port(tmp_path: Path) -> None:
    ports = book(tmp_path)
    names = [str(index) for index in range(200)]
    assert len({ports.take(name) for name in names}) == len(names)


def test_a_wanted_port_is_taken_or_refused(tmp_path: Path) -> None:
    assert book(tmp_path).take("gateway", 4711) == 4711
    with pytest.raises(PartError, match="port 4711 is taken"):
        book(tmp_path, taken={4711}).take("gateway", 4711)


def test_a_wanted_port_that_another_part_has_is_refused(tmp_path: Path) -> None:
    ports = book(tmp_path)
    taken = ports.take("postgres")
    with pytest.raises(PartError, match=f"port {taken} is taken"):
        ports.take("gateway", taken)
    assert ports.take("postgres", taken) == taken


@pytest.mark.parametrize("text", ["", '{"gate', "[]", '{"gateway": null}', "\x00"])
def test_a_file_that_makes_no_sense_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    ports = book(tmp_path)
    port = ports.take("gateway")
    ports.save()
    assert book(tmp_path, seed=2).take("gateway") == port
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]  # nothing half written


def test_no_port_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PartError, match="no free port"):
        PortBook(tmp_path / "ports.json", Random(1), lambda port: False).take("gateway")


def test_those_that_start_at_once_look_in_different_places(tmp_path: Path) -> None:
    shares = [share_of(pid) for pid in range(4_000, 4_016)]
    assert all(port in RANGE for share in shares for port in (share[0], share[-1]))
    assert len({port for share in shares for port in share}) == sum(map(len, shares))
    book = PortBook(tmp_path / "ports.json", Random(1), lambda port: True, shares[3])
    assert all(book.take(f"part {n}") in shares[3] for n in range(14))


def test_who_finds_nothing_there_looks_elsewhere(tmp_path: Path) -> None:
    share = share_of(1)
    book = PortBook(tmp_path / "ports.json", Random(1), lambda port: port not in share, share)
    assert book.take("gateway") in RANGE
