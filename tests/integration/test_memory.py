"""What a process grows by stays within the budget that a sweep is given, to a tenth."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import layerroles as lr

RUNNER = Path(__file__).parents[2] / "benchmarks" / "runner.py"
BUDGET = 256


@pytest.mark.package
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_is_within_the_budget(tmp_path: Path) -> None:
    """Look-up, whose rows share nothing: together they would take more than there is."""
    task = lr.task("kv_retrieval")
    examples = task.examples(10, 0)
    asked = [(one.context(worked=True), {"max_gen_toks": 24}) for one in examples]
    lines = [
        {"kind": "generate_until", "context": context, "until": list(task.until), **options}
        for context, options in asked
    ]
    requests, out = tmp_path / "kv.jsonl", tmp_path / "found.json"
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sites = ["intact", *(f"L{layer}" for layer in range(0, 30, 3))]
    words = [sys.executable, str(RUNNER), "engine", "--requests", str(requests)]
    words += ["--conditions", ",".join(sites), "--memory", f"{BUDGET}MB", "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(out.read_text())
    assert found["executors"] == ["fused"]

    model = lr.load("smollm2-135m", device="meta")
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip(), layers=range(0, 30, 3))]
    plans = [
        lr.Engine(model, memory=memory).plan(asked, conditions) for memory in (f"{BUDGET}MB", "8GB")
    ]
    assert plans[1].n_bytes > BUDGET * 2**20  # without a budget it would be more
    assert found["peak_mb"] < 1.1 * BUDGET, f"planned {plans[0].n_bytes / 2**20:.0f} MB"
