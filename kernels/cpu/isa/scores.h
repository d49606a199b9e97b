// A token's scores: the sigmoid or softmax of its router logits, in fp32. Infinite and NaN logits
// follow the formulas.
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

template <class T>
void scores_gradient(const float* scores, const float* grad, int64_t n, bool softmax, void* out) {
  float common = 0;
  for (int64_t i = 0; softmax && i < n; i++) common += grad[i] * scores[i];
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec score = load(scores + i, n - i), g = load(grad + i, n - i);
    store((T*)out + i, score * (softmax ? g - common : g * (1.0f - score)), n - i);
  }
}

// The k largest of n, best first; ties go to the lower id, and NaN ranks first. Floats are compared
// as integers in the same order, so that a chosen value can be ranked below everything.
inline void best(const float* values, int64_t n, int64_t k, int64_t* ids) {
  constexpr int32_t taken = -__INT32_MAX__ - 1;
  auto* keys = (int32_t*)scratch(kSums, divide_up(n, kLanes) * kLanes * sizeof(int32_t));
  Ints lane = {};
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  for (int64_t at = 0; at < n; at += kLanes) {
    Vec value = load(values + at, n - at) + 0.0f;  // makes -0 and 0 equal
    Ints bits = (Ints)value;
    Ints key = bits ^ ((bits >> 31) & __INT32_MAX__);
    key = value != value ? Ints{} + __INT32_MAX__ : key;
    *(IntsAt*)(keys + at) = lane < (int32_t)(n - at) ? key : Ints{} + taken;
  }
  for (int64_t i = 0; i < k; i++) {
    Ints most = Ints{} + taken, where = lane;
    for (int64_t at = 0; at < n; at += kLanes) {
      Ints key = *(const IntsAt*)(keys + at);
      where = key > most ? lane + (int32_t)at : where;
      most = key > most ? key : most;
    }
    ids[i] = first_of_largest(most, where);
    keys[ids[i]] = taken;
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
