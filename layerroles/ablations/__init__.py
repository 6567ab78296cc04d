"""What can be done to a site, and how it is put in place."""

from layerroles.ablations.apply import Applied as Applied
from layerroles.ablations.apply import Edit as Edit
from layerroles.ablations.apply import References as References
from layerroles.ablations.apply import ablated as ablated
from layerroles.ablations.apply import applied as applied
from layerroles.ablations.apply import resolve as resolve
from layerroles.ablations.base import ABLATIONS as ABLATIONS
from layerroles.ablations.base import Ablation as Ablation
from layerroles.ablations.base import EditContext as EditContext
from layerroles.ablations.base import Pass as Pass
from layerroles.ablations.base import ablation as ablation
from layerroles.ablations.condition import ATS as ATS
from layerroles.ablations.condition import INTACT as INTACT
from layerroles.ablations.condition import At as At
from layerroles.ablations.condition import Condition as Condition
from layerroles.ablations.grids import each_head as each_head
from layerroles.ablations.grids import each_layer as each_layer
from layerroles.ablations.grids import each_span as each_span
from layerroles.ablations.mean import Mean as Mean
from layerroles.ablations.reference import Reference as Reference
from layerroles.ablations.reference import SiteReference as SiteReference
from layerroles.ablations.simple import Skip as Skip
from layerroles.ablations.simple import Zero as Zero
