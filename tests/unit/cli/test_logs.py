from datetime import UTC, datetime
from pathlib import Path

from atelier.embedded.logs import LARGE_BYTES, open_log, tail

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_log_is_appended_to_with_a_banner(tmp_path: Path) -> None:
    path = tmp_path / "s3.log"
    for line in (b"first\n", b"second\n"):
        with open_log(path, "start of s3", NOW) as log:
            log.write(line)
    assert path.read_text().count("==== 2026-01-02T03:04:05+00:00 start of s3 ====") == 2
    assert tail(path, 3).splitlines()[-1] == "second"
    assert "first" in path.read_text()


def test_a_large_log_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "s3.log"
    path.write_bytes(b"x" * (LARGE_BYTES + 1))
    open_log(path, "start of s3", NOW).close()
    assert path.stat().st_size < 100
    assert (tmp_path / "s3.log.1").stat().st_size == LARGE_BYTES + 1


def test_no_log_is_said(tmp_path: Path) -> None:
    assert tail(tmp_path / "none.log").startswith("(no log:")
