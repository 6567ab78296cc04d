"""lm-eval's tasks without a real model: what is asked, what is refused, and in which words."""

import importlib
import itertools
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerroles as lr
from layerroles.engine import Score, Writing
from layerroles.errors import InputError
from layerroles.harness import task_loading
from layerroles.harness.instance_scoring import AskedTexts
from layerroles.protocols import Harness
from tests.support import lm_eval_data as data
from tests.support.random_models import random_model


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data.own_tasks(tmp_path_factory.mktemp("lm_eval") / "own")


def with_task(folder: Path, own: str, name: str, text: str) -> str:
    """A folder with one task file more, on the same data."""
    folder.mkdir(exist_ok=True)
    facts = Path(own) / "data" / "facts.jsonl"
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {facts}\n"
    (folder / f"{name}.yaml").write_text(head + "test_split: test\n" + text, encoding="utf-8")
    return str(folder)


def test_a_group_is_one_task_its_members_take_turns(own: str) -> None:
    task = lr.task("lm_eval:own_group", include_path=own)
    for seed in range(4):
        ids = [example.id for example in task.examples(5, seed)]
        members = [id.partition("/")[0] for id in ids]
        assert members[:2] * 2 == members[:4] and set(members) == {"own_one", "own_two"}
        assert [e.id for e in task.examples(3, seed)] == ids[:3]
    task = lr.task("lm_eval:own_group", include_path=own, order="first")
    ids = [example.id for example in task.examples(5, 0)]
    assert ids == ["own_one/0", "own_two/0", "own_one/1", "own_two/1", "own_one/2"]
    first = task.examples(1, 0)[0]
    assert (first.answer, first.choices) == ("A", ("A", "B", "C", "D"))
    assert first.prompt.startswith("Which planet") and first.prompt.endswith("D. Saturn\nAnswer:")


def test_a_longer_list_keeps_the_shots_of_a_shorter_one(own: str) -> None:
    task = lr.task("lm_eval:own_sums", include_path=own)
    short, long = task.examples(2, 0), task.examples(4, 0)
    assert [e.prompt for e in long[:2]] == [e.prompt for e in short]
    assert short[0].prompt.count("Question:") == 3  # two shots
    other = lr.task("lm_eval:own_sums", include_path=own, fewshot_seed=7)
    assert [e.prompt for e in other.examples(4, 0)] != [e.prompt for e in long]


def test_documents_are_drawn_by_seed_and_keep_their_ids(own: str) -> None:
    drawn = lr.task("lm_eval:own_one", include_path=own)
    first = lr.task("lm_eval:own_one", include_path=own, order="first")
    in_order = [example.id for example in first.examples(6, 0)]
    assert in_order == [f"own_one/{place}" for place in range(6)]
    assert [example.id for example in first.examples(6, 1)] == in_order
    orders = {tuple(example.id for example in drawn.examples(9, seed)) for seed in range(8)}
    # One of the six is reserved for references, another one under each seed.
    assert len(orders) > 4
    assert all(len(set(order)) == 5 and set(order) < set(in_order) for order in orders)
    assert all(example in first.examples(6, 0) for example in drawn.examples(6, 3))
    starts = [drawn.examples(1, seed)[0].id for seed in range(200)]
    assert min(starts.count(id) for id in in_order) > 15  # of 33 expected, 3.4 deviations below


def test_groups_of_the_same_documents_are_asked_the_same(own: str, tmp_path: Path) -> None:
    """Members are named otherwise in the second group, and sorted the other way."""
    folder = tmp_path / "groups"
    groups = {"own_mixed": ("own_a", "own_b"), "own_again": ("own_z", "own_y")}
    for group, names in groups.items():
        for data_set, name in zip(("a", "b"), names, strict=True):
            text = f"""dataset_name: {data_set}
output_type: multiple_choice
doc_to_text: "{{{{question}}}} {data_set}"
doc_to_choice: choices
doc_to_target: answer
"""
            with_task(folder, own, name, text)
        listed = f"group: {group}\ntask: [{', '.join(names)}]\n"
        (folder / f"{group}.yaml").write_text(listed, encoding="utf-8")
    one, two = (lr.task(f"lm_eval:{group}", include_path=str(folder)) for group in groups)
    begin, alike = set(), 0
    for seed in range(8):
        asked = one.examples(5, seed)
        assert [e.prompt for e in asked] == [e.prompt for e in two.examples(5, seed)]
        begin.add(asked[0].id.partition("/")[0])
        alike += asked[0].question == asked[1].question
    assert begin == {"own_a", "own_b"}  # not always the first by name
    assert alike < 8  # each data set has its own order


