// Grouped product, step 4: loads that overlap products.
//
// Idea: cp.async copies from global to shared memory, bypassing registers, without making the
// thread wait. There are two buffers for tiles: while one is multiplied, the other is being filled.
// Thread → data: as in step 3: 4 warps share 64 × 64, a warp has 32 × 32; a thread copies two
// 16-byte pieces of each tile. Elements outside x or w arrive as zeros.
// Bytes, FLOPs, and shared memory per tile as in step 3; two tiles of each operand: 20 KB.
// Expected: faster than step 3, since loads and products overlap; still far from the tensor cores'
// peak: a warp of 32 × 32 reads 2 KB of shared memory for each 16 of d_in.
// Recorded: no bank conflicts in ldmatrix, two-way ones in the copies: a quarter of a warp fills
// two rows, which overlap in four banks. `out` uses half of each sector that moves.
// Source: PTX ISA, "cp.async"; gau-nernst/learn-cuda, matmul with mma.sync.
#include "tensor_core.cuh"
#include "tiles.cuh"

namespace {
constexpr int kM = 64, kN = 64, kK = 32, kStages = 2, kThreads = 128;
constexpr int kWarpM = 32, kWarpN = 32;  // per warp
constexpr int kPitch = kK + 8;           // 80 bytes

using Tile64 = bf16[kM][kPitch];

// Starts copying 64 rows × 32 columns, 16 bytes per thread at a time; 0 out of range.
__device__ inline void fetch(Tile64& tile, const bf16* from, int64_t rows, int width, int column) {
  for (int i = threadIdx.x; i < kM * kK / 8; i += kThreads) {
    int row = i / (kK / 8), k = i % (kK / 8) * 8;
    bool exists = row < rows && column + k < width;
    const bf16* here = exists ? from + int64_t(row) * width + column + k : from;
    copy_async16(&tile[row][k], here, exists);
  }
}

__global__ void __launch_bounds__(kThreads) async_kernel(Product p) {
  __shared__ __align__(128) Tile64 x_tiles[kStages], w_tiles[kStages];
  Tile tile = find_tile(p, kM, blockIdx.x);
  if (tile.first == tile.end) return;  // the whole block
  int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int n = blockIdx.y * kN, warp_m = warp / 2 * kWarpM, warp_n = warp % 2 * kWarpN;
  int depth = tile.expert < p.n_experts ? p.d_in : 0;
  const bf16* x = p.x + tile.first * p.d_in;
  const bf16* w = p.w + (int64_t(tile.expert) * p.d_out + n) * p.d_in;
  auto fetch_both = [&](int k) {
    int stage = k / kK % kStages;
    if (k < depth) fetch(x_tiles[stage], x, tile.end - tile.first, p.d_in, k);
    if (k < depth) fetch(w_tiles[stage], w, p.d_out - n, p.d_in, k);
    commit_async_copies();  // even if nothing was copied: the waits below count commits
  };
  float sum[2][4][4] = {};
  fetch_both(0);
  for (int k = 0; k < depth; k += kK) {
    fetch_both(k + kK);
    wait_for_async_copies<1>();  // the newest may be pending; the one before has arrived,
    __syncthreads();             // and after the barrier the other threads' too
    Tile64 &x_tile = x_tiles[k / kK % kStages], &w_tile = w_tiles[k / kK % kStages];
#pragma unroll
    for (int kk = 0; kk < kK; kk += 16) {
      unsigned a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load_matrices(a[i], &x_tile[warp_m + 16 * i + lane % 16][kk + lane / 16 * 8]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {  // 16 rows of w at once: two columns of mma
        int row = warp_n + 16 * j + lane / 16 * 8 + lane % 8;
        load_matrices(b[j], &w_tile[row][kk + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          unsigned two[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          multiply_add(sum[i][j], a[i], two);
        }
    }
    __syncthreads();  // no thread refills this buffer while it is read
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

extern "C" const char* grouped_gemm_4(const bf16* x, const bf16* w, const int64_t* offsets,
                                      bf16* out, int64_t n_rows, int64_t n_experts, int64_t d_in,
                                      int64_t d_out, void* stream) {
  Product p{x, w, offsets, out, n_rows, int(n_experts), int(d_in), int(d_out)};
  TRY(check(p, n_experts, d_in, d_out));
  if (!n_rows) return nullptr;
  dim3 grid(most_tiles(p, kM), ceil_div(d_out, kN));
  return launch("grouped_gemm_4", async_kernel, grid, kThreads, 0, stream, p);
}
