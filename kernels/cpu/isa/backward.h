// An expert's backward pass over its rows. With back = W_down^T grad (before the gate):
//
//   grad_gate = <back, hidden>                    weighted = gate * hidden, for W_down's gradient
//   grad_up = gate * back * silu(g)               grad_g = gate * back * u * silu'(g)
//   grad_row = W_gate^T grad_g + W_up^T grad_up
//
// A gate's gradient is <grad, W_down hidden> = <back, hidden>, so the output is never needed.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
struct Differentiate {
  const Backward& b;
  int64_t first_row;
  Vec* products;  // [rows of the block] sums of back * hidden, one partial sum per lane

  ALWAYS_INLINE void half(int64_t row, int64_t feature, Vec back) const {
    int64_t n = b.d_expert - feature;
    const T* saved = (const T*)b.saved + row * 2 * b.d_expert + feature;
    Vec gate = load(saved, n), up = load(saved + b.d_expert, n);
    Vec share = sigmoid(gate), silu = gate * share, hidden = silu * up;
    products[row - first_row] += back * hidden;  // lanes past the end hold back = 0
    Vec weight = spread(b.gates[row]);
    store((T*)b.weighted + row * b.d_expert + feature, weight * hidden, n);
    back *= weight;
    T* grads = (T*)b.grad_saved + row * 2 * b.d_expert + feature;
    store(grads, back * up * share * (1.0f + gate * (1.0f - share)), n);
    store(grads + b.d_expert, back * silu, n);
  }

  ALWAYS_INLINE void operator()(int64_t row, int m, int64_t panel, const float* sums) const {
    int64_t feature = panel * kTileCols;
    for (int i = 0; i < m; i++, sums += kTileCols) {
      half(row + i, feature, load(sums));
      if (feature + kLanes < b.d_expert) half(row + i, feature + kLanes, load(sums + kLanes));
    }
  }
};

template <class T>
void backward(const Backward& b, int64_t expert, int64_t begin, int64_t end) {
  const int64_t weights = expert * b.d_expert * b.d_model;
  auto* down =
      pack_matrix<T>((const T*)b.down + weights, false, b.d_expert, b.d_model, kPackedDown);
  auto* gate_up =
      pack_matrix<T>((const T*)b.gate_up + 2 * weights, false, b.d_model, 2 * b.d_expert, kPackedB);
  Vec products[kBlockRows];
  for (int64_t row = begin; row < end; row += kBlockRows) {
    int64_t stop = end - row < kBlockRows ? end : row + kBlockRows;
    for (int64_t i = 0; i < kBlockRows; i++) products[i] = Vec{};
    multiply_rows<T>(Rows<T>{(const T*)b.grad, b.d_model, b.token}, row, stop, b.d_model, down,
                     b.d_expert, Differentiate<T>{b, row, products});
    for (int64_t i = row; i < stop; i++) b.grad_gates[i] = sum(products[i - row]);
    multiply_rows<T>(Rows<T>{(const T*)b.grad_saved, 2 * b.d_expert, nullptr}, row, stop,
                     2 * b.d_expert, gate_up, b.d_model,
                     StoreTile<T>{(T*)b.grad_rows, b.d_model});
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
