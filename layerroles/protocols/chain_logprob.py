"""Measure reasoning without generation: how likely a given chain of thought is, step by step."""

import re
from dataclasses import dataclass
from typing import ClassVar

from layerroles.engine import Score
from layerroles.errors import InputError
from layerroles.protocols.base import Answer, Unit, register
from layerroles.protocols.likelihood import FewShotProtocol, make_measurement
from layerroles.protocols.prompt_format import Turn, turns_with_solutions
from layerroles.tasks import Example

# A step ends at the end of a line or a sentence.
_SEAM = re.compile(r"(?<=[.!?])(?=\s)|(?<=\S)(?=\s*\n)")


@register("chain_logprob")
@dataclass(frozen=True)
class ChainLogprob(FewShotProtocol):
    """Score the log-likelihood of the worked solution, in nats per token (0 at best).

    Each step is scored after the question and the steps before it.

    Example:
        >>> from layerroles.protocols import ChainLogprob
        >>> from layerroles.tasks import task
        >>> (example,) = task("word_problems", steps=1, num_fewshot=0).examples(limit=1, seed=0)
        >>> ChainLogprob().continuations(example)
        [' 10 + 7 = 17.', ' The answer is 17.']
    """

    unit: ClassVar[Unit] = "nats per token"

    def check(self, example: Example) -> None:
        """Check that the example has a worked solution.

        Raises:
            InputError: the example has no solution.
        """
        if not example.solution.strip():
            raise InputError(
                f"protocol 'chain_logprob' needs worked solutions, and example {example.id!r} has "
                f"none: use answer_logprob, or give the field 'solution'"
            )

    def turns(self, example: Example) -> list[Turn]:
        """Return the shots, with worked solutions if any, and the question as chat turns."""
        return turns_with_solutions(example)

    def continuations(self, example: Example) -> list[str]:
        """Return the steps of the solution, each with the white space before it."""
        return split_steps(example.solution)

    def pairs(self, example: Example, context: str, *, chat: bool) -> list[tuple[str, str]]:
        """Return (context, step) for each step; the context includes the steps before it.

        With `chat`, only the first step loses its leading space: the others continue a reply.
        """
        steps = self.continuations(example)
        if chat:
            steps[0] = steps[0].removeprefix(" ")
        return [(context + "".join(steps[:place]), step) for place, step in enumerate(steps)]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Score an example by the log-likelihood of its whole solution, in nats per token.

        Details: `steps`, the log-likelihood of each step in nats per token.
        """
        step_scores = [score.logprob / score.n_tokens for score in scores]
        nats, n_tokens = sum(s.logprob for s in scores), sum(s.n_tokens for s in scores)
        return make_measurement(nats / n_tokens, scores, {"steps": step_scores})


def split_steps(solution: str) -> list[str]:
    r"""Split a solution into steps at ends of lines and sentences.

    The joined steps are one space, then the solution without white space at its start and end.

    Example:
        >>> split_steps("2 + 3 = 5.\nThe answer is 5.")
        [' 2 + 3 = 5.', '\nThe answer is 5.']
    """
    first, *rest = _SEAM.split(solution.strip())
    return [f" {first}", *rest]
