// For each row of logits: the largest and the sum of exp(logit - largest); and the loss's gradient,
// (softmax - 1 at the target) times the gradient of the row's loss. A row is reread while it is in
// the L1 cache, and probabilities are never written, only gradients.
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kGroup = 4 * kLanes;  // independent sums: no addition waits for the previous one

template <class T>
void cross_entropy(const CrossEntropy& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; row++) {
    const T* logits = (const T*)c.logits + row * c.vocab;
    const int64_t whole = c.vocab / kGroup * kGroup;
    Vec most[4], totals[4] = {};
    for (Vec& vec : most) vec = spread(-__builtin_inff());
    for (int64_t at = 0; at < whole; at += kGroup)
      for (int i = 0; i < 4; i++) most[i] = larger(most[i], load(logits + at + i * kLanes));
    float top = largest(larger(larger(most[0], most[1]), larger(most[2], most[3])));
    for (int64_t at = whole; at < c.vocab; at++) {
      const float value = load(logits + at, (int64_t)1)[0];
      top = value > top ? value : top;
    }
    for (int64_t at = 0; at < whole; at += kGroup)
      for (int i = 0; i < 4; i++) totals[i] += exponential(load(logits + at + i * kLanes) - top);
    Vec total = totals[0] + totals[1] + totals[2] + totals[3];
    for (int64_t at = whole; at < c.vocab; at += kLanes) {
      const int64_t n = c.vocab - at;
      total += first_lanes(exponential(load(logits + at, n) - top), n, 0);
    }
    c.row_sums[2 * row] = top;
    c.row_sums[2 * row + 1] = sum(total);
    c.chosen[row] = load(logits + c.targets[row], (int64_t)1)[0];
  }
}

template <class T>
void cross_entropy_backward(const CrossEntropy& c, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; row++) {
    const T* logits = (const T*)c.logits + row * c.vocab;
    T* out = (T*)c.grad_logits + row * c.vocab;
    const float top = c.row_sums[2 * row], weight = c.grad[row];
    const float share = weight / c.row_sums[2 * row + 1];
    for (int64_t at = 0; at < c.vocab; at += kLanes)
      store(out + at, exponential(load(logits + at, c.vocab - at) - top) * share, c.vocab - at);
    const int64_t target = c.targets[row];
    Vec value = exponential(load(logits + target, (int64_t)1) - top) * share - weight;
    store(out + target, value, (int64_t)1);
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
