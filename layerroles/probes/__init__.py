"""Probes: measurements on a model, such as a logit lens, attention to evidence, and head scores."""

from importlib import import_module
from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr, modules_of_names

if TYPE_CHECKING:
    from layerroles.probes.answering_position import Batch as Batch
    from layerroles.probes.attention import Attention as Attention
    from layerroles.probes.attention import head_patterns as head_patterns
    from layerroles.probes.attribution import DirectAttribution as DirectAttribution
    from layerroles.probes.base import PROBES as PROBES
    from layerroles.probes.base import Probe as Probe
    from layerroles.probes.base import register as register
    from layerroles.probes.decision import Decision as Decision
    from layerroles.probes.emergence import decision_depths as decision_depths
    from layerroles.probes.emergence import depth_intervals as depth_intervals
    from layerroles.probes.emergence import emergence_depths as emergence_depths
    from layerroles.probes.emergence import find_lasting_layer as find_lasting_layer
    from layerroles.probes.emergence import median_bounds as median_bounds
    from layerroles.probes.heads import HeadScores as HeadScores
    from layerroles.probes.heads import RetrievalScore as RetrievalScore
    from layerroles.probes.lens import Lens as Lens
    from layerroles.probes.lens import LogitLens as LogitLens
    from layerroles.probes.read_probe_tables import group_by_probe as group_by_probe
    from layerroles.probes.read_probe_tables import read_saved as read_saved
    from layerroles.probes.read_probe_tables import select_one_condition as select_one_condition
    from layerroles.probes.save_probe_tables import measure_into as measure_into
    from layerroles.probes.similarity import Similarity as Similarity
    from layerroles.probes.similarity import least_change as least_change
    from layerroles.probes.tuned_lens import TunedLens as TunedLens

__all__ = [
    "PROBES",
    "Attention",
    "Batch",
    "Decision",
    "DirectAttribution",
    "HeadScores",
    "Lens",
    "LogitLens",
    "Probe",
    "RetrievalScore",
    "Similarity",
    "TunedLens",
    "decision_depths",
    "depth_intervals",
    "emergence_depths",
    "head_patterns",
    "least_change",
    "measure_into",
    "read_saved",
    "register",
]

if not TYPE_CHECKING:
    _import_name = lazy_getattr(__name__)

    def __getattr__(name: str) -> object:
        """Import a name when it is first used; the registry comes with all of its probes."""
        if name in ("PROBES", "register"):
            for module in modules_of_names(__name__).values():
                import_module(module)
        return _import_name(name)


def __dir__() -> list[str]:
    """Return the public names, including those not imported yet."""
    return list(__all__)
