// Products with few rows: an expert's weights are read once, in place, and each is used for up to
// four rows. Reading weights is then the bottleneck. A single row takes one row of each matrix at a
// time, since more would be more streams of addresses than processors prefetch.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

// sums[r][f] += <x_r, w_f> over k, R rows of x and F rows of the matrix at a time.
template <int R, int F, class T>
ALWAYS_INLINE void dots(const T* const* x, const T* const* w, int64_t k, float (*sums)[4]) {
  constexpr int64_t step = kLanes * Packed<T>::kPerUnit;
  Vec total[R][F];
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) total[r][f] = Vec{};
  for (int64_t at = 0; at < k; at += step) {
    Bits left[R];
    for (int r = 0; r < R; r++) left[r] = load_units<T>(x[r], at, k);
    for (int f = 0; f < F; f++) {
      Bits right = load_units<T>(w[f], at, k);
      for (int r = 0; r < R; r++) {
#if defined(__AVX512BF16__)
        if constexpr (Packed<T>::kPerUnit == 2) {
          total[r][f] = (Vec)_mm512_dpbf16_ps(
              (__m512)total[r][f], (__m512bh)left[r], (__m512bh)right);
          continue;
        }
#endif
        total[r][f] += (Vec)left[r] * (Vec)right;
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int f = 0; f < F; f++) sums[r][f] = sum(total[r][f]);
}

template <class T>
void dots_of(int rows, int features, const T* const* x, const T* const* w, int64_t k,
             float (*sums)[4]) {
  static void (*const table[4][3])(const T* const*, const T* const*, int64_t, float (*)[4]) = {
      {dots<1, 1, T>, dots<1, 2, T>, dots<1, 4, T>},
      {dots<2, 1, T>, dots<2, 2, T>, dots<2, 4, T>},
      {dots<3, 1, T>, dots<3, 2, T>, dots<3, 4, T>},
      {dots<4, 1, T>, dots<4, 2, T>, dots<4, 4, T>}};
  table[rows - 1][features / 2](x, w, k, sums);
}

ALWAYS_INLINE void put(float* to, float value) { *to = value; }
ALWAYS_INLINE void put(bf16* to, float value) {
  bf16 some[kLanes];
  store(some, spread(value));
  *to = some[0];
}

template <class T>
void thin_swiglu(const Forward& f, int64_t expert, int64_t begin, int64_t end, int64_t first,
                 int64_t last) {
  const T* gate = (const T*)f.gate_up + expert * 2 * f.d_expert * f.d_model;
  const T* up = gate + f.d_expert * f.d_model;
  const int most = end - begin == 1 ? 1 : 2;
  for (int64_t feature = first, step; feature < last; feature += step) {
    const int pair = last - feature < most ? 1 : most;
    step = pair;
    const T* w[4];
    for (int i = 0; i < pair; i++) {
      w[i] = gate + (feature + i) * f.d_model;
      w[pair + i] = up + (feature + i) * f.d_model;
    }
    for (int64_t row = begin; row < end; row += 4) {
      const int n = end - row < 4 ? (int)(end - row) : 4;
      const T* x[4];
      float sums[4][4];
      for (int r = 0; r < n; r++) x[r] = (const T*)f.x + f.token[row + r] * f.d_model;
      dots_of(n, 2 * pair, x, w, f.d_model, sums);
      Vec gates = {}, ups = {};
      for (int r = 0; r < n; r++) {
        for (int i = 0; i < pair; i++) gates[i] = sums[r][i], ups[i] = sums[r][pair + i];
        Vec hidden = gates * sigmoid(gates) * ups;
        store((T*)f.hidden + (row + r) * f.d_expert + feature, hidden, (int64_t)pair);
        if (!f.saved) continue;
        T* saved = (T*)f.saved + (row + r) * 2 * f.d_expert + feature;
        store(saved, gates, (int64_t)pair);
        store(saved + f.d_expert, ups, (int64_t)pair);
      }
    }
  }
}

template <class T>
void thin_down(const Forward& f, int64_t expert, int64_t begin, int64_t end, int64_t first,
               int64_t last) {
  const T* down = (const T*)f.down + expert * f.d_model * f.d_expert;
  for (int64_t column = first; column < last;) {
    const int most = end - begin == 1 ? 1 : 4, wide = last - column < most ? 1 : most;
    const T* w[4];
    for (int i = 0; i < wide; i++) w[i] = down + (column + i) * f.d_expert;
    for (int64_t row = begin; row < end; row += 4) {
      const int n = end - row < 4 ? (int)(end - row) : 4;
      const T* x[4];
      float sums[4][4];
      for (int r = 0; r < n; r++) x[r] = (const T*)f.hidden + (row + r) * f.d_expert;
      dots_of(n, wide, x, w, f.d_expert, sums);
      for (int r = 0; r < n; r++)
        for (int i = 0; i < wide; i++)
          put((T*)f.output + (row + r) * f.d_model + column + i, sums[r][i]);
    }
    column += wide;
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
