// CUDA's words for g++: with this header the .cu files of this folder are plain C++.
//
// Only what the kernels use is here. Each word means what the CUDA C++ Programming Guide says,
// and the checker (checker/) watches how it is used. nvcc never sees this file.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "checker/checker.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNWATCHED __attribute__((no_sanitize("thread")))
#define __global__ __attribute__((noinline))
#define __device__ __attribute__((always_inline))  // nvcc inlines device functions too
#define __host__
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__
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

// ---- vectors: one load or store of 8 or 16 bytes, seen as one
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

// ---- 16-bit floats
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
template <class To, class From>
ALWAYS_INLINE To bit_copy(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
ALWAYS_INLINE unsigned __float_as_uint(float x) { return bit_copy<unsigned>(x); }
ALWAYS_INLINE float __uint_as_float(unsigned x) { return bit_copy<float>(x); }
ALWAYS_INLINE uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
ALWAYS_INLINE float __bfloat162float(__nv_bfloat16 x) {
  return __uint_as_float(unsigned(x.bits) << 16);
}
ALWAYS_INLINE __nv_bfloat16 __float2bfloat16_rn(float x) {  // to nearest, ties to even
  if (x != x) return {0x7fff};
  unsigned bits = __float_as_uint(x);
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#ifdef __FLT16_MAX__
ALWAYS_INLINE float __half2float(__half x) { return bit_copy<_Float16>(x.bits); }
ALWAYS_INLINE __half __float2half_rn(float x) { return {bit_copy<uint16_t>((_Float16)x)}; }
#endif

// ---- arithmetic
ALWAYS_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
ALWAYS_INLINE int __ffs(int x) { return __builtin_ffs(x); }
ALWAYS_INLINE int __clz(int x) { return x ? __builtin_clz(x) : 32; }
ALWAYS_INLINE float __expf(float x) { return expf(x); }
ALWAYS_INLINE float __fdividef(float a, float b) {  // 0 for a finite b beyond 2^126
  return fabsf(b) > 0x1p126f && fabsf(b) < INFINITY ? 0 * a : a / b;
}
ALWAYS_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
ALWAYS_INLINE float rsqrtf(float x) { return 1 / sqrtf(x); }
template <class T>
ALWAYS_INLINE T min(T a, T b) { return b < a ? b : a; }
template <class T>
ALWAYS_INLINE T max(T a, T b) { return a < b ? b : a; }
template <class T>
ALWAYS_INLINE T __ldg(const T* p) { return *p; }

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

// ---- the lanes of a warp
namespace checker {
void synchronise_lanes(void** lanes, unsigned mask);

template <class T>
struct Exchange {
  T value;
  int source;
  T result;
};
template <class T>
UNWATCHED void exchange(void** lanes, unsigned mask) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto* mine = (Exchange<T>*)lanes[lane];
    if (mask >> mine->source & 1)
      mine->result = ((Exchange<T>*)lanes[mine->source])->value;
    else  // a lane that takes no part has no value to give
      memset(&mine->result, 0xff, sizeof(T));
  }
}

enum class Fold { ballot, maximum, minimum, sum, same };
struct Vote {
  uint64_t value;
  uint64_t result;
};
template <Fold fold>
UNWATCHED void vote(void** lanes, unsigned mask) {
  uint64_t all = fold == Fold::minimum ? ~0ull : 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    uint64_t v = ((Vote*)lanes[lane])->value;
    if (fold == Fold::ballot) all |= uint64_t(v != 0) << lane;
    if (fold == Fold::maximum) all = v > all ? v : all;
    if (fold == Fold::minimum) all = v < all ? v : all;
    if (fold == Fold::sum) all += v;
  }
  for (int lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    auto* mine = (Vote*)lanes[lane];
    mine->result = all;
    if (fold != Fold::same) continue;
    mine->result = 0;
    for (int other = 0; other < 32; ++other)
      if (mask >> other & 1 && ((Vote*)lanes[other])->value == mine->value)
        mine->result |= 1u << other;
  }
}
template <Fold fold>
ALWAYS_INLINE uint64_t ask(const char* name, unsigned mask, uint64_t value, const char* file,
                           int line) {
  Vote mine{value, 0};
  meet(name, mask, &mine, vote<fold>, file, line);
  return mine.result;
}
template <class T>
ALWAYS_INLINE T shuffle(const char* name, unsigned mask, T value, int source, const char* file,
                        int line) {
  Exchange<T> mine{value, source, value};
  meet(name, mask, &mine, exchange<T>, file, line);
  return mine.result;
}
}  // namespace checker

