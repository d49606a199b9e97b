// Each token gathers the rows of its choices and adds them in the order of the choices: the same
// bits on every run, no scattered additions. Bytes: tokens * (top_k + 1) * width * element size.
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
void combine(const Combine& c, int64_t first, int64_t last) {
  for (int64_t token = first; token < last; token++) {
    const int64_t* place = c.place + token * c.top_k;
    const float* gates = c.gates ? c.gates + token * c.top_k : nullptr;
    T* out = (T*)c.out + token * c.width;
    for (int64_t at = 0; at < c.width; at += 4 * kLanes) {
      Vec sums[4] = {};
      for (int64_t choice = 0; choice < c.top_k; choice++) {
        const T* row = (const T*)c.rows + place[choice] * c.width + at;
        Vec gate = spread(gates ? gates[choice] : 1.0f);
        for (int64_t i = 0; i < 4 && at + i * kLanes < c.width; i++)
          sums[i] += gate * load(row + i * kLanes, c.width - at - i * kLanes);
      }
      for (int64_t i = 0; i < 4 && at + i * kLanes < c.width; i++)
        store(out + at + i * kLanes, sums[i], c.width - at - i * kLanes);
    }
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
