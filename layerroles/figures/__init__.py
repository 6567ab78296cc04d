"""Figures: draw sweep results, roles and probe frames with plotly.

Drawing functions take a sweep's result or a probe frame (the table that a probe's `measure`
returns) and return a figure on white, with titles, units, intervals and the number of examples;
`themed(figure, "dark")` changes the look. Layers and heads are 0-based. For a paper: `every`
returns all figures of a run, `paper` lays out one figure at its final size, `save` writes PDF, SVG
or PNG with captions, `caption` returns the caption alone.
"""

from layerroles.figures.answers_spent import answers_spent as answers_spent
from layerroles.figures.attention_patterns import attention_pattern as attention_pattern
from layerroles.figures.attention_to_evidence import attention_map as attention_map
from layerroles.figures.catalogue import PROBES_DRAWN as PROBES_DRAWN
from layerroles.figures.catalogue import every as every
from layerroles.figures.catalogue import iter_drawings as iter_drawings
from layerroles.figures.catalogue import localize_all as localize_all
from layerroles.figures.decision_margin import decision_margin as decision_margin
from layerroles.figures.depth_contrasts import depth_contrasts as depth_contrasts
from layerroles.figures.depth_profile import depth_profile as depth_profile
from layerroles.figures.direct_against_total import direct_against_total as direct_against_total
from layerroles.figures.harm_and_probes import role_map as role_map
from layerroles.figures.harm_map import harm_map as harm_map
from layerroles.figures.harm_map import saturation as saturation
from layerroles.figures.harm_map import why_undefined as why_undefined
from layerroles.figures.harm_profiles import harm_profiles as harm_profiles
from layerroles.figures.head_harms import head_harms as head_harms
from layerroles.figures.head_map import head_map as head_map
from layerroles.figures.lens import lens_trajectories as lens_trajectories
from layerroles.figures.lens_token_table import token_table as token_table
from layerroles.figures.outcome_profile import outcome_profile as outcome_profile
from layerroles.figures.pair_excess import pair_excess as pair_excess
from layerroles.figures.print.captions import caption as caption
from layerroles.figures.print.files import check_formats as check_formats
from layerroles.figures.print.files import save as save
from layerroles.figures.print.screen_to_print import paper as paper
from layerroles.figures.print.screen_to_print import parse_width as parse_width
from layerroles.figures.protocols import likelihood_hides as likelihood_hides
from layerroles.figures.protocols import protocols as protocols
from layerroles.figures.pruned_harm import pruned_harm as pruned_harm
from layerroles.figures.similarity import influence_profile as influence_profile
from layerroles.figures.similarity import similarity_triangle as similarity_triangle
from layerroles.figures.style import themed as themed

__all__ = [
    "answers_spent",
    "attention_map",
    "attention_pattern",
    "caption",
    "decision_margin",
    "depth_contrasts",
    "depth_profile",
    "direct_against_total",
    "every",
    "harm_map",
    "harm_profiles",
    "head_harms",
    "head_map",
    "influence_profile",
    "lens_trajectories",
    "likelihood_hides",
    "outcome_profile",
    "pair_excess",
    "paper",
    "protocols",
    "pruned_harm",
    "role_map",
    "save",
    "similarity_triangle",
    "themed",
    "token_table",
]
