// Planted errors: addresses computed or used wrongly. `// HERE` marks the line to be named.
#include "device.cuh"

__global__ void misaligned_vector_kernel(const float* x, float* y) {
  float v[4];
  load_vector(x + 1 + 4 * threadIdx.x, v);  // HERE: a GPU stops with "misaligned address"
  store_vector(y + 4 * threadIdx.x, v);
}
extern "C" const char* misaligned_vector(const float* x, float* y, int64_t, void* stream) {
  return launch("misaligned_vector", misaligned_vector_kernel, 1, 8, 0, stream, x, y);
}

__global__ void int_overflow_kernel(const float* x, float* y, int width) {
  int row = int(threadIdx.x);
  if (row < 3) y[row] = x[(row * width) % 64];  // HERE: 2 · 2^30 does not fit an int
}
extern "C" const char* int_overflow(const float* x, float* y, int64_t, void* stream) {
  return launch("int_overflow", int_overflow_kernel, 1, 8, 0, stream, x, y, 1 << 30);
}

__global__ void shift_too_far_kernel(const float* x, float* y) {
  int lanes = 1 << (threadIdx.x + 1);  // HERE: lane 31 shifts by 32
  y[threadIdx.x] = x[lanes & 63];
}
extern "C" const char* shift_too_far(const float* x, float* y, int64_t, void* stream) {
  return launch("shift_too_far", shift_too_far_kernel, 1, 32, 0, stream, x, y);
}

__global__ void writes_an_input_kernel(float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = 0;  // HERE
}
extern "C" const char* writes_an_input(float* x, float* y, int64_t, void* stream) {
  return launch("writes_an_input", writes_an_input_kernel, 1, 8, 0, stream, x, y);
}

__global__ void divides_by_zero_kernel(const float* x, float* y, int width) {
  int row = int(threadIdx.x) / width;  // HERE
  y[threadIdx.x] = x[row];
}
extern "C" const char* divides_by_zero(const float* x, float* y, int64_t, void* stream) {
  return launch("divides_by_zero", divides_by_zero_kernel, 1, 32, 0, stream, x, y, 0);
}

__global__ void remainder_of_zero_kernel(const float* x, float* y, unsigned width) {
  y[threadIdx.x] = x[threadIdx.x % width];  // HERE
}
extern "C" const char* remainder_of_zero(const float* x, float* y, int64_t, void* stream) {
  return launch("remainder_of_zero", remainder_of_zero_kernel, 1, 32, 0, stream, x, y, 0);
}
