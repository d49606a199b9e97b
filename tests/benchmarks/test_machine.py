"""The processor's name and the load from other work, on this machine and in sample files."""

import subprocess
import sys

from tests.benchmarks.machine import Others, own_seconds, processor, software

SPIN = "import time; start = time.process_time()\nwhile time.process_time() < start + 0.4: pass"


def test_a_name_alone_is_not_enough(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    core = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n"
    cpuinfo.write_text(core.format(0) + core.format(1))
    assert processor(cpuinfo) == "AMD EPYC (family 25, model 17)"


def test_there_is_a_name_without_cpuinfo(tmp_path):
    assert processor(tmp_path / "none")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert processor(cpuinfo) and "BogoMIPS" not in processor(cpuinfo)


def test_what_a_benchmark_starts_is_its_own_work():
    before = own_seconds()
    subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert own_seconds() - before > 0.35


def test_others_are_watched_from_one_look_to_the_next():
    others = Others()
    found = others.since()
    assert 0 <= found["others_share"] <= 1 and found["load_before"] >= 0
    assert found["busy"] == (found["others_share"] > 0.05)


def test_software_is_named():
    assert {"date", "commit", "cores", "threads", "python", "torch"} == set(software())
