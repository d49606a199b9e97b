// One head of one sequence. With s = scale q k^T, a query seeing the keys up to its own:
//
//   p = softmax(s)      mixed = p v
//   dv = p^T dmixed     ds = p (dp - sum of p dp), dp = dmixed v^T
//   dq = scale ds k     dk = scale ds^T q
//
// A dozen queries at a time go through all keys they see, so their scores stay in the L1 cache; p
// is not kept, only each row's largest score and one over its sum. A key is [nope | rope]; the
// second part is shared by all heads, the first is next to the value, as the projection left them.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

constexpr int64_t kQueryBlock = 264;  // queries whose p and ds are kept until the keys' gradients

// Faster than memcpy for the few numbers of a head.
template <class T>
ALWAYS_INLINE void copy(const T* from, int64_t n, T* to) {
  for (int64_t at = 0; at < n; at += kLanes) store(to + at, load(from + at, n - at), n - at);
}

// Pointers to a head's rows, and their strides.
template <class T>
struct Head {
  const Attention& a;
  int64_t batch, head;
  int64_t d_qk = a.d_nope + a.d_rope, d_kv = a.d_nope + a.d_v;
  int64_t query_stride = a.heads * d_qk, kv_stride = a.heads * d_kv, out_stride = a.heads * a.d_v;
  int64_t later = a.keys - a.queries;  // query i sees keys up to i + later
  int64_t wide = divide_up(a.keys, kTileCols) * kTileCols + kTileCols;  // columns of score buffers

  int64_t query_at() const { return (batch * a.queries * a.heads + head) * d_qk; }
  int64_t kv_at() const { return (batch * a.keys * a.heads + head) * d_kv; }
  int64_t out_at() const { return (batch * a.queries * a.heads + head) * a.d_v; }
  float* row_sums() const { return a.row_sums + (batch * a.heads + head) * a.queries * 2; }
  Rows<T> queries() const { return {(const T*)a.query + query_at(), query_stride, nullptr}; }
  Rows<T> values() const { return {(const T*)a.kv + kv_at() + a.d_nope, kv_stride, nullptr}; }

  // Both parts of every key, concatenated: [keys, d_qk].
  const T* keys() const {
    T* out = (T*)scratch(kKeyRows, a.keys * d_qk * sizeof(T));
    const T* nope = (const T*)a.kv + kv_at();
    const T* rope = (const T*)a.key_rope + batch * a.keys * a.d_rope;
    for (int64_t i = 0; i < a.keys; i++) {
      copy(nope + i * kv_stride, a.d_nope, out + i * d_qk);
      copy(rope + i * a.d_rope, a.d_rope, out + i * d_qk + a.d_nope);
    }
    return out;
  }
};

// [k rows, n] as panels of b, k along the rows.
template <class T>
UnitOf<T>* pack_rows(const Rows<T>& rows, int64_t first, int64_t k, int64_t n, Slot slot) {
  const int64_t panel_units = units<T>(k) * kTileCols, panels = divide_up(n, kTileCols);
  auto* packed = (UnitOf<T>*)scratch(slot, panels * panel_units * 4);
  for (int64_t panel = 0; panel < panels; panel++)
    pack_b_columns<T>(rows, first, k, panel * kTileCols, n, packed + panel * panel_units);
  return packed;
}

// m <= kTileRows rows times n columns of b, packed in panels: out [m, n rounded up] floats.
template <class T>
void few_rows(const Rows<T>& a, int64_t first, int m, int64_t k, const UnitOf<T>* b,
              int64_t panel_units, int64_t n, float* out, int64_t stride) {
  const int64_t chunks = divide_up(units<T>(k), kChunk);
  auto* packed = (UnitOf<T>*)scratch(kPackedA, chunks * kChunk * kTileRows * 4);
  pack_a_rows<T>(a, first, m, k, packed);
  for (int64_t at = 0; at < n; at += kTileCols, b += panel_units)
    tile_of<true, UnitOf<T>>(m, n - at)(packed, b, units<T>(k), out + at, stride, false);
}

