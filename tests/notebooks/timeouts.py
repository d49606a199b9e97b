"""A pytest plugin: a notebook whose cell ran into nbval's time limit fails.

nbval interrupts such a cell and expects the cells after it to fail. A cell that handles the
interrupt, as waiting for a training run does, would pass unseen, and so would the rest.
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