def shots_of_the_documents_asked(folder: Path, own: str) -> str:
    """A task of which worked examples are documents too, and one with a generation prefix."""
    text = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
fewshot_split: test
num_fewshot: 2
gen_prefix: "The answer:"
"""
    return with_task(folder, own, "own_shots", text)


@pytest.mark.parametrize("name", ["own_sums", "own_shots", "own_information"])
@pytest.mark.parametrize("chat", [False, True])
def test_prompts_are_those_of_lm_evals_run_over_all_documents(
    own: str, tmp_path: Path, name: str, chat: bool
) -> None:
    def template(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return f"{messages} {add_generation_prompt}"

    folder = shots_of_the_documents_asked(tmp_path / "more", own) if name == "own_shots" else own
    task = lr.task(f"lm_eval:{name}", include_path=folder)
    ids = [example.id for seed in (1, 2) for example in task.examples(3, seed)]
    assert ids != sorted(ids)
    ours = task.instances(ids[:2], template if chat else None, str(chat))
    ours |= task.instances(ids, template if chat else None, str(chat))
    member = task.members[name]
    member.set_fewshot_seed(1234)
    member.build_all_requests(
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=template if chat else None,
    )
    theirs: dict[str, list[Any]] = {}
    for instance in member.instances:
        theirs.setdefault(f"{name}/{instance.doc_id}", []).append(instance)
    for id in ids:
        assert [one.arguments for one in ours[id]] == [one.arguments for one in theirs[id]]
        assert [one.doc for one in ours[id]] == [one.doc for one in theirs[id]]
    assert len({str(ours[id][0].arguments) for id in ids}) == len(set(ids))


def test_each_prompt_is_built_once(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = lr.task("lm_eval:own_sums", include_path=own)
    member = task.members["own_sums"]
    built: list[Any] = []
    build = member.fewshot_context
    monkeypatch.setattr(
        member, "fewshot_context", lambda doc, **given: built.append(doc) or build(doc, **given)
    )
    for limit in (1, 2, 4):
        task.examples(limit, 0)
    Harness(task).prepare(lr.Engine(random_model("llama")), task, task.examples(3, 0)[::-1])
    assert len(built) == 4


@pytest.mark.parametrize("id", ["own_one/6", "own_one/01", "own_one/x", "own_two/0", "0"])
def test_an_id_of_no_document(own: str, id: str) -> None:
    with pytest.raises(InputError, match=f"task 'lm_eval@2:own_one' has no example '{id}'"):
        lr.task("lm_eval:own_one", include_path=own).instances([id])


def test_the_label_says_what_is_not_the_default(own: str) -> None:
    task = lr.task("lm_eval:own_sums", include_path=own, num_fewshot=1)
    assert task.label == "lm_eval@2[task=own_sums,num_fewshot=1]"
    assert lr.task(task.label, include_path=own) == task
    plain = lr.task("lm_eval:own_sums", include_path=own)
    assert plain.label == "lm_eval@2:own_sums"
    assert lr.task(plain.label, include_path=own) == plain
    first = lr.task("lm_eval:own_sums", include_path=own, order="first")
    assert first.label == "lm_eval@2[task=own_sums,order=first]"
    assert lr.task(first.label, include_path=own) == first
    assert task.family == "language"
    assert lr.task("lm_eval:own_sums", include_path=own, family="reasoning").family == "reasoning"


@pytest.mark.parametrize(
    ("name", "protocol", "unit", "chance"),
    [
        ("own_one", "letter", "accuracy", 0.25),
        ("own_information", "continuation", "accuracy", 0.25),
        ("own_sums", "generation", "accuracy", None),
    ],
)
def test_a_task_has_one_protocol(
    own: str, name: str, protocol: str, unit: str, chance: float | None
) -> None:
    task = lr.task(f"lm_eval:{name}", include_path=own)
    asked = Harness(task)
    assert (asked.name, asked.unit) == (protocol, unit)
    assert asked.chance(task.examples(2, 0)) == chance


def test_a_sweep_keeps_lm_evals_metrics_and_aggregates_them(own: str, tmp_path: Path) -> None:
    model = random_model("llama")
    tasks = [lr.task(f"lm_eval:{name}", include_path=own) for name in ("own_group", "own_sums")]
    conditions = lr.each_layer(model, lr.Skip())
    # Three documents of one member of the group, two of the other: lm-eval weights by size.
    result = lr.Sweep(model, tasks, conditions, limit=5).run(tmp_path / "run")
    cells = {(cell["task"], cell["protocol"]) for cell in result.manifest["cells"]}
    assert cells == {(tasks[0].label, "letter"), (tasks[1].label, "generation")}
    written = next(one for one in result.manifest["cells"] if one["protocol"] == "generation")
    assert (written["chance"], written["chance_from"]) == (0.0, "shuffled answers")
    assert {one["protocol"] for one in result.manifest["noise_floor"]} == {"letter", "generation"}
    table = lr.lm_eval_metrics(result)
    group = table[table["task"] == tasks[0].label]
    assert set(group["member"]) == {"own_one", "own_two", "all"}
    letters = result.frame[result.frame["protocol"] == "letter"]
    for condition, rows in group[group["metric"] == "acc"].groupby("condition"):
        by_member = rows.set_index("member")["value"]
        rows_of = letters[letters["condition"] == condition]
        assert by_member["all"] == pytest.approx(rows_of["score"].mean())
    sums = table[table["task"] == tasks[1].label]
    assert set(sums["filter"]) == {"strict-match", "flexible-extract"}
    again = lr.Sweep(model, tasks, conditions, limit=5).run(tmp_path / "run")
    assert again.frame.equals(result.frame)


def test_tasks_of_the_same_documents_are_paired_by_document(own: str, tmp_path: Path) -> None:
    names = ("own_one", "own_two", "own_information")
    tasks = [lr.task(f"lm_eval:{name}", include_path=own, family="knowledge") for name in names]
    questions = [{e.question for e in task.examples(4, 0)} for task in tasks]
    assert questions[0] == questions[1] == questions[2]
    assert len(questions[0]) == 4 and "" not in questions[0]
    model = random_model("llama")
    folder = tmp_path / "run"
    result = lr.Sweep(model, tasks, lr.each_layer(model, lr.Skip()), limit=4).run(folder)
    pairs = result.differences()[["task", "task_b", "n"]].drop_duplicates()
    labels = [task.label for task in tasks]
    found = {frozenset(pair) for pair in zip(pairs["task"], pairs["task_b"], strict=True)}
    assert found == {frozenset(pair) for pair in itertools.combinations(labels, 2)}
    assert set(pairs["n"]) == {4}
    # A folder in which the questions are not named: going on with it names them.
    with sqlite3.connect(folder / "rows.sqlite") as rows:
        rows.execute("UPDATE examples SET question = ''")
    rows.close()
    assert lr.read(folder).differences().empty
    again = lr.Sweep(model, tasks, lr.each_layer(model, lr.Skip()), limit=4).run(folder)
    assert len(again.differences()) == len(result.differences())
    assert again.frame.equals(result.frame)


def test_chance_of_a_written_answer_is_that_of_anothers(own: str) -> None:
    """Of the four sums two have the same answer: given another's right answer, 1 in 6 is right."""
    task = lr.task("lm_eval:own_sums", include_path=own, order="first")
    asked = Harness(task).prepare(lr.Engine(random_model("llama")), task, task.examples(4, 0))
    assert isinstance(asked, AskedTexts)
    right = [
        Writing(text=f" {answer}", n_tokens=3, ended=True, finite=True, changed=False)
        for _, answer in data.SUMS
    ]
    assert [answer.score for answer in asked.judge(right)] == [1.0] * 4
    assert all(answer.strict and answer.form for answer in asked.judge(right))
    assert asked.shuffled(right) == pytest.approx(2 / 12)


