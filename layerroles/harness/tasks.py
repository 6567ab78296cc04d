"""Any task of lm-evaluation-harness, asked and scored as it asks and scores.

Its documents become requests by its own templates and few-shot sampler, and the model's answers
become scores by its own filters and metrics (Gao et al., "The Language Model Evaluation Harness").
Only the answering is ours, so that a whole sweep shares its work. A name may be that of a task, of
a group or of a tag; a group is one task here, its members taking turns.

Example:
    task("lm_eval:arc_easy", num_fewshot=5)
    task("lm_eval:mmlu_generative", data="mmlu/")             # a copy of the data set's repository
    task("lm_eval:my_task", include_path="my_tasks/")         # a YAML file of one's own
"""

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from layerroles.compat import filter_names
from layerroles.errors import InputError
from layerroles.harness.loading import (
    check_member,
    guess_family,
    load_members,
    raising_input_errors,
    refuse_worse,
    silence_lm_eval,
)
from layerroles.harness.references import count_reserved, make_prompts
from layerroles.tasks import FAMILIES, Example, Task, check_one_of, check_whole_number, register

_OF_THE_NAME = "of the name"
_ORDERS = ("seed", "first")


@register("lm_eval")
@dataclass(frozen=True)
class LmEval(Task):
    """Ask a task, group or tag of lm-evaluation-harness.

    It is asked as lm-eval asks it, whichever protocols a sweep names: by the likelihood of choices
    (`continuation`, or `letter` where the choices are letters), by that of a given text
    (`continuation`), or by `generation`. Documents are drawn by seed, of a group's members in turn.
    The order depends on the data set and not on the task, so that tasks of the same documents
    (`mmlu`, `mmlu_generative`) are asked the same ones. An example's id is the document's place in
    the data set, and its worked examples are those of lm-eval's run over all documents.

    Attributes:
        task: its name.
        num_fewshot: worked examples before each question; by default the task's own number.
        include_path: a folder with task files (YAML) of one's own.
        data: a folder with the data set, as its repository on the hub holds it, in its place.
        metric: which of its metrics is the score, as in `acc_norm`; by default the first of `acc`,
            `exact_match` and the others that say that higher is better.
        filter: whose reading of an answer is scored; by default `flexible-extract` if there is one,
            else the first.
        family: which family it belongs to; known for well-known tasks, else `language`.
        fewshot_seed: of the worked examples; lm-eval's default.
        chance: the mean score of guessing; by default one over the number of choices where there
            are choices, and estimated by shuffling answers where one is written.
        order: of the documents: `seed` draws them at random, `first` takes them in the data set's
            order, as lm-eval's `--limit` does.

    Raises:
        InputError: a folder that does not exist, lm-eval is missing or has no such task, its data
            cannot be had, or a group whose members are asked in different ways.

    Example:
        arc = lr.task("lm_eval:arc_easy", num_fewshot=5)
        arc.examples(limit=8, seed=0)
    """

    argument: ClassVar[str] = "task"
    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("lm-eval",)

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
        """Load the task.

        Raises:
            InputError: it is unknown, its data cannot be reached, or it is of a kind that cannot be
                asked here.
        """
        if self.num_fewshot is not None:
            check_whole_number(self.name, "num_fewshot", self.num_fewshot, 0, 64)
        for option in ("include_path", "data"):
            folder = getattr(self, option)
            if folder and not Path(folder).is_dir():
                raise InputError(f"task {self.label!r}: {option}={folder!r} is not a folder")
        check_one_of(self.name, "order", self.order, _ORDERS)
        if isinstance(self.chance, str):  # of a label
            object.__setattr__(self, "chance", float(self.chance))
        is_family_given = self.family != _OF_THE_NAME
        if not is_family_given:
            object.__setattr__(self, "family", guess_family(self.task, tell=False))
        check_one_of(self.name, "family", self.family, FAMILIES)
        self._check_members()
        if not is_family_given:
            guess_family(self.task)  # says what it is counted as, once there is such a task

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
                refuse_worse(member, self.metric)
        types = {member.OUTPUT_TYPE for member in self.members.values()}
        if len(types) > 1:
            raise InputError(
                f"lm-eval group {self.task!r} mixes {', '.join(sorted(types))}: ask its members "
                f"({', '.join(list(self.members)[:3])}, ...) as tasks of their own"
            )

    @property
    def protocol(self) -> object:
        """The protocol that asks as lm-eval does, whichever a sweep names."""
        from layerroles.harness.protocol import Harness  # which imports this class

        return Harness(self)

    @property
    def label(self) -> str:
        """`lm_eval@2:NAME`, or with brackets where more is given; not where the data lie."""
        defaults = {
            name: field.default
            for name, field in self.__dataclass_fields__.items()
            if name not in ("task", "family", "include_path", "data")
        }
        parameters = [
            f"{name}={getattr(self, name)}"
            for name, default in defaults.items()
            if getattr(self, name) != default
        ]
        if self.family not in (_OF_THE_NAME, guess_family(self.task, tell=False)):
            parameters.append(f"family={self.family}")
        name = f"{self.name}@{self.version}"
        if not parameters:
            return f"{name}:{self.task}"
        return f"{name}[{','.join([f'task={self.task}', *parameters])}]"

    @functools.cached_property
    def members(self) -> dict[str, Any]:
        """lm-eval's own task objects by name; one, or those of the group or tag."""
        return load_members(
            self.task,
            num_fewshot=self.num_fewshot,
            include_path=self.include_path,
            data=self.data,
        )

    @property
    def output_type(self) -> str:
        """One of `OUTPUT_TYPES`."""
        kind: str = next(iter(self.members.values())).OUTPUT_TYPE
        return kind

    @functools.cached_property
    def documents(self) -> dict[str, Any]:
        """lm-eval's documents by the member's name, in the data set's order."""
        return {name: member.eval_docs for name, member in self.members.items()}

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` documents of the order under `seed`, members taking turns.

        Raises:
            InputError: there are none.
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
        """The places of all of a member's documents, in the order in which they are asked."""
        if self.order == "first":
            return list(range(n_docs))
        return random.Random(f"{self._data_key(name)}:{seed}").sample(range(n_docs), n_docs)

    def _order_members(self, seed: int) -> list[str]:
        """The members in the order in which they take turns, which is drawn by seed too."""
        if self.order == "first":
            return list(self.members)

        def drawn(name: str) -> float:
            return random.Random(f"{self._data_key(name)}:{seed}:turn").random()

        return sorted(self.members, key=drawn)

    def _data_key(self, name: str) -> str:
        """Name a member's data set; the same for a local copy and for every task that asks it."""
        return f"lm_eval:{self.members[name].config.dataset_name}:{len(self.documents[name])}"

    def instances(
        self, ids: Sequence[str], template: Any = None, key: str = ""
    ) -> dict[str, list[Any]]:
        """lm-eval's requests for some documents, by example id.

        Args:
            ids: of examples.
            template: renders a list of messages as a text (`AblatedLM.apply_chat_template`); None
                asks without a chat template.
            key: names the template; requests are built once for each.

        Raises:
            InputError: an id of no document.
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
        """The member's name and the place of the document in its data."""
        name, _, place = id.rpartition("/")
        docs = self.documents.get(name, ())
        if not place.isdecimal() or id != f"{name}/{int(place)}" or int(place) >= len(docs):
            raise InputError(f"task {self.label!r} has no example {id!r}")
        return name, int(place)

    def _build_instances(
        self, name: str, places: Sequence[int], template: Any
    ) -> dict[str, list[Any]]:
        """Build as lm-eval's `build_all_requests` does, for documents anywhere in the data.

        lm-eval draws worked examples for one document after the other. The draws of the documents
        between are repeated here, so that a prompt depends on the document alone.
        """
        member, docs = self.members[name], self.documents[name]
        shots = member.config.num_fewshot or 0
        # lm-eval shows no document as its own example, where examples are of the split asked.
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
        """Contexts of documents of another split, or of the reserved ones; members take turns."""
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
        """How many documents are never asked: none where there is another split, else up to 64.

        None in the data set's own order either, which is for lm-eval's own numbers.
        """
        return sum(map(self._count_reserved, self.members))

    def _count_reserved(self, name: str) -> int:
        return count_reserved(self.members[name], len(self.members)) if self.order == "seed" else 0

    def _asked_places(self, name: str, seed: int) -> list[int]:
        """The places of a member's documents that may be asked, in the order under the seed."""
        order = self._draw_order(name, len(self.documents[name]), seed)
        return order[: len(order) - self._count_reserved(name)]

    def share_right(self, example: Example) -> float | None:
        """Which share of an example's choices is right; None where the task scores by rules."""
        member = self.member(example)
        if callable(member.config.process_results):
            return None
        if member.multiple_target:
            name, place = self._parse_id(example.id)
            right_choices = member.doc_to_target(self.documents[name][place])
            return len(set(right_choices)) / len(example.choices)
        return 1 / len(example.choices)

    def member_name(self, example: Example) -> str:
        """The name of the lm-eval task that an example is of."""
        return example.id.rpartition("/")[0]

    def member(self, example: Example) -> Any:
        """The lm-eval task that an example is of."""
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
    """What tells a document from others: tasks of the same documents ask the same questions."""
    text = json.dumps(doc, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
