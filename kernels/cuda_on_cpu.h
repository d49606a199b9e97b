// CUDA's built-ins for g++: with this header the .cu files of this folder are plain C++.
//
// It has only what the kernels use. Every name means what the CUDA C++ Programming Guide says, and
// the checker (checker/) watches how it is used. nvcc never sees this file.
#pragma once
#include <cassert>
#include <cstdint>
#include <cstring>

#include "checker/checker.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNWATCHED __attribute__((no_sanitize("thread")))
#define __global__ __attribute__((noinline))
#define __device__ __attribute__((always_inline))  // nvcc inlines device functions too
#define __host__
#define __forceinline__
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__
#define __constant__ static const  // an initialized table; the host never fills it
// One block runs at a time, so its shared memory can be one static array.
#define __shared__ static __attribute__((aligned(128)))

#define threadIdx (checker::thread_index())
#define blockIdx (checker::block_index())
#define blockDim (checker::block_size())
#define gridDim (checker::grid_size())
constexpr int warpSize = 32;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- vectors: one load or store of 8 or 16 bytes, recorded as one
#define WATCHED_COPIES(name)                                                                   \
  name() = default;                                                                            \
  ALWAYS_INLINE name(const name& other) { checker::copy(this, &other, sizeof(name)); }         \
  ALWAYS_INLINE name& operator=(const name& other) {                                           \
    checker::copy(this, &other, sizeof(name));                                                 \
    return *this;                                                                              \
  }
#define VECTOR2(name, T)                                                                       \
  struct alignas(2 * sizeof(T)) name {                                                         \
    T x, y;                                                                                    \
    ALWAYS_INLINE name(T x, T y) : x(x), y(y) {}                                               \
    WATCHED_COPIES(name)                                                                       \
  };                                                                                           \
  ALWAYS_INLINE name make_##name(T x, T y) { return name(x, y); }
#define VECTOR4(name, T)                                                                       \
  struct alignas(4 * sizeof(T)) name {                                                         \
    T x, y, z, w;                                                                              \
    ALWAYS_INLINE name(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {}                         \
    WATCHED_COPIES(name)                                                                       \
  };                                                                                           \
  ALWAYS_INLINE name make_##name(T x, T y, T z, T w) { return name(x, y, z, w); }
VECTOR2(int2, int)
VECTOR2(uint2, unsigned)
VECTOR2(float2, float)
VECTOR4(int4, int)
VECTOR4(uint4, unsigned)
VECTOR4(float4, float)

// ---- the threads of a block
#define HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
ALWAYS_INLINE void __syncthreads(HERE) { checker::barrier(0, file, line); }
ALWAYS_INLINE int __syncthreads_count(int vote, HERE) { return checker::barrier(vote, file, line); }
ALWAYS_INLINE int __syncthreads_or(int vote, HERE) {
  return checker::barrier(vote, file, line) > 0;
}
ALWAYS_INLINE int __syncthreads_and(int vote, HERE) { return !checker::barrier(!vote, file, line); }
ALWAYS_INLINE void __threadfence() {}
ALWAYS_INLINE void __threadfence_block() {}
ALWAYS_INLINE void __threadfence_system() {}
ALWAYS_INLINE void __trap() { checker::trap(); }

#include "checker/words/arithmetic.h"
#include "checker/words/atomics.h"
#include "checker/words/lanes.h"
#undef HERE
