// The stages of the layer as separate operations: grouped_swiglu, grouped_gemm (down, dgrad),
// grouped_wgrad and combine. Rows are sorted by expert; offsets[e] is where expert e's rows begin.
#include <cstring>

#include "support/checks.h"
#include "support/dispatch.h"
#include "operations.h"

namespace mini_moe {
namespace {

const int64_t* check_offsets(const Tensor& offsets, int64_t experts, int64_t rows) {
  check_type("offsets", offsets, ScalarType::Long);
  check_shape("offsets", offsets, {experts + 1});
  require(offsets.is_contiguous(), "offsets: a contiguous tensor expected, got strides");
  auto* at = (const int64_t*)offsets.const_data_ptr();
  require(at[0] == 0 && at[experts] == rows, "offsets: from 0 to ", rows, " expected, got ", at[0],
          " to ", at[experts]);
  for (int64_t e = 0; e < experts; e++)
    require(at[e] <= at[e + 1], "offsets: ascending values expected, got ", at[e], " before ",
            at[e + 1]);
  return at;
}

void check_indices(const char* name, const Tensor& tensor, int64_t below) {
  check_type(name, tensor, ScalarType::Long);
  Tensor values = dense(tensor);
  auto* at = (const int64_t*)values.const_data_ptr();
  for (int64_t i = 0; i < values.numel(); i++)
    require(at[i] >= 0 && at[i] < below, name, " must lie in [0, ", below, "), got ", at[i]);
}

// Threads take equal shares of the rows; work(expert, begin, end) gets the part of one expert.
template <class Work>
void share_rows(const int64_t* offsets, int64_t experts, int64_t rows, int64_t cost,
                const Work& work) {
  in_parts(parts_for(rows * cost), [&](int64_t part, int64_t parts) {
    int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
    for (int64_t e = 0; e < experts; e++) {
      int64_t first = offsets[e] > begin ? offsets[e] : begin;
      int64_t last = offsets[e + 1] < end ? offsets[e + 1] : end;
      if (first < last) work(e, first, last);
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor> grouped_swiglu(
    const Tensor& x_, const Tensor& token_, const Tensor& offsets, const Tensor& gate_up_,
    bool keep) {
  check_shape("gate_up_proj", gate_up_, {-1, 2, -1, -1});
  check_shape("x", x_, {-1, gate_up_.size(3)});
  check_shape("token", token_, {-1});
  const bool bf16 = is_bf16("x", x_);
  check_type("x", x_, x_.scalar_type());
  check_type("gate_up_proj", gate_up_, x_.scalar_type());
  const int64_t rows = token_.numel(), experts = gate_up_.size(0), d_expert = gate_up_.size(2);
  check_indices("token", token_, x_.size(0));
  const int64_t* at = check_offsets(offsets, experts, rows);
  const Tensor x = dense(x_), token = dense(token_), gate_up = dense(gate_up_);
  Tensor hidden = empty({rows, d_expert}, x.scalar_type());
  Tensor saved = empty({keep ? rows : 0, 2 * d_expert}, x.scalar_type());
  Forward f{x.size(1), d_expert, (const int64_t*)token.const_data_ptr(), x.const_data_ptr(),
            gate_up.const_data_ptr(), nullptr, keep ? saved.mutable_data_ptr() : nullptr,
            hidden.mutable_data_ptr(), nullptr};
  share_rows(at, experts, rows, 2 * x.size(1) * d_expert,
             [&](int64_t e, int64_t begin, int64_t end) {
               kernels(bf16).swiglu(f, e, begin, end);
             });
  return {hidden, saved};
}

Tensor grouped_gemm(const Tensor& a_, const Tensor& offsets, const Tensor& b_, bool transposed) {
  check_shape("b", b_, {-1, -1, -1});
  const int64_t experts = b_.size(0), k = b_.size(transposed ? 2 : 1);
  const int64_t n = b_.size(transposed ? 1 : 2);
  check_shape("a", a_, {-1, k});
  const bool bf16 = is_bf16("a", a_);
  check_type("a", a_, a_.scalar_type());
  check_type("b", b_, a_.scalar_type());
  const int64_t* at = check_offsets(offsets, experts, a_.size(0));
  const Tensor a = dense(a_), b = dense(b_);
  Tensor out = empty({a.size(0), n}, a.scalar_type());
  Product p{k, n, transposed, bf16, bf16, bf16, a.const_data_ptr(), b.const_data_ptr(), out.mutable_data_ptr()};
  share_rows(at, experts, a.size(0), k * n, [&](int64_t e, int64_t begin, int64_t end) {
    kernels(bf16).product(p, e, begin, end);
  });
  return out;
}

Tensor grouped_wgrad(const Tensor& a_, const Tensor& b_, const Tensor& offsets) {
  check_shape("a", a_, {-1, -1});
  check_shape("b", b_, {a_.size(0), -1});
  const bool bf16 = is_bf16("a", a_);
  check_type("a", a_, a_.scalar_type());
  check_type("b", b_, a_.scalar_type());
  check_shape("offsets", offsets, {-1});
  require(offsets.numel() > 1, "offsets: [experts + 1] expected, got ", shape_of(offsets));
  const int64_t experts = offsets.numel() - 1, m = a_.size(1), n = b_.size(1);
  const int64_t* at = check_offsets(offsets, experts, a_.size(0));
  const Tensor a = dense(a_), b = dense(b_);
  const int64_t size = a.element_size();
  Tensor out = empty({experts, m, n}, a.scalar_type());
  auto* to = (char*)out.mutable_data_ptr();
  in_parts(parts_for(a.numel() * n), [&](int64_t part, int64_t parts) {
    int64_t first = m * part / parts / 12 * 12;
    int64_t last = part + 1 == parts ? m : m * (part + 1) / parts / 12 * 12;
    for (int64_t e = 0; e < experts; e++) {
      char* place = to + e * m * n * size;
      WeightGradient w{m, n, at[e + 1] - at[e], bf16, bf16,
                       (const char*)a.const_data_ptr() + at[e] * m * size, nullptr,
                       (const char*)b.const_data_ptr() + at[e] * n * size, nullptr, place};
      if (first >= last) continue;
      if (w.k) kernels(bf16).weight_gradient(w, first, last, 0, n);
      else std::memset(place + first * n * size, 0, (last - first) * n * size);
    }
  });
  return out;
}

Tensor combine(const Tensor& rows_, const Tensor& place_, std::optional<Tensor> gates_) {
  check_shape("rows", rows_, {-1, -1});
  check_shape("place", place_, {-1, -1});
  const bool bf16 = is_bf16("rows", rows_);
  check_type("rows", rows_, rows_.scalar_type());
  check_indices("place", place_, rows_.size(0));
  Tensor rows = dense(rows_), place = dense(place_), gates;
  if (gates_) {
    check_shape("gates", *gates_, {place.size(0), place.size(1)});
    check_type("gates", *gates_, ScalarType::Float);
    gates = dense(*gates_);
  }
  Tensor out = empty({place.size(0), rows.size(1)}, rows.scalar_type());
  Combine c{place.size(1), rows.size(1), rows.const_data_ptr(),
            (const int64_t*)place.const_data_ptr(),
            gates_ ? (const float*)gates.const_data_ptr() : nullptr, out.mutable_data_ptr()};
  in_parts(parts_for(place.numel() * c.width), [&](int64_t part, int64_t parts) {
    kernels(bf16).combine(c, place.size(0) * part / parts, place.size(0) * (part + 1) / parts);
  });
  return out;
}

}  // namespace mini_moe