ALWAYS_INLINE int this_lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}
ALWAYS_INLINE void __syncwarp(unsigned mask = 0xffffffff, HERE) {
  checker::meet("__syncwarp", mask, nullptr, checker::synchronise_lanes, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32, HERE) {
  source = (this_lane() & -width) | (source & (width - 1));
  return checker::shuffle("__shfl_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, HERE) {
  int lane = this_lane(), source = lane ^ bits;
  if (source >= (lane & -width) + width) source = lane;
  return checker::shuffle("__shfl_xor_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32, HERE) {
  int lane = this_lane(), source = lane - delta;
  if (source < (lane & -width)) source = lane;
  return checker::shuffle("__shfl_up_sync", mask, value, source, file, line);
}
template <class T>
ALWAYS_INLINE T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32, HERE) {
  int lane = this_lane(), source = lane + delta;
  if (source >= (lane & -width) + width) source = lane;
  return checker::shuffle("__shfl_down_sync", mask, value, source, file, line);
}
ALWAYS_INLINE unsigned __ballot_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__ballot_sync", mask, vote, file, line);
}
ALWAYS_INLINE int __any_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__any_sync", mask, vote, file, line) != 0;
}
ALWAYS_INLINE int __all_sync(unsigned mask, int vote, HERE) {
  return checker::ask<checker::Fold::ballot>("__all_sync", mask, !vote, file, line) == 0;
}
template <class T>
ALWAYS_INLINE unsigned __match_any_sync(unsigned mask, T value, HERE) {
  return checker::ask<checker::Fold::same>("__match_any_sync", mask, uint64_t(value), file, line);
}
ALWAYS_INLINE unsigned __reduce_max_sync(unsigned mask, unsigned value, HERE) {
  return checker::ask<checker::Fold::maximum>("__reduce_max_sync", mask, value, file, line);
}
ALWAYS_INLINE unsigned __reduce_min_sync(unsigned mask, unsigned value, HERE) {
  return checker::ask<checker::Fold::minimum>("__reduce_min_sync", mask, value, file, line);
}
ALWAYS_INLINE unsigned __reduce_add_sync(unsigned mask, unsigned value, HERE) {
  return checker::ask<checker::Fold::sum>("__reduce_add_sync", mask, value, file, line);
}

// ---- atomics: fibers never interrupt each other, so it is enough to tell the checker
namespace checker {
void update(void* p, size_t bytes, void (*change)(void* p, void* operands), void* operands);
template <class T>
struct Operands {
  T value, compare, old;
};
template <class T>
struct Same {  // keeps a parameter from taking part in the deduction of T
  using type = T;
};
}  // namespace checker
#define ATOMIC(name, updated)                                                                  \
  namespace checker {                                                                          \
  template <class T>                                                                           \
  UNWATCHED void name##_now(void* p, void* operands) {                                         \
    auto& [value, compare, old] = *(Operands<T>*)operands;                                     \
    old = *(T*)p;                                                                              \
    *(T*)p = updated;                                                                          \
  }                                                                                            \
  }                                                                                            \
  template <class T>                                                                           \
  ALWAYS_INLINE T name(T* p, typename checker::Same<T>::type a,                                \
                       typename checker::Same<T>::type b = T()) {                              \
    checker::Operands<T> operands{a, b, T()};                                                  \
    checker::update(p, sizeof(T), checker::name##_now<T>, &operands);                          \
    return operands.old;                                                                       \
  }
ATOMIC(atomicAdd, old + value)
ATOMIC(atomicSub, old - value)
ATOMIC(atomicMax, value > old ? value : old)
ATOMIC(atomicMin, value < old ? value : old)
ATOMIC(atomicOr, old | value)
ATOMIC(atomicAnd, old& value)
ATOMIC(atomicExch, value)
ATOMIC(atomicCAS, old == value ? compare : old)  // atomicCAS(p, compare, value): in this order
#undef HERE
