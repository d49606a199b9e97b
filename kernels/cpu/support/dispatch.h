// Which instruction set to use, decided once: the best that processor and compiler both support.
#pragma once

#include "../kernels.h"

namespace mini_moe {

// One of "avx512_bf16", "avx512", "avx2", "portable".
const char* instruction_set();
// Selects a set by name ("" for the best), so that tests can run them all. False: not available.
bool use_instruction_set(const char* name);
const Kernels& kernels(bool is_bf16);

}  // namespace mini_moe
