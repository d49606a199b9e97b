// Operations for one token or a few: products that read weights once, in place, and sums of rows.
// Everything is computed in fp32; bf16 weights are widened as they are loaded.
#pragma once

#include "packing.h"
#include "../kernels.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int kSumsAtOnce = 16;

// Sums over the lanes of sixteen vectors.
ALWAYS_INLINE void sums_of(const Vec* v, float* out) {
#if defined(__AVX512F__)
  // Each round adds halves of two vectors into one: 45 instructions, while sixteen sums of one
  // vector would need 128.
  __m512 a[8], b[4];
  for (int i = 0; i < 8; i++) {
    const __m512 x = (__m512)v[2 * i], y = (__m512)v[2 * i + 1];
    a[i] = _mm512_unpacklo_ps(x, y) + _mm512_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 4; i++) {
    const __m512d x = (__m512d)a[2 * i], y = (__m512d)a[2 * i + 1];
    b[i] = (__m512)_mm512_unpacklo_pd(x, y) + (__m512)_mm512_unpackhi_pd(x, y);
  }
  for (int i = 0; i < 2; i++)
    a[i] = _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88) +
           _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd);
  store(out, (Vec)(_mm512_shuffle_f32x4(a[0], a[1], 0x88) +
                   _mm512_shuffle_f32x4(a[0], a[1], 0xdd)));
#else
  for (int i = 0; i < kSumsAtOnce; i++) out[i] = sum(v[i]);
#endif
}

// The same sum of one vector, by the same additions: batching changes no bit.
ALWAYS_INLINE float sum_of(Vec v) {
#if defined(__AVX512F__)
  __m512 x = (__m512)v;
  x += _mm512_permute_ps(x, 0x4e);
  x += _mm512_permute_ps(x, 0xb1);
  x += _mm512_shuffle_f32x4(x, x, 0xb1);
  return _mm512_cvtss_f32(x + _mm512_shuffle_f32x4(x, x, 0x4e));
#else
  return sum(v);
#endif
}

// Bytes of the L1 cache that the rows of x, of w and the prefetched ones may fill together.
constexpr int64_t kNearby = 24 << 10;
constexpr int64_t kAhead = 8 << 10;  // bytes: prefetch at least this far ahead

// Two vectors of neighbours. From bf16 they take one load, and one instruction each.
ALWAYS_INLINE void load_two(const float* from, Vec& first, Vec& second) {
  first = load(from), second = load(from + kLanes);
}
ALWAYS_INLINE void load_two(const bf16* from, Vec& first, Vec& second) {
#if defined(__AVX512F__)
  typedef uint16_t Places __attribute__((vector_size(64)));
  Places of_first = {}, of_second = {};  // of the upper half of every lane; the lower becomes zero
  for (int i = 0; i < kLanes; i++) of_first[2 * i + 1] = i, of_second[2 * i + 1] = kLanes + i;
  const __m512i both = _mm512_loadu_si512(from);
  first = (Vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)of_first, both);
  second = (Vec)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)of_second, both);
#else
  first = load(from), second = load(from + kLanes);
#endif
}

// R rows of x times F rows of w: their products are sum r * F + f, still spread over lanes.
// Meanwhile `ahead`, as many bytes as the rows of w, is prefetched line by line: several rows are
// as many streams of addresses, too many for the hardware prefetcher, and memory is then read at a
// third of its speed or less. Prefetches into the L1 cache if `near`, otherwise into the L2.
template <int R, int F, bool near, class T>
ALWAYS_INLINE void few_dots(const FewRows& p, const float* const* x, const T* w,
                            const char* ahead, Vec* sums) {
  constexpr int64_t step = 2 * kLanes, bytes = step * sizeof(T);
  Vec total[R * F] = {};
  int64_t at = 0;
  for (; at + step <= p.k; at += step, ahead += F * bytes) {
    Vec left[R][2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) load_two(x[r] + at, left[r][0], left[r][1]);
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) {
      for (int64_t line = 0; line < bytes; line += 64)
        __builtin_prefetch(ahead + f * bytes + line, 0, near ? 3 : 2);
      Vec first, second;
      load_two(w + f * p.w_stride + at, first, second);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++)
        total[r * F + f] = fused(fused(total[r * F + f], left[r][0], first), left[r][1], second);
    }
  }
  for (; at < p.k; at += kLanes)
    for (int f = 0; f < F; f++) {
      const Vec right = load(w + f * p.w_stride + at, p.k - at);
      for (int r = 0; r < R; r++)
        total[r * F + f] = fused(total[r * F + f], load(x[r] + at, p.k - at), right);
    }
  for (int i = 0; i < R * F; i++) sums[i] = total[i];
}

