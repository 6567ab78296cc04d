"""Ask any task of lm-evaluation-harness with the harness's own requests and scores.

Documents become requests by the harness's templates and few-shot sampler, and answers become scores
by its filters and metrics (Gao et al., "The Language Model Evaluation Harness"). Only the answers
are computed by this package, so that a sweep shares work between conditions. A name may be that of
a task, a group or a tag. A group or a tag is one task here, and its documents are taken in turn
from its members, the single tasks of lm-eval.

Example:
    task("lm_eval:arc_easy", num_fewshot=5)
    task("lm_eval:mmlu_generative", data="mmlu/")             # a copy of the data set's repository
    task("lm_eval:my_task", include_path="my_tasks/")         # a YAML file of one's own
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerroles.errors import InputError
from layerroles.harness.held_out_prompts import count_reserved, make_prompts
from layerroles.harness.task_loading import (
    check_higher_is_better,
    check_member,
    guess_family,
    load_members,
    raising_input_errors,
    silence_lm_eval,
)
from layerroles.private_apis import filter_names
from layerroles.tasks import FAMILIES, Example, Task, check_one_of, check_whole_number, register

_OF_THE_NAME = "of the name"
_ORDERS = ("seed", "first")


@register("lm_eval")
@dataclass(frozen=True)
class LmEval(Task):
    """Ask a task, group or tag of lm-evaluation-harness.

    The task is asked as lm-eval asks it, whichever protocols a sweep names: by the likelihood of
    choices (`continuation`, or `letter` if the choices are letters), by the likelihood of a given
    text (`continuation`), or by `generation`. Documents are drawn by seed, from a group's members
    in turn. Given a seed, the order depends on the data set only, so that tasks with the same
    documents (`mmlu`, `mmlu_generative`) ask the same ones. An example's id is `MEMBER/PLACE`,
    where PLACE is the document's index in the data set. The worked examples before a document are
    those that lm-eval shows in a run over all documents.

    Attributes:
        task: the name of a task, group or tag.
        num_fewshot: worked examples before each question; by default the task's own number. A task
            that sets 0 itself keeps it, as in lm-eval.
        include_path: a folder with further task files (YAML).
        data: a folder with a copy of the data set's repository, which is read instead of the hub.
        metric: the metric that is the score, such as `acc_norm`; by default the first that exists
            of `acc`, `exact_match`, the others of which higher is better, and `perplexity`.
        filter: the lm-eval filter that extracts the scored answer from a response; by default
            `flexible-extract` if it exists, else the first.
        family: the family of the task; by default guessed from its name, `language` if unknown.
        fewshot_seed: the seed of the worked examples; by default lm-eval's.
        chance: the mean score of guessing. By default, for choices the share of them that is right,
            or the score of a rule that ignores the question if that is shown to be higher (see
            `tasks.best_choice`); for a given text 0; for generated answers an estimate, by
            shuffling them among the examples.
        order: the order of documents: `seed` draws them at random, `first` takes them in the data
            set's order, as lm-eval's `--limit` does.

    Raises:
        InputError: lm-eval is missing, a parameter is invalid, the task is unknown or cannot be
            asked, its data cannot be read, or the members of a group are asked in different ways.

    Example:
        arc = lr.task("lm_eval:arc_easy", num_fewshot=5)
        arc.examples(limit=8, seed=0)
    """

    argument: ClassVar[str] = "task"
    version: ClassVar[int] = 2
    question_packages: ClassVar[tuple[str, ...]] = ("lm-eval",)

    task: str
    num_fewshot: int | None = None
    include_path: str = ""
    data: str = ""
    metric: str = ""
    filter: str = ""
    family: str = _OF_THE_NAME
    fewshot_seed: int = 1234
    chance: float | None = None
    order: str = "seed"

    def __post_init__(self) -> None:
        """Load and check the task."""
        if self.num_fewshot is not None:
            check_whole_number(self.name, "num_fewshot", self.num_fewshot, 0, 64)
        for option in ("include_path", "data"):
            folder = getattr(self, option)
            if folder and not Path(folder).is_dir():
                raise InputError(f"task {self.label!r}: {option}={folder!r} is not a folder")
        check_one_of(self.name, "order", self.order, _ORDERS)
        is_family_given = self.family != _OF_THE_NAME
        if not is_family_given:
            object.__setattr__(self, "family", guess_family(self.task, warn=False))
        check_one_of(self.name, "family", self.family, FAMILIES)
        self._check_members()
        if not is_family_given:
            guess_family(self.task)  # warns if the family is unknown; the task exists

    def _check_members(self) -> None:
        for member in self.members.values():
            check_member(member, self.label)
            for option, allowed in (
                ("metric", member.aggregation()),
                ("filter", filter_names(member)),
            ):
                if getattr(self, option):
                    check_one_of(self.label, option, getattr(self, option), allowed)
            if self.metric:
                check_higher_is_better(member, self.metric)
        types = {member.OUTPUT_TYPE for member in self.members.values()}
        if len(types) > 1:
            raise InputError(
                f"lm-eval group {self.task!r} mixes {', '.join(sorted(types))}: ask its members "
                f"({', '.join(list(self.members)[:3])}, ...) as tasks of their own"
            )

    @property
    def protocol(self) -> object:
        """The protocol that asks as lm-eval does; a sweep's own protocols are not used."""
        from layerroles.harness.protocol import Harness  # which imports this class

        return Harness(self)

    @property
    def label(self) -> str:
        """The task's label: `lm_eval@2:NAME`, or `lm_eval@2[task=NAME,...]` if it has parameters.

        The number after `@` is `version`. Folders (`include_path`, `data`) are left out.
        """
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(self)
            if field.name not in ("task", "family", "include_path", "data")
        }
        parameters = [
            f"{name}={getattr(self, name)}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        if self.family not in (_OF_THE_NAME, guess_family(self.task, warn=False)):
            parameters.append(f"family={self.family}")
        name = f"{self.name}@{self.version}"
        if not parameters:
            return f"{name}:{self.task}"
        return f"{name}[{','.join([f'task={self.task}', *parameters])}]"

    @functools.cached_property
    def members(self) -> dict[str, Any]:
        """lm-eval's task objects by name: one, or the members of the group or tag."""
        return load_members(
            self.task,
            num_fewshot=self.num_fewshot,
            include_path=self.include_path,
            data=self.data,
        )

    @property
    def output_type(self) -> str:
        """lm-eval's type of request, one of `OUTPUT_TYPES`."""
        kind: str = next(iter(self.members.values())).OUTPUT_TYPE
        return kind

    @functools.cached_property
    def documents(self) -> dict[str, Any]:
        """The documents of each member (a single lm-eval task), in the order of the data set."""
        return {name: member.eval_docs for name, member in self.members.items()}

    def examples(self, limit: int, seed: int) -> list[Example]:
        """Return the first `limit` documents in the order of asking, from members in turn.

        Raises:
            InputError: the task has no documents.
        """
        by_member = [
            [f"{name}/{place}" for place in self._asked_places(name, seed)]
            for name in self._order_members(seed)
        ]
        rounds = itertools.zip_longest(*by_member)
        ids = (id for round_ids in rounds for id in round_ids if id is not None)
        instances = self.instances(list(itertools.islice(ids, limit)))
        if not instances:
            raise InputError(f"task {self.label!r} has no example")
        return [self._make_example(id, requests) for id, requests in instances.items()]

    def _draw_order(self, name: str, n_docs: int, seed: int) -> list[int]:
        """Return the indices of all documents of a member, in the order of asking."""
        if self.order == "first":
            return list(range(n_docs))
        return random.Random(f"{self._data_key(name)}:{seed}").sample(range(n_docs), n_docs)

    def _order_members(self, seed: int) -> list[str]:
        """Return the names of the members in the order of their turns; `seed` draws the order."""
        if self.order == "first":
            return list(self.members)

        def drawn(name: str) -> float:
            return random.Random(f"{self._data_key(name)}:{seed}:turn").random()

        return sorted(self.members, key=drawn)

    def _data_key(self, name: str) -> str:
        """Return the text that seeds the order of the documents of a member's data set.

        It names the configuration and the number of documents, but no path. So all tasks that use a
        data set, or a local copy of it, ask its documents in the same order. Other data sets may
        have the same text.
        """
        return f"lm_eval:{self.members[name].config.dataset_name}:{len(self.documents[name])}"

    def instances(
        self, ids: Sequence[str], template: Any = None, key: str = ""
    ) -> dict[str, list[Any]]:
        """Return lm-eval's requests for some documents, by example id.

        Args:
            ids: example ids.
            template: renders a list of messages as a text (`AblatedLM.apply_chat_template`); None
                asks without a chat template.
            key: names the template; requests are built once per key.

        Raises:
            InputError: an id is not that of a document.
        """
        built = self._built.setdefault(key, {})
        missing: dict[str, list[int]] = {}
        for id in dict.fromkeys(ids):
            if id not in built:
                name, place = self._parse_id(id)
                missing.setdefault(name, []).append(place)
        for name, places in missing.items():
            built.update(self._build_instances(name, places, template))
        return {id: built[id] for id in ids}

    @functools.cached_property
    def _built(self) -> dict[str, dict[str, list[Any]]]:
        return {}

    def _parse_id(self, id: str) -> tuple[str, int]:
        """Return the member's name and the document's index in its data, from an example id."""
        name, _, place = id.rpartition("/")
        docs = self.documents.get(name, ())
        if not place.isdecimal() or id != f"{name}/{int(place)}" or int(place) >= len(docs):
            raise InputError(f"task {self.label!r} has no example {id!r}")
        return name, int(place)

    def _build_instances(
        self, name: str, places: Sequence[int], template: Any
    ) -> dict[str, list[Any]]:
        """Build requests as lm-eval's `build_all_requests` does, for documents at any indices.

        lm-eval draws worked examples for all documents in order. Draws for documents in between are
        made and discarded here, so that a prompt depends on its document alone. The requests are
        returned by example id.
        """
        member, docs = self.members[name], self.documents[name]
        shots = member.config.num_fewshot or 0
        # If worked examples are of the asked split, lm-eval excludes the document itself.
        same_split = shots and member.fewshot_cfg.split == member.config.test_split
        chat = {"apply_chat_template": template is not None, "chat_template": template}
        member.set_fewshot_seed(self.fewshot_seed)
        built, n_drawn = {}, 0
        with (
            silence_lm_eval(),
            raising_input_errors(name, f"cannot make its prompts, with {shots} worked examples"),
        ):
            for place in sorted(places):
                for skipped in range(n_drawn, place) if shots else ():
                    member.sampler.sample(shots, eval_doc=docs[skipped] if same_split else None)
                n_drawn = place + 1
                doc = docs[place]
                context = member.fewshot_context(
                    doc,
                    num_fewshot=shots,
                    fewshot_as_multiturn=template is not None,
                    gen_prefix=member.doc_to_prefix(doc),
                    **chat,
                )
                metadata = (member.config.task, place, member.config.repeats)
                requests = member.construct_requests(doc, context, metadata=metadata, **chat)
                requests = requests if isinstance(requests, list) else [requests]
                built[f"{name}/{place}"] = sorted(requests, key=lambda request: request.idx)
        return built

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return up to `limit` prompts of documents that are never asked, from members in turn.

        The documents come from a split other than the asked one. If a member names no other split,
        they are those that `n_reserved` counts; with `order="first"`, there are none.
        """
        share = -(-limit // len(self.members))
        by_member = [
            make_prompts(member, self._asked_places(name, seed), share, seed)
            for name, member in self.members.items()
        ]
        rounds = itertools.zip_longest(*by_member)
        return [
            prompt for round_prompts in rounds for prompt in round_prompts if prompt is not None
        ][:limit]

    def n_reserved(self, seed: int) -> int:
        """Return how many documents of all members are reserved for reference prompts.

        At most 64 in a single task; a group may have more, since each member's share of 64 is
        rounded up. Members with another split for references reserve none. With `order="first"`,
        which serves to reproduce lm-eval's own numbers, no member does.
        """
        return sum(map(self._count_reserved, self.members))

    def _count_reserved(self, name: str) -> int:
        return count_reserved(self.members[name], len(self.members)) if self.order == "seed" else 0

    def _asked_places(self, name: str, seed: int) -> list[int]:
        """Return the indices of a member's documents that may be asked, in the order of asking."""
        order = self._draw_order(name, len(self.documents[name]), seed)
        return order[: len(order) - self._count_reserved(name)]

    def share_right(self, example: Example) -> float | None:
        """Return the share of choices that are right; None if the task scores by its own code."""
        member = self.member(example)
        if callable(member.config.process_results):
            return None
        if member.multiple_target:
            name, place = self._parse_id(example.id)
            right_choices = member.doc_to_target(self.documents[name][place])
            return len(set(right_choices)) / len(example.choices)
        return 1 / len(example.choices)

    def member_name(self, example: Example) -> str:
        """Return the name of the lm-eval task to which an example belongs."""
        return example.id.rpartition("/")[0]

    def member(self, example: Example) -> Any:
        """Return the lm-eval task to which an example belongs."""
        return self.members[self.member_name(example)]

    def _make_example(self, id: str, instances: Sequence[Any]) -> Example:
        member = self.members[id.rpartition("/")[0]]
        doc, arguments = instances[0].doc, instances[0].arguments
        choices: tuple[str, ...] = ()
        if member.config.doc_to_choice is not None:
            choices = tuple(map(str, member.doc_to_choice(doc)))
        answer = member.doc_to_text(doc) if member.multiple_input else member.doc_to_target(doc)
        if isinstance(answer, list | tuple) and answer:
            answer = answer[0]
        if isinstance(answer, int) and 0 <= answer < len(choices):
            answer = choices[answer]
        return Example(
            id=id,
            prompt=arguments[0],
            answer=str(answer).strip(),
            choices=choices,
            question=_hash_document(doc),
        )


def _hash_document(doc: Any) -> str:
    """Return a hash of a document's content, equal for all tasks that ask it."""
    text = json.dumps(doc, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
