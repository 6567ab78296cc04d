"""A site that is written is read back."""

from hypothesis import given
from hypothesis import strategies as st

from layerroles.sites import Site, Size, parse_sites

SITES = st.one_of(
    st.builds(Site, st.integers(0, 79), st.sampled_from(["block", "attn", "mlp", "stream"])),
    st.builds(Site, st.integers(0, 79), st.just("head"), st.integers(0, 63)),
    st.builds(Site, st.integers(0, 79), st.just("kv_group"), st.integers(0, 7)),
)


@given(st.lists(SITES, min_size=1, unique=True))
def test_sites_round_trip(sites: list[Site]) -> None:
    assert parse_sites(",".join(map(str, sites)), Size(80, 64, 8)) == sites