template <class T>
void attention(const Attention& a, int64_t batch, int64_t head) {
  const Head<T> h{a, batch, head};
  auto* keys = pack_matrix<T>(h.keys(), true, a.keys, h.d_qk, kPackedB);
  auto* values = pack_rows(h.values(), 0, a.keys, a.d_v, kPackedDown);
  auto* scores = (float*)scratch(kScores, kTileRows * h.wide * sizeof(float));
  auto* p = (T*)scratch(kHiddenBlock, kTileRows * h.wide * sizeof(T));
  const int64_t value_panels = divide_up(a.d_v, kTileCols), sums_stride = value_panels * kTileCols;
  auto* sums = (float*)scratch(kSums, kTileRows * sums_stride * sizeof(float));
  for (int64_t row = 0; row < a.queries; row += kTileRows) {
    const int m = a.queries - row < kTileRows ? (int)(a.queries - row) : kTileRows;
    const int64_t seen = h.later + row + m, panels = divide_up(seen, kTileCols);
    few_rows(h.queries(), row, m, h.d_qk, keys, units<T>(h.d_qk) * kTileCols, seen, scores,
             h.wide);
    for (int i = 0; i < m; i++) {
      const int64_t own = h.later + row + i + 1;  // keys this query sees
      float* s = scores + i * h.wide;
      Vec most = spread(-__builtin_inff()), total = {};
      for (int64_t at = 0; at < own; at += kLanes) {
        Vec value = load(s + at) * a.scale;
        if (own - at < kLanes) value = first_lanes(value, own - at, -__builtin_inff());
        most = larger(most, value);
      }
      const float top = largest(most);
      for (int64_t at = 0; at < panels * kTileCols; at += kLanes) {
        Vec value = {};
        if (at < own) value = exponential(load(s + at) * a.scale - top);
        if (own - at < kLanes) value = first_lanes(value, own - at, 0);
        total += value;
        store(p + i * h.wide + at, value);
      }
      float* kept = h.row_sums() + (row + i) * 2;
      kept[0] = top, kept[1] = 1 / sum(total);
    }
    few_rows(Rows<T>{p, h.wide, nullptr}, 0, m, seen, values, units<T>(a.keys) * kTileCols,
             a.d_v, sums, sums_stride);
    for (int i = 0; i < m; i++) {
      T* out = (T*)a.mixed + h.out_at() + (row + i) * h.out_stride;
      const float share = h.row_sums()[(row + i) * 2 + 1];
      for (int64_t at = 0; at < a.d_v; at += kLanes)
        store(out + at, load(sums + i * sums_stride + at) * share, a.d_v - at);
    }
  }
}

// p and ds of one query over the keys it sees, from s and dp; zeros after them up to `end`.
template <class T>
ALWAYS_INLINE void score_gradient(const float* s, const float* dp, int64_t own, int64_t end,
                                  float scale, const float* kept, float* wide_p, T* p, T* ds) {
  Vec total = {};
  for (int64_t at = 0; at < own; at += kLanes) {
    Vec value = exponential(load(s + at) * scale - kept[0]) * kept[1];
    Vec product = value * load(dp + at);
    if (own - at < kLanes) {
      value = first_lanes(value, own - at, 0);
      product = first_lanes(product, own - at, 0);
    }
    store(wide_p + at, value);
    store(p + at, value);
    total += product;
  }
  const float delta = sum(total);
  int64_t at = 0;
  for (; at < own; at += kLanes) {
    Vec value = load(wide_p + at) * (load(dp + at) - delta) * scale;
    if (own - at < kLanes) value = first_lanes(value, own - at, 0);
    store(ds + at, value);
  }
  for (; at < end; at += kLanes) store(ds + at, Vec{}), store(p + at, Vec{});
}

// out[key, :] (+)= sum over the block's queries of a[query, key] * b[query, :]; b is packed.
template <class T>
void to_keys(const Head<T>& h, const T* a, const UnitOf<T>* b, int64_t n, int64_t begin,
             int64_t end, float* out, int64_t stride) {
  constexpr int64_t per = Packed<T>::kPerUnit;
  const int64_t panel_units = units<T>(end - begin) * kTileCols;
  auto* packed = (UnitOf<T>*)scratch(kPackedA, (kQueryBlock * kTileRows + kTileCols) * 4);
  for (int64_t key = 0; key < h.later + end; key += kTileRows) {
    const int m = h.a.keys - key < kTileRows ? (int)(h.a.keys - key) : kTileRows;
    int64_t first = key - h.later - begin;  // the first query of the block that sees the key
    first = first < 0 ? 0 : first / per * per;
    const int64_t k = end - begin - first;
    pack_a_columns<T>(Rows<T>{a, h.wide, nullptr}, first, k, key, h.wide, 1, 0, packed);
    const UnitOf<T>* panel = b + first / per * kTileCols;
    for (int64_t at = 0; at < n; at += kTileCols, panel += panel_units)
      tile_of<false, UnitOf<T>>(m, n - at)(packed, panel, units<T>(k), out + key * stride + at,
                                           stride, true);
  }
}

