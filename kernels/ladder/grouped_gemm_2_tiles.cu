// Grouped product, step 2: tiles in shared memory.
//
// Idea: a block of 256 threads computes 64 rows × 64 columns of one expert. It loads 64 × 16 of x
// and of w once, and uses every element 64 times from shared memory; a thread keeps 4 × 4 sums
// in registers, so that 8 loads feed 16 multiply-adds.
// Thread → data: (ty, tx) = 16 × 16 threads; a thread has rows ty + 16 i and columns tx + 16 j.
// Rows of a tile are 17 floats apart: the 16 rows of w that a half warp reads are in 16 banks.
// Bytes from global memory: 4 · rows · d_out · d_in / 64, 1/64 of step 1. FLOPs as before.
// Expected: bound by fp32 arithmetic and shared memory; many times faster than step 1, a few % of
// tensor cores.
// Recorded: x and w move once, shared memory reads have no conflicts, stores two-way ones.
// Source: S. Boehm, How to Optimize a CUDA Matmul Kernel, kernels 3-5; NVIDIA CUDA C++ Programming
// Guide, "Shared Memory".
#include "tiles.cuh"

namespace {
constexpr int kM = 64, kN = 64, kK = 16, kSide = 16, kThreads = kSide * kSide;
constexpr int kSums = kM / kSide;
constexpr int kPitch = kK + 1;

// 64 rows × 16 columns from global memory, 0 out of range.
__device__ inline void fetch(float (*tile)[kPitch], const bf16* from, int64_t rows, int width,
                             int column) {
  for (int i = threadIdx.x; i < kM * kK; i += kThreads) {
    int row = i / kK, k = i % kK;
    bool inside = row < rows && column + k < width;
    tile[row][k] = inside ? to_float(from[int64_t(row) * width + column + k]) : 0;
  }
}

__global__ void __launch_bounds__(kThreads) tiles_kernel(Product p) {
  __shared__ float x_tile[kM][kPitch];
  __shared__ float w_tile[kN][kPitch];
  Tile tile = find_tile(p, kM, blockIdx.x);
  if (tile.first == tile.end) return;  // the whole block
  int n = blockIdx.y * kN, tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  int depth = tile.expert < p.n_experts ? p.d_in : 0;
  const bf16* x = p.x + tile.first * p.d_in;
  const bf16* w = p.w + (int64_t(tile.expert) * p.d_out + n) * p.d_in;
  float sum[kSums][kSums] = {};
  for (int k = 0; k < depth; k += kK) {
    fetch(x_tile, x, tile.end - tile.first, p.d_in, k);
    fetch(w_tile, w, p.d_out - n, p.d_in, k);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kK; ++i) {
      float a[kSums], b[kSums];
#pragma unroll
      for (int j = 0; j < kSums; ++j) {
        a[j] = x_tile[ty + kSide * j][i];
        b[j] = w_tile[tx + kSide * j][i];
      }
#pragma unroll
      for (int j = 0; j < kSums * kSums; ++j)
        sum[j / kSums][j % kSums] += a[j / kSums] * b[j % kSums];
    }
    __syncthreads();  // no thread loads the next tile while this one is read
  }
#pragma unroll
  for (int j = 0; j < kSums * kSums; ++j) {
    int64_t row = tile.first + ty + kSide * (j / kSums);
    int column = n + tx + kSide * (j % kSums);
    if (row < tile.end && column < p.d_out)
      p.out[row * p.d_out + column] = from_float<bf16>(sum[j / kSums][j % kSums]);
  }
}
}  // namespace

extern "C" const char* grouped_gemm_2(const bf16* x, const bf16* w, const int64_t* offsets,
                                      bf16* out, int64_t n_rows, int64_t n_experts, int64_t d_in,
                                      int64_t d_out, void* stream) {
  Product p{x, w, offsets, out, n_rows, int(n_experts), int(d_in), int(d_out)};
  TRY(check(p, n_experts, d_in, d_out));
  if (!n_rows) return nullptr;
  dim3 grid(most_tiles(p, kM), ceil_div(d_out, kN));
  return launch("grouped_gemm_2", tiles_kernel, grid, kThreads, 0, stream, p);
}
