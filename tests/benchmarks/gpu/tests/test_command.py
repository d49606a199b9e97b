"""The command: one sentence without a GPU; parts in order and on time; failures handled."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mini_moe.ops import compiled
from tests.benchmarks.gpu import __main__ as command
from tests.benchmarks.gpu import check, libraries, report
from tests.benchmarks.gpu.clock import Clock, TimeKeeper
from tests.benchmarks.gpu.parts import __main__ as part_process
from tests.benchmarks.gpu.tests.test_report import RESULT, ROWS

MACHINE = RESULT["machine"] | {"capability": [9, 0]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_one_sentence(capsys):
    assert command.main([]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("bench-gpu: there is no NVIDIA GPU")
    assert said.err.count("\n") == 1


def test_without_nvcc_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(compiled, "CUDA_WHY_NOT", "no nvcc here")
    assert command.main([]) == 1
    assert "there is no nvcc" in capsys.readouterr().err


def test_kernels_built_elsewhere_need_no_nvcc(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(compiled, "CUDA_WHY_NOT", "")
    assert command.lacking() == ""


def test_tables_of_a_file_need_no_gpu(tmp_path, capsys):
    path = report.write(RESULT, tmp_path)
    assert command.main(["--render", str(path)]) == 0
    assert capsys.readouterr().out.strip() == report.markdown(RESULT).strip()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(("environment", "python"), [(True, "here/python"), (False, "some-python")])
def test_make_installs_nothing_and_writes_where_it_is_told(environment, python, tmp_path):
    (tmp_path / "here").mkdir()
    if environment:
        (tmp_path / "here/python").touch()
    given = [f"PY={tmp_path}/here/python", "PYTHON=some-python", f"OUT={tmp_path}/out"]
    words = ["make", "-n", "-C", str(libraries.ROOT), "--no-print-directory", "bench-gpu", *given]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith(f'{python} -m tests.benchmarks.gpu --out "{tmp_path}/out"')
    assert "pip" not in said and said.strip().count("\n") == 0


def options(tmp_path, only, seconds=570.0):
    return argparse.Namespace(only=only, seconds=seconds, quick=False, out=tmp_path)


def test_parts_run_in_order_within_their_time_and_leave_a_file(tmp_path, monkeypatch):
    asked = []

    def part(name, path, seconds, size):
        asked.append((name, seconds <= command.PARTS[name], size))
        lines = [*ROWS, {"left_out": "a case"}, {"readings": name, "sm_mhz": 1980.0}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return "stopped" if name == "ladder" else ""

    monkeypatch.setattr(libraries, "build", lambda *_: {"extension": {"ok": True}})
    monkeypatch.setattr(check, "check", lambda _: {"tests": {"ok": True}})
    run = command.Run(
        options(tmp_path, ["ladder", "check", "kernels", "build"]), "x", MACHINE, part
    )
    result = run.all()
    assert asked == [("kernels", True, "full"), ("ladder", True, "full")]
    assert result["rows"] == ROWS * 2 and result["targets"] == report.targets(ROWS * 2)
    assert result["left_out"] == ["a case", "a case", "ladder: stopped"]
    assert result["readings"] == {"kernels": {"sm_mhz": 1980}, "ladder": {"sm_mhz": 1980}}
    assert list(result["seconds"]) == ["build", "check", "kernels", "ladder", "total"]
    assert report.read(tmp_path / "gpu_nvidia_x100_made_up.json") == result
    assert set(result) >= {"benchmark", "command", "machine", "before", "build", "check"}


def test_which_tiles_are_faster_is_answered_before_anything_is_checked(
    tmp_path, monkeypatch, capsys
):
    def part(name, path, seconds, size):
        path.write_text("".join(json.dumps(line) + "\n" for line in ROWS))
        return ""

    monkeypatch.setattr(check, "check", lambda _: {"tests": {"ok": True}})
    command.Run(options(tmp_path, ["check", "tiles"]), "x", MACHINE, part).all()
    said = capsys.readouterr().out
    assert said.index("128 × 256 tiles are faster") < said.index("check:")


def test_two_calls_fit_fifteen_minutes_and_the_first_one_asks_for_tiles_and_checks():
    """A machine takes one to three minutes to start."""
    assert command.SECONDS + 300 + 180 <= 15 * 60
    assert list(command.PARTS)[:3] == ["build", "tiles", "check"]
    keeper = TimeKeeper(command.SECONDS, now=lambda: 0.0)
    for name in ("build", "tiles"):  # even if nothing is built yet
        share = keeper.share(command.PARTS[name], command.RESERVED[name])
        assert share >= command.START


def test_every_part_has_something_that_runs_it():
    assert set(part_process.PARTS) == set(command.PARTS) - {"build", "check"}


def test_the_whole_command_ends_with_the_targets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "lacking", lambda: "")
    monkeypatch.setattr(command, "machine", lambda _: MACHINE)
    monkeypatch.setattr(command, "run_part", lambda *_: "")
    monkeypatch.setattr(check, "check", lambda _: {"memcheck": {"ok": False, "text": "words"}})
    assert command.main(["--only", "kernels", "--out", str(tmp_path)]) == 0
    result = report.read(next(tmp_path.glob("gpu_*.json")))
    assert result["command"].startswith("python -m tests.benchmarks.gpu --only kernels")
    said = capsys.readouterr().out.strip()
    assert report.target_table(result["targets"]) in said
    assert said.endswith(report.tiles_answer([]))
    assert command.main(["--only", "check", "--out", str(tmp_path)]) == 1  # memcheck found errors


def test_the_machine_is_described(monkeypatch):
    device = SimpleNamespace(
        name="X100", major=9, minor=0, total_memory=8e9, multi_processor_count=7
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    found = command.machine()
    assert (found["device"], found["capability"], found["memory_gb"]) == ("X100", [9, 0], 8)
    assert found["torch"] and found["python"] and set(found) >= {"driver", "commit", "triton"}
    assert found["sources"] == compiled.fingerprint()


def test_commit_is_recorded_as_given_where_there_is_no_git(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(command, "lacking", lambda: "")
    monkeypatch.setattr(command, "machine", lambda commit: given.append(commit) or MACHINE)
    monkeypatch.setattr(check, "check", lambda _: RESULT["check"])
    command.main(["--only", "check", "--commit", "abc123", "--out", str(tmp_path)])
    assert given == ["abc123"]


def test_a_process_measures_its_part_and_reads_the_clocks(tmp_path, monkeypatch):
    cpu = Clock("cpu", flush_bytes=64)
    monkeypatch.setattr(part_process, "Clock", lambda device: cpu)
    part_process.main("training", str(tmp_path / "rows"), "100", "tiny")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row.get("peer") for row in rows] == ["mini_moe", "PyTorch path", None]
    assert rows[-1]["readings"] == "training"


def test_an_old_library_is_not_measured_where_the_new_one_fails(tmp_path, monkeypatch):
    (library := tmp_path / "launchers.so").write_text("old")
    (source := tmp_path / "new.cu").write_text("new")
    monkeypatch.setattr(libraries, "find_nvcc", lambda: None)
    with pytest.raises(RuntimeError, match="there is no nvcc"):
        libraries.build_launchers((9, 0), [source], library)
    assert not library.exists()


def test_launchers_are_translated_again_for_other_sources_or_another_gpu(tmp_path, monkeypatch):
    (source := tmp_path / "one.cu").write_text("one")
    library = tmp_path / "launchers.so"
    monkeypatch.setattr(libraries, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(libraries, "run", lambda command: library.write_text("built"))
    build = libraries.build_launchers
    assert build((9, 0), [source], library) == "1 files for sm_90a"
    monkeypatch.setattr(libraries, "find_nvcc", lambda: None)  # copied to another machine
    assert build((9, 0), [source], library) == "1 files for sm_90a, up to date"
    monkeypatch.setattr(libraries, "find_nvcc", lambda: "nvcc")
    assert build((8, 0), [source], library) == "1 files for sm_80"
    source.write_text("two")
    assert build((8, 0), [source], library) == "1 files for sm_80"
    assert build((8, 0), [source], library) == "1 files for sm_80, up to date"


def test_a_part_without_time_is_not_started(tmp_path):
    assert command.run_part("kernels", tmp_path / "rows", 1.0, "quick") == "no time left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_part_that_crashes_is_named(tmp_path):
    ended = command.run_part("kernels", tmp_path / "rows", 60.0, "quick")
    assert ended == "ended with code 1"  # no GPU to measure on


def test_a_build_that_fails_says_what_the_compiler_said(tmp_path):
    wrong = tmp_path / "wrong.cu"
    wrong.write_text("this is not C++;\n")
    action = libraries.build_launchers
    outcome = libraries.timed(lambda: action((9, 0), [wrong], tmp_path / "build" / "wrong.so"))
    assert not outcome["ok"]
    assert ("error" if libraries.find_nvcc() else "there is no nvcc") in outcome["text"]


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
@pytest.mark.parametrize("capability", [(9, 0), (8, 0)])
def test_launchers_become_a_library_that_speaks(tmp_path, capability):
    library = tmp_path / "launchers.so"
    naive = [path for path in libraries.sources() if path.stem == "grouped_gemm_1_naive"]
    said = libraries.build_launchers(capability, naive, library)
    assert said == f"1 files for sm_{'90a' if capability == (9, 0) else '80'}"
    launchers = libraries.Launchers(library, stream=lambda: None)
    sizes = (0, 4, 7, 80)  # rows, experts, d_in, d_out: refused before anything is launched
    with pytest.raises(ValueError, match="d_in: expected a multiple of 8 up to 2\\^20, got 7"):
        launchers.call("grouped_gemm_1", None, None, None, None, *sizes)
    with pytest.raises(ValueError, match="grouped_gemm_9 is not among the launchers"):
        launchers.call("grouped_gemm_9")
    assert launchers.configurations("grouped_gemm_1") == 0


@pytest.mark.parametrize("said", ["kernels: CUDA: none: no nvcc here", "kernels: not built: why"])
def test_an_extension_without_its_cuda_kernels_is_no_success(said):
    outcome = libraries.timed(lambda: libraries.with_cuda(said))
    assert (outcome["ok"], outcome["text"]) == (False, said)
    assert libraries.with_cuda("kernels: CUDA: sm_80, sm_90a") == "kernels: CUDA: sm_80, sm_90a"


def test_ladder_steps_are_found_by_their_names():
    steps = libraries.ladder_steps()
    assert list(steps) == list(range(1, len(steps) + 1))
    assert steps[1] == "naive" and steps[3] == "tensor_cores"


def test_pytest_is_counted(tmp_path):
    (tmp_path / "test_two.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('')\n"
    )
    found = check.run_tests(100, str(tmp_path))
    assert (found["ok"], found["passed"], found["failed"], found["skipped"]) == (False, 1, 1, 1)
    (tmp_path / "test_two.py").write_text("def test_a(): pass\n")
    assert check.run_tests(100, str(tmp_path))["ok"]


def test_nothing_that_passed_is_not_fine(tmp_path):
    assert not check.run_tests(100, str(tmp_path))["ok"]


def test_a_command_that_takes_too_long_is_stopped():
    code, text = check.output([sys.executable, "-uc", "print('so far'); input()"], 1)
    assert code in (None, 1)  # 1: its input was closed


def test_tests_and_tools_run_side_by_side(monkeypatch):
    monkeypatch.setattr(check, "run_tests", lambda seconds: f"tests, {seconds} s")
    monkeypatch.setattr(check, "sanitize", lambda tool, seconds: f"{tool}, {seconds} s")
    names = ["tests", *check.TOOLS]
    assert check.check(9) == {name: f"{name}, 9 s" for name in names}


def test_extension_and_launchers_are_built_side_by_side(monkeypatch):
    monkeypatch.setattr(libraries, "run", lambda *_: "CUDA: sm_80, sm_90a")
    monkeypatch.setattr(libraries, "build_launchers", lambda capability, files: "none: words")
    found = libraries.build((9, 0), 5.0)
    assert found["extension"]["ok"] and found["extension"]["text"] == "CUDA: sm_80, sm_90a"
    assert found["launchers"]["ok"] and list(found) == ["extension", "launchers"]


def test_verdicts_of_the_sanitizer():
    clean = "========= ERROR SUMMARY: 0 errors\n"
    assert check.verdict(0, clean) == {"ok": True, "text": "ERROR SUMMARY: 0 errors"}
    assert check.verdict(9, "Invalid __global__ read")["ok"] is False
    assert check.verdict(None, "")["ok"] is None
    refused = check.verdict(1, "x\n========= Error: Device not supported. Please refer\n")
    assert refused["ok"] is None and refused["text"].startswith("Error: Device not supported")


def test_without_compute_sanitizer_that_is_said(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert check.sanitize("memcheck", 10) == {"ok": None, "text": "there is no compute-sanitizer"}


def test_a_sanitizer_watches_the_small_runs_without_the_allocators_cache(tmp_path, monkeypatch):
    """A program of that name that only writes down what it was asked."""
    program, asked = tmp_path / "compute-sanitizer", tmp_path / "asked"
    program.write_text(f"#!/bin/sh\necho $@ $PYTORCH_NO_CUDA_MEMORY_CACHING > {asked}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert check.sanitize("racecheck", 10) == {"ok": True, "text": "no error"}
    words = asked.read_text().split()
    assert words[:2] == ["--tool", "racecheck"]
    assert words[-3:] == ["-m", "tests.benchmarks.gpu.check", "1"]
