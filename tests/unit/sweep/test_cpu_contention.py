"""A run that waits for processors warns once."""

from pathlib import Path

import pytest

from layerroles.sweep import cpu_contention
from layerroles.sweep.cpu_contention import Contention


@pytest.mark.parametrize(("policy", "n_threads"), [("ACTIVE", 2), ("PASSIVE", 2), ("ACTIVE", 1)])
@pytest.mark.parametrize(
    ("waited", "warned"), [(0.0, False), (2.0, False), (4.0, True), (9.0, True)]
)
def test_waiting_for_a_quarter_of_the_time_is_warned_of_once(
    waited: float,
    warned: bool,
    policy: str,
    n_threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = 0.0
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr("torch.get_num_threads", lambda: n_threads)
    monkeypatch.setattr("time.monotonic", lambda: seconds)
    monkeypatch.setattr(cpu_contention, "THREADS", tmp_path)

    def write(ran: float, lost: float) -> None:
        for thread in ("1", "2"):
            (tmp_path / thread).mkdir(exist_ok=True)
            counts = f"{ran * 1e9 / 2:.0f} {lost * 1e9 / 2:.0f} 7\n"
            (tmp_path / thread / "schedstat").write_text(counts)

    write(100.0, 300.0)  # before the run
    watched = Contention()
    write(110.0, 300.0 + waited)
    watched.check()
    assert not caplog.messages  # ten seconds have not passed
    seconds = 10.0
    watched.check()
    assert bool(caplog.messages) == warned
    if warned:
        share = waited / (10 + waited)
        assert (
            f"in the last 10 seconds, this run waited for a processor for {share:.0%} "
            in caplog.text
        )
        # What is set already is not recommended; one thread never waits for another.
        is_advised = (policy, n_threads) == ("ACTIVE", 2)
        assert ("OMP_WAIT_POLICY=PASSIVE" in caplog.text) == is_advised
    # What was lost before the last check does not count again.
    seconds = 20.0
    write(120.0, 300.0 + waited)
    watched.check()
    assert len(caplog.messages) == warned


def test_no_warning_without_system_counters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu_contention, "THREADS", tmp_path / "missing")
    monkeypatch.setattr(cpu_contention, "SECONDS_WATCHED", 0.0)
    Contention().check()
    assert not caplog.messages
