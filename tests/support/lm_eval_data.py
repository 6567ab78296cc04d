"""Small data sets in the shape of well-known ones, and task files of one's own, for lm-eval."""

import json
from pathlib import Path

FACTS = [
    ("Which planet is known as the red planet?", ["Mars", "Venus", "Jupiter", "Saturn"], 0),
    ("What do bees make?", ["milk", "honey", "silk", "wax paper"], 1),
    ("Which gas do plants take in?", ["oxygen", "helium", "carbon dioxide", "neon"], 2),
    ("How many legs does a spider have?", ["four", "six", "ten", "eight"], 3),
    ("What is frozen water called?", ["ice", "steam", "sand", "fog"], 0),
    ("Which animal barks?", ["the cat", "the dog", "the fish", "the cow"], 1),
]
STORIES = [
    ("Making tea", "A woman fills a kettle with water.", "She", "boils it", "eats the kettle", 0),
    ("Gardening", "A man digs a hole in the ground.", "He", "flies away", "plants a tree", 1),
    ("Cooking", "A boy cracks two eggs into a bowl.", "He", "beats them", "paints the car", 0),
    ("Cycling", "A girl puts on a helmet.", "She", "drinks the road", "rides her bike", 1),
]
SUMS = [
    ("Ann has 3 pens and buys 4. How many pens has she?", "3 + 4 = 7\n#### 7"),
    ("Bob has 9 nuts and eats 2. How many nuts are left?", "9 - 2 = 7\n#### 7"),
    ("A box holds 6 eggs. How many eggs do 2 boxes hold?", "2 * 6 = 12\n#### 12"),
    ("Eve reads 5 pages a day. How many in 3 days?", "5 * 3 = 15\n#### 15"),
]
ENDINGS = [
    "The sun rises in the east and sets in the west",
    "She opened the door with her key and closed the door",
    "He bought a loaf of bread, and at home he ate the bread",
]
BLANKS = [
    ("The cup did not fit into the bag because the _ was too big.", "cup", "bag", "1"),
    ("The cup did not fit into the bag because the _ was too small.", "cup", "bag", "2"),
    ("Tom thanked Max because _ had helped.", "Tom", "Max", "2"),
]


def write(folder: Path, **splits: list[dict[str, object]]) -> str:
    """A data set as a repository holds it: a JSONL file for each split."""
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def repository(folder: Path, config: str, **splits: list[dict[str, object]]) -> str:
    """A data set with a named configuration, which its README declares."""
    path = write(folder, **splits)
    files = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in splits)
    head = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(head, encoding="utf-8")
    return path


def arc(folder: Path) -> str:
    rows: list[dict[str, object]] = [
        {
            "question": question,
            "choices": {"text": choices, "label": list("ABCD")},
            "answerKey": "ABCD"[right],
        }
        for question, choices, right in FACTS
    ]
    return repository(folder, "ARC-Easy", train=rows[4:], validation=rows[4:], test=rows[:4])


def hellaswag(folder: Path) -> str:
    rows: list[dict[str, object]] = [
        {
            "activity_label": label,
            "ctx_a": first,
            "ctx_b": second,
            "endings": [one, two, "sings [title] a song", "says nothing"],
            "label": str(right),
        }
        for label, first, second, one, two, right in STORIES
    ]
    return write(folder, train=rows, validation=rows)


def lambada(folder: Path) -> str:
    return repository(folder, "default", test=[{"text": text} for text in ENDINGS])


def winogrande(folder: Path) -> str:
    rows: list[dict[str, object]] = [
        {"sentence": text, "option1": one, "option2": two, "answer": right}
        for text, one, two, right in BLANKS
    ]
    return repository(folder, "winogrande_xl", train=rows, validation=rows)


def own_tasks(folder: Path) -> str:
    """Task files: `own_sums` (few shots, two filters), the group `own_group`, `own_information`."""
    write(
        folder / "data",
        sums=[{"question": q, "answer": a} for q, a in SUMS],
        facts=[{"question": q, "choices": c, "answer": a} for q, c, a in FACTS],
    )
    data = folder / "data"
    sums = f"""
task: own_sums
dataset_path: json
dataset_kwargs:
  data_files:
    train: {data / "sums.jsonl"}
    test: {data / "sums.jsonl"}
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 2
generation_kwargs:
  until: ["Question:"]
  do_sample: false
  max_gen_toks: 14
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    regexes_to_ignore: [",", "(?s).*#### "]
filter_list:
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"
      - function: take_first
  - name: flexible-extract
    filter:
      - function: regex
        group_select: -1
        regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"
      - function: take_first
"""
    letters = f"""
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data / "facts.jsonl"}
output_type: multiple_choice
test_split: test
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: brier_score
    aggregation: brier_score
    higher_is_better: false
"""
    options = "\\n".join(f"{letter}. {{{{choices[{at}]}}}}" for at, letter in enumerate("ABCD"))
    (folder / "own_sums.yaml").write_text(sums, encoding="utf-8")
    for name, begin in (("one", ""), ("two", "Question: ")):
        text = f'task: own_{name}\ndoc_to_text: "{begin}{{{{question}}}}\\n{options}\\nAnswer:"'
        (folder / f"own_{name}.yaml").write_text(text + letters, encoding="utf-8")
    (folder / "own_group.yaml").write_text(
        "group: own_group\ntask: [own_one, own_two]\naggregate_metric_list:\n"
        "  - metric: acc\n    weight_by_size: true\n",
        encoding="utf-8",
    )
    (folder / "own_information.yaml").write_text(
        letters.replace('["A", "B", "C", "D"]', "choices")
        .replace("metric: brier_score", "metric: acc_mutual_info")
        .replace("aggregation: brier_score", "aggregation: mean")
        .replace("higher_is_better: false", "higher_is_better: true")
        + '\ntask: own_information\ndoc_to_text: "{{question}} Answer:"\n',
        encoding="utf-8",
    )
    return str(folder)