def test_format_and_skill_are_read_apart(own: str) -> None:
    task = lr.task("lm_eval:own_sums", include_path=own, order="first")
    asked = Harness(task).prepare(lr.Engine(random_model("llama")), task, task.examples(1, 0))
    texts = {
        " 3 + 4 = 7": (1.0, False),
        " 3 + 4 = 8\n#### 8": (0.0, True),
        " no idea": (0.0, False),
    }
    for text, (score, form) in texts.items():
        (answer,) = asked.judge([Writing(text, 3, ended=True, finite=True, changed=False)])
        assert (answer.score, answer.form) == (score, form)
    assert answer.outcome == "no answer"


def test_without_lm_eval_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task_loading._load_manager.cache_clear()
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InputError, match=r"pip install 'layerroles\[lm-eval\]'"):
        lr.task("lm_eval:arc_easy")
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "layerroles.harness.model", raising=False)
    with pytest.raises(InputError, match=r"pip install 'layerroles\[lm-eval\]'"):
        importlib.import_module("layerroles.harness.model")


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(
        InputError, match="unknown lm-eval task 'arc_eazy': did you mean 'arc_easy'"
    ):
        lr.task("lm_eval:arc_eazy")
    with pytest.raises(InputError, match="takes nothing behind a colon"):
        lr.task("facts:capital")


