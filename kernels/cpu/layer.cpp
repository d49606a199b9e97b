// The whole layer: sort, the experts' products, combine. Threads share rows evenly, cut at experts
// where that is fair; each output element is summed in an order that no thread changes.
#include <cstring>
#include <vector>

#include "checks.h"
#include "dispatch.h"
#include "layer.h"
#include "sorting.h"

namespace mini_moe {
namespace {

struct Shape {
  int64_t tokens, top_k, experts, d_model, d_expert;
  int64_t rows() const { return tokens * top_k; }
};

Shape check(const Tensor& x, const Tensor& ids, const Tensor& gates, const Tensor& gate_up,
            const Tensor& down) {
  check_shape("gate_up_proj", gate_up, {-1, 2, -1, -1});
  check_shape("expert_ids", ids, {-1, -1});
  Shape s{ids.size(0), ids.size(1), gate_up.size(0), gate_up.size(3), gate_up.size(2)};
  check_shape("x", x, {s.tokens, s.d_model});
  check_shape("gates", gates, {s.tokens, s.top_k});
  check_shape("down_proj", down, {s.experts, s.d_model, s.d_expert});
  is_bf16("x", x), is_bf16("gates", gates);
  check_type("x", x, x.scalar_type());
  check_type("gates", gates, gates.scalar_type());
  check_type("expert_ids", ids, ScalarType::Long);
  check_type("gate_up_proj", gate_up, x.scalar_type());
  check_type("down_proj", down, x.scalar_type());
  require(s.top_k > 0, "expert_ids: at least 1 choice a token expected, got 0");
  return s;
}

Sorted sort(const Tensor& ids, const Shape& s) {
  auto* memory = (int64_t*)scratch(kOffsets, (2 * s.rows() + s.experts + 1) * sizeof(int64_t));
  Sorted sorted{s.rows(), s.top_k, s.experts, memory + 2 * s.rows(), memory, memory + s.rows()};
  sort_rows((const int64_t*)dense(ids).const_data_ptr(), sorted);
  return sorted;
}

// Gates as floats [tokens, top_k].
const float* as_floats(const Tensor& gates) {
  int64_t n = gates.numel();
  auto* out = (float*)scratch(kGates, n * sizeof(float));
  Tensor values = dense(gates);
  if (!is_bf16("gates", values)) {
    if (n) std::memcpy(out, values.const_data_ptr(), n * sizeof(float));
    return out;
  }
  auto* halves = (const uint16_t*)values.const_data_ptr();
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = uint32_t(halves[i]) << 16;
    std::memcpy(out + i, &bits, 4);
  }
  return out;
}

// Gradients of gates from sorted order to the order of the choices, rounded to their type.
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

// Where part p of the rows begins: at an expert if one begins nearby.
int64_t cut(const Sorted& s, int64_t part, int64_t parts) {
  if (part >= parts) return s.n_rows;
  int64_t target = s.n_rows * part / parts, expert = 0;
  while (expert < s.experts && s.offsets[expert + 1] <= target) expert++;
  if (expert == s.experts) return s.n_rows;
  int64_t begin = s.offsets[expert], end = s.offsets[expert + 1], near = s.n_rows / parts / 16;
  if (target - begin <= near) return begin;
  if (end - target <= near) return end;
  return begin + (target - begin) / 12 * 12;
}

template <class Work>
void for_experts_in(const Sorted& s, int64_t begin, int64_t end, const Work& work) {
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = s.offsets[e] > begin ? s.offsets[e] : begin;
    int64_t last = s.offsets[e + 1] < end ? s.offsets[e + 1] : end;
    if (first < last) work(e, first, last);
  }
}

void combine_rows(const Kernels& k, const Combine& c, int64_t tokens) {
  in_parts(parts_for(tokens * c.top_k * c.width), [&](int64_t part, int64_t parts) {
    k.combine(c, tokens * part / parts, tokens * (part + 1) / parts);
  });
}

// Few rows for each expert in use: reading weights is the work, so threads share columns.
void thin_forward(const Kernels& k, const Forward& f, const Sorted& s, int64_t parts) {
  auto share = [](int64_t width, int64_t part, int64_t parts) {
    return part == parts ? width : width * part / parts / 4 * 4;
  };
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for_experts_in(s, 0, s.n_rows, [&](int64_t e, int64_t begin, int64_t end) {
      k.thin_swiglu(f, e, begin, end, share(f.d_expert, part, parts),
                    share(f.d_expert, part + 1, parts));
    });
  });
  in_parts(parts, [&](int64_t part, int64_t parts) {
    for_experts_in(s, 0, s.n_rows, [&](int64_t e, int64_t begin, int64_t end) {
      k.thin_down(f, e, begin, end, share(f.d_model, part, parts),
                  share(f.d_model, part + 1, parts));
    });
  });
}

bool is_thin(const Sorted& s) {
  int64_t active = 0;
  for (int64_t e = 0; e < s.experts; e++) active += s.offsets[e] < s.offsets[e + 1];
  return s.n_rows <= 8 * active;
}

}  // namespace

