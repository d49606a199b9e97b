// The activation of a dense SwiGLU between its products, and its gradients, in one pass each.
// Source: Shazeer, arXiv 2002.05202 section 2.
#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

void check(const Tensor& gate, const Tensor& up, const char* name) {
  require(gate.dim() == up.dim(), name, ": ", shape_of(gate), " expected, got ", shape_of(up));
  for (int64_t i = 0; i < gate.dim(); i++)
    require(gate.size(i) == up.size(i), name, ": ", shape_of(gate), " expected, got ",
            shape_of(up));
  is_bf16("gate", gate);
  check_type("gate", gate, gate.scalar_type());
  check_type(name, up, gate.scalar_type());
}

template <class Work>
void in_vectors(int64_t n, const Work& work) {
  in_parts(parts_for(4 * n), [&](int64_t part, int64_t parts) {
    const int64_t first = n * part / parts / 16 * 16;
    work(first, part + 1 == parts ? n : n * (part + 1) / parts / 16 * 16);
  });
}

}  // namespace

Tensor swiglu_product(const Tensor& gate_, const Tensor& up_) {
  check(gate_, up_, "up");
  const Tensor gate = dense(gate_), up = dense(up_);
  Tensor hidden = torch::stable::empty_like(gate);
  const SwiGLU s{gate.const_data_ptr(), up.const_data_ptr(), hidden.mutable_data_ptr()};
  const Kernels& k = kernels(gate.scalar_type() == ScalarType::BFloat16);
  in_vectors(gate.numel(), [&](int64_t first, int64_t last) { k.swiglu_product(s, first, last); });
  return hidden;
}

std::tuple<Tensor, Tensor> swiglu_product_backward(
    const Tensor& grad_, const Tensor& gate_, const Tensor& up_) {
  check(gate_, up_, "up"), check(gate_, grad_, "grad");
  const Tensor gate = dense(gate_), up = dense(up_), grad = dense(grad_);
  Tensor grad_gate = torch::stable::empty_like(gate), grad_up = torch::stable::empty_like(gate);
  const SwiGLU s{gate.const_data_ptr(), up.const_data_ptr(), nullptr, grad.const_data_ptr(),
                 grad_gate.mutable_data_ptr(), grad_up.mutable_data_ptr()};
  const Kernels& k = kernels(gate.scalar_type() == ScalarType::BFloat16);
  in_vectors(gate.numel(), [&](int64_t first, int64_t last) { k.swiglu_gradient(s, first, last); });
  return {grad_gate, grad_up};
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("swiglu_product(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_product_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("swiglu_product", TORCH_BOX(&mini_moe::swiglu_product));
  m.impl("swiglu_product_backward", TORCH_BOX(&mini_moe::swiglu_product_backward));
}
