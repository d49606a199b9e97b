// A token's scores: the sigmoid or softmax of its router logits, in fp32. Infinite and NaN logits
// give what the formulas give.
#pragma once

#include "packing.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
void scores(const void* logits, int64_t n, bool softmax, float* out) {
  const T* from = (const T*)logits;
  if (!softmax) {
    for (int64_t i = 0; i < n; i += kLanes) store(out + i, sigmoid(load(from + i, n - i)), n - i);
    return;
  }
  float largest = -__builtin_inff(), total = 0;
  for (int64_t i = 0; i < n; i++) {
    float value = load(from + i, (int64_t)1)[0];
    largest = value > largest ? value : largest;
  }
  for (int64_t i = 0; i < n; i += kLanes)
    store(out + i, exponential(load(from + i, n - i) - largest), n - i);
  for (int64_t i = 0; i < n; i++) total += out[i];
  for (int64_t i = 0; i < n; i++) out[i] /= total;
}

}  // namespace mini_moe::MINI_MOE_ISA
