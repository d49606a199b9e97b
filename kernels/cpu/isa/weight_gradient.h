// The gradient of a weight matrix: a sum over an expert's rows, so k runs over rows. Rows are taken
// a few hundred at a time so that both packed operands stay in the L2 cache; sums wait in memory
// as floats until the last of them.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kMostUnits = 384;  // along k in one pass

template <class T>
void weight_gradient(const WeightGradient& w, int64_t first, int64_t last) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  const Rows<T> a{(const T*)w.a, w.m, w.index_a}, b{(const T*)w.b, w.n, w.index_b};
  const int64_t passes = divide_up(w.k, kMostUnits * per);
  const int64_t step = passes ? divide_up(divide_up(w.k, passes), per) * per : 0;
  const int64_t panels = divide_up(w.n, kTileCols), stride = panels * kTileCols;
  const int64_t most = units<T>(step);
  auto* a_packed = (UnitOf<T>*)scratch(kPackedA, (most * kTileRows + kTileCols) * 4);
  auto* b_packed = (UnitOf<T>*)scratch(kPackedB, panels * most * kTileCols * 4);
  auto* waiting = passes > 1 ? (float*)scratch(kSums, (last - first) * stride * 4) : nullptr;
  alignas(64) float one_tile[kTileRows * kTileCols];
  for (int64_t pass = 0; pass < passes; pass++) {
    const int64_t k0 = pass * step, k = w.k - k0 < step ? w.k - k0 : step;
    const int64_t n_units = units<T>(k);
    for (int64_t p = 0; p < panels; p++)
      pack_b_columns(b, k0, k, p * kTileCols, w.n, b_packed + p * n_units * kTileCols);
    for (int64_t row = first; row < last; row += kTileRows) {
      const int m = last - row < kTileRows ? (int)(last - row) : kTileRows;
      pack_a_columns(a, k0, k, row, w.m, a_packed);
      for (int64_t p = 0; p < panels; p++) {
        const int64_t c = p * kTileCols;
        T* out = (T*)w.out + row * w.n + c;
        // Sums of float go to their place at once; others wait in a tile, or between passes.
        const bool direct = sizeof(T) == 4 && w.n - c >= kTileCols;
        float* at = direct ? (float*)out : waiting ? waiting + (row - first) * stride + c : one_tile;
        const int64_t at_stride = direct ? w.n : waiting ? stride : kTileCols;
        tile_of<false, UnitOf<T>>(m)(
            a_packed, b_packed + p * n_units * kTileCols, n_units, at, at_stride, pass > 0);
        if (!direct && pass == passes - 1) store_rows(out, w.n, m, w.n - c, at, at_stride);
      }
    }
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
