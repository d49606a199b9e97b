// y = weight * x / sqrt(mean(x^2) + eps), row by row, and its gradients. With r one over the
// root, n = x r, and g = dy * weight:
//
//   dx = r (g - n mean(g n))      dweight = sum over rows of dy * n
//
// As in the definition, n is rounded to the type of x before the weight multiplies it.
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

// For one of the two types that results and their gradients may have.
ALWAYS_INLINE Vec load_as(bool is_bf16, const void* from, int64_t at, int64_t n) {
  return is_bf16 ? load((const bf16*)from + at, n) : load((const float*)from + at, n);
}
ALWAYS_INLINE void store_as(bool is_bf16, void* to, int64_t at, Vec value, int64_t n) {
  if (is_bf16) store((bf16*)to + at, value, n);
  else store((float*)to + at, value, n);
}

template <class T>
void rms_norm(const Norm& norm, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; row++) {
    const int64_t start = row * norm.width;
    const T* x = (const T*)norm.x + start;
    Vec squares = {};
    for (int64_t at = 0; at < norm.width; at += kLanes) {
      const int64_t n = norm.width - at;
      const Vec value = load(x + at, n);
      squares += value * value;
    }
    const float share = 1 / __builtin_sqrtf(sum(squares) / norm.width + norm.eps);
    norm.shares[row] = share;
    for (int64_t at = 0; at < norm.width; at += kLanes) {
      const int64_t n = norm.width - at;
      Vec value = rounded<T>(load(x + at, n) * share) * load(norm.weight + at, n);
      store_as(norm.y_is_bf16, norm.y, start + at, value, n);
    }
  }
}

// Rows [first, last), whose share of the weight's gradient goes to `to_weight` [width].
template <class T>
void rms_norm_backward(const Norm& norm, int64_t first, int64_t last, float* to_weight) {
  for (int64_t at = 0; at < norm.width; at += kLanes) store(to_weight + at, Vec{}, norm.width - at);
  for (int64_t row = first; row < last; row++) {
    const int64_t start = row * norm.width;
    const T* x = (const T*)norm.x + start;
    const float share = norm.shares[row];
    Vec products = {};
    for (int64_t at = 0; at < norm.width; at += kLanes) {
      const int64_t n = norm.width - at;
      Vec along = load_as(norm.y_is_bf16, norm.grad, start + at, n) * (load(x + at, n) * share);
      store(to_weight + at, load(to_weight + at, n) + along, n);
      products += along * load(norm.weight + at, n);
    }
    const float mean = sum(products) / norm.width;
    for (int64_t at = 0; at < norm.width; at += kLanes) {
      const int64_t n = norm.width - at;
      Vec g = load_as(norm.y_is_bf16, norm.grad, start + at, n) * load(norm.weight + at, n);
      store((T*)norm.grad_x + start + at, (g - load(x + at, n) * share * mean) * share, n);
    }
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
