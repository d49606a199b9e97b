// The innermost loop: a tile of kTileRows x kTileCols sums, held in registers over the whole of k.
// Each step loads two vectors of b and broadcasts one unit of a per row: 2 products per row,
// 3 loads for two rows, so multipliers are the bottleneck and not loads.
#pragma once

#include "packing.h"

namespace mini_moe::MINI_MOE_ISA {

ALWAYS_INLINE Vec multiply_add(Vec sum, float a, Vec b) { return sum + spread(a) * b; }
#if defined(__AVX512BF16__)
ALWAYS_INLINE Vec multiply_add(Vec sum, uint32_t a, Vec b) {
  __m512bh pairs = (__m512bh)_mm512_set1_epi32((int)a);
  return (Vec)_mm512_dpbf16_ps((__m512)sum, pairs, (__m512bh)b);
}
#endif

template <int M, int V, bool kByRows, class Unit>
void tile(const Unit* a, const Unit* b, int64_t units, float* c, int64_t stride, bool add) {
  constexpr int64_t row_step = kByRows ? kChunk : 1, unit_step = kByRows ? 1 : kTileRows;
  Vec sums[M][V];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
    for (int v = 0; v < V; v++) sums[i][v] = Vec{};
  const int64_t span = kByRows ? kChunk : units;
  for (int64_t start = 0; start < units; start += span, a += kTileRows * kChunk) {
    int64_t here = units - start < span ? units - start : span;
#pragma GCC unroll 4
    for (int64_t u = 0; u < here; u++, b += kTileCols) {
      Vec columns[V];
      for (int v = 0; v < V; v++) columns[v] = load((const float*)b + v * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) {
        Unit value = a[i * row_step + u * unit_step];
        for (int v = 0; v < V; v++) sums[i][v] = multiply_add(sums[i][v], value, columns[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++, c += stride)
    for (int v = 0; v < V; v++) {
      float* at = c + v * kLanes;
      store(at, add ? load(at) + sums[i][v] : sums[i][v]);
    }
}

template <class Unit>
using Tile = void (*)(const Unit*, const Unit*, int64_t, float*, int64_t, bool);

template <int V, bool kByRows, class Unit>
Tile<Unit> tile_of_rows(int m) {
#if defined(__AVX512F__)
  static const Tile<Unit> tiles[] = {
      tile<1, V, kByRows, Unit>,  tile<2, V, kByRows, Unit>,  tile<3, V, kByRows, Unit>,
      tile<4, V, kByRows, Unit>,  tile<5, V, kByRows, Unit>,  tile<6, V, kByRows, Unit>,
      tile<7, V, kByRows, Unit>,  tile<8, V, kByRows, Unit>,  tile<9, V, kByRows, Unit>,
      tile<10, V, kByRows, Unit>, tile<11, V, kByRows, Unit>, tile<12, V, kByRows, Unit>};
#else
  static const Tile<Unit> tiles[] = {
      tile<1, V, kByRows, Unit>, tile<2, V, kByRows, Unit>, tile<3, V, kByRows, Unit>,
      tile<4, V, kByRows, Unit>, tile<5, V, kByRows, Unit>, tile<6, V, kByRows, Unit>};
#endif
  return tiles[m - 1];
}

// The tile of m rows and at least n columns: a partial tile costs less than a whole one.
template <bool kByRows, class Unit>
Tile<Unit> tile_of(int m, int64_t n) {
  return n > kLanes ? tile_of_rows<2, kByRows, Unit>(m) : tile_of_rows<1, kByRows, Unit>(m);
}

}  // namespace mini_moe::MINI_MOE_ISA
