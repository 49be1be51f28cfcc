"""Every page runs: nbval compares its outputs, and its time and memory stay within the budget.

Each notebook runs in a pytest of its own so that what it costs can be measured: the clock, and
the memory of the kernel with all its children, sampled. The figures are printed at the end and
written to ``book/_data/pages.json`` when ``COMPANION_WRITE_COSTS=1``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
COSTS = ROOT / "book" / "_data" / "pages.json"
SECONDS = 60.0
MEGABYTES = 1500.0
NOTEBOOKS = sorted(
    path
    for path in (ROOT / "book").rglob("*.ipynb")
    if not any(part.startswith(("_", ".")) for part in path.relative_to(ROOT).parts)
)


class MemorySampler(threading.Thread):
    """Peak resident memory of a process's kernels: every descendant, added up, in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.stopped = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            total = 0
            try:
                descendants = self.process.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            for child in descendants:
                try:
                    memory = child.memory_full_info()
                    total += getattr(memory, "pss", memory.rss)
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def run_page(notebook: Path) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run nbval on one notebook; returns the process, its seconds and its peak megabytes."""
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-x"]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "sanitize.cfg"), "--tb=short"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=280", "-W", "default"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for name in ("PYTEST_ADDOPTS", "MPLBACKEND"):  # the kernel must draw, as when it was stored
        environment.pop(name, None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(notebook)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sampler = MemorySampler(process.pid)
    sampler.start()
    output, _ = process.communicate()
    sampler.stopped.set()
    sampler.join()
    seconds = time.perf_counter() - start
    completed = subprocess.CompletedProcess(command, process.returncode, output, "")
    return completed, seconds, sampler.peak / 1e6


@pytest.mark.pages
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "notebook", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix()
)
def test_page_runs_within_its_budget(notebook: Path, record_property) -> None:
    completed, seconds, megabytes = run_page(notebook)
    name = notebook.relative_to(ROOT).with_suffix("").as_posix()
    record_property("page_cost", (name, round(seconds, 1), round(megabytes)))
    assert completed.returncode == 0, f"nbval failed on {name}:\n{completed.stdout[-6000:]}"
    if os.environ.get("COMPANION_WRITE_COSTS") == "1":
        known = json.loads(COSTS.read_text()) if COSTS.exists() else {}
        known[name] = {"seconds": round(seconds, 1), "peak_mb": round(megabytes)}
        COSTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    assert seconds <= SECONDS, f"{name} took {seconds:.0f} s; the budget is {SECONDS:.0f} s"
    assert megabytes <= MEGABYTES, f"{name} took {megabytes:.0f} MB of {MEGABYTES:.0f} MB"


def test_there_are_pages_to_run() -> None:
    assert len(NOTEBOOKS) >= 1


@pytest.mark.pages
def test_a_page_whose_stored_output_is_wrong_fails(tmp_path: Path) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("print(1 + 1)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    notebook.cells = [cell]
    path = tmp_path / "wrong.ipynb"
    nbformat.write(notebook, path)
    completed, _, _ = run_page(path)
    assert completed.returncode == 1
    assert "mismatch" in completed.stdout.lower()
