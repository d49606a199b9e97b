// The layer backward: gradients of x, gates and both weights. A thread that owns whole experts
// finishes one before starting the next, so that each product finds its input in the cache; if that
// would be unbalanced, all rows are done first and then all weights.
#include <vector>

#include "operations.h"
#include "rows.h"

namespace mini_moe {
namespace {

// Moves gradients of gates from sorted order to the order of the choices, and rounds them.
void place_gates(const float* sorted, const int64_t* place, const Tensor& to) {
  const int64_t n = to.numel();
  if (!is_bf16("gates", to)) {
    auto* out = (float*)to.mutable_data_ptr();
    for (int64_t i = 0; i < n; i++) out[i] = sorted[place[i]];
    return;
  }
  auto* out = (uint16_t*)to.mutable_data_ptr();
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits;
    std::memcpy(&bits, sorted + place[i], 4);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out[i] = nan ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  }
}

// Both weight gradients of one expert, or a share of their rows.
struct WeightGradients {
  const Kernels& k;
  const Backward& b;
  char *gate_up, *down;
  int64_t size;

  void operator()(int64_t expert, int64_t begin, int64_t end, const void* weighted,
                  const void* grad_saved, int64_t part, int64_t parts) const {
    int64_t weights = b.d_model * b.d_expert;
    bool bf16 = size == 2;
    WeightGradient to_down{b.d_model, b.d_expert, end - begin, bf16, bf16, b.grad,
                           b.token + begin, weighted, nullptr, down + expert * weights * size};
    WeightGradient to_gate_up{2 * b.d_expert, b.d_model, end - begin, bf16, bf16, grad_saved,
                              nullptr, b.x, b.token + begin,
                              gate_up + 2 * expert * weights * size};
    for (const WeightGradient& w : {to_down, to_gate_up}) {
      int64_t first = share(w.m, part, parts), last = share(w.m, part + 1, parts);
      if (first >= last) continue;
      if (w.k) k.weight_gradient(w, first, last, 0, w.n);
      else std::memset((char*)w.out + first * w.n * size, 0, (last - first) * w.n * size);
    }
  }

  static int64_t share(int64_t m, int64_t part, int64_t parts) {
    return part == parts ? m : m * part / parts / 12 * 12;
  }
};

// The first expert of each part if every part takes whole experts; empty if that is unbalanced.
std::vector<int64_t> whole_experts(const Sorted& s, int64_t parts) {
  std::vector<int64_t> first(parts + 1, s.experts);
  first[0] = 0;
  for (int64_t part = 1, e = 0; part < parts; part++) {
    int64_t target = s.n_rows * part / parts;
    while (e < s.experts && s.offsets[e] + s.offsets[e + 1] < 2 * target) e++;
    first[part] = e;
  }
  for (int64_t part = 0; part < parts; part++) {
    int64_t rows = s.offsets[first[part + 1]] - s.offsets[first[part]];
    if (rows * parts * 8 > s.n_rows * 9) return {};
  }
  return first;
}

// Each thread finishes one expert after another: each step finds the previous result in the cache.
void expert_by_expert(const Kernels& k, const Backward& b, const Sorted& s,
                      const std::vector<int64_t>& first, const WeightGradients& weight_gradients,
                      int64_t wide) {
  in_parts((int64_t)first.size() - 1, [&](int64_t part, int64_t) {
    Backward mine = b;
    for (int64_t e = first[part]; e < first[part + 1]; e++) {
      int64_t begin = s.offsets[e], end = s.offsets[e + 1];
      char* weighted = (char*)scratch(kWeighted, (end - begin) * wide);
      char* grad_saved = (char*)scratch(kGradSaved, (end - begin) * 2 * wide);
      mine.weighted = weighted - begin * wide;  // kernels count rows from the first expert's
      mine.grad_saved = grad_saved - begin * 2 * wide;
      if (begin < end) k.backward(mine, e, begin, end);
      weight_gradients(e, begin, end, weighted, grad_saved, 0, 1);
    }
  });
}

void rows_then_weights(const Kernels& k, Backward& b, const Sorted& s, int64_t parts,
                       const WeightGradients& weight_gradients, int64_t wide) {
  b.weighted = scratch(kWeighted, s.n_rows * wide);
  b.grad_saved = scratch(kGradSaved, s.n_rows * 2 * wide);
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for_experts_in(s, cut(s, part, parts), cut(s, part + 1, parts),
                   [&](int64_t e, int64_t begin, int64_t end) { k.backward(b, e, begin, end); });
  });
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for (int64_t e = 0; e < s.experts; e++)
      weight_gradients(e, s.offsets[e], s.offsets[e + 1],
                       (char*)b.weighted + s.offsets[e] * wide,
                       (char*)b.grad_saved + s.offsets[e] * 2 * wide, part, parts);
  });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& ids, const Tensor& gates_,
    const Tensor& gate_up_, const Tensor& down_, const Tensor& saved_) {
  const Shape s = check(x_, ids, gates_, gate_up_, down_);
  const ScalarType type = x_.scalar_type();
  check_shape("grad", grad_, {s.tokens, s.d_model});
  check_type("grad", grad_, type);
  check_shape("saved", saved_, {s.rows(), 2 * s.d_expert});
  check_type("saved", saved_, type);
  const bool bf16 = type == ScalarType::BFloat16;
  const int64_t size = bf16 ? 2 : 4, rows = s.rows();
  const Tensor grad = dense(grad_), x = dense(x_), gate_up = dense(gate_up_);
  const Tensor down = dense(down_), saved = dense(saved_);
  const Sorted sorted = sort(ids, s);
  const float* gates = as_floats(gates_);
  Tensor grad_x = empty({s.tokens, s.d_model}, type);
  Tensor grad_gates = empty({s.tokens, s.top_k}, gates_.scalar_type());
  Tensor grad_gate_up = empty({s.experts, 2, s.d_expert, s.d_model}, type);
  Tensor grad_down = empty({s.experts, s.d_model, s.d_expert}, type);

  auto* row_gates = (float*)scratch(kRowFloats, 2 * rows * sizeof(float));
  for (int64_t i = 0; i < rows; i++) row_gates[sorted.place[i]] = gates[i];
  Backward b{s.d_model, s.d_expert, sorted.token, row_gates, grad.const_data_ptr(),
             x.const_data_ptr(), gate_up.const_data_ptr(), down.const_data_ptr(),
             saved.const_data_ptr(), nullptr, nullptr,
             scratch(kGradRows, rows * s.d_model * size), row_gates + rows};
  const Kernels& k = kernels(bf16);
  const WeightGradients weight_gradients{k, b, (char*)grad_gate_up.mutable_data_ptr(),
                                         (char*)grad_down.mutable_data_ptr(), size};
  const int64_t parts = parts_for(rows * s.d_model * s.d_expert);
  const int64_t wide = s.d_expert * size;  // bytes of a row of `weighted`
  if (auto first = whole_experts(sorted, parts); !first.empty())
    expert_by_expert(k, b, sorted, first, weight_gradients, wide);
  else
    rows_then_weights(k, b, sorted, parts, weight_gradients, wide);
  combine_rows(k, {s.top_k, s.d_model, b.grad_rows, sorted.place, nullptr,
                   grad_x.mutable_data_ptr()}, s.tokens);
  place_gates(b.grad_gates, sorted.place, grad_gates);
  return {grad_x, grad_gates, grad_gate_up, grad_down};
}

}  // namespace mini_moe
