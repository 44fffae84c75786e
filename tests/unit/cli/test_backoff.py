from atelier.embedded.backoff import Backoff


def test_delay_doubles_to_its_limit() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_minute_of_health_forgives() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(1.0)
    assert backoff.after(60.0) == 0.5
    assert backoff.after(59.0) == 1.0


def test_it_never_overflows() -> None:
    backoff = Backoff(failures=10_000)
    assert backoff.after(0.0) == 30.0
