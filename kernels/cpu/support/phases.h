// Runs threads through the same phases of work without putting them to sleep in between: waking
// them costs as much as a whole phase of decoding. Every thread calls `run` for the same phases in
// the same order; a free thread takes the next piece, and no thread waits for one that has taken
// none, so it works with any number of threads, even if they run one after another.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <utility>
#include <vector>

namespace mini_moe {

class Phases {
 public:
  explicit Phases(int64_t number) : phases_(number) {}

  // Calls piece(i) for every i < pieces, shared among threads; the thread that finishes the last
  // one calls `after` before any thread continues. If either throws, every thread throws the same,
  // now or in a later phase, so no thread waits for a phase that cannot end.
  template <class Piece, class After>
  void run(int64_t number, int64_t pieces, const Piece& piece, const After& after) {
    Phase& phase = phases_[number];
    for (int64_t i; (i = phase.next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
      try {
        piece(i);
        if (phase.done.fetch_add(1, std::memory_order_acq_rel) + 1 < pieces) continue;
        after();
      } catch (...) {
        fail(std::current_exception());
        break;
      }
      phase.over.store(true, std::memory_order_release);
    }
    for (int64_t turn = 0; !phase.over.load(std::memory_order_acquire); turn++)
      if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(error_);
      else if (turn % kTurns == kTurns - 1) sched_yield();  // the other may need this core
      else pause();
  }

 private:
  void fail(std::exception_ptr error) {
    if (failing_.test_and_set()) return;
    error_ = std::move(error);
    failed_.store(true, std::memory_order_release);
  }

  static constexpr int64_t kTurns = 2048;
  struct alignas(64) Phase {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> over{false};
  };
  std::vector<Phase> phases_;
  std::atomic_flag failing_ = ATOMIC_FLAG_INIT;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
};

}  // namespace mini_moe
