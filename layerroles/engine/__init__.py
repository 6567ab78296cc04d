"""The same requests under many conditions."""

from layerroles.engine.ask import Engine as Engine
from layerroles.engine.ask import LogLikelihoods as LogLikelihoods
from layerroles.engine.requests import Score as Score
from layerroles.engine.requests import Scored as Scored
from layerroles.engine.requests import Writing as Writing
from layerroles.engine.requests import Written as Written
from layerroles.engine.requests import prefix_ids as prefix_ids
from layerroles.engine.requests import scored as scored
from layerroles.engine.requests import written as written
