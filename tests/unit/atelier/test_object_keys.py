"""Keys: one folder for each tenant, whatever it is called, and nobody reads another's."""

from hypothesis import given
from hypothesis import strategies as st

from atelier.object_keys import checkpoint_key, input_key, is_own, result_key

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
