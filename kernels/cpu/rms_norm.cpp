// Scales rows to mean square one, then by a weight per channel; and the gradients of both. The
// weight's gradient is summed over blocks of rows that do not depend on the number of threads.
// Source: Zhang and Sennrich, arXiv 1910.07467 section 4.
#include <vector>

#include "kernels.h"
#include "support/checks.h"
#include "rows.h"

namespace mini_moe {
namespace {

constexpr int64_t kRows = 64;  // per block

// x [rows, width], weight [width]; shares are set by the caller.
Norm check(const Tensor& x, const Tensor& weight, double eps, bool narrow) {
  check_shape("x", x, {-1, -1});
  check_shape("weight", weight, {x.size(1)});
  is_bf16("x", x), is_bf16("weight", weight);
  check_type("x", x, x.scalar_type());
  check_type("weight", weight, weight.scalar_type());
  Norm norm{};
  norm.width = x.size(1), norm.eps = (float)eps, norm.y_is_bf16 = narrow;
  return norm;
}

}  // namespace

// Returns y in bfloat16 if `narrow`, otherwise in float32; and 1 / root mean square of each row.
std::tuple<Tensor, Tensor> rms_norm(
    const Tensor& x_, const Tensor& weight, double eps, bool narrow) {
  Norm norm = check(x_, weight, eps, narrow);
  const Tensor x = dense(x_);
  const int64_t rows = x.size(0);
  Tensor y = empty({rows, norm.width}, narrow ? ScalarType::BFloat16 : ScalarType::Float);
  Tensor shares = empty({rows}, ScalarType::Float);
  norm.x = x.const_data_ptr(), norm.weight = as_floats(weight), norm.y = y.mutable_data_ptr();
  norm.shares = (float*)shares.mutable_data_ptr();
  const Kernels& k = kernels(x.scalar_type() == ScalarType::BFloat16);
  in_parts(parts_for(x.numel()), [&](int64_t part, int64_t parts) {
    k.rms_norm(norm, rows * part / parts, rows * (part + 1) / parts);
  });
  return {y, shares};
}

// Gradients of x and weight.
std::tuple<Tensor, Tensor> rms_norm_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& weight, const Tensor& shares_) {
  Norm norm = check(x_, weight, 0, is_bf16("grad", grad_));
  const Tensor grad = dense(grad_), x = dense(x_), shares = dense(shares_);
  const int64_t rows = x.size(0), blocks = (rows + kRows - 1) / kRows;
  check_shape("grad", grad, {rows, norm.width});
  check_type("grad", grad, grad.scalar_type());
  check_shape("shares", shares, {rows});
  check_type("shares", shares, ScalarType::Float);
  Tensor grad_x = empty({rows, norm.width}, x.scalar_type());
  Tensor grad_weight = empty({norm.width}, ScalarType::Float);
  norm.x = x.const_data_ptr(), norm.weight = as_floats(weight), norm.grad = grad.const_data_ptr();
  norm.shares = (float*)shares.const_data_ptr(), norm.grad_x = grad_x.mutable_data_ptr();
  auto* sums = (float*)scratch(kRowFloats, blocks * norm.width * sizeof(float));
  const Kernels& k = kernels(x.scalar_type() == ScalarType::BFloat16);
  in_parts(parts_for(x.numel()), [&](int64_t part, int64_t parts) {
    for (int64_t b = blocks * part / parts; b < blocks * (part + 1) / parts; b++) {
      const int64_t first = b * kRows, last = first + kRows < rows ? first + kRows : rows;
      k.rms_norm_backward(norm, first, last, sums + b * norm.width);
    }
  });
  auto* out = (float*)grad_weight.mutable_data_ptr();
  for (int64_t i = 0; i < norm.width; i++) out[i] = 0;
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t i = 0; i < norm.width; i++) out[i] += sums[b * norm.width + i];
  return {grad_x, grad_weight};
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps, bool narrow) -> (Tensor, Tensor)");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor shares)"
      " -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&mini_moe::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&mini_moe::rms_norm_backward));
}