std::tuple<Tensor, Tensor> experts_forward(
    const Tensor& x_, const Tensor& ids, const Tensor& gates_, const Tensor& gate_up_,
    const Tensor& down_, bool keep) {
  const Shape s = check(x_, ids, gates_, gate_up_, down_);
  const ScalarType type = x_.scalar_type();
  const bool bf16 = type == ScalarType::BFloat16;
  const int64_t size = bf16 ? 2 : 4;
  const Tensor x = dense(x_), gate_up = dense(gate_up_), down = dense(down_);
  const Sorted sorted = sort(ids, s);
  const float* gates = as_floats(gates_);
  Tensor out = empty({s.tokens, s.d_model}, type);
  Tensor saved = empty({keep ? s.rows() : 0, 2 * s.d_expert}, type);
  void* output = scratch(kOutputRows, s.rows() * s.d_model * size);
  const Kernels& k = kernels(bf16);
  Forward f{s.d_model, s.d_expert, sorted.token, x.const_data_ptr(), gate_up.const_data_ptr(),
            down.const_data_ptr(), keep ? saved.mutable_data_ptr() : nullptr, nullptr, output};
  const int64_t parts = parts_for(s.rows() * s.d_model * s.d_expert);
  if (is_thin(sorted)) {
    f.hidden = scratch(kWeighted, s.rows() * s.d_expert * size);
    thin_forward(k, f, sorted, parts);
  } else {
    in_parts(parts, [&](int64_t part, int64_t parts) {
      for_experts_in(sorted, cut(sorted, part, parts), cut(sorted, part + 1, parts),
                     [&](int64_t e, int64_t begin, int64_t end) { k.forward(f, e, begin, end); });
    });
  }
  combine_rows(k, {s.top_k, s.d_model, output, sorted.place, gates, out.mutable_data_ptr()},
               s.tokens);
  return {out, saved};
}

namespace {

// Both weight gradients of an expert, or a share of their rows.
struct WeightGradients {
  const Kernels& k;
  const Backward& b;
  char *gate_up, *down;
  int64_t size;

  void operator()(int64_t expert, int64_t begin, int64_t end, const void* weighted,
                  const void* grad_saved, int64_t part, int64_t parts) const {
    int64_t weights = b.d_model * b.d_expert;
    WeightGradient to_down{b.d_model, b.d_expert, end - begin, b.grad, b.token + begin,
                           weighted, nullptr, down + expert * weights * size};
    WeightGradient to_gate_up{2 * b.d_expert, b.d_model, end - begin, grad_saved, nullptr,
                              b.x, b.token + begin, gate_up + 2 * expert * weights * size};
    for (const WeightGradient& w : {to_down, to_gate_up}) {
      int64_t first = share(w.m, part, parts), last = share(w.m, part + 1, parts);
      if (first >= last) continue;
      if (w.k) k.weight_gradient(w, first, last);
      else std::memset((char*)w.out + first * w.n * size, 0, (last - first) * w.n * size);
    }
  }

  static int64_t share(int64_t m, int64_t part, int64_t parts) {
    return part == parts ? m : m * part / parts / 12 * 12;
  }
};

// First expert of each part when every part takes whole experts; empty if that is unfair.
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
  if (auto first = whole_experts(sorted, parts); !first.empty()) {
    // Each thread finishes expert after expert: what one step writes, the next finds in the cache.
    in_parts(parts, [&](int64_t part, int64_t) {
      Backward mine = b;
      for (int64_t e = first[part]; e < first[part + 1]; e++) {
        int64_t begin = sorted.offsets[e], end = sorted.offsets[e + 1];
        char* weighted = (char*)scratch(kWeighted, (end - begin) * wide);
        char* grad_saved = (char*)scratch(kGradSaved, (end - begin) * 2 * wide);
        mine.weighted = weighted - begin * wide;
        mine.grad_saved = grad_saved - begin * 2 * wide;
        if (begin < end) k.backward(mine, e, begin, end);
        weight_gradients(e, begin, end, weighted, grad_saved, 0, 1);
      }
    });
  } else {
    b.weighted = scratch(kWeighted, rows * wide);
    b.grad_saved = scratch(kGradSaved, rows * 2 * wide);
    in_parts(parts, [&](int64_t part, int64_t parts) {
      for_experts_in(sorted, cut(sorted, part, parts), cut(sorted, part + 1, parts),
                     [&](int64_t e, int64_t begin, int64_t end) { k.backward(b, e, begin, end); });
    });
    in_parts(parts, [&](int64_t part, int64_t parts) {
      for (int64_t e = 0; e < s.experts; e++)
        weight_gradients(e, sorted.offsets[e], sorted.offsets[e + 1],
                         (char*)b.weighted + sorted.offsets[e] * wide,
                         (char*)b.grad_saved + sorted.offsets[e] * 2 * wide, part, parts);
    });
  }
  combine_rows(k, {s.top_k, s.d_model, b.grad_rows, sorted.place, nullptr,
                   grad_x.mutable_data_ptr()}, s.tokens);
  place_gates(b.grad_gates, sorted.place, grad_gates);
  return {grad_x, grad_gates, grad_gate_up, grad_down};
}

}  // namespace mini_moe
