// hidden = gate * sigmoid(gate) * up, and both gradients:
//   dgate = dhidden * up * s (1 + gate (1 - s))      dup = dhidden * gate * s,   s = sigmoid(gate)
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
void swiglu_product(const SwiGLU& s, int64_t first, int64_t last) {
  for (int64_t at = first; at < last; at += kLanes) {
    const int64_t n = last - at;
    Vec gate = load((const T*)s.gate + at, n), up = load((const T*)s.up + at, n);
    store((T*)s.hidden + at, gate * sigmoid(gate) * up, n);
  }
}

template <class T>
void swiglu_gradient(const SwiGLU& s, int64_t first, int64_t last) {
  for (int64_t at = first; at < last; at += kLanes) {
    const int64_t n = last - at;
    Vec gate = load((const T*)s.gate + at, n), up = load((const T*)s.up + at, n);
    Vec grad = load((const T*)s.grad + at, n), share = sigmoid(gate);
    store((T*)s.grad_gate + at, grad * up * share * (1.0f + gate * (1.0f - share)), n);
    store((T*)s.grad_up + at, grad * gate * share, n);
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
