// A product without tensor cores: for fp32, and for bf16 whose rows are not a multiple of 16 bytes.
//
// A block of 256 threads computes 64 × 64 sums. It loads 64 × 16 of both operands at a time into
// shared memory, as floats; a thread has rows ty + 16 i and columns tx + 16 j, 4 × 4 sums in
// registers. Rows of a tile are 17 floats apart, so that half a warp reads from different banks.
// This is step 2 of the ladder, except that either operand may be transposed in memory.
#pragma once
#include "device.cuh"

namespace plain {
constexpr int kSide = 16, kThreads = kSide * kSide, kSums = 4;
constexpr int kTile = kSide * kSums, kDepth = 16;
constexpr int kBlocks = 3;  // at a time per SM, with up to 80 registers per thread
using Tile = float[kTile][kDepth + 1];

__device__ inline int row_of(int i) { return threadIdx.x / kSide + kSide * i; }
__device__ inline int column_of(int j) { return threadIdx.x % kSide + kSide * j; }

// Neighbouring threads load neighbouring elements: along the depth, or across it. `element` is also
// passed which of its own elements the thread is loading; along the depth the i-th one is in the
// same row of every tile, so anything looked up for that row can be kept.
constexpr int kMine = kTile * kDepth / kThreads;
__device__ inline int my_row(int i) { return threadIdx.x / kDepth + i * (kThreads / kDepth); }
template <bool kAlongDepth, class Element>
__device__ void fetch(Tile& tile, Element element) {
#pragma unroll(kAlongDepth ? kMine : kMine / 2)  // across the depth there are fewer registers
  for (int i = 0; i < kMine; ++i) {
    int at = threadIdx.x + i * kThreads;
    int outer = kAlongDepth ? my_row(i) : at % kTile, k = kAlongDepth ? at % kDepth : at / kTile;
    tile[outer][k] = element(i, outer, k);
  }
}

// sum[i][j] += Σ_k a(i, row, k) b(i, column, k) for k < depth; a and b return 0 out of range.
template <bool kADepth, bool kBDepth, class A, class B>
__device__ void multiply(Tile& a_tile, Tile& b_tile, int64_t depth, A a, B b,
                         float (&sum)[kSums][kSums]) {
  for (int64_t first = 0; first < depth; first += kDepth) {
    fetch<kADepth>(a_tile, [&](int i, int outer, int k) { return a(i, outer, first + k); });
    fetch<kBDepth>(b_tile, [&](int i, int outer, int k) { return b(i, outer, first + k); });
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float x[kSums], y[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) x[i] = a_tile[row_of(i)][k], y[i] = b_tile[column_of(i)][k];
#pragma unroll
      for (int i = 0; i < kSums * kSums; ++i)
        sum[i / kSums][i % kSums] += x[i / kSums] * y[i % kSums];
    }
    __syncthreads();  // no thread loads the next tiles while these are read
  }
}
}  // namespace plain
