// Shared by all kernels: types, vectors, warp sums, errors, launches. For nvcc and for g++.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_on_cpu.h"
#endif
#include <cstdarg>
#include <cstdint>
#include <cstdio>

using bf16 = __nv_bfloat16;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;

// ---- element types: stored as fp32 or bf16, computed as fp32
enum DType { kFloat32 = 0, kBFloat16 = 1 };

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// ---- 16 bytes at once: 4 floats or 8 bf16; or one element if rows are not aligned
template <class T>
constexpr int kPerVector = 16 / sizeof(T);

__device__ inline unsigned pack_two(float low, float high) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(low)) |
         unsigned(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}

__device__ inline void load_vector(const float* from, float (&x)[4]) {
  float4 v = *reinterpret_cast<const float4*>(from);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ inline void load_vector(const bf16* from, float (&x)[8]) {
  uint4 v = *reinterpret_cast<const uint4*>(from);
  unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = __uint_as_float(words[i] << 16);
    x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
template <class T>
__device__ void load_vector(const T* from, float (&x)[1]) {
  x[0] = to_float(*from);
}
__device__ inline void store_vector(float* to, const float (&x)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ inline void store_vector(bf16* to, const float (&x)[8]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack_two(x[0], x[1]), pack_two(x[2], x[3]),
                                             pack_two(x[4], x[5]), pack_two(x[6], x[7]));
}
template <class T>
__device__ void store_vector(T* to, const float (&x)[1]) {
  *to = from_float<T>(x[0]);
}

// ---- sums and maxima over a warp; every lane gets the same result
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(kAllLanes, x, bits);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, bits));
  return x;
}

// ---- shared memory whose size is set at launch
template <class T>
__device__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#else
  return static_cast<T*>(checker::dynamic_shared());
#endif
}

// ---- errors: a launcher returns nullptr, or the reason why it did not launch
inline const char* fail(const char* format, ...) {
  static thread_local char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}
inline long long shown(int64_t number) { return number; }  // for %lld
#define TRY(call) \
  if (const char* error = (call)) return error

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- launches, always on the given stream
template <class T>
struct AsDeclared {
  using type = T;
};
#ifdef __CUDACC__
inline const char* check(const char* name, cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // clears it, so that the next launch is not blamed
  return fail("%s: %s", name, cudaGetErrorString(error));
}
constexpr size_t kSharedAtOnce = 48 << 10;  // more must be requested for each kernel
template <class... Parameters>
const char* launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, void* stream,
                   typename AsDeclared<Parameters>::type... arguments) {
  if (shared_bytes > kSharedAtOnce)
    TRY(check(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         int(shared_bytes))));
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return check(name, cudaGetLastError());
}
inline const char* fill_bytes(void* to, int byte, size_t bytes, void* stream) {
  return check("fill_bytes", cudaMemsetAsync(to, byte, bytes, static_cast<cudaStream_t>(stream)));
}
#else
template <class... Parameters>
const char* launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, void*,
                   typename AsDeclared<Parameters>::type... arguments) {
  auto body = [&]() UNWATCHED { kernel(arguments...); };
  using Body = decltype(body);
  return checker::run(name, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes,
                      [](void* context) { (*static_cast<Body*>(context))(); }, &body);
}
inline const char* fill_bytes(void* to, int byte, size_t bytes, void*) {
  checker::fill(to, byte, bytes);
  return nullptr;
}
#endif
