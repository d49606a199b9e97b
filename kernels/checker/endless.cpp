// A kernel that never ends is stopped after so many steps, and its line is named.
//
// g++ -fsanitize-coverage=trace-pc calls `__sanitizer_cov_trace_pc` wherever a loop or a branch may
// go on. Steps are counted, not seconds: the verdict is the same on every machine. Kernels that are
// compiled without that flag are not counted.
#include <dlfcn.h>

#include <cstring>

#include "checker.h"

namespace checker {
static uint64_t limit = 0, steps = 0;  // limit 0: none
}
using namespace checker;

// From now on a launch may take so many steps, all threads together.
extern "C" void checker_limit(uint64_t most) { limit = most, steps = 0; }

// Is the address in what a kernel uses (a shuffle, say), not in the kernel itself?
static bool ours(const void* address) {
  Dl_info info;
  return dladdr(address, &info) && info.dli_sname && strstr(info.dli_sname, "N7checker");
}

extern "C" void __sanitizer_cov_trace_pc() {
  if (!limit || !running || ++steps <= limit || ours(__builtin_return_address(0))) return;
  report("endless", __builtin_return_address(0),
         describe(here.block, here.thread) + " is still running after " + std::to_string(limit) +
             " steps of all threads; does this loop end?");
  stop_kernel();
}
