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
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint32_t BitsAt __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
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

// The same for the last n < kLanes values of a row; lanes beyond them are zero.
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

ALWAYS_INLINE float sum(Vec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float total = 0;
  for (int i = 0; i < kLanes; i++) total += value[i];
  return total;
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
// Lanes from n on become `other`.
ALWAYS_INLINE Vec first_lanes(Vec value, int64_t n, float other) {
  Ints lane = {};
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < (int32_t)(n < 0 ? 0 : n) ? value : spread(other);
}

// e to the x within 1e-7 of its value: 2^n times a polynomial on half a power of two each side.
ALWAYS_INLINE Vec exponential(Vec x) {
  x = x > 88.0f ? spread(88.0f) : x;  // comparisons with NaN are false, so NaN passes through
  x = x < -87.0f ? spread(-87.0f) : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Vec n = (x * 1.44269504f + magic) - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = spread(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Ints exponent = __builtin_convertvector(n, Ints);
  return p * (Vec)((exponent + 127) << 23);
}
ALWAYS_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace mini_moe::MINI_MOE_ISA
