"""A site that is written is read back."""

from hypothesis import given
from hypothesis import strategies as st

from layerroles.sites import Site, parse_sites

SITES = st.one_of(
    st.builds(Site, st.integers(0, 79), st.sampled_from(["block", "attn", "mlp"])),
    st.builds(
        lambda layer, head: Site(layer, "head", head), st.integers(0, 79), st.integers(0, 63)
    ),
)


@given(st.lists(SITES, min_size=1, unique=True))
def test_sites_round_trip(sites: list[Site]) -> None:
    assert parse_sites(",".join(map(str, sites)), n_layers=80, n_heads=64) == sites
