// Copies operands into the order in which a tile reads them.
//
// A unit is what one lane multiplies in one instruction: a float, or a pair of neighbours along k
// if the processor has bf16 dot products. Orders of packed units:
//   a, rows:     [chunks, kTileRows, kChunk]   gathered rows, k runs fastest: plain copies
//   a, columns:  [units, kTileRows]            for weight gradients, where k runs over rows
//   b:           [units, kTileCols]
// Rows of the source may be gathered through an index, without an earlier copy. The source may have
// another type (S) than the operands (T): it is rounded or widened while it is packed.
#pragma once

#include "vector.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kChunk = 128;  // units; twelve rows of them take 6 KB of the L1 cache

template <class T>
struct Packed {
  typedef float Unit;
  static constexpr int64_t kPerUnit = 1;
};
#if defined(__AVX512BF16__)
template <>
struct Packed<bf16> {
  typedef uint32_t Unit;
  static constexpr int64_t kPerUnit = 2;
};
#endif
template <class T>
using UnitOf = typename Packed<T>::Unit;

template <class T>
int64_t units(int64_t k) {
  return (k + Packed<T>::kPerUnit - 1) / Packed<T>::kPerUnit;
}
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a matrix, directly or through an index.
template <class T>
struct Rows {
  const T* base;
  int64_t stride;
  const int64_t* index;  // null: consecutive rows

  ALWAYS_INLINE const T* row(int64_t i) const { return base + (index ? index[i] : i) * stride; }
};

template <class T, class S>
ALWAYS_INLINE Vec load_as(const S* from, int64_t n) {
  if constexpr (sizeof(S) > sizeof(T)) return rounded<T>(load(from, n));
  return load(from, n);
}

// kLanes units of one row, starting at element k; zeros past its end.
template <class T, class S>
ALWAYS_INLINE Bits load_units(const S* row, int64_t k, int64_t k_end) {
  if constexpr (Packed<T>::kPerUnit == 1) {
    return (Bits)load_as<T>(row + k, k_end - k);
#if defined(__AVX512BF16__)
  } else if constexpr (sizeof(S) > sizeof(T)) {
    const int64_t n = k_end - k;
    Vec first = load(row + k, n), second = {};
    if (n > kLanes) second = load(row + k + kLanes, n - kLanes);
    return (Bits)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#endif
  } else {
    constexpr int64_t step = 2 * kLanes;
    if (k_end - k >= step) return *(const BitsAt*)(row + k);
#if defined(__AVX512F__)
    return (Bits)_mm512_maskz_loadu_epi16((1u << (k_end - k)) - 1, row + k);
#else
    Bits some = {};
    memcpy(&some, row + k, 2 * (k_end - k));
    return some;
#endif
  }
}

template <class T, class S>
void pack_a_rows(const Rows<S>& a, int64_t first, int m, int64_t k, UnitOf<T>* to) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  for (int64_t start = 0; start < k; start += kChunk * per, to += kTileRows * kChunk) {
    int64_t end = start + kChunk * per < k ? start + kChunk * per : k;
    for (int i = 0; i < m; i++) {
      const S* row = a.row(first + i);
      UnitOf<T>* out = to + i * kChunk;
      for (int64_t at = start; at < end; at += kLanes * per, out += kLanes)
        *(BitsAt*)out = load_units<T>(row, at, end);
    }
  }
}

// One lane group of rows k and k + 1 (or row k alone) starting at column c, as units.
template <class T, class S>
ALWAYS_INLINE Bits cross_units(const S* row, const S* next, int64_t c, int64_t n) {
  if constexpr (Packed<T>::kPerUnit == 1) {
    return (Bits)load_as<T>(row + c, n);
#if defined(__AVX512BF16__)
  } else if constexpr (sizeof(S) > sizeof(T)) {
    Vec low = load(row + c, n), high = next ? load(next + c, n) : Vec{};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    Bits lower = (Bits)_mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
    return lower | (Bits)_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1)) << 16;
#endif
  } else {
    Bits low = (Bits)load(row + c, n) >> 16;
    return next ? low | (Bits)load(next + c, n) : low;
  }
}

// Packs columns from c on of gathered rows [first, first + k) as a: several tiles, tile_units
// apart. A row is read once for all of them, so that whole cache lines are used.
template <class T, class S>
void pack_a_columns(const Rows<S>& a, int64_t first, int64_t k, int64_t c, int64_t width,
                    int64_t tiles, int64_t tile_units, UnitOf<T>* to) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  for (int64_t i = 0; i < k; i += per, to += kTileRows) {
    const S* row = a.row(first + i);
    const S* next = per == 2 && i + 1 < k ? a.row(first + i + 1) : nullptr;
    for (int64_t t = 0; t < tiles; t++)
      for (int64_t j = 0; j < kTileRows; j += kLanes) {
        // A group that overhangs is overwritten by the next unit; a tile has room for the last one.
        const int64_t at = c + t * kTileRows + j, n = width - at;
        *(BitsAt*)(to + t * tile_units + j) = cross_units<T>(row, next, at, n < 0 ? 0 : n);
      }
  }
}

// Column block [c, c + kTileCols) of gathered rows [first, first + k) as b.
template <class T, class S>
void pack_b_columns(
    const Rows<S>& b, int64_t first, int64_t k, int64_t c, int64_t width, UnitOf<T>* to) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  int64_t n = width - c, second = n > kLanes ? n - kLanes : 0;
  for (int64_t i = 0; i < k; i += per, to += kTileCols) {
    const S* row = b.row(first + i);
    const S* next = per == 2 && i + 1 < k ? b.row(first + i + 1) : nullptr;
    *(BitsAt*)to = cross_units<T>(row, next, c, n);
    *(BitsAt*)(to + kLanes) = cross_units<T>(row, next, c + kLanes, second);
  }
}

#if defined(__AVX512F__)
// Transposes 16 x 16 units in four rounds that exchange blocks of 1, 2, 4 and 8.
ALWAYS_INLINE void transpose(__m512i v[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    v[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    v[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    v[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}
#endif

// Packs n <= kLanes rows of a matrix as half of a panel of b: row j becomes lane j.
template <class T, class S>
void pack_b_rows(const S* b, int64_t stride, int64_t n, int64_t k, UnitOf<T>* to) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  for (int64_t at = 0; at < k; at += kLanes * per, to += kLanes * kTileCols) {
    int64_t here = units<T>(k - at) < kLanes ? units<T>(k - at) : kLanes;
    Bits v[kLanes];
    for (int64_t j = 0; j < kLanes; j++)
      v[j] = j < n ? load_units<T>(b + j * stride, at, k) : Bits{};
#if defined(__AVX512F__)
    transpose((__m512i*)v);
    for (int64_t u = 0; u < here; u++) *(BitsAt*)(to + u * kTileCols) = v[u];
#else
    for (int64_t u = 0; u < here; u++) {
      Bits out;
      for (int j = 0; j < kLanes; j++) out[j] = v[j][u];
      *(BitsAt*)(to + u * kTileCols) = out;
    }
#endif
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