template <class T>
void attention_backward(const Attention& a, int64_t batch, int64_t head) {
  const Head<T> h{a, batch, head};
  const Rows<T> grad{(const T*)a.grad + h.out_at(), h.out_stride, nullptr};
  const T* key_rows = h.keys();
  auto* keys = pack_matrix<T>(key_rows, true, a.keys, h.d_qk, kPackedB);
  auto* keys_down = pack_rows(Rows<T>{key_rows, h.d_qk, nullptr}, 0, a.keys, h.d_qk, kPackedDown);
  const int64_t value_units = units<T>(a.d_v) * kTileCols;
  const int64_t key_panels = divide_up(a.keys, kTileCols);
  auto* values = (UnitOf<T>*)scratch(kPackedValues, key_panels * value_units * 4);
  for (int64_t panel = 0; panel < key_panels; panel++)
    for (int64_t half = 0; half < kTileCols; half += kLanes) {
      const int64_t key = panel * kTileCols + half;
      pack_b_rows<T>(h.values().row(key), h.kv_stride, a.keys - key, a.d_v,
                  values + panel * value_units + half);
    }
  const int64_t qk_panels = divide_up(h.d_qk, kTileCols), qk_wide = qk_panels * kTileCols;
  const int64_t v_wide = divide_up(a.d_v, kTileCols) * kTileCols;
  auto* scores = (float*)scratch(kScores, 3 * kTileRows * h.wide * sizeof(float));
  float *dp = scores + kTileRows * h.wide, *wide_p = dp + kTileRows * h.wide;
  auto* p = (T*)scratch(kHiddenBlock, 2 * kQueryBlock * h.wide * sizeof(T));
  T* ds = p + kQueryBlock * h.wide;
  auto* sums = (float*)scratch(kSums, kTileRows * qk_wide * sizeof(float));
  auto* to_key = (float*)scratch(kGradKeys, a.keys * (qk_wide + v_wide) * sizeof(float));
  float* to_value = to_key + a.keys * qk_wide;
  memset(to_key, 0, a.keys * (qk_wide + v_wide) * sizeof(float));

  for (int64_t begin = 0; begin < a.queries; begin += kQueryBlock) {
    const int64_t end = a.queries - begin < kQueryBlock ? a.queries : begin + kQueryBlock;
    for (int64_t row = begin; row < end; row += kTileRows) {
      const int m = end - row < kTileRows ? (int)(end - row) : kTileRows;
      const int64_t seen = h.later + row + m, panels = divide_up(seen, kTileCols);
      few_rows(h.queries(), row, m, h.d_qk, keys, units<T>(h.d_qk) * kTileCols, seen, scores,
               h.wide);
      few_rows(grad, row, m, a.d_v, values, value_units, seen, dp, h.wide);
      T* ds_at = ds + (row - begin) * h.wide;
      for (int i = 0; i < m; i++)
        score_gradient(scores + i * h.wide, dp + i * h.wide, h.later + row + i + 1,
                       (panels + 1) * kTileCols, a.scale, h.row_sums() + (row + i) * 2,
                       wide_p + i * h.wide, p + (row - begin + i) * h.wide, ds_at + i * h.wide);
      few_rows(Rows<T>{ds_at, h.wide, nullptr}, 0, m, seen, keys_down,
               units<T>(a.keys) * kTileCols, h.d_qk, sums, qk_wide);
      for (int i = 0; i < m; i++) {
        T* out = (T*)a.grad_query + h.query_at() + (row + i) * h.query_stride;
        for (int64_t at = 0; at < h.d_qk; at += kLanes)
          store(out + at, load(sums + i * qk_wide + at), h.d_qk - at);
      }
    }
    auto* queries = pack_rows(h.queries(), begin, end - begin, h.d_qk, kPackedQueries);
    to_keys(h, ds, queries, h.d_qk, begin, end, to_key, qk_wide);
    auto* grads = pack_rows(grad, begin, end - begin, a.d_v, kPackedQueries);
    to_keys(h, p, grads, a.d_v, begin, end, to_value, v_wide);
  }
  for (int64_t key = 0; key < a.keys; key++) {
    T* out = (T*)a.grad_kv + h.kv_at() + key * h.kv_stride;
    for (int64_t at = 0; at < a.d_nope; at += kLanes)
      store(out + at, load(to_key + key * qk_wide + at), a.d_nope - at);
    for (int64_t at = 0; at < a.d_v; at += kLanes)
      store(out + a.d_nope + at, load(to_value + key * v_wide + at), a.d_v - at);
    copy(to_key + key * qk_wide + a.d_nope, a.d_rope,
         a.grad_rope + ((batch * a.heads + head) * a.keys + key) * a.d_rope);
  }
}

// The gradient of the shared part of a sequence's keys: the sum over heads, in their order.
template <class T>
void attention_rope(const Attention& a, int64_t batch) {
  const int64_t n = a.keys * a.d_rope;
  T* out = (T*)a.grad_key_rope + batch * n;
  for (int64_t at = 0; at < n; at += kLanes) {
    Vec total = {};
    for (int64_t head = 0; head < a.heads; head++)
      total += load(a.grad_rope + (batch * a.heads + head) * n + at, n - at);
    store(out + at, total, n - at);
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
