// An expert's forward pass: gate and up in one pass over x, the activation while the sums are still
// in cache, and the down product while the hidden rows are.
//
//   gate, up = W_gate x, W_up x      hidden = gate * sigmoid(gate) * up      output = W_down hidden
//
// A panel of b holds kLanes features of W_gate next to the same features of W_up, so a finished
// tile has gate and up of the same elements in neighbouring vectors.
#pragma once

#include "multiply.h"

namespace mini_moe::MINI_MOE_ISA {

template <class T>
UnitOf<T>* pack_gate_up(const T* weights, int64_t d_expert, int64_t d_model) {
  const int64_t panel_units = units<T>(d_model) * kTileCols, panels = divide_up(d_expert, kLanes);
  auto* packed = (UnitOf<T>*)scratch(kPackedB, panels * panel_units * 4);
  for (int64_t panel = 0; panel < panels; panel++) {
    int64_t feature = panel * kLanes, n = d_expert - feature;
    UnitOf<T>* to = packed + panel * panel_units;
    pack_b_rows<T>(weights + feature * d_model, d_model, n, d_model, to);
    pack_b_rows<T>(weights + (d_expert + feature) * d_model, d_model, n, d_model, to + kLanes);
  }
  return packed;
}

// Turns finished tiles of gate and up into hidden rows [from first_row on].
template <class T>
struct Activate {
  int64_t d_expert, first_row;
  T* hidden;
  T* saved;

  ALWAYS_INLINE void operator()(int64_t row, int m, int64_t panel, const float* sums) const {
    int64_t feature = panel * kLanes, n = d_expert - feature;
    for (int i = 0; i < m; i++, sums += kTileCols) {
      Vec gate = load(sums), up = load(sums + kLanes);
      store(hidden + (row + i - first_row) * d_expert + feature, gate * sigmoid(gate) * up, n);
      if (saved) {
        T* to = saved + (row + i) * 2 * d_expert + feature;
        store(to, gate, n);
        store(to + d_expert, up, n);
      }
    }
  }
};

template <class T>
void swiglu(const Forward& f, int64_t expert, int64_t begin, int64_t end) {
  auto* b = pack_gate_up(
      (const T*)f.gate_up + expert * 2 * f.d_expert * f.d_model, f.d_expert, f.d_model);
  multiply_rows<T>(Rows<T>{(const T*)f.x, f.d_model, f.token}, begin, end, f.d_model, b,
                   divide_up(f.d_expert, kLanes) * kTileCols,
                   Activate<T>{f.d_expert, 0, (T*)f.hidden, (T*)f.saved});
}

template <class T>
void forward(const Forward& f, int64_t expert, int64_t begin, int64_t end) {
  const int64_t weights = expert * f.d_expert * f.d_model;
  auto* gate_up = pack_gate_up((const T*)f.gate_up + 2 * weights, f.d_expert, f.d_model);
  auto* down =
      pack_matrix<T>((const T*)f.down + weights, true, f.d_model, f.d_expert, kPackedDown);
  T* hidden = (T*)scratch(kHiddenBlock, kBlockRows * f.d_expert * sizeof(T));
  for (int64_t row = begin; row < end; row += kBlockRows) {
    int64_t stop = end - row < kBlockRows ? end : row + kBlockRows;
    multiply_rows<T>(Rows<T>{(const T*)f.x, f.d_model, f.token}, row, stop, f.d_model, gate_up,
                     divide_up(f.d_expert, kLanes) * kTileCols,
                     Activate<T>{f.d_expert, row, hidden, (T*)f.saved});
    multiply_rows<T>(Rows<T>{hidden, f.d_expert, nullptr}, 0, stop - row, f.d_expert, down,
                     f.d_model, StoreTile<T>{(T*)f.output + row * f.d_model, f.d_model});
  }
}

}  // namespace mini_moe::MINI_MOE_ISA
