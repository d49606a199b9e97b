// Grouped product, step 5: large tiles, swizzled, in a deep pipeline.
//
// Idea: four changes that depend on each other. (1) A warp has 64 × 64 sums, so that an element
// loaded from shared memory is used 64 times, not 32: half of step 4's reads. (2) Four buffers:
// three steps of copies are pending while one is multiplied, with one barrier per step. (3) They
// fill 64 KB of dynamic shared memory, with none to spare for padding: instead, the four 16-byte
// chunks of a row are permuted (XOR), differently in each pair of rows. (4) While mma works on 16
// of d_in, ldmatrix loads the next 16 into a second set of registers.
// Thread → data: 4 warps, 2 × 2, share a tile of 128 × 128; a warp has 4 × 8 of mma, 128 sums
// per thread. A thread copies 4 + 4 chunks per step. Registers allow two blocks per SM.
// Bytes from global memory: 4 · rows · d_out · d_in / 128, half of steps 2-4. FLOPs as before.
// Computed: shared memory allows 67 % of the tensor cores' peak, 33 % in step 4 (../README.md).
// Recorded: no bank conflicts, neither in copies nor in ldmatrix; x and w use every sector that
// moves; `out` still uses half of each, because a warp stores 16 bytes per row.
// Step 6 is ../grouped_gemm.cu, which the extension uses.
// Source: gau-nernst/learn-cuda, matmul with mma.sync (swizzle, pipeline); NVIDIA CUTLASS,
// "Efficient GEMM in CUDA".
#include "tensor_core.cuh"
#include "tiles.cuh"

namespace {
constexpr int kM = 128, kN = 128, kK = 32, kStages = 4, kThreads = 128;
constexpr int kWarpM = 64, kWarpN = 64;  // per warp
constexpr int kChunks = kK / 8;          // of 16 bytes, per row of a tile
constexpr int kStageSize = (kM + kN) * kK;
constexpr int kSharedBytes = kStages * kStageSize * 2;

// The position of a chunk. Two rows fill all 32 banks; ldmatrix reads the same chunk of eight rows.
__device__ inline int place(int row, int chunk) {
  return row * kK + (chunk ^ row / 2 % kChunks) * 8;
}

// Starts copying 128 rows × 32 columns; 0 out of range. A thread's four chunks are 32 rows apart,
// where `place` repeats itself.
__device__ inline void fetch(bf16* tile, const bf16* from, int rows, int width, int column) {
  constexpr int kRowsAtOnce = kThreads / kChunks;
  int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks, k = column + chunk * 8;
#pragma unroll
  for (int i = 0; i < kM; i += kRowsAtOnce) {
    const bf16* here = from + int64_t(row + i) * width + k;
    copy_async16(tile + place(row, chunk) + i * kK, here, row + i < rows && k < width);
  }
}

struct Fragments {  // one warp's, 16 deep; each b holds two columns of mma
  unsigned a[kWarpM / 16][4], b[kWarpN / 16][4];

  __device__ void load(const bf16* x_tile, const bf16* w_tile, int warp_m, int warp_n, int k) {
    int lane = threadIdx.x % kWarp, chunk = k / 8;
#pragma unroll
    for (int i = 0; i < kWarpM / 16; ++i) {
      const bf16* rows = x_tile + (warp_m + 16 * i) * kK;
      load_matrices(a[i], rows + place(lane % 16, chunk + lane / 16));
    }
#pragma unroll
    for (int j = 0; j < kWarpN / 16; ++j) {
      const bf16* rows = w_tile + (warp_n + 16 * j) * kK;
      load_matrices(b[j], rows + place(lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2));
    }
  }
};

__global__ void __launch_bounds__(kThreads) swizzle_kernel(Product p) {
  bf16* stages = dynamic_shared<bf16>();
  Tile tile = find_tile(p, kM, blockIdx.x);
  if (tile.first == tile.end) return;  // the whole block
  int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int n = blockIdx.y * kN, warp_m = warp / 2 * kWarpM, warp_n = warp % 2 * kWarpN;
  bool has_weights = tile.expert < p.n_experts;
  int n_steps = has_weights ? (p.d_in + kK - 1) / kK : 0;
  int n_rows = int(tile.end - tile.first), n_columns = has_weights ? p.d_out - n : 0;
  const bf16* x = p.x + tile.first * p.d_in;
  const bf16* w = p.w + (int64_t(tile.expert) * p.d_out + n) * p.d_in;
  auto fetch_step = [&](int step) {  // past the last one: zeros, never used
    bf16* x_tile = stages + step % kStages * kStageSize;
    fetch(x_tile, x, n_rows, p.d_in, step * kK);
    fetch(x_tile + kM * kK, w, n_columns, p.d_in, step * kK);
    commit_async_copies();
  };
  Fragments fragments[2];
  auto load = [&](int which, int step, int k) {
    const bf16* x_tile = stages + step % kStages * kStageSize;
    fragments[which].load(x_tile, x_tile + kM * kK, warp_m, warp_n, k);
  };
  float sum[kWarpM / 16][kWarpN / 8][4] = {};
  for (int step = 0; step < kStages - 1; ++step) fetch_step(step);
  wait_for_async_copies<kStages - 2>();
  __syncthreads();
  load(0, 0, 0);
  for (int step = 0; step < n_steps; ++step) {
#pragma unroll
    for (int k = 0; k < kK; k += 16) {
      bool last = k == kK - 16;
      if (last) {  // this step's tiles are in registers, the next step's have arrived
        wait_for_async_copies<kStages - 2>();
        __syncthreads();
      }
      load((k / 16 + 1) % 2, last ? step + 1 : step, last ? 0 : k + 16);
      const Fragments& now = fragments[k / 16 % 2];
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i)
#pragma unroll
        for (int j = 0; j < kWarpN / 8; ++j) {
          unsigned b[2] = {now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]};
          multiply_add(sum[i][j], now.a[i], b);
        }
      if (k == 0) fetch_step(step + kStages - 1);  // into the buffer of the step before
    }
  }
  wait_for_async_copies<0>();  // no copy may be pending when the block ends
#pragma unroll
  for (int i = 0; i < kWarpM / 16 * kWarpN / 8 * 2; ++i) {  // two neighbours at a time, 4 bytes
    int64_t row = tile.first + warp_m + i / 16 * 16 + lane / 4 + i % 2 * 8;
    int column = n + warp_n + i / 2 % 8 * 8 + lane % 4 * 2;
    const float* two = &sum[i / 16][i / 2 % 8][i % 2 * 2];
    if (row < tile.end && column < p.d_out)
      *reinterpret_cast<unsigned*>(p.out + row * p.d_out + column) = pack_two(two[0], two[1]);
  }
}
}  // namespace

extern "C" const char* grouped_gemm_5(const bf16* x, const bf16* w, const int64_t* offsets,
                                      bf16* out, int64_t n_rows, int64_t n_experts, int64_t d_in,
                                      int64_t d_out, void* stream) {
  Product p{x, w, offsets, out, n_rows, int(n_experts), int(d_in), int(d_out)};
  TRY(check(p, n_experts, d_in, d_out));
  if (!n_rows) return nullptr;
  dim3 grid(most_tiles(p, kM), ceil_div(d_out, kN));
  return launch("grouped_gemm_5", swizzle_kernel, grid, kThreads, kSharedBytes, stream, p);
}
