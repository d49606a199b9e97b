// Rotates the last channels of every head in pairs: (a, b) -> (a cos - b sin, b cos + a sin). Each
// cosine is stored twice, each sine with both signs, so a vector of pairs rotates as
// x * cos + swapped(x) * sin.
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

ALWAYS_INLINE Vec swap_neighbours(Vec x) {
  Vec out = {};
  for (int i = 0; i < kLanes; i++) out[i] = x[i ^ 1];
  return out;
}

template <class T>
void rotate(const Rotate& r, int64_t first, int64_t last) {
  const int64_t turned = 2 * r.pairs, still = r.width - turned;
  const int64_t room = divide_up(turned, kLanes) * kLanes;
  auto* cosines = (float*)scratch(kSums, 2 * room * sizeof(float));
  float* sines = cosines + room;
  for (int64_t row = first; row < last; row++) {
    const float* angles = r.rotation + row % r.positions * turned;
    for (int64_t i = 0; i < r.pairs; i++) {
      const float sine = r.back ? -angles[2 * i + 1] : angles[2 * i + 1];
      cosines[2 * i] = cosines[2 * i + 1] = angles[2 * i];
      sines[2 * i] = -sine, sines[2 * i + 1] = sine;
    }
    for (int64_t head = 0; head < r.heads; head++) {
      const int64_t at_head = (row * r.heads + head) * r.width;
      const T* x = (const T*)r.x + at_head;
      T* out = (T*)r.out + at_head;
      for (int64_t at = 0; at < still; at += kLanes)
        store(out + at, load(x + at, still - at), still - at);
      for (int64_t at = 0; at < turned; at += kLanes) {
        Vec pairs = load(x + still + at, turned - at);
        store(out + still + at,
              pairs * load(cosines + at) + swap_neighbours(pairs) * load(sines + at), turned - at);
      }
    }
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
