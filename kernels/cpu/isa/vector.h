// Vectors of floats as wide as the instruction set of this translation unit, and what the kernels
// compute with them. The sources of this folder are compiled once for each instruction set, inside
// a namespace of its own (MINI_MOE_ISA), and never include the standard library: a function that
// the linker shares between units must not contain instructions that only some machines have.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace mini_moe::MINI_MOE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 12;  // 12 x 2 accumulators, 2 vectors of b, 1 of a: 27 of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 6;  // 6 x 2 + 3 of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 6;
#endif
constexpr int kTileCols = 2 * kLanes;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef float VecAt __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntsAt __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint32_t BitsAt __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef uint16_t HalvesAt __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

struct bf16 {
  uint16_t bits;
};

ALWAYS_INLINE Vec spread(float value) { return value - Vec{}; }
ALWAYS_INLINE Vec load(const float* from) { return *(const VecAt*)from; }
ALWAYS_INLINE void store(float* to, Vec value) { *(VecAt*)to = value; }

ALWAYS_INLINE Bits widen(const bf16* from) {
  return __builtin_convertvector(*(const HalvesAt*)from, Bits);
}
ALWAYS_INLINE Vec load(const bf16* from) { return (Vec)(widen(from) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
ALWAYS_INLINE void store(bf16* to, Vec value) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)value));
#else
  Bits bits = (Bits)value;
  Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Bits nan = (Bits)(value != value);
  *(HalvesAt*)to = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
#endif
}

// The same for the last n < kLanes values of a row; the other lanes are zero.
#if defined(__AVX512F__)
ALWAYS_INLINE __mmask16 first_bits(int64_t n) { return (1u << n) - 1; }
ALWAYS_INLINE Vec load(const float* from, int64_t n) {
  if (n >= kLanes) return load(from);
  return (Vec)_mm512_maskz_loadu_ps(first_bits(n), from);
}
ALWAYS_INLINE Vec load(const bf16* from, int64_t n) {
  if (n >= kLanes) return load(from);
  __m256i some = _mm256_maskz_loadu_epi16(first_bits(n), from);
  return (Vec)(_mm512_cvtepu16_epi32(some) << 16);
}
ALWAYS_INLINE void store(float* to, Vec value, int64_t n) {
  if (n >= kLanes) return store(to, value);
  _mm512_mask_storeu_ps(to, first_bits(n), (__m512)value);
}
ALWAYS_INLINE void store(bf16* to, Vec value, int64_t n) {
  if (n >= kLanes) return store(to, value);
  bf16 some[kLanes];
  store(some, value);
  _mm256_mask_storeu_epi16(to, first_bits(n), *(const __m256i_u*)some);
}
#else
template <class T>
ALWAYS_INLINE Vec load(const T* from, int64_t n) {
  if (n >= kLanes) return load(from);
  T some[kLanes] = {};
  for (int64_t i = 0; i < n; i++) some[i] = from[i];
  return load(some);
}
template <class T>
ALWAYS_INLINE void store(T* to, Vec value, int64_t n) {
  if (n >= kLanes) return store(to, value);
  T some[kLanes];
  store(some, value);
  for (int64_t i = 0; i < n; i++) to[i] = some[i];
}
#endif

// total + a * b, rounded once if the processor can, wherever the compiler puts it.
ALWAYS_INLINE Vec fused(Vec total, Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)total);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)total);
#else
  return total + a * b;
#endif
}

// The value after a round trip through T.
template <class T>
ALWAYS_INLINE Vec rounded(Vec value) {
  if constexpr (sizeof(T) == sizeof(float)) return value;
  T some[kLanes];
  store(some, value);
  return load(some);
}

ALWAYS_INLINE float sum(Vec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += value[i];
  return total;
#endif
}

// The larger of the two; a if b is NaN.
ALWAYS_INLINE Vec larger(Vec a, Vec b) {
#if defined(__AVX512F__)
  return (Vec)_mm512_max_ps((__m512)b, (__m512)a);
#else
  return b > a ? b : a;
#endif
}
ALWAYS_INLINE float largest(Vec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)value);
#else
  float most = value[0];
  for (int i = 1; i < kLanes; i++) most = value[i] > most ? value[i] : most;
  return most;
#endif
}
// The smallest `where` among the lanes that hold the largest value.
ALWAYS_INLINE int32_t first_of_largest(Ints value, Ints where) {
#if defined(__AVX512F__)
  const int32_t most = _mm512_reduce_max_epi32((__m512i)value);
  const __mmask16 here = _mm512_cmpeq_epi32_mask((__m512i)value, _mm512_set1_epi32(most));
  return _mm512_mask_reduce_min_epi32(here, (__m512i)where);
#else
  int first = 0;
  for (int i = 1; i < kLanes; i++)
    if (value[i] > value[first] || (value[i] == value[first] && where[i] < where[first])) first = i;
  return where[first];
#endif
}
// Sets lanes from n on to `other`.
ALWAYS_INLINE Vec first_lanes(Vec value, int64_t n, float other) {
  Ints lane = {};
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < (int32_t)(n < 0 ? 0 : n) ? value : spread(other);
}

// 2^n times a polynomial for 2^r, |r| <= 1/2: e to the x within 2e-7 of its value near 0, and
// within 4e-6 at the ends of the range, beyond which it is constant.
ALWAYS_INLINE Vec exponential(Vec x) {
  const float log2_e = 1.44269504f;
#if defined(__AVX512F__)
  // max and min return the second operand if it is NaN, so NaN passes through.
  x = (Vec)_mm512_max_ps(_mm512_set1_ps(-87.0f), (__m512)x);
  x = (Vec)_mm512_min_ps(_mm512_set1_ps(88.0f), (__m512)x);
  Vec n = (Vec)_mm512_roundscale_ps((__m512)(x * log2_e), 0);
#else
  x = x > 88.0f ? spread(88.0f) : x;  // comparisons with NaN are false, so NaN passes through
  x = x < -87.0f ? spread(-87.0f) : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Vec n = (x * log2_e + magic) - magic;
#endif
  Vec r = x * log2_e - n;
  Vec p = spread(1.535336188319500e-4f);
  p = p * r + 1.339887440266574e-3f;
  p = p * r + 9.618437357674640e-3f;
  p = p * r + 5.550332471162809e-2f;
  p = p * r + 2.402264791363012e-1f;
  p = p * r + 6.931472028550421e-1f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  Ints exponent = __builtin_convertvector(n, Ints);
  return p * (Vec)((exponent + 127) << 23);
#endif
}
ALWAYS_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace mini_moe::MINI_MOE_ISA
