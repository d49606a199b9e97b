// x weight^T and its gradients, for any combination of the two types: weights are rounded while
// they are packed and their gradients are written in their own type, so no converted copy is ever
// made.
#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

bool is_bf16_checked(const char* name, const Tensor& tensor) {
  check_type(name, tensor, tensor.scalar_type());
  return is_bf16(name, tensor);
}

// One thread's share of a product. Columns are divided first, at least 64 per thread, since then no
// other thread packs the same part of the matrix; the remaining threads divide rows.
void share_product(const Kernels& k, Product p, int64_t rows, int64_t part, int64_t parts) {
  int64_t across = std::clamp<int64_t>(p.n / 64, 1, parts);
  while (parts % across) across--;
  const int64_t column = part % across, row = part / across, down = parts / across;
  auto cut = [&](int64_t i) { return i == across ? p.n : p.n * i / across / 32 * 32; };
  p.left = cut(column), p.right = cut(column + 1);
  k.product(p, 0, rows * row / down, rows * (row + 1) / down);
}

// One thread's share of the weight's gradient: columns, or rows (12 at a time) if out is at least
// twice as tall as wide, so that the operand every thread packs is not much the larger one.
void share_gradient(const Kernels& k, const WeightGradient& w, int64_t part, int64_t parts) {
  const bool columns = w.m < 2 * w.n;
  const int64_t n = columns ? w.n : w.m, unit = columns ? 32 : 12;
  const int64_t first = n * part / parts / unit * unit;
  const int64_t last = part + 1 == parts ? n : n * (part + 1) / parts / unit * unit;
  if (first >= last) return;
  if (columns) k.weight_gradient(w, 0, w.m, first, last);
  else k.weight_gradient(w, first, last, 0, w.n);
}

}  // namespace

// x [rows, k], weight [n, k] -> [rows, n]; computed in bfloat16 if `narrow`, otherwise in float32.
Tensor linear(const Tensor& x_, const Tensor& weight_, bool narrow) {
  check_shape("weight", weight_, {-1, -1});
  check_shape("x", x_, {-1, weight_.size(1)});
  const bool x_bf16 = is_bf16_checked("x", x_), w_bf16 = is_bf16_checked("weight", weight_);
  const Tensor x = dense(x_), weight = dense(weight_);
  const int64_t rows = x.size(0), n = weight.size(0);
  Tensor out = empty({rows, n}, narrow ? ScalarType::BFloat16 : ScalarType::Float);
  const Product p{x.size(1), n, true, x_bf16, w_bf16, narrow, x.const_data_ptr(),
                  weight.const_data_ptr(), out.mutable_data_ptr()};
  in_parts(parts_for(x.numel() * n), [&](int64_t part, int64_t parts) {
    share_product(kernels(narrow), p, rows, part, parts);
  });
  return out;
}

// Gradients of x and weight, each in its own type; grad has the type of the computation.
std::tuple<Tensor, Tensor> linear_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& weight_) {
  check_shape("weight", weight_, {-1, -1});
  check_shape("x", x_, {-1, weight_.size(1)});
  check_shape("grad", grad_, {x_.size(0), weight_.size(0)});
  const bool x_bf16 = is_bf16_checked("x", x_), w_bf16 = is_bf16_checked("weight", weight_);
  const bool narrow = is_bf16_checked("grad", grad_);
  const Tensor grad = dense(grad_), x = dense(x_), weight = dense(weight_);
  const int64_t rows = x.size(0), k = x.size(1), n = weight.size(0);
  Tensor grad_x = empty({rows, k}, x.scalar_type());
  Tensor grad_weight = empty({n, k}, weight.scalar_type());
  const Product to_x{n, k, false, narrow, w_bf16, x_bf16, grad.const_data_ptr(),
                     weight.const_data_ptr(), grad_x.mutable_data_ptr()};
  const WeightGradient to_weight{n, k, rows, x_bf16, w_bf16, grad.const_data_ptr(), nullptr,
                                 x.const_data_ptr(), nullptr, grad_weight.mutable_data_ptr()};
  if (!rows) std::memset(grad_weight.mutable_data_ptr(), 0, n * k * weight.element_size());
  in_parts(parts_for(x.numel() * n), [&](int64_t part, int64_t parts) {
    const Kernels& kernel = kernels(narrow);
    share_product(kernel, to_x, rows, part, parts);
    share_gradient(kernel, to_weight, part, parts);
  });
  return {grad_x, grad_weight};
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("linear(Tensor x, Tensor weight, bool narrow) -> Tensor");
  m.def("linear_backward(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("linear", TORCH_BOX(&mini_moe::linear));
  m.impl("linear_backward", TORCH_BOX(&mini_moe::linear_backward));
}
