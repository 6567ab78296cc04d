"""Make reference prompts from documents of an lm-eval task that are never asked.

If a task names a split other than the one that is asked (for worked examples, training or
validation), the prompts are made from documents of that split. Otherwise the last documents in the
order of asking are reserved for them. The worked examples in these prompts are never documents that
are asked. A member is lm-eval's object of a single task, or of one task of a group.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerroles.harness.task_loading import raising_input_errors, silence_lm_eval

_RESERVED, _SHARE = 64, 5
# At most this many documents of a split are considered as worked examples.
_MOST_TRIED = 256


def find_other_split(member: Any) -> str | None:
    """Return a split for reference prompts; None if the task names only the split that is asked."""
    config, shots = member.config, member.fewshot_cfg.split
    asked = config.test_split or config.validation_split
    splits = (shots, config.training_split, config.validation_split)
    return next((split for split in splits if split is not None and split != asked), None)


def count_reserved(member: Any, n_members: int) -> int:
    """Return how many documents of one task in an lm-eval group are reserved, and so never asked.

    The group has `n_members` tasks. The number is 64 divided by `n_members`, rounded up, but at
    most a fifth of the task's documents; 0 if another split provides the reference prompts.
    """
    if find_other_split(member) is not None:
        return 0
    return min(-(-_RESERVED // n_members), len(member.eval_docs) // _SHARE)


def make_prompts(member: Any, asked: Sequence[int], limit: int, seed: int) -> list[str]:
    """Return up to `limit` prompts with worked examples, without any document that is asked.

    A prompt has fewer worked examples if too few documents are left for them.

    Args:
        member: lm-eval's task object.
        asked: the indices of the documents that may be asked, in the order of asking.
        limit: the maximum number of prompts.
        seed: draws the documents and their worked examples.
    """
    shots = member.config.num_fewshot or 0
    docs, places = member.eval_docs, set(asked)
    with (
        silence_lm_eval(),
        raising_input_errors(
            member.task_name, f"cannot make its prompts, with {shots} worked examples"
        ),
    ):
        asked_questions = {_find_question(member, docs[place]) for place in asked}
        reserve = [place for place in range(len(docs)) if place not in places]
        rng = random.Random(f"{member.task_name}:{seed}:reference")
        source = docs if find_other_split(member) is None else _load_other_docs(member)
        drawn = reserve if source is docs else list(range(len(source)))
        order = rng.sample(drawn, len(drawn))
        chosen = list(
            _pick_unasked(member, (source[place] for place in order), asked_questions, limit)
        )
        pool = _pick_shots(member, asked_questions, rng) if shots else []
        contexts = []
        for doc in chosen:
            others = [other for other in pool if other != doc]
            with _replace_shots(member, others, doc, rng):
                n_shots = min(shots, len(others))
                context = member.fewshot_context(doc, num_fewshot=n_shots)
            contexts.append(context if isinstance(context, str) else context[0])
    return contexts


def _load_other_docs(member: Any) -> Any:
    """Return the documents of the split from `find_other_split`, as lm-eval prepares them."""
    split = find_other_split(member)
    if split == member.fewshot_cfg.split:
        return list(member.fewshot_docs())
    is_training = member.config.training_split == split
    return member.training_docs() if is_training else member.validation_docs()


def _pick_unasked(
    member: Any, docs: Iterable[Any], asked_questions: set[str], limit: int
) -> Iterator[Any]:
    """Yield up to `limit` documents with different questions, none in `asked_questions`."""
    seen = set(asked_questions)
    for doc in docs:
        if len(seen) - len(asked_questions) >= limit:
            return
        if (question := _find_question(member, doc)) not in seen:
            seen.add(question)
            yield doc


def _pick_shots(member: Any, asked_questions: set[str], rng: random.Random) -> list[Any]:
    """Return at most 256 documents for worked examples, none with a question that is asked.

    They are in lm-eval's own order.
    """
    docs = member.sampler.fewshot_docs()
    # A sampler that takes the first documents is given the first ones.
    takes_first = type(member.sampler).__name__ == "FirstNSampler"
    n = min(len(docs), _MOST_TRIED)
    places = range(n) if takes_first else sorted(rng.sample(range(len(docs)), n))
    return list(
        _pick_unasked(member, (docs[place] for place in places), asked_questions, _MOST_TRIED)
    )


@contextmanager
def _replace_shots(member: Any, shots: list[Any], doc: Any, rng: random.Random) -> Iterator[None]:
    """Let lm-eval draw the worked examples before `doc` from `shots` inside the `with` block."""
    sampler = getattr(member, "sampler", None)
    # If worked examples come from the asked split, lm-eval draws one more and removes `doc` itself.
    one_split = member.fewshot_cfg.split == member.config.test_split
    try:
        if sampler is not None:
            docs = [*shots, doc] if one_split else shots
            member.sampler = type(sampler)(docs, rnd=rng.randrange(2**32))
        yield
    finally:
        if sampler is not None:
            member.sampler = sampler


def _find_question(member: Any, doc: Any) -> str:
    """Return the question of a document as it is asked, without worked examples, in one line."""
    text = member.doc_to_text(doc)
    if member.multiple_input:  # the choices are the contexts
        text = " ".join(map(str, member.doc_to_choice(doc)))
    return " ".join(str(text).split())
