// Grouped product, step 3: tensor cores.
//
// Idea: a warp multiplies 16 × 16 by 16 × 8 with one instruction (mma.sync), and loads its operands
// from shared memory with one instruction (ldmatrix), in the layout that mma needs; tiles stay
// bf16.
// Thread → data: 4 warps, 2 × 2, share a tile of 64 × 64; a warp has 32 × 32: 2 × 4 of mma.
// 16-byte loads: 4 threads load a row of 32 elements. Rows of a tile are 80 bytes apart: the eight
// rows of 16 bytes that ldmatrix reads at once use each of the 32 banks once.
// Bytes from global memory as in step 2, at half the width in shared memory. FLOPs as before.
// Expected: several times faster than step 2; loads and products alternate, so tensor cores wait.
// Recorded: ldmatrix has no bank conflicts, stores of tiles two-way ones; `out` uses half of each
// sector it moves, because a warp stores 16 bytes per row.
// Source: PTX ISA, "mma.m16n8k16", "ldmatrix"; NVIDIA CUTLASS, "Efficient GEMM in CUDA".
#include "tensor_core.cuh"
#include "tiles.cuh"

namespace {
constexpr int kM = 64, kN = 64, kK = 32, kThreads = 128;
constexpr int kWarpM = 32, kWarpN = 32;  // per warp
constexpr int kPitch = kK + 8;           // 80 bytes

// 64 rows × 32 columns, 16 bytes per thread at a time; 0 out of range.
__device__ inline void fetch(bf16 (*tile)[kPitch], const bf16* from, int64_t rows, int width,
                             int column) {
  for (int i = threadIdx.x; i < kM * kK / 8; i += kThreads) {
    int row = i / (kK / 8), k = i % (kK / 8) * 8;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < rows && column + k < width)
      v = *reinterpret_cast<const uint4*>(from + int64_t(row) * width + column + k);
    *reinterpret_cast<uint4*>(&tile[row][k]) = v;
  }
}

__global__ void __launch_bounds__(kThreads) tensor_core_kernel(Product p) {
  __shared__ __align__(128) bf16 x_tile[kM][kPitch];
  __shared__ __align__(128) bf16 w_tile[kN][kPitch];
  Tile tile = find_tile(p, kM, blockIdx.x);
  if (tile.first == tile.end) return;  // the whole block
  int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int n = blockIdx.y * kN, warp_m = warp / 2 * kWarpM, warp_n = warp % 2 * kWarpN;
  int depth = tile.expert < p.n_experts ? p.d_in : 0;
  const bf16* x = p.x + tile.first * p.d_in;
  const bf16* w = p.w + (int64_t(tile.expert) * p.d_out + n) * p.d_in;
  float sum[2][4][4] = {};
  for (int k = 0; k < depth; k += kK) {
    fetch(x_tile, x, tile.end - tile.first, p.d_in, k);
    fetch(w_tile, w, p.d_out - n, p.d_in, k);
    __syncthreads();
#pragma unroll
    for (int kk = 0; kk < kK; kk += 16) {
      unsigned a[2][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i)  // rows 0-7, 8-15, then the same 8 columns on
        load_matrices(a[i], &x_tile[warp_m + 16 * i + lane % 16][kk + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {  // columns 0-7 and 8-15 of d_in, then the next 8 of d_out
        unsigned four[4];
        int row = warp_n + 8 * j + lane / 16 * 8 + lane % 8;
        load_matrices(four, &w_tile[row][kk + lane / 8 % 2 * 8]);
        b[j][0] = four[0], b[j][1] = four[1], b[j + 1][0] = four[2], b[j + 1][1] = four[3];
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add(sum[i][j], a[i], b[j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2 * 4 * 2; ++i) {  // two neighbours at a time, 4 bytes
    int64_t row = tile.first + warp_m + i / 8 * 16 + lane / 4 + i % 2 * 8;
    int column = n + warp_n + i / 2 % 4 * 8 + lane % 4 * 2;
    const float* two = &sum[i / 8][i / 2 % 4][i % 2 * 2];
    if (row < tile.end && column < p.d_out)
      *reinterpret_cast<unsigned*>(p.out + row * p.d_out + column) = pack_two(two[0], two[1]);
  }
}
}  // namespace

extern "C" const char* grouped_gemm_3(const bf16* x, const bf16* w, const int64_t* offsets,
                                      bf16* out, int64_t n_rows, int64_t n_experts, int64_t d_in,
                                      int64_t d_out, void* stream) {
  Product p{x, w, offsets, out, n_rows, int(n_experts), int(d_in), int(d_out)};
  TRY(check(p, n_experts, d_in, d_out));
  if (!n_rows) return nullptr;
  dim3 grid(most_tiles(p, kM), ceil_div(d_out, kN));
  return launch("grouped_gemm_3", tensor_core_kernel, grid, kThreads, 0, stream, p);
}
