"""Ways of asking the same question."""

from layerroles.protocols.base import PROTOCOLS as PROTOCOLS
from layerroles.protocols.base import Answer as Answer
from layerroles.protocols.base import Asked as Asked
from layerroles.protocols.base import GenerationProtocol as GenerationProtocol
from layerroles.protocols.base import LikelihoodProtocol as LikelihoodProtocol
from layerroles.protocols.base import Protocol as Protocol
from layerroles.protocols.base import register as register
from layerroles.protocols.generation import Generation as Generation
from layerroles.protocols.harness import Harness as Harness
from layerroles.protocols.likelihood import AnswerLogprob as AnswerLogprob
from layerroles.protocols.likelihood import Continuation as Continuation
from layerroles.protocols.likelihood import Letter as Letter
from layerroles.protocols.outcome import OUTCOMES as OUTCOMES
from layerroles.protocols.outcome import outcome as outcome
