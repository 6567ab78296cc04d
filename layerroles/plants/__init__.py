"""Models with weights set by hand, whose layers have known roles, to check verdicts about roles.

A planted model is a small transformer that looks up keys in its prompt, follows a chain of two
look-ups, and recalls facts. The caller chooses the layers for each of these. Nothing is trained. So
a verdict about roles, such as that of `localize`, can be compared with the truth.

    made = planted(n_layers=8, retrieval=(1, 2), reasoning=(5,), knowledge=(3,), inert=(6,))
    sweep = Sweep(made.model, made.tasks, each_layer(made.model, Skip()), limit=96)
    print(localize(sweep.run("runs/planted")).verdict, made.truth)

How it works: see `layerroles.plants.wiring`.
"""

from layerroles.plants.planted_model import Plant as Plant
from layerroles.plants.planted_model import planted as planted
from layerroles.plants.questions import Chain as Chain
from layerroles.plants.questions import Echo as Echo
from layerroles.plants.questions import Fact as Fact
from layerroles.plants.questions import LookUp as LookUp
