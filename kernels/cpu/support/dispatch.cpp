#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace mini_moe {
namespace {

struct Candidate {
  const char* name;
  const Kernels* tables;
  bool (*runs_here)();
};

// Best first. kernels/build.py defines HAVE_... for each set that the compiler supports.
const Candidate kCandidates[] = {
#ifdef HAVE_avx512_bf16
    {"avx512_bf16", avx512_bf16::kTables,
     [] {
       return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     }},
#endif
#ifdef HAVE_avx512
    {"avx512", avx512::kTables,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     }},
#endif
#ifdef HAVE_avx2
    {"avx2", avx2::kTables,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"portable", portable::kTables, [] { return true; }},
};

const Candidate* best() {
  for (const auto& candidate : kCandidates)
    if (candidate.runs_here()) return &candidate;
  return nullptr;
}

std::atomic<const Candidate*>& chosen() {
  static std::atomic<const Candidate*> candidate{best()};
  return candidate;
}

}  // namespace

const char* instruction_set() { return chosen().load()->name; }

bool use_instruction_set(const char* name) {
  if (!*name) return chosen().store(best()), true;
  for (const auto& candidate : kCandidates)
    if (!std::strcmp(candidate.name, name) && candidate.runs_here())
      return chosen().store(&candidate), true;
  return false;
}

const Kernels& kernels(bool is_bf16) { return chosen().load()->tables[is_bf16]; }

}  // namespace mini_moe
