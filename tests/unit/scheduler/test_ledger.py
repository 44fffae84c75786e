"""Memory that is not given back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.ledger import Ledger

GIB = float(2**30)
TOTAL = 24 * GIB
WEIGHTS = {"text": 1.0, "denoiser": 3.0}
ALL = ["text", "denoiser"]


def sampled(ledger: Ledger, *used: float, running: str = "") -> list[bool]:
    return [
        ledger.sampled(u * GIB, TOTAL, moving=False, running=frozenset(running.split()))
        for u in used
    ]


def leaked(took: float, gave: float) -> Ledger:
    ledger = Ledger()
    ledger.loaded(ALL, took * GIB, WEIGHTS)
    ledger.unloaded(ALL, gave * GIB)
    return ledger


def test_what_is_given_back_is_not_owed() -> None:
    ledger = leaked(8, 8)
    assert ledger.owed == 0
    assert sampled(ledger, 1, 1, 1) == [False] * 3


def test_two_samples_tell_that_memory_is_kept() -> None:
    """The first may have been taken before the unload had ended."""
    assert sampled(leaked(8, 6), 3, 3, 3) == [False, False, True]


def test_memory_that_comes_late_is_taken_off() -> None:
    ledger = leaked(8, 6)
    assert sampled(ledger, 3, 3, 1, 1, 1) == [False] * 5
    assert ledger.owed == 0


def test_small_change_is_let_be_and_added_up() -> None:
    ledger = leaked(8, 7.5)  # 2.5 % of 24 GiB are 0.6
    assert sampled(ledger, 1, 1, 1) == [False] * 3
    ledger.loaded(ALL, 8 * GIB, WEIGHTS)
    ledger.unloaded(ALL, 7.5 * GIB)
    assert sampled(ledger, 2, 2, 2)[-1]


def test_shared_components_are_owed_when_they_go() -> None:
    ledger = Ledger()
    ledger.loaded(ALL, 8 * GIB, WEIGHTS)
    ledger.loaded(["other"], 4 * GIB, {"text": 1.0, "other": 2.0})
    ledger.unloaded(["denoiser"], 6 * GIB)  # three quarters of 8: all that it took
    assert ledger.owed == 0
    ledger.unloaded(["text", "other"], 5 * GIB)  # of 2 and 4
    assert ledger.owed == GIB


def test_engines_that_grew_give_more_back_than_was_taken() -> None:
    assert leaked(8, 11).owed == 0


def test_what_was_never_measured_proves_nothing() -> None:
    ledger = Ledger()
    ledger.unloaded(ALL, 0)
    ledger.loaded(ALL, 0, WEIGHTS)
    ledger.unloaded(ALL, 0)
    ledger.loaded(ALL, 8 * GIB, {})
    ledger.unloaded(ALL, 0)
    ledger.loaded(ALL, 8 * GIB, WEIGHTS)
    ledger.unloaded(ALL, None)
    assert ledger.owed == 0


def test_nothing_at_all_is_given_back() -> None:
    assert leaked(8, 0).owed == 8 * GIB


def test_nothing_is_said_while_something_moves() -> None:
    ledger = leaked(8, 6)
    for _ in range(5):
        assert not ledger.sampled(3 * GIB, TOTAL, moving=True, running=frozenset())
    assert sampled(ledger, 3, 3, 3)[-1]


def test_a_batch_that_ends_gives_nothing_back_of_what_is_owed() -> None:
    ledger = leaked(8, 6)
    sampled(ledger, 9, 9, running="a")
    sampled(ledger, 4)
    assert ledger.owed == 2 * GIB


SIZES = {"text": 2 * GIB, "vae": 1 * GIB, "red": 9 * GIB, "blue": 5 * GIB}
CARDS = {"red": ["text", "red", "vae"], "blue": ["text", "blue", "vae"]}


@given(
    orders=st.lists(st.sampled_from(["red", "blue"]), max_size=40),
    leak=st.sampled_from([0.0, 0.31 * GIB]),
    true_size=st.floats(0.3, 3.0),
)
def test_who_leaks_is_found_and_nobody_else(
    orders: list[str], leak: float, true_size: float
) -> None:
    """Models that share parts come and go; cards that are wrong accuse nobody."""
    ledger, there, kept = Ledger(), list[str](), 0.0
    found = False
    for model in orders:
        if model not in there:
            held = {part for m in there for part in CARDS[m]}
            came = [part for part in CARDS[model] if part not in held]
            ledger.loaded(came, sum(SIZES[p] for p in came) * true_size, SIZES)
            there.append(model)
        else:
            there.remove(model)
            held = {part for m in there for part in CARDS[m]}
            went = [part for part in CARDS[model] if part not in held]
            ledger.unloaded(went, sum(SIZES[p] for p in went) * true_size - leak * len(went))
            kept += leak * len(went)
        used = sum(SIZES[p] for p in {p for m in there for p in CARDS[m]}) * true_size + kept
        for _ in range(3):
            found = ledger.sampled(used, 2 * TOTAL, moving=False, running=frozenset())
    assert abs(ledger.owed - kept) < 1e-3 * GIB
    assert found == (kept > 0.025 * 2 * TOTAL)


def test_a_new_process_owes_nothing() -> None:
    ledger = leaked(8, 2)
    ledger.restarted()
    assert sampled(ledger, 1, 1, 1) == [False] * 3
