"""Load lm-evaluation-harness tasks by name, check them, and report their errors in one line.

Importing lm-eval takes seconds, so it is imported only where it is needed. A member is lm-eval's
object of a single task, or of one task of a group or tag.
"""

import functools
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from types import MappingProxyType
from typing import Any

from layerroles.errors import InputError
from layerroles.private_apis import build_task_on
from layerroles.registry import nearest_name

log = logging.getLogger(__name__)

# Configuration keys that determine prompts and scores.
_RULES = (
    *("task", "dataset_name", "output_type", "test_split", "validation_split"),
    *("fewshot_split", "num_fewshot", "doc_to_text", "doc_to_target", "doc_to_choice"),
    *("description", "target_delimiter", "fewshot_delimiter", "gen_prefix", "process_docs"),
    *("process_results", "generation_kwargs", "metric_list", "filter_list"),
)
NOT_INSTALLED = "lm-eval is not installed: pip install 'layerroles[lm-eval]'"
OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")
# The families of well-known tasks by prefix of their names; the longest prefix counts.
_FAMILIES = MappingProxyType(
    {
        "arc": "knowledge",
        "babi": "retrieval",
        "boolq": "commonsense",
        "commonsense_qa": "commonsense",
        "copa": "commonsense",
        "drop": "retrieval",
        "gsm8k": "reasoning",
        "gsm_plus": "reasoning",
        "hellaswag": "commonsense",
        "hendrycks_math": "reasoning",
        "lambada": "language",
        "leaderboard_math": "reasoning",
        "longbench": "retrieval",
        "mathqa": "reasoning",
        "minerva_math": "reasoning",
        "mmlu": "knowledge",
        "nq_open": "knowledge",
        "openbookqa": "commonsense",
        "piqa": "commonsense",
        "ruler": "retrieval",
        "niah": "retrieval",
        "sciq": "knowledge",
        "social_iqa": "commonsense",
        "squad": "retrieval",
        "triviaqa": "knowledge",
        "truthfulqa": "knowledge",
        "winogrande": "commonsense",
    }
)


def guess_family(name: str, *, warn: bool = True) -> str:
    """Return the family of a task by the prefix of its name; `language` if no prefix is known.

    With `warn`, log a warning if no prefix is known.
    """
    beginnings = [begin for begin in _FAMILIES if name.startswith(begin)]
    if beginnings:
        return _FAMILIES[max(beginnings, key=len)]
    if warn:
        log.warning("lm-eval task %r is counted as language: give family= to change that", name)
    return "language"


@functools.cache
def _load_manager(include_path: str) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise InputError(NOT_INSTALLED) from error

    return TaskManager(include_path=include_path or None)


def load_members(
    name: str, *, num_fewshot: int | None, include_path: str, data: str
) -> dict[str, Any]:
    """Return lm-eval's task objects by name: one task, or the members of a group or tag.

    The arguments are those of `LmEval`.

    Raises:
        InputError: an unknown name, data that cannot be reached, or a task that cannot be loaded.
    """
    manager = _load_manager(include_path)
    if name not in manager.all_tasks:
        near = nearest_name(name, manager.all_tasks)
        hint = f"did you mean {near!r}? " if near else ""
        raise InputError(
            f"unknown lm-eval task {name!r}: {hint}lm-eval knows {len(manager.all_tasks)} "
            f"(lm-eval ls tasks); tasks of your own are found with include_path=FOLDER"
        )
    with silence_lm_eval():
        try:
            with _separate_cache(data) if data else nullcontext():
                made: Any = name
                if data:  # as `load` does for a name, but with other data
                    made = build_task_on(manager, name, data)
                made = made if isinstance(made, list) else [made]
                loaded: dict[str, Any] = manager.load(made)["tasks"]
        except Exception as error:
            raise InputError(_explain_failure(name, error)) from error
    if not loaded:
        raise InputError(f"lm-eval group {name!r} has no task")
    for member in loaded.values():
        task_shots = member.config.num_fewshot
        # lm-eval never overrides a number of shots that a task sets to 0 itself.
        if num_fewshot is not None and task_shots != 0:
            member.set_config("num_fewshot", num_fewshot)
        elif task_shots is None:
            member.set_config("num_fewshot", 0)
    return dict(sorted(loaded.items()))


@contextmanager
def _separate_cache(folder: str) -> Iterator[None]:
    """Inside the `with` block, give `datasets` a cache for this folder in its present state.

    Its own cache tells folders apart by their last name and the configurations in their README, so
    it would return rows of another folder of the same name, or rows from before a file was changed.
    """
    import datasets

    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
    state = [str(Path(folder).resolve())]
    for file in files:
        stat = file.stat()
        state.append(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}")
    name = hashlib.sha256("\n".join(state).encode()).hexdigest()[:16]
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = Path(before) / "layerroles" / name
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def _explain_failure(name: str, error: Exception) -> str:
    """Return one line that says why lm-eval could not load a task."""
    import datasets

    reason = first_line(error)
    unreachable = (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, OSError)
    if isinstance(error, unreachable):
        return (
            f"lm-eval task {name!r}: its data set cannot be reached ({reason}): give a local "
            f"copy of its repository as data=FOLDER, or write a task file of your own with "
            f"dataset_path: json and dataset_kwargs: {{data_files: ...}} and give its folder as "
            f"include_path=FOLDER"
        )
    if isinstance(error, KeyError):
        return f"lm-eval task {name!r}: its data set has no split or field {reason}"
    return f"lm-eval task {name!r} cannot be loaded: {type(error).__name__}: {reason}"


