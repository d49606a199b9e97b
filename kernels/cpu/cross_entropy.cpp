// The loss of each row of logits, ln(sum of exp) - logit of the target, and its gradient.
#include <cmath>

#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

CrossEntropy check(const Tensor& logits, const Tensor& targets) {
  check_shape("logits", logits, {-1, -1});
  is_bf16("logits", logits);
  check_type("logits", logits, logits.scalar_type());
  check_shape("targets", targets, {logits.size(0)});
  check_type("targets", targets, ScalarType::Long);
  CrossEntropy c{};
  c.vocab = logits.size(1);
  require(c.vocab > 0, "logits: at least one class expected, got 0");
  return c;
}

}  // namespace

// Returns losses [rows], and row_sums [rows, 2] for the backward pass.
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& logits_, const Tensor& targets_) {
  CrossEntropy c = check(logits_, targets_);
  const Tensor logits = dense(logits_), targets = dense(targets_);
  const int64_t rows = logits.size(0);
  c.logits = logits.const_data_ptr(), c.targets = (const int64_t*)targets.const_data_ptr();
  for (int64_t i = 0; i < rows; i++)
    require(c.targets[i] >= 0 && c.targets[i] < c.vocab, "targets must lie in [0, ", c.vocab,
            "), got ", c.targets[i]);
  Tensor losses = empty({rows}, ScalarType::Float), sums = empty({rows, 2}, ScalarType::Float);
  c.row_sums = (float*)sums.mutable_data_ptr(), c.chosen = (float*)losses.mutable_data_ptr();
  const Kernels& k = kernels(logits.scalar_type() == ScalarType::BFloat16);
  in_parts(parts_for(logits.numel()), [&](int64_t part, int64_t parts) {
    const int64_t first = rows * part / parts, last = rows * (part + 1) / parts;
    k.cross_entropy(c, first, last);
    for (int64_t i = first; i < last; i++)
      c.chosen[i] = std::log(c.row_sums[2 * i + 1]) + (c.row_sums[2 * i] - c.chosen[i]);
  });
  return {losses, sums};
}

Tensor cross_entropy_backward(
    const Tensor& grad_, const Tensor& logits_, const Tensor& targets_, const Tensor& sums_) {
  CrossEntropy c = check(logits_, targets_);
  const Tensor logits = dense(logits_), targets = dense(targets_), grad = dense(grad_);
  const Tensor sums = dense(sums_);
  const int64_t rows = logits.size(0);
  check_shape("grad", grad, {rows});
  check_type("grad", grad, ScalarType::Float);
  check_shape("row_sums", sums, {rows, 2});
  check_type("row_sums", sums, ScalarType::Float);
  c.logits = logits.const_data_ptr(), c.targets = (const int64_t*)targets.const_data_ptr();
  for (int64_t i = 0; i < rows; i++)
    require(c.targets[i] >= 0 && c.targets[i] < c.vocab, "targets must lie in [0, ", c.vocab,
            "), got ", c.targets[i]);
  Tensor out = empty({rows, c.vocab}, logits.scalar_type());
  c.row_sums = (float*)sums.const_data_ptr(), c.grad = (const float*)grad.const_data_ptr();
  c.grad_logits = out.mutable_data_ptr();
  const Kernels& k = kernels(logits.scalar_type() == ScalarType::BFloat16);
  in_parts(parts_for(logits.numel()), [&](int64_t part, int64_t parts) {
    k.cross_entropy_backward(c, rows * part / parts, rows * (part + 1) / parts);
  });
  return out;
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("cross_entropy(Tensor logits, Tensor targets) -> (Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor grad, Tensor logits, Tensor targets, Tensor row_sums)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&mini_moe::cross_entropy));
  m.impl("cross_entropy_backward", TORCH_BOX(&mini_moe::cross_entropy_backward));
}
