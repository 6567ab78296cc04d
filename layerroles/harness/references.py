"""Documents of an lm-eval task that are never asked, and prompts for references made of them.

Where a task names another split than the one that is asked (of worked examples, training or
validation), references are made of that. Else documents are reserved: the last ones of the order in
which they are asked. Their worked examples are never documents that are asked.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from layerroles.harness.loading import quiet, raising_input_errors

_RESERVED, _SHARE = 64, 5
# So many documents of a split are tried as worked examples; the first ones that are not asked.
_TRIED = 256


def other_split(member: Any) -> str | None:
    """The split of which references are made; None if there is only the one that is asked."""
    config, shots = member.config, member.fewshot_cfg.split
    asked = config.test_split or config.validation_split
    named = (shots, config.training_split, config.validation_split)
    return next((split for split in named if split is not None and split != asked), None)


def n_reserved(member: Any, n_members: int) -> int:
    """How many documents of a group's member are never asked.

    64 over all members, and no more than a fifth; none where there is another split.
    """
    if other_split(member) is not None:
        return 0
    return min(-(-_RESERVED // n_members), len(member.eval_docs) // _SHARE)


def prompts(member: Any, asked: Sequence[int], limit: int, seed: int) -> list[str]:
    """Up to `limit` prompts with worked examples, none of which holds a document that is asked.

    Where too few documents are left for the worked examples of a prompt, it has fewer.

    Args:
        member: lm-eval's task.
        asked: the places of the documents that may be asked, in the order in which they are.
        limit: how many at the most.
        seed: draws from another split, and the worked examples.
    """
    shots = member.config.num_fewshot or 0
    docs, places = member.eval_docs, set(asked)
    with (
        quiet(),
        raising_input_errors(
            member.task_name, f"cannot make its prompts, with {shots} worked examples"
        ),
    ):
        known = {_question(member, docs[place]) for place in asked}
        reserve = [place for place in range(len(docs)) if place not in places]
        rng = random.Random(f"{member.task_name}:{seed}:reference")
        source = docs if other_split(member) is None else _docs(member)
        drawn = reserve if source is docs else list(range(len(source)))
        order = rng.sample(drawn, len(drawn))
        chosen = list(_unasked(member, (source[place] for place in order), known, limit))
        pool = _shots(member, known, rng) if shots else []
        found = []
        for doc in chosen:
            others = [other for other in pool if other != doc]
            with _showing(member, others, doc, rng):
                n_shots = min(shots, len(others))
                context = member.fewshot_context(doc, num_fewshot=n_shots)
            found.append(context if isinstance(context, str) else context[0])
    return found


def _docs(member: Any) -> Any:
    """The documents of the other split, as lm-eval prepares them."""
    split = other_split(member)
    if split == member.fewshot_cfg.split:
        return list(member.fewshot_docs())
    own = member.config.training_split == split
    return member.training_docs() if own else member.validation_docs()


def _unasked(member: Any, docs: Iterable[Any], known: set[str], limit: int) -> Iterator[Any]:
    """The first documents whose question is none of those known, each question once."""
    seen = set(known)
    for doc in docs:
        if len(seen) - len(known) >= limit:
            return
        if (question := _question(member, doc)) not in seen:
            seen.add(question)
            yield doc


def _shots(member: Any, known: set[str], rng: random.Random) -> list[Any]:
    """Documents that may be shown as worked examples, in the order of lm-eval's own list."""
    docs = member.sampler.fewshot_docs()
    # A sampler that takes the first documents is left the first ones.
    ordered = type(member.sampler).__name__ == "FirstNSampler"
    n = min(len(docs), _TRIED)
    places = range(n) if ordered else sorted(rng.sample(range(len(docs)), n))
    return list(_unasked(member, (docs[place] for place in places), known, _TRIED))


@contextmanager
def _showing(member: Any, others: list[Any], doc: Any, rng: random.Random) -> Iterator[None]:
    """Within the context, the worked examples before a document are drawn from some others."""
    own = getattr(member, "sampler", None)
    # Where both are of one split, lm-eval draws one more and takes the document itself out.
    one_split = member.fewshot_cfg.split == member.config.test_split
    try:
        if own is not None:
            docs = [*others, doc] if one_split else others
            member.sampler = type(own)(docs, rnd=rng.randrange(2**32))
        yield
    finally:
        if own is not None:
            member.sampler = own


def _question(member: Any, doc: Any) -> str:
    """A document's question as it is asked, without worked examples."""
    text = member.doc_to_text(doc)
    if member.multiple_input:  # the choices are what is read
        text = " ".join(map(str, member.doc_to_choice(doc)))
    return " ".join(str(text).split())