def test_data_that_cannot_be_reached_can_be_given() -> None:
    with pytest.raises(InputError, match=r"cannot be reached .*data=FOLDER.*dataset_path: json"):
        lr.task("lm_eval:arc_easy")
    with pytest.raises(InputError, match="data='nowhere' is not a folder"):
        lr.task("lm_eval:arc_easy", data="nowhere")


def test_a_split_that_the_data_lack_is_named(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": "one two three"}]
    folder = data.repository(tmp_path / "lambada", "default", validation=rows)
    with pytest.raises(InputError, match="no split or field 'test'"):
        lr.task("lm_eval:lambada_openai", data=folder)


def test_folders_of_one_name_and_changed_files_have_their_own_rows(tmp_path: Path) -> None:
    def last_words(parent: str, *texts: str) -> list[str]:
        rows: list[dict[str, object]] = [{"text": text} for text in texts]
        shutil.rmtree(tmp_path / parent, ignore_errors=True)
        folder = data.repository(tmp_path / parent / "lambada", "default", test=rows)
        examples = lr.task("lm_eval:lambada_openai", data=folder).examples(8, 0)
        return sorted(example.answer.strip() for example in examples)

    assert last_words("a", "one two three", "one two four") == ["four", "three"]
    assert last_words("b", "five six seven") == ["seven"]
    assert last_words("a", "one two nine") == ["nine"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{question}}"\n',
         "'loglikelihood_rolling', which is not supported: supported are generate_until, "),
        ('output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
         'generation_kwargs: {until: ["."], do_sample: true, temperature: 0.7}\n',
         "asks for sampling or beams"),
        ('output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
         'repeats: 8\ngeneration_kwargs: {until: ["."]}\n', "asks each question 8 times"),
    ],
)  # fmt: skip
def test_kinds_that_cannot_be_asked(tmp_path: Path, own: str, text: str, message: str) -> None:
    folder = with_task(tmp_path / "more", own, "own_other", text)
    with pytest.raises(InputError, match=message):
        lr.task("lm_eval:own_other", include_path=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_fewshot": 2}, "no split to take worked examples from: use num_fewshot=0"),
        ({"num_fewshot": -1}, "num_fewshot=-1 is not a whole number"),
        ({"metric": "accuracy"}, "metric='accuracy' is unknown: known are acc, brier_score"),
        ({"filter": "strict"}, "filter='strict' is unknown: known are none"),
        ({"family": "wisdom"}, "family='wisdom' is unknown"),
        ({"order": "random"}, "order='random' is unknown: known are seed, first"),
        ({"include_path": "nowhere"}, "include_path='nowhere' is not a folder"),
    ],
)
def test_options_that_a_task_does_not_take(
    own: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        lr.task("lm_eval:own_one", **{"include_path": own, **options})


def test_more_shots_than_there_are(own: str) -> None:
    task = lr.task("lm_eval:own_sums", include_path=own, num_fewshot=9)
    with pytest.raises(InputError, match="'own_sums' cannot make its prompts, with 9 worked"):
        task.examples(1, 0)


def test_a_metric_of_which_lower_is_better_is_no_score(own: str) -> None:
    with pytest.raises(InputError, match="of metric='brier_score' lower is better"):
        lr.task("lm_eval:own_one", include_path=own, metric="brier_score")


def test_another_gold_answer_or_filter_is_another_run(own: str, tmp_path: Path) -> None:
    model, conditions = random_model("llama"), [lr.Condition({lr.Site(0): lr.Skip()})]

    def swept(text: str, n: int) -> lr.SweepResult:
        task_loading._load_manager.cache_clear()
        folder = with_task(tmp_path / "more", own, "own_changing", text)
        task = lr.task("lm_eval:own_changing", include_path=folder)
        return lr.Sweep(model, [task], conditions, limit=n).run(tmp_path / "run")

    text = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
"""
    swept(text, 2)
    with pytest.raises(InputError, match="by other rules"):
        swept(text.replace("doc_to_target: answer", "doc_to_target: 0"), 4)
    assert swept(text, 3).frame["example"].nunique() == 3


def test_several_right_choices_are_easier_to_guess(own: str, tmp_path: Path) -> None:
    text = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{[answer, (answer + 1) % 4]}}"
"""
    folder = with_task(tmp_path / "more", own, "own_several", text)
    task = lr.task("lm_eval:own_several", include_path=folder)
    assert Harness(task).chance(task.examples(3, 0)) == 0.5


def test_a_template_that_fails_on_a_later_document(own: str, tmp_path: Path) -> None:
    text = """output_type: multiple_choice
doc_to_text: "{{question}} {{1 // (answer - 1) if question != 'What do bees make?' else 1 // 0}}"
doc_to_choice: choices
doc_to_target: answer
"""
    folder = with_task(tmp_path / "more", own, "own_failing", text)
    task = lr.task("lm_eval:own_failing", include_path=folder)
    with pytest.raises(InputError, match=r"'own_failing' cannot make its prompts, .*ZeroDivision"):
        task.examples(3, 0)


def test_a_metric_that_is_no_number_for_a_document(own: str) -> None:
    task = lr.task("lm_eval:own_one", include_path=own, filter="none")
    object.__setattr__(task, "metric", "brier_score")  # as a task without another would have it
    asked = Harness(task).prepare(lr.Engine(random_model("llama")), task, task.examples(1, 0))
    engine = lr.Engine(random_model("llama"))
    (scores,) = engine.score(list(asked.requests), [lr.Condition({})])
    with pytest.raises(
        InputError, match="gives no number for a document: give metric=, one of acc"
    ):
        asked.judge(scores)


@pytest.mark.parametrize(
    "metric", ["acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"]
)
def test_the_response_is_the_choice_that_the_metric_scores(
    own: str, tmp_path: Path, metric: str
) -> None:
    """The choices differ in length, and one has more bytes than characters."""
    rows = [{"q": f"Who is {n}?", "c": ["a b", "a b c d e f g h", "éé", "it"], "a": n % 4}
            for n in range(16)]  # fmt: skip
    data.write(tmp_path / "data", rows=rows)
    listed = "".join(
        f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: true\n"
        for name in dict.fromkeys(("acc", metric))
    )
    text = f"""task: own_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {tmp_path / "data" / "rows.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: c
doc_to_target: a
metric_list:
{listed}"""
    (tmp_path / "own_choices.yaml").write_text(text, encoding="utf-8")
    task = lr.task(
        "lm_eval:own_choices", include_path=str(tmp_path), metric=metric, family="knowledge"
    )
    examples = task.examples(12, 0)
    asked = Harness(task).prepare(lr.Engine(random_model("llama")), task, examples)
    rng = np.random.default_rng(0)
    sizes = 4 * (2 if metric == "acc_mutual_info" else 1)
    scores = [
        Score(logprob=-20 * float(draw), is_greedy=False, n_tokens=1, finite=True, changed=False)
        for draw in rng.random(sizes * len(examples))
    ]
    answers = asked.judge(scores)
    if metric == "exact_match":  # whether one choice is greedy says nothing of the others
        assert {answer.response for answer in answers} == {""}
        return
    assert {answer.correct for answer in answers} == {True, False}
    for example, answer in zip(examples, answers, strict=True):
        assert answer.correct is (answer.response == example.answer)
