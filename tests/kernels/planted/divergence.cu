// Planted errors: threads that wait for each other forever. `// HERE` marks the line to be named.
#include "tensor_core.cuh"

__global__ void early_return_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[64];
  if (int(threadIdx.x) >= n) return;
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();  // HERE: threads that returned never arrive
  y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
extern "C" const char* early_return(const float* x, float* y, int64_t n, void* stream) {
  return launch("early_return", early_return_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void two_barriers_kernel(const float* x, float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 32) {
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();  // HERE: the others wait at a different one
  } else {
    tile[threadIdx.x] = 0;
    __syncthreads();
  }
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" const char* two_barriers(const float* x, float* y, int64_t, void* stream) {
  return launch("two_barriers", two_barriers_kernel, 1, 64, 0, stream, x, y);
}

__global__ void barrier_in_a_loop_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[64];
  for (int i = threadIdx.x; i < n; i += 64) {  // not the same number of iterations for all
    tile[threadIdx.x] = x[i];
    __syncthreads();  // HERE
    y[i] = tile[threadIdx.x ^ 1];
    __syncthreads();
  }
}
extern "C" const char* barrier_in_a_loop(const float* x, float* y, int64_t n, void* stream) {
  return launch("barrier_in_a_loop", barrier_in_a_loop_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void shuffle_in_a_branch_kernel(const float* x, float* y, int64_t n) {
  int i = threadIdx.x;
  float sum = 0;
  if (i < n) {
    sum = x[i];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);  // HERE: not all lanes get here
  }
  y[i] = sum;
  __syncthreads();
}
extern "C" const char* shuffle_in_a_branch(const float* x, float* y, int64_t n, void* stream) {
  return launch("shuffle_in_a_branch", shuffle_in_a_branch_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void mask_without_me_kernel(const float* x, float* y) {
  int i = threadIdx.x;
  y[i] = __shfl_sync(0xffff, x[i], 0);  // HERE: lanes 16 to 31 are not in the mask
}
extern "C" const char* mask_without_me(const float* x, float* y, int64_t, void* stream) {
  return launch("mask_without_me", mask_without_me_kernel, 1, 32, 0, stream, x, y);
}

// ldmatrix, mma and the like need all 32 lanes, even those that have returned.
__global__ void matrices_without_a_lane_kernel(const float* x, float* y, int64_t n) {
  __shared__ __align__(16) bf16 tile[32 * 8];
  for (int i = threadIdx.x; i < 32 * 8; i += 32) tile[i] = __float2bfloat16_rn(x[0]);
  __syncthreads();
  if (int(threadIdx.x) >= n) return;
  unsigned part[4];
  load_matrices(part, &tile[8 * threadIdx.x]);  // HERE
  y[threadIdx.x] = float(part[0]);
}
extern "C" const char* matrices_without_a_lane(const float* x, float* y, int64_t n, void* stream) {
  return launch("matrices_without_a_lane", matrices_without_a_lane_kernel, 1, 32, 0, stream, x, y,
                n);
}

__global__ void product_without_a_lane_kernel(const float* x, float* y, int64_t n) {
  if (int(threadIdx.x) >= n) return;
  unsigned a[4] = {}, b[2] = {};
  float c[4] = {x[threadIdx.x]};
  multiply_add(c, a, b);  // HERE
  y[threadIdx.x] = c[0];
}
extern "C" const char* product_without_a_lane(const float* x, float* y, int64_t n, void* stream) {
  return launch("product_without_a_lane", product_without_a_lane_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void product_of_half_a_warp_kernel(const float* x, float* y) {
  unsigned a[4] = {}, b[2] = {};
  float c[4] = {x[threadIdx.x]};
  multiply_add(c, a, b);  // HERE: the block has 16 threads
  y[threadIdx.x] = c[0];
}
extern "C" const char* product_of_half_a_warp(const float* x, float* y, int64_t, void* stream) {
  return launch("product_of_half_a_warp", product_of_half_a_warp_kernel, 1, 16, 0, stream, x, y);
}

// A shuffle may proceed without lanes that have returned, but they have no value to give.
__global__ void reads_a_returned_lane_kernel(const float* x, float* y, int64_t n) {
  int i = threadIdx.x;
  if (i >= n) return;
  y[i] = x[i] + __shfl_xor_sync(kAllLanes, x[i], 16);  // HERE
}
extern "C" const char* reads_a_returned_lane(const float* x, float* y, int64_t n, void* stream) {
  return launch("reads_a_returned_lane", reads_a_returned_lane_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void reads_a_lane_outside_kernel(const float* x, float* y) {
  int i = threadIdx.x;
  y[i] = x[i];
  if (i < 8) y[i] = __shfl_down_sync(0xffu, x[i], 1);  // HERE: lane 7 reads lane 8
  __syncthreads();
}
extern "C" const char* reads_a_lane_outside(const float* x, float* y, int64_t, void* stream) {
  return launch("reads_a_lane_outside", reads_a_lane_outside_kernel, 1, 32, 0, stream, x, y);
}

__global__ void width_of_three_kernel(const float* x, float* y, int width) {
  y[threadIdx.x] = __shfl_sync(kAllLanes, x[threadIdx.x], 1, width);  // HERE
}
extern "C" const char* width_of_three(const float* x, float* y, int64_t, void* stream) {
  return launch("width_of_three", width_of_three_kernel, 1, 32, 0, stream, x, y, 3);
}
