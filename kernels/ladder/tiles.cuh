// Shared by the steps of the ladder: which rows belong to an expert, and the launcher's checks.
//
// All steps compute the same grouped product, one matrix per expert, rows sorted by expert:
//   out[r] = w[e] x[r]  for the rows r in offsets[e] … offsets[e + 1] - 1;  rows past the last: 0
//   x [rows, d_in], w [experts, d_out, d_in], out [rows, d_out] in bf16, sums in fp32
// The counts never leave the device: the grid has room for the largest possible number of tiles,
// and every block finds its own.
#pragma once
#include "device.cuh"

struct Product {
  const bf16* x;           // [rows, d_in]
  const bf16* w;           // [experts, d_out, d_in]
  const int64_t* offsets;  // [experts + 1]
  bf16* out;               // [rows, d_out]
  int64_t n_rows;
  int n_experts, d_in, d_out;
};

struct Tile {
  int expert;          // n_experts: rows past all experts', whose result is 0
  int64_t first, end;  // rows; none if equal
};

__device__ inline Tile find_tile(const Product& p, int height, int64_t index) {
  for (int e = 0; e <= p.n_experts; ++e) {
    int64_t first = p.offsets[e], end = e < p.n_experts ? p.offsets[e + 1] : p.n_rows;
    int64_t tiles = (end - first + height - 1) / height;
    if (index < tiles) {
      first += index * height;
      return {e, first, first + height < end ? first + height : end};
    }
    index -= tiles;
  }
  return {p.n_experts, 0, 0};
}

// No expert adds more than one partial tile, nor do the rows past the last expert.
inline int64_t most_tiles(const Product& p, int height) {
  return p.n_rows / height + p.n_experts + 1;
}

inline const char* check(const Product& p, int64_t n_experts, int64_t d_in, int64_t d_out) {
  if (p.n_rows < 0 || p.n_rows > 0x7fffffff)
    return fail("n_rows: expected 0 to 2^31 - 1, got %lld", shown(p.n_rows));
  if (n_experts < 1 || n_experts > 65536)
    return fail("n_experts: expected 1 to 65536, got %lld", shown(n_experts));
  if (d_in < 8 || d_in % 8 || d_in > 1 << 20)
    return fail("d_in: expected a multiple of 8 up to 2^20, got %lld", shown(d_in));
  if (d_out < 8 || d_out % 8 || d_out > 1 << 20)
    return fail("d_out: expected a multiple of 8 up to 2^20, got %lld", shown(d_out));
  if (!aligned16(p.x) || !aligned16(p.w) || !aligned16(p.out))
    return fail("x, w, out: expected addresses that are multiples of 16");
  return nullptr;
}