def check_member(member: Any, label: str) -> None:
    """Check that a sweep can ask an lm-eval task, `member` of the task called `label`.

    Raises:
        InputError: the task is written in Python, shows more than text, runs code that the model
            writes, asks for sampling or beam search, asks each question several times, has no split
            for its worked examples, or has an unsupported output type.
    """
    name = member.task_name
    if not hasattr(member, "fewshot_cfg"):
        raise InputError(f"lm-eval task {name!r} is written in Python: only task files are asked")
    if member.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise InputError(
            f"lm-eval task {name!r} is of output type {member.OUTPUT_TYPE!r}, which is not "
            f"supported: supported are {', '.join(OUTPUT_TYPES)}"
        )
    if getattr(member, "MULTIMODAL", False):
        raise InputError(f"lm-eval task {name!r} shows pictures or sound: only texts are asked")
    if getattr(member, "UNSAFE_CODE", False):
        raise InputError(f"lm-eval task {name!r} runs code that the model writes: it is not asked")
    if (member.config.repeats or 1) > 1:
        raise InputError(
            f"lm-eval task {name!r} asks each question {member.config.repeats} times: answers are "
            f"greedy here, so all would be the same"
        )
    shots = member.config.num_fewshot or 0
    if shots and not _has_shots(member):
        raise InputError(
            f"task {label!r}: num_fewshot={shots}, and lm-eval task {name!r} has no split to take "
            f"worked examples from: use num_fewshot=0"
        )
    if member.OUTPUT_TYPE == "generate_until":
        read_generation_options(member.config.generation_kwargs, f"lm-eval task {name!r}")


def choose_metric(task: Any, member: Any) -> str:
    """Return the name of the metric that is used as the score.

    It is `task.metric` if that is set. Else it is the first that exists of: `acc`, `exact_match`, a
    metric of which higher is better, `perplexity`.

    Raises:
        InputError: the member has none of these.
    """
    if task.metric:
        return str(task.metric)
    better: dict[str, bool] = member.higher_is_better()
    for name in ("acc", "exact_match", *(name for name in better if better[name]), "perplexity"):
        if name in better:
            return name
    raise InputError(
        f"lm-eval task {member.task_name!r} has no metric of which higher is better "
        f"({', '.join(better)}): its scores cannot be used as a skill"
    )


def check_higher_is_better(member: Any, metric: str) -> None:
    """Check that higher values of a metric are better.

    `perplexity` passes: its value for a single document is a log-likelihood.

    Raises:
        InputError: lower is better.
    """
    if metric != "perplexity" and not member.higher_is_better().get(metric, True):
        raise InputError(
            f"lm-eval task {member.task_name!r}: of metric={metric!r} lower is better, so that it "
            f"cannot be a score: use another, or read it from lm_eval_metrics"
        )


def score_document(member: Any, instances: list[Any]) -> dict[str, dict[str, Any]]:
    """Return a document's metrics as {filter: {metric: value}}, computed by lm-eval.

    `instances` are all of lm-eval's requests for the document, after its filters were applied.
    """
    with raising_input_errors(member.task_name, "cannot score an answer"):
        return {
            name: member.process_results(
                instances[0].doc, [instance.filtered_resps[name] for instance in instances]
            )
            for name in instances[0].filtered_resps
        }


def hash_rules(members: Iterable[Any]) -> str:
    """Return a hash of the settings by which tasks build prompts and scores."""
    settings = [
        {key: _as_text(getattr(member.config, key, None)) for key in _RULES} for member in members
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """Return a setting as text; for a function its name, not its address."""
    return str(getattr(value, "__qualname__", None) or value)


@contextmanager
def raising_input_errors(name: str, what: str) -> Iterator[None]:
    """Turn errors of lm-eval or a task's code in the `with` block into one-line `InputError`s.

    The message is `lm-eval task NAME WHAT: ERROR`, with the first line of the error's message.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError | AssertionError) else f"{type(error).__name__}: "
        raise InputError(f"lm-eval task {name!r} {what}: {kind}{first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if the line is empty."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _has_shots(member: Any) -> bool:
    config = member.config
    shots = member.fewshot_cfg
    splits = shots.split, config.training_split, config.validation_split
    return any(split is not None for split in splits) or shots.samples is not None


def read_generation_options(given: Any, whose: str) -> dict[str, object]:
    """Return `until` and `max_gen_toks` from lm-eval's generation arguments, normalized by lm-eval.

    Args:
        given: the arguments, such as a task's `generation_kwargs`; None for lm-eval's defaults.
        whose: what they belong to, for the error message, such as "request 3".

    Raises:
        InputError: the arguments ask for sampling or beam search, not greedy decoding.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    options = normalize_gen_kwargs(dict(given or {}))
    if options.get("do_sample") or (options.get("num_beams") or 1) > 1:
        raise InputError(f"{whose} asks for sampling or beams: answers are greedy here")
    until = [text for text in options["until"] if text]
    return {"until": until, "max_gen_toks": options["max_gen_toks"]}


@contextmanager
def silence_lm_eval() -> Iterator[None]:
    """Hide messages and progress bars of lm-eval and its data sets inside the `with` block."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