// Columns [column, column + G * F) of R rows of the result.
template <int R, int F, int G, bool near, class T>
void few_columns(const FewRows& p, int64_t row, int64_t column, int64_t end) {
  const int64_t block = F * p.w_stride * (int64_t)sizeof(T);
  const int64_t distance = block < kAhead ? kAhead : block;
  Vec total[kSumsAtOnce] = {};
  for (int g = 0; g < G; g++) {
    const T* w = (const T*)p.w + (column + g * F) * p.w_stride;
    const bool in_reach = (end - column - g * F) * p.w_stride * (int64_t)sizeof(T) > distance;
    few_dots<R, F, near>(p, p.x + row, w, (const char*)w + (in_reach ? distance : 0),
                         total + g * R * F);
  }
  float sums[kSumsAtOnce];
  if constexpr (G * R * F > 4) {
    sums_of(total, sums);
  } else {
    for (int i = 0; i < G * R * F; i++) sums[i] = sum_of(total[i]);
  }
  for (int g = 0; g < G; g++)
    for (int r = 0; r < R; r++) {
      float* to = p.out[row + r] + column + g * F;
      const float* from = sums + (g * R + r) * F;
      if (p.scale) {
        for (int f = 0; f < F; f++) to[f] += p.scale[row + r] * from[f];
      } else {
        for (int f = 0; f < F; f++) to[f] = from[f];
      }
    }
}

template <int R, class T>
void few_dots_of_rows(const FewRows& p, int64_t row, int64_t first, int64_t last, int64_t end) {
  constexpr int F = R < 3 || kLanes == 16 ? 4 : 2, G = kSumsAtOnce / (R * F);
  const int64_t needed = R * p.k * 4 + 2 * F * p.w_stride * (int64_t)sizeof(T);
  auto* columns = needed > kNearby ? few_columns<R, F, G, false, T> : few_columns<R, F, G, true, T>;
  int64_t column = first;
  for (; column + G * F <= last; column += G * F) columns(p, row, column, end);
  for (; column < last; column++) few_columns<R, 1, 1, true, T>(p, row, column, end);
}

// out[r][n] = <x[r], w_n> for n in [first, last), or out += scale[r] times that. Sixteen rows
// of w at a time meet all rows of x, so w is read from memory once.
template <class T>
void few_rows(const FewRows& p, int64_t first, int64_t last) {
  constexpr int64_t block = 16;
  const int64_t step = p.rows > 4 ? block : last - first;
  for (int64_t from = first; from < last; from += step) {
    const int64_t to = from + step < last ? from + step : last;
    for (int64_t row = 0; row < p.rows; row += 4) {
      switch (p.rows - row) {
        case 1: few_dots_of_rows<1, T>(p, row, from, to, last); break;
        case 2: few_dots_of_rows<2, T>(p, row, from, to, last); break;
        case 3: few_dots_of_rows<3, T>(p, row, from, to, last); break;
        default: few_dots_of_rows<4, T>(p, row, from, to, last);
      }
    }
  }
}

// out[r] = sum over n of x[r][n] w_n, for R rows, four vectors at a time.
template <int R, class T>
ALWAYS_INLINE void mix_rows(const FewRows& p, int64_t row, int64_t n) {
  constexpr int C = 4;
  for (int64_t at = 0; at < p.k; at += C * kLanes) {
    Vec total[R][C] = {};
    const T* w = (const T*)p.w + at;
    const int64_t left = p.k - at;
    auto step = [&](auto whole) __attribute__((always_inline)) {
      for (int64_t i = 0; i < n; i++) {
        const T* from = w + i * p.w_stride;
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
          if (!whole && c * kLanes >= left) break;
          const Vec value = whole ? load(from + c * kLanes)
                                  : load(from + c * kLanes, left - c * kLanes);
#pragma GCC unroll 4
          for (int r = 0; r < R; r++)
            total[r][c] = fused(total[r][c], spread(p.x[row + r][i]), value);
        }
      }
    };
    struct Yes { constexpr operator bool() const { return true; } };
    struct No { constexpr operator bool() const { return false; } };
    if (left >= C * kLanes) step(Yes{});
    else step(No{});
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C && c * kLanes < left; c++)
        store(p.out[row + r] + at + c * kLanes, total[r][c], left - c * kLanes);
  }
}

template <class T>
void mix(const FewRows& p, int64_t n) {
  int64_t row = 0;
  for (; row + 4 <= p.rows; row += 4) mix_rows<4, T>(p, row, n);
  for (; row < p.rows; row++) mix_rows<1, T>(p, row, n);
}

// exp(scale * (value - largest)) divided by the sum of these, in place.
inline void softmax(float* values, int64_t n, float scale) {
  Vec most = spread(-__builtin_inff());
  for (int64_t at = 0; at < n; at += kLanes)
    most = larger(first_lanes(load(values + at, n - at), n - at, -__builtin_inff()), most);
  const float top = largest(most);
  Vec total = {};
  for (int64_t at = 0; at < n; at += kLanes) {
    const int64_t left = n - at;
    Vec share = first_lanes(exponential((load(values + at, left) - top) * scale), left, 0);
    total += share;
    store(values + at, share, left);
  }
  const float part = 1 / sum(total);
  for (int64_t at = 0; at < n; at += kLanes)
    store(values + at, load(values + at, n - at) * part, n - at);
}

}  // namespace mini_moe::MINI_MOE_ISA
