// Products of gathered rows with a packed matrix, a block of rows at a time, and the packing of
// whole matrices. The caller decides what to do with a finished tile.
#pragma once

#include "../kernels.h"
#include "tile.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kBlockRows = 96;  // rows of a that stay in the L2 cache while b is read

// [rows, k] times b [k, n], given in panels of kTileCols columns. Calls finish(row, m, panel,
// sums) for every tile, with sums [m, kTileCols]; columns from n on may hold anything.
template <class T, class A, class Finish>
void multiply_rows(const Rows<A>& a, int64_t begin, int64_t end, int64_t k, const UnitOf<T>* b,
                   int64_t n, Finish finish) {
  const int64_t n_units = units<T>(k), panels = divide_up(n, kTileCols);
  const int64_t tile_units = divide_up(n_units, kChunk) * kChunk * kTileRows;
  auto* packed = (UnitOf<T>*)scratch(kPackedA, kBlockRows / kTileRows * tile_units * 4);
  alignas(64) float sums[kTileRows * kTileCols];
  for (int64_t block = begin; block < end; block += kBlockRows) {
    int64_t rows = end - block < kBlockRows ? end - block : kBlockRows;
    for (int64_t panel = 0; panel < panels; panel++) {
      const UnitOf<T>* a_at = packed;
      for (int64_t at = 0; at < rows; at += kTileRows, a_at += tile_units) {
        int m = rows - at < kTileRows ? (int)(rows - at) : kTileRows;
        if (!panel) pack_a_rows<T>(a, block + at, m, k, (UnitOf<T>*)a_at);
        tile_of<true, UnitOf<T>>(m, n - panel * kTileCols)(
            a_at, b + panel * n_units * kTileCols, n_units, sums, kTileCols, false);
        finish(block + at, m, panel, sums);
      }
    }
  }
}

// A matrix [n, k] (transposed) or [k, n] as panels of b, from column `first` to `last` or the end.
template <class T, class S>
UnitOf<T>* pack_matrix(const S* b, bool transposed, int64_t n, int64_t k, Slot slot,
                       int64_t first = 0, int64_t last = INT64_MAX) {
  const int64_t columns = (last < n ? last : n) - first, panels = divide_up(columns, kTileCols);
  const int64_t panel_units = units<T>(k) * kTileCols;
  auto* packed = (UnitOf<T>*)scratch(slot, panels * panel_units * 4);
  for (int64_t panel = 0; panel < panels; panel++) {
    UnitOf<T>* to = packed + panel * panel_units;
    int64_t c = first + panel * kTileCols;
    if (transposed) {
      pack_b_rows<T>(b + c * k, k, n - c, k, to);
      pack_b_rows<T>(b + (c + kLanes) * k, k, n - c - kLanes, k, to + kLanes);
    } else {
      pack_b_columns<T>(Rows<S>{b, n, nullptr}, 0, k, c, n, to);
    }
  }
  return packed;
}

// Writes the first n columns of m rows of sums to the result, in its type.
template <class T>
ALWAYS_INLINE void store_rows(
    T* out, int64_t stride, int m, int64_t n, const float* sums, int64_t sums_stride) {
  for (int i = 0; i < m; i++, out += stride, sums += sums_stride) {
    store(out, load(sums), n);
    if (n > kLanes) store(out + kLanes, load(sums + kLanes), n - kLanes);
  }
}

// Writes finished tiles into a matrix.
template <class T>
struct StoreTile {
  T* out;
  int64_t width, first = 0;  // column of the first panel

  ALWAYS_INLINE void operator()(int64_t row, int m, int64_t panel, const float* sums) const {
    int64_t c = first + panel * kTileCols;
    store_rows(out + row * width + c, width, m, width - c, sums, kTileCols);
  }
};

// Calls use(float{}) or use(bf16{}), the type that a pointer to void has.
template <class Use>
ALWAYS_INLINE void typed(bool is_bf16, Use use) {
  if (is_bf16) use(bf16{});
  else use(float{});
}

constexpr int64_t kMostPacked = int64_t(16) << 20;  // units of b that each thread holds at once

// Columns are taken a block at a time, so that packing an output head does not fill each thread's
// memory.
template <class T>
void product(const Product& p, int64_t expert, int64_t begin, int64_t end) {
  const int64_t panels = kMostPacked / (units<T>(p.k) * kTileCols + 1) + 1;
  const int64_t stop = p.right < p.n ? p.right : p.n;
  for (int64_t first = p.left; first < stop; first += panels * kTileCols) {
    const int64_t last = first + panels * kTileCols < stop ? first + panels * kTileCols : stop;
    UnitOf<T>* b = nullptr;
    typed(p.b_is_bf16, [&](auto type) {
      auto* matrix = (const decltype(type)*)p.b + expert * p.n * p.k;
      b = pack_matrix<T>(matrix, p.transposed, p.n, p.k, kPackedB, first, last);
    });
    typed(p.a_is_bf16, [&](auto type) {
      using A = decltype(type);
      const Rows<A> a{(const A*)p.a, p.k, nullptr};
      typed(p.out_is_bf16, [&](auto type) {
        using Out = decltype(type);
        const StoreTile<Out> store_tile{(Out*)p.out, p.n, first};
        multiply_rows<T>(a, begin, end, p.k, b, last - first, store_tile);
      });
    });
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
