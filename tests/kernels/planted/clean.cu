// Kernels in which the checker must find nothing: each synchronises correctly in one way.
#include "tensor_core.cuh"

// Barriers: the sum of a block by halves, in a static array.
__global__ void block_sum_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[128];
  int64_t i = int64_t(blockIdx.x) * 128 + threadIdx.x;
  tile[threadIdx.x] = i < n ? x[i] : 0;
  for (int half = 64; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) tile[threadIdx.x] += tile[threadIdx.x + half];
  }
  if (threadIdx.x == 0) y[blockIdx.x] = tile[0];
}
extern "C" const char* block_sum(const float* x, float* y, int64_t n, void* stream) {
  return launch("block_sum", block_sum_kernel, ceil_div(n, 128), 128, 0, stream, x, y, n);
}

// __syncwarp: every warp reverses its own 32 elements, twice, in dynamic shared memory.
__global__ void turn_twice_kernel(const float* x, float* y, int64_t n) {
  float* mine = dynamic_shared<float>() + threadIdx.x / 32 * 32;
  int i = threadIdx.x, lane = i % 32;
  mine[lane] = i < n ? x[i] : 0;
  __syncwarp();
  float turned = mine[31 - lane];
  __syncwarp();
  mine[lane] = turned;
  __syncwarp();
  if (i < n) y[i] = mine[31 - lane];
}
extern "C" const char* turn_twice(const float* x, float* y, int64_t n, void* stream) {
  return launch("turn_twice", turn_twice_kernel, 1, 128, 128 * sizeof(float), stream, x, y, n);
}

// Half warps that synchronise separately, one of them more often than the other.
__global__ void half_warps_kernel(const float* x, float* y) {
  __shared__ float tile[32];
  int lane = threadIdx.x, half = lane / 16;
  unsigned mask = half ? 0xffff0000u : 0xffffu;
  tile[lane] = x[lane];
  for (int i = 0; i <= half; ++i) {
    __syncwarp(mask);
    float next = tile[half * 16 + (lane + 1) % 16];
    __syncwarp(mask);
    tile[lane] = next;
  }
  __syncwarp();
  y[lane] = tile[31 - lane];
}
extern "C" const char* half_warps(const float* x, float* y, int64_t, void* stream) {
  return launch("half_warps", half_warps_kernel, 1, 32, 0, stream, x, y);
}

// Atomics, in shared memory and across blocks.
__global__ void histogram_kernel(const int64_t* values, int* counts, int64_t n) {
  __shared__ int mine[16];
  if (threadIdx.x < 16) mine[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t i = int64_t(blockIdx.x) * 64 + threadIdx.x; i < n; i += 64 * gridDim.x)
    atomicAdd(&mine[values[i]], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}
extern "C" const char* histogram(const int64_t* values, int* counts, int64_t n, void* stream) {
  TRY(fill_bytes(counts, 0, 16 * sizeof(int), stream));
  return launch("histogram", histogram_kernel, 3, 64, 0, stream, values, counts, n);
}

// Votes and shuffles after some lanes have returned.
__global__ void lanes_kernel(const int64_t* values, int64_t* y, int64_t n) {
  int i = threadIdx.x;
  if (i >= n) return;
  unsigned mask = n < 32 ? (1u << n) - 1 : kAllLanes;
  int64_t v = values[i];
  unsigned same = __match_any_sync(mask, v);
  y[i] = __popc(same);
  y[32 + i] = __ballot_sync(mask, v > 2);
  y[64 + i] = __reduce_max_sync(mask, unsigned(v));
  y[96 + i] = __shfl_up_sync(mask, v, 1);
  y[128 + i] = __any_sync(mask, v == 3) + 2 * __all_sync(mask, v >= 0);
}
extern "C" const char* lanes(const int64_t* values, int64_t* y, int64_t n, void* stream) {
  return launch("lanes", lanes_kernel, 1, 32, 0, stream, values, y, n);
}

// cp.async in two stages: while one tile is used, the next one is loading.
__global__ void two_stages_kernel(const float* x, float* y, int64_t n_tiles) {
  __shared__ float tile[2][128];
  copy_async16(&tile[0][4 * threadIdx.x], &x[4 * threadIdx.x]);
  commit_async_copies();
  for (int64_t i = 0; i < n_tiles; ++i) {
    if (i + 1 < n_tiles)
      copy_async16(&tile[(i + 1) % 2][4 * threadIdx.x], &x[(i + 1) * 128 + 4 * threadIdx.x]);
    commit_async_copies();
    wait_for_async_copies<1>();
    __syncthreads();
    for (int j = threadIdx.x; j < 128; j += 32) y[i * 128 + j] = tile[i % 2][127 - j];
    __syncthreads();
  }
}
extern "C" const char* two_stages(const float* x, float* y, int64_t n_tiles, void* stream) {
  return launch("two_stages", two_stages_kernel, 1, 32, 0, stream, x, y, n_tiles);
}

// Tensor cores: D = A B, A [16, 16] row by row, B [16, 8] row by row.
__global__ void multiply_kernel(const bf16* a, const bf16* b, float* d) {
  __shared__ bf16 a_tile[16 * 16];
  __shared__ bf16 b_tile[16 * 8];
  int lane = threadIdx.x;
  copy_async16(&a_tile[8 * lane], &a[8 * lane]);
  if (lane < 16) copy_async16(&b_tile[8 * lane], &b[8 * lane]);
  commit_async_copies();
  wait_for_async_copies<0>();
  __syncthreads();
  unsigned a_part[4], b_part[4];
  load_matrices(a_part, &a_tile[lane % 16 * 16 + lane / 16 * 8]);
  load_matrices_transposed(b_part, &b_tile[lane % 16 * 8]);
  unsigned b_two[2] = {b_part[0], b_part[1]};
  float c[4] = {};
  multiply_add(c, a_part, b_two);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}
extern "C" const char* multiply(const bf16* a, const bf16* b, float* d, void* stream) {
  return launch("multiply", multiply_kernel, 1, 32, 0, stream, a, b, d);
}

// 16-bit floats: round to nearest, ties to even.
__global__ void round_kernel(const float* x, bf16* y, __half* z, float* back, int64_t n) {
  int64_t i = int64_t(blockIdx.x) * 128 + threadIdx.x;
  if (i >= n) return;
  y[i] = __float2bfloat16_rn(x[i]);
  z[i] = __float2half_rn(x[i]);
  back[i] = to_float(y[i]) + __half2float(z[i]);
}
extern "C" const char* round_all(const float* x, bf16* y, __half* z, float* back, int64_t n,
                                 void* stream) {
  return launch("round_all", round_kernel, ceil_div(n, 128), 128, 0, stream, x, y, z, back, n);
}
