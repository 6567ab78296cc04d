"""Protocols: ways of asking the same question, by likelihood or by generation."""

from typing import TYPE_CHECKING

from layerroles.lazy_names import lazy_getattr
from layerroles.protocols.base import PROTOCOLS as PROTOCOLS
from layerroles.protocols.base import Answer as Answer
from layerroles.protocols.base import Asked as Asked
from layerroles.protocols.base import Protocol as Protocol
from layerroles.protocols.base import Unit as Unit
from layerroles.protocols.base import protocol as protocol
from layerroles.protocols.base import register as register
from layerroles.protocols.chain_logprob import ChainLogprob as ChainLogprob
from layerroles.protocols.coherence_by_likelihood import WrittenText as WrittenText
from layerroles.protocols.coherence_by_likelihood import add_coherence as add_coherence
from layerroles.protocols.coherence_by_likelihood import find_written_texts as find_written_texts
from layerroles.protocols.coherence_by_likelihood import score_coherence as score_coherence
from layerroles.protocols.failure_modes import OUTCOMES as OUTCOMES
from layerroles.protocols.failure_modes import make_details as make_details
from layerroles.protocols.failure_modes import outcome as outcome
from layerroles.protocols.generation import Generation as Generation
from layerroles.protocols.generation import GenerationProtocol as GenerationProtocol
from layerroles.protocols.likelihood import AnswerLogprob as AnswerLogprob
from layerroles.protocols.likelihood import Continuation as Continuation
from layerroles.protocols.likelihood import Exact as Exact
from layerroles.protocols.likelihood import Letter as Letter
from layerroles.protocols.likelihood import LikelihoodProtocol as LikelihoodProtocol
from layerroles.protocols.prompt_format import Turn as Turn
from layerroles.protocols.text_logprob import TextLogprob as TextLogprob
from layerroles.protocols.thinking_parser import Reply as Reply
from layerroles.protocols.thinking_parser import opens_thinking as opens_thinking
from layerroles.protocols.thinking_parser import split_thinking as split_thinking

__all__ = [
    "OUTCOMES",
    "PROTOCOLS",
    "Answer",
    "AnswerLogprob",
    "Asked",
    "ChainLogprob",
    "Continuation",
    "Exact",
    "Generation",
    "GenerationProtocol",
    "Harness",
    "Letter",
    "LikelihoodProtocol",
    "Protocol",
    "TextLogprob",
    "Turn",
    "outcome",
    "protocol",
    "register",
]

# The harness's own protocol is imported when it is first used.
if TYPE_CHECKING:
    from layerroles.harness import Harness as Harness
else:
    __getattr__ = lazy_getattr(__name__)
