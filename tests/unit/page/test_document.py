"""The layers whose changed answers the report shows."""

import numpy as np
import pytest

from layerroles.page.document import _most_harmful
from layerroles.roles import localize
from tests.support.scripted_result import scripted_result


@pytest.mark.parametrize("spares_sink", [False, True])
def test_each_layer_is_shown_once_with_what_keeps_the_first_token(spares_sink: bool) -> None:
    """Layer 0 is skipped at two kinds of positions, and both hurt more than layers 1 and 2."""
    intact = np.ones(60)
    scores = {"intact": intact}
    for name, n_lost in (("L0", 50), ("L0 prompt", 45), ("L1", 30), ("L2", 20), ("L3", 15)):
        scores[f"skip {name}"] = np.where(np.arange(60) < n_lost, 0.0, 1.0)
    if spares_sink:
        scores["skip L2 after_first"] = scores["skip L2"]
    result = scripted_result({("retrieval", "generation"): scores}, n_layers=4)
    roles = localize(result, ablation="skip")
    rows = _most_harmful(result.effects(), roles, "retrieval", "generation")
    shown = list(zip(rows["layer"], rows["at"], strict=True))
    every = [(0, "all"), (1, "all"), (2, "all")]
    assert shown == ([(2, "after_first")] if spares_sink else every)
