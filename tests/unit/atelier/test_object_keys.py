"""Keys: one folder for each tenant, whatever it is called, and nobody reads another's."""

from hypothesis import given
from hypothesis import strategies as st

from atelier.object_keys import (
    checkpoint_key,
    generation_of,
    in_secondary,
    input_key,
    is_own,
    names_secondary,
    result_key,
)

TENANTS = st.text(min_size=1, max_size=12) | st.sampled_from(["a", "ab", "..", ".", "a/b", "%2E"])
DIGEST = "0" * 64
ID = "01920000-0000-7000-8000-000000000000"


@given(TENANTS, TENANTS)
def test_a_tenant_has_its_own_and_no_others(tenant: str, other: str) -> None:
    for key in (input_key(other, DIGEST, "png"), result_key(other, ID, 3, "0.small.jpg")):
        assert is_own(tenant, key) == (tenant == other)


@given(TENANTS)
def test_checkpoints_are_nobodys_to_read(tenant: str) -> None:
    assert not is_own(tenant, checkpoint_key(tenant, ID))


@given(TENANTS)
def test_a_tenant_is_one_folder(tenant: str) -> None:
    for key in (input_key(tenant, DIGEST, "png"), result_key(tenant, ID, 3, "0.png")):
        folders = key.split("/")
        assert len(folders) in (3, 5)
        assert not any(folder in ("", ".", "..") for folder in folders)


def test_ways_out_of_the_folder() -> None:
    good = "results/a/x/1/0.png"
    assert is_own("a", good)
    for key in (
        "results/ab/x/1/0.png",
        "results/a/../ab/x/1/0.png",
        "results/a/./x",
        "results/a//x",
        "results/a/",
        "results/a",
        "/" + good,
        good + "/",
        good + "\n",
        good + "\0",
        "results/a/x?versionId=1",
        "results/a/%2E%2E/b",
        "results/a/x\\..\\..\\b",
        "results/A/x/1/0.png",
        "checkpoints/a/x",
        "inputs/b/x.png",
        "results/a/" + "x" * 1_024,
        "",
    ):
        assert not is_own("a", key), key


@given(TENANTS, st.sampled_from(["0.png", "0.small.jpg", "12.mp4"]))
def test_a_result_says_that_it_went_into_the_secondary_and_is_its_tenants_still(
    tenant: str, name: str
) -> None:
    key = result_key(tenant, ID, 3, name)
    there = in_secondary(key)
    assert (names_secondary(key), names_secondary(there)) == (False, True)
    assert in_secondary(there) == there
    assert is_own(tenant, there)
    assert generation_of(key) == generation_of(there) == ID


@given(TENANTS | st.just("secondary"))
def test_nothing_else_has_a_name_of_its_own_there(tenant: str) -> None:
    for key in (input_key(tenant, DIGEST, "png"), checkpoint_key(tenant, ID)):
        assert in_secondary(key) == key
        assert not names_secondary(key)


@given(TENANTS)
def test_whose_it_is(tenant: str) -> None:
    assert generation_of(checkpoint_key(tenant, ID)) == ID
    assert generation_of(input_key(tenant, ID, "png")) == ""
    for key in ("", "results", "results/a", "results/a/b", f"other/a/{ID}/1/0.png", "results//"):
        assert generation_of(key) == ""
