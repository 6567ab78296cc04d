"""Ablations, the conditions made of them, and how a model is run under a condition."""

from layerroles.ablations.base import ABLATIONS as ABLATIONS
from layerroles.ablations.base import Ablation as Ablation
from layerroles.ablations.base import EditContext as EditContext
from layerroles.ablations.base import Pass as Pass
from layerroles.ablations.base import ablation as ablation
from layerroles.ablations.builtin import *  # noqa: F403  (its `__all__` lists the names)
from layerroles.ablations.condition import INTACT as INTACT
from layerroles.ablations.condition import Condition as Condition
from layerroles.ablations.condition import Conditions as Conditions
from layerroles.ablations.condition import as_condition as as_condition
from layerroles.ablations.condition import as_conditions as as_conditions
from layerroles.ablations.cross_model_swap import Swap as Swap
from layerroles.ablations.grids import cumulative as cumulative
from layerroles.ablations.grids import each_head as each_head
from layerroles.ablations.grids import each_kv_group as each_kv_group
from layerroles.ablations.grids import each_layer as each_layer
from layerroles.ablations.grids import each_span as each_span
from layerroles.ablations.grids import pairs as pairs
from layerroles.ablations.grids import random_heads as random_heads
from layerroles.ablations.hooks import Applied as Applied
from layerroles.ablations.hooks import Edit as Edit
from layerroles.ablations.hooks import References as References
from layerroles.ablations.hooks import ablated as ablated
from layerroles.ablations.hooks import applied as applied
from layerroles.ablations.hooks import resolve_references as resolve_references
from layerroles.ablations.positions import At as At
from layerroles.ablations.reference_prompts import Reference as Reference
from layerroles.ablations.token_marks import Prompt as Prompt
from layerroles.ablations.write_statistics import SiteReference as SiteReference
from layerroles.ablations.write_statistics import pad_left as pad_left
