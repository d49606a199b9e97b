// CUDA's arithmetic for g++: bits, roundings, 16-bit floats, fast functions. Included by
// cuda_on_cpu.h, never by nvcc.
#pragma once
#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

// ---- the same bits as another type
template <class To, class From>
ALWAYS_INLINE To bit_copy(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
ALWAYS_INLINE int __float_as_int(float x) { return bit_copy<int>(x); }
ALWAYS_INLINE unsigned __float_as_uint(float x) { return bit_copy<unsigned>(x); }
ALWAYS_INLINE float __int_as_float(int x) { return bit_copy<float>(x); }
ALWAYS_INLINE float __uint_as_float(unsigned x) { return bit_copy<float>(x); }
ALWAYS_INLINE long long __double_as_longlong(double x) { return bit_copy<long long>(x); }
ALWAYS_INLINE double __longlong_as_double(long long x) { return bit_copy<double>(x); }
ALWAYS_INLINE int __double2loint(double x) { return int(__double_as_longlong(x)); }
ALWAYS_INLINE int __double2hiint(double x) { return int(__double_as_longlong(x) >> 32); }
ALWAYS_INLINE double __hiloint2double(int high, int low) {
  return bit_copy<double>(uint64_t(unsigned(high)) << 32 | unsigned(low));
}

// ---- 16-bit floats
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
using nv_bfloat16 = __nv_bfloat16;
using half = __half;
ALWAYS_INLINE uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
ALWAYS_INLINE __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return {bits}; }
ALWAYS_INLINE float __bfloat162float(__nv_bfloat16 x) {
  return __uint_as_float(unsigned(x.bits) << 16);
}
ALWAYS_INLINE __nv_bfloat16 __float2bfloat16_rn(float x) {  // to nearest, ties to even
  if (x != x) return {0x7fff};
  unsigned bits = __float_as_uint(x);
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
ALWAYS_INLINE __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
#ifdef __FLT16_MAX__
ALWAYS_INLINE uint16_t __half_as_ushort(__half x) { return x.bits; }
ALWAYS_INLINE __half __ushort_as_half(uint16_t bits) { return {bits}; }
ALWAYS_INLINE float __half2float(__half x) { return bit_copy<_Float16>(x.bits); }
ALWAYS_INLINE __half __float2half_rn(float x) { return {bit_copy<uint16_t>((_Float16)x)}; }
ALWAYS_INLINE __half __float2half(float x) { return __float2half_rn(x); }
#endif

// ---- single bits
ALWAYS_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
ALWAYS_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
ALWAYS_INLINE int __ffs(int x) { return __builtin_ffs(x); }
ALWAYS_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
ALWAYS_INLINE int __clz(int x) { return x ? __builtin_clz(x) : 32; }
ALWAYS_INLINE int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
ALWAYS_INLINE unsigned long long __brevll(unsigned long long x) {
  unsigned long long turned = 0;
  for (int i = 0; i < 64; ++i) turned |= (x >> i & 1) << (63 - i);
  return turned;
}
ALWAYS_INLINE unsigned __brev(unsigned x) { return unsigned(__brevll(x) >> 32); }

// ---- integers
ALWAYS_INLINE int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
ALWAYS_INLINE unsigned __umulhi(unsigned a, unsigned b) {
  return unsigned((unsigned long long)a * b >> 32);
}
// Like CUDA's overloads: the result has the wider type, and a number beats a NaN.
template <class A, class B>
ALWAYS_INLINE std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>)
    return std::fmin(T(a), T(b));
  else
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
ALWAYS_INLINE std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>)
    return std::fmax(T(a), T(b));
  else
    return T(a) < T(b) ? T(b) : T(a);
}

// ---- rounding to integers: saturates, NaN becomes 0
namespace checker {
template <class T>
ALWAYS_INLINE T whole(float x) {
  if (x != x) return 0;
  if (x <= float(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (x >= float(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return T(x);
}
}  // namespace checker
ALWAYS_INLINE int __float2int_rn(float x) { return checker::whole<int>(rintf(x)); }
ALWAYS_INLINE int __float2int_rz(float x) { return checker::whole<int>(x); }
ALWAYS_INLINE int __float2int_rd(float x) { return checker::whole<int>(floorf(x)); }
ALWAYS_INLINE int __float2int_ru(float x) { return checker::whole<int>(ceilf(x)); }
ALWAYS_INLINE unsigned __float2uint_rn(float x) { return checker::whole<unsigned>(rintf(x)); }
ALWAYS_INLINE unsigned __float2uint_rz(float x) { return checker::whole<unsigned>(x); }
ALWAYS_INLINE long long __float2ll_rn(float x) { return checker::whole<long long>(rintf(x)); }
ALWAYS_INLINE float __int2float_rn(int x) { return float(x); }
ALWAYS_INLINE float __uint2float_rn(unsigned x) { return float(x); }
ALWAYS_INLINE float __ll2float_rn(long long x) { return float(x); }
ALWAYS_INLINE float __double2float_rn(double x) { return float(x); }

// ---- functions; CUDA's approximate ones are exact here
ALWAYS_INLINE float __fadd_rn(float a, float b) { return a + b; }
ALWAYS_INLINE float __fsub_rn(float a, float b) { return a - b; }
ALWAYS_INLINE float __fmul_rn(float a, float b) { return a * b; }
ALWAYS_INLINE float __fdiv_rn(float a, float b) { return a / b; }
ALWAYS_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
ALWAYS_INLINE float __frcp_rn(float x) { return 1 / x; }
ALWAYS_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
ALWAYS_INLINE float __fdividef(float a, float b) {  // 0 for a finite b beyond 2^126
  return fabsf(b) > 0x1p126f && fabsf(b) < INFINITY ? 0 * a : a / b;
}
ALWAYS_INLINE float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
ALWAYS_INLINE float __expf(float x) { return expf(x); }
ALWAYS_INLINE float __exp10f(float x) { return powf(10, x); }
ALWAYS_INLINE float __logf(float x) { return logf(x); }
ALWAYS_INLINE float __log2f(float x) { return log2f(x); }
ALWAYS_INLINE float __log10f(float x) { return log10f(x); }
ALWAYS_INLINE float __powf(float x, float y) { return powf(x, y); }
ALWAYS_INLINE float __sinf(float x) { return sinf(x); }
ALWAYS_INLINE float __cosf(float x) { return cosf(x); }
ALWAYS_INLINE float __tanf(float x) { return tanf(x); }
ALWAYS_INLINE float rsqrtf(float x) { return 1 / sqrtf(x); }
ALWAYS_INLINE double rsqrt(double x) { return 1 / sqrt(x); }
ALWAYS_INLINE float __frsqrt_rn(float x) { return rsqrtf(x); }
