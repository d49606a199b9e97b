// Grouped products: which block computes which rows of which expert, and the launchers' checks.
//
// Rows are sorted by expert: expert e has rows offsets[e] … offsets[e + 1] - 1. A slot has
// room for one tile of `height` rows. Slots are assigned by a formula instead of a sum over
// experts:
//   first slot of expert e = ⌊offsets[e] / height⌋ + e
// gives it ⌊offsets[e + 1] / height⌋ - ⌊offsets[e] / height⌋ + 1 slots, never fewer than its rows
// need and at most one too many. So a block can find its expert by a search, the counts stay on the
// device, and the host knows the number of slots: rows / height + experts + 1.
// A few rows for many experts need fewer: then every row is a slot, and the block of a tile's first
// row computes the tile; the other rows' blocks have nothing to do.
// Rows past the last expert's belong to expert `n_experts`, which has no weights: they become 0.
// Invalid offsets are clamped into [0, n_rows]: wrong results, but no access outside the buffers.
#pragma once
#include "device.cuh"

struct RowShare {  // one block's rows; count 0: nothing to do
  int expert, count;
  int64_t first;
};

__device__ inline int64_t clamped(int64_t x, int64_t most) { return min(max(x, int64_t(0)), most); }

__host__ __device__ inline int64_t slots_by_height(int64_t n_rows, int64_t n_experts,
                                                   int64_t height) {
  return n_rows / height + n_experts + 1;
}
// The number of slots: as many as tiles may need, or one per row if that is fewer.
inline int64_t slots_of(int64_t n_rows, int64_t n_experts, int64_t height) {
  int64_t slots = slots_by_height(n_rows, n_experts, height);
  return slots < n_rows ? slots : n_rows;
}

// All lanes of a warp search together, 32 experts per step: 2 steps for 256 experts, 3 for 1024.
// Every thread must call it.
__device__ inline RowShare find_rows(const int64_t* offsets, int n_experts, int64_t n_rows,
                                     int height, int64_t slot) {
  bool slot_is_row = n_rows <= slots_by_height(n_rows, n_experts, height);
  auto first_slot = [&](int e) {
    int64_t begin = clamped(offsets[e], n_rows);
    return slot_is_row ? begin : begin / height + e;
  };
  int expert = 0, step = 1;  // the last expert whose first slot is at or below `slot`
  while (step * kWarp <= n_experts) step *= kWarp;
  for (; step > 0; step /= kWarp) {
    int e = expert + int(threadIdx.x % kWarp) * step;
    bool below = e <= n_experts && first_slot(e) <= slot;
    int found = __popc(__ballot_sync(kAllLanes, below));
    if (found) expert += (found - 1) * step;
  }
  int64_t begin = clamped(offsets[expert], n_rows);
  int64_t end = expert < n_experts ? clamped(offsets[expert + 1], n_rows) : n_rows;
  int64_t first = slot_is_row ? slot : begin + (slot - first_slot(expert)) * height;
  if (first < begin || first >= end || (first - begin) % height) return {expert, 0, 0};
  return {expert, int(min(end - first, int64_t(height))), first};
}

// Blocks run roughly in order, some 264 at a time on an H100. Groups of 16 slots keep them close to
// a square of 16 × 16 tiles, whose rows and columns are read from the L2 cache.
struct BlockPlace {
  int slot, column_tile;
};
__device__ inline BlockPlace place_of_block(int n_slots, int n_column_tiles) {
  constexpr int kGroup = 16;
  int block = blockIdx.x, first = block / (kGroup * n_column_tiles) * kGroup;
  int height = min(n_slots - first, kGroup), inside = block - first * n_column_tiles;
  return {first + inside % height, inside / height};
}

// `count` rows of an operand: the i-th is row index[first + i], or first + i without an index.
struct SourceRows {
  const int64_t* index;  // or null
  int64_t first, n_there;
  int count;

  __device__ int find(int i) const {  // −1: zeros
    if (i >= count) return -1;
    int64_t row = index ? index[first + i] : first + i;
    return row >= 0 && row < n_there ? int(row) : -1;
  }
};

// ---- the launchers' checks
inline const char* check_type(int64_t type) {
  if (type == kFloat32 || type == kBFloat16) return nullptr;
  return fail("type: expected fp32 (0) or bf16 (1), got %lld", shown(type));
}
inline const char* check_rows(const char* name, int64_t n_rows) {
  if (n_rows >= 0 && n_rows <= 0x7fffffff) return nullptr;
  return fail("%s: expected 0 to 2^31 - 1, got %lld", name, shown(n_rows));
}
inline const char* check_experts(int64_t n_experts) {
  if (n_experts >= 1 && n_experts <= 65536) return nullptr;
  return fail("n_experts: expected 1 to 65536, got %lld", shown(n_experts));
}
inline const char* check_width(const char* name, int64_t width) {
  if (width >= 1 && width <= 1 << 20) return nullptr;
  return fail("%s: expected 1 to 2^20, got %lld", name, shown(width));
}
inline const char* check_pointer(const char* name, const void* p) {
  return p ? nullptr : fail("%s: expected an address, got null", name);
}
inline const char* check_blocks(int64_t n_blocks) {
  if (n_blocks <= 0x7fffffff) return nullptr;
  return fail("sizes: expected at most 2^31 - 1 tiles, got %lld", shown(n_blocks));
}
// Without an index, row r reads row r.
inline const char* check_source(const char* name, const int64_t* index, int64_t n_source_rows,
                                int64_t n_rows) {
  TRY(check_rows(name, n_source_rows));
  if (index || n_source_rows >= n_rows) return nullptr;
  return fail("%s: expected at least n_rows=%lld without an index, got %lld", name, shown(n_rows),
              shown(n_source_rows));
}
inline const char* check_configuration(int64_t configuration, int count) {
  if (configuration >= -1 && configuration < count) return nullptr;
  return fail("configuration: expected -1 to %d, got %lld", count - 1, shown(configuration));
}
