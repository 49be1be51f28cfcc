"""What every test shares: few threads, repeatable random cases, no data fetched by surprise."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis

hypothesis.settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what the graders were proven with, and what the pages cost, measured in this run."""
    from homework.summary import write_summary

    write_summary(terminalreporter)
    costs = [
        value
        for status in ("passed", "failed")
        for report in terminalreporter.stats.get(status, [])
        for name, value in getattr(report, "user_properties", [])
        if name == "page_cost"
    ]
    if costs:
        terminalreporter.section("pages: seconds and peak memory on this machine")
        for name, seconds, megabytes in costs:
            terminalreporter.line(f"{name:<40} {seconds:7.1f} s {megabytes:7.0f} MB")
