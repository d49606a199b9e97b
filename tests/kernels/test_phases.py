"""Threads that share phases of work: all of it is done, and an error reaches every thread."""

import shutil
import subprocess

import pytest

from mini_moe.ops import compiled

PROGRAM = """
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/support/phases.h"

// Ten phases of 100 pieces on four threads; `throws` is a phase whose piece 7 fails, `after` one
// whose end does.
int main(int, char** arguments) {
  int throws = std::stoi(arguments[1]), after = std::stoi(arguments[2]);
  mini_moe::Phases phases(10);
  std::atomic<int> done{0}, failed{0};
  auto work = [&] {
    try {
      for (int phase = 0; phase < 10; phase++)
        phases.run(phase, 100, [&](int64_t i) {
          if (phase == throws && i == 7) throw std::runtime_error("piece");
          done++;
        }, [&] { if (phase == after) throw std::runtime_error("after"); });
    } catch (const std::runtime_error& error) {
      failed += std::string(error.what()) == (after < 0 ? "piece" : "after");
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) threads.emplace_back(work);
  for (auto& thread : threads) thread.join();
  std::printf("%d %d", done.load(), failed.load());
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("no g++ or clang++ here")
    folder = tmp_path_factory.mktemp("phases")
    (folder / "main.cpp").write_text(PROGRAM)
    command = [compiler, "-std=c++20", "-O1", "-pthread", f"-I{compiled.SOURCES}"]
    subprocess.run([*command, folder / "main.cpp", "-o", folder / "main"], check=True)
    return folder / "main"


def run(program, throws: int, after: int) -> tuple[int, int]:
    """Return how many pieces were done, and how many threads got the error."""
    command = [program, str(throws), str(after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return tuple(map(int, done.stdout.split()))


def test_every_piece_is_done(program):
    assert run(program, -1, -1) == (1000, 0)


@pytest.mark.parametrize("phase", [0, 4, 9])
def test_what_a_piece_throws_reaches_every_thread(program, phase):
    for _ in range(20):
        done, failed = run(program, phase, -1)
        assert failed == 4 and 100 * phase <= done < 100 * (phase + 1)


@pytest.mark.parametrize("phase", [0, 9])
def test_what_the_end_of_a_phase_throws_reaches_every_thread(program, phase):
    assert run(program, -1, phase) == (100 * (phase + 1), 4)
