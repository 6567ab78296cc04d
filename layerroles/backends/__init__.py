"""Who answers what a sweep asks: this process, or workers of a Ray cluster."""

from layerroles.backends.base import Answering as Answering
from layerroles.backends.base import Backend as Backend
from layerroles.backends.base import Job as Job
from layerroles.backends.base import Part as Part
from layerroles.backends.base import Workers as Workers
from layerroles.backends.local import Local as Local
from layerroles.backends.local import backend as backend
from layerroles.backends.ray import Ray as Ray
