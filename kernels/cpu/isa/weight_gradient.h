// The gradient of a weight matrix: a sum over an expert's rows, so k runs over rows. Rows are taken
// a few hundred at a time so that both packed operands stay in the L2 cache; sums are kept in
// memory as floats in between.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kMostUnits = 256;  // along k in one pass
constexpr int64_t kTiles = 8;        // of a that are packed together: whole cache lines

// Rows [first, last) and columns [left, right) of out, which has the type Out.
template <class T, class B, class Out>
void weight_gradient_block(const WeightGradient& w, int64_t first, int64_t last, int64_t left,
                           int64_t right) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  const Rows<T> a{(const T*)w.a, w.m, w.index_a};
  const Rows<B> b{(const B*)w.b, w.n, w.index_b};
  const int64_t passes = divide_up(w.k, kMostUnits * per);
  const int64_t step = passes ? divide_up(divide_up(w.k, passes), per) * per : 0;
  const int64_t panels = divide_up(right - left, kTileCols), stride = panels * kTileCols;
  const int64_t most = units<T>(step);
  const int64_t tile_units = most * kTileRows + kTileCols;
  auto* a_packed = (UnitOf<T>*)scratch(kPackedA, kTiles * tile_units * 4);
  auto* b_packed = (UnitOf<T>*)scratch(kPackedB, panels * most * kTileCols * 4);
  auto* waiting = passes > 1 ? (float*)scratch(kSums, (last - first) * stride * 4) : nullptr;
  alignas(64) float one_tile[kTileRows * kTileCols];
  for (int64_t pass = 0; pass < passes; pass++) {
    const int64_t k0 = pass * step, k = w.k - k0 < step ? w.k - k0 : step;
    const int64_t n_units = units<T>(k);
    for (int64_t p = 0; p < panels; p++)
      pack_b_columns<T>(b, k0, k, left + p * kTileCols, w.n, b_packed + p * n_units * kTileCols);
    for (int64_t group = first; group < last; group += kTiles * kTileRows) {
      const int64_t tiles = divide_up(last - group, kTileRows);
      pack_a_columns<T>(a, k0, k, group, w.m, tiles < kTiles ? tiles : kTiles, tile_units,
                        a_packed);
      // A panel of b stays in the L1 cache while the tiles of a are read.
      for (int64_t p = 0; p < panels; p++)
        for (int64_t t = 0; t < kTiles && t < tiles; t++) {
          const int64_t row = group + t * kTileRows, c = left + p * kTileCols, n = right - c;
          const int m = last - row < kTileRows ? (int)(last - row) : kTileRows;
          Out* out = (Out*)w.out + row * w.n + c;
          // float sums are stored in place; others are kept in a tile, or between passes.
          const bool direct = sizeof(Out) == 4 && n >= kTileCols;
          float* at = direct ? (float*)out
                             : waiting ? waiting + (row - first) * stride + c - left : one_tile;
          const int64_t at_stride = direct ? w.n : waiting ? stride : kTileCols;
          tile_of<false, UnitOf<T>>(m, n)(
              a_packed + t * tile_units, b_packed + p * n_units * kTileCols, n_units, at,
              at_stride, pass > 0);
          if (!direct && pass == passes - 1) store_rows(out, w.n, m, n, at, at_stride);
        }
    }
  }
}

template <class T>
void weight_gradient(const WeightGradient& w, int64_t first, int64_t last, int64_t left,
                     int64_t right) {
  typed(w.b_is_bf16, [&](auto type) {
    using B = decltype(type);
    typed(w.out_is_bf16, [&](auto type) {
      weight_gradient_block<T, B, decltype(type)>(w, first, last, left, right);
    });
  });
}

}  // namespace mini_moe::MINI_MOE_ISA
