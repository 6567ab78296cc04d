"""Backends that answer the requests of a sweep: this process, or workers of a Ray cluster."""

from layerroles.backends.base import Backend as Backend
from layerroles.backends.base import Job as Job
from layerroles.backends.base import JobPart as JobPart
from layerroles.backends.base import OpenBackend as OpenBackend
from layerroles.backends.base import Workers as Workers
from layerroles.backends.local import Local as Local
from layerroles.backends.local import make_backend as make_backend
from layerroles.backends.ray import Ray as Ray
