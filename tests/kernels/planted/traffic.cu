// Kernels whose traffic is known in advance.
#include "device.cuh"

// x [32, 32] transposed through shared memory with rows of `kPitch` floats: 32 conflicts in every
// column, 33 does not.
template <int kPitch>
__global__ void transpose_kernel(const float* x, float* y) {
  __shared__ float tile[32][kPitch];
  for (int row = threadIdx.y; row < 32; row += blockDim.y)
    tile[row][threadIdx.x] = x[row * 32 + threadIdx.x];
  __syncthreads();
  for (int row = threadIdx.y; row < 32; row += blockDim.y)
    y[row * 32 + threadIdx.x] = tile[threadIdx.x][row];  // COLUMN
}
extern "C" const char* transpose(const float* x, float* y, int64_t pitch, void* stream) {
  if (pitch == 32)
    return launch("transpose", transpose_kernel<32>, 1, dim3(32, 8), 0, stream, x, y);
  return launch("transpose", transpose_kernel<33>, 1, dim3(32, 8), 0, stream, x, y);
}

__global__ void strided_kernel(const float* x, float* y, int64_t stride) {
  y[threadIdx.x] = x[threadIdx.x * stride];
}
extern "C" const char* strided(const float* x, float* y, int64_t stride, void* stream) {
  return launch("strided", strided_kernel, 1, 32, 0, stream, x, y, stride);
}

__global__ void vectors_kernel(const float* x, float* y) {
  float v[4];
  load_vector(x + 4 * threadIdx.x, v);
  store_vector(y + 4 * threadIdx.x, v);
}
extern "C" const char* vectors(const float* x, float* y, int64_t, void* stream) {
  return launch("vectors", vectors_kernel, 1, 32, 0, stream, x, y);
}
