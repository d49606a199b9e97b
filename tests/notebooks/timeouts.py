"""A pytest plugin that fails a notebook if one of its cells ran into nbval's time limit.

nbval interrupts such a cell and expects the cells after it to fail. A cell that handles the
interrupt, such as one waiting for a training run, would otherwise pass, and so would the rest.
"""

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and getattr(item.parent, "timed_out", False):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: this cell or one before it ran into the time limit"
        vars(report).pop("wasxfail", None)
    return report
