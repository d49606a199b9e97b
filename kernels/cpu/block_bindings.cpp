// Schemas and registration of what a block needs beside its experts; the CPU alone has these.
#include "operations.h"

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("choose_best(Tensor values, int k) -> Tensor");
  m.def(
      "latent_attention(Tensor query, Tensor kv, Tensor key_rope, float scale)"
      " -> (Tensor, Tensor)");
  m.def(
      "latent_attention_backward(Tensor grad, Tensor query, Tensor kv, Tensor key_rope,"
      " Tensor row_sums, float scale) -> (Tensor, Tensor, Tensor)");
  m.def("rotate(Tensor x, Tensor rotation, bool back) -> Tensor");
  m.def("linear(Tensor x, Tensor weight, bool narrow) -> Tensor");
  m.def("linear_backward(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor)");
  m.def("swiglu_product(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_product_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)");
  m.def("rms_norm(Tensor x, Tensor weight, float eps, bool narrow) -> (Tensor, Tensor)");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor shares)"
      " -> (Tensor, Tensor)");
  m.def(
      "add_rms_norm(Tensor x, Tensor added, Tensor weight, float eps, bool narrow)"
      " -> (Tensor, Tensor, Tensor)");
  m.def(
      "add_rms_norm_backward(Tensor grad_total, Tensor grad, Tensor total, Tensor weight,"
      " Tensor shares, bool narrow) -> (Tensor, Tensor, Tensor)");
  m.def("cross_entropy(Tensor logits, Tensor targets) -> (Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor grad, Tensor logits, Tensor targets, Tensor row_sums)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("choose_best", TORCH_BOX(&mini_moe::choose_best));
  m.impl("latent_attention", TORCH_BOX(&mini_moe::latent_attention));
  m.impl("latent_attention_backward", TORCH_BOX(&mini_moe::latent_attention_backward));
  m.impl("rotate", TORCH_BOX(&mini_moe::rotate));
  m.impl("linear", TORCH_BOX(&mini_moe::linear));
  m.impl("linear_backward", TORCH_BOX(&mini_moe::linear_backward));
  m.impl("swiglu_product", TORCH_BOX(&mini_moe::swiglu_product));
  m.impl("swiglu_product_backward", TORCH_BOX(&mini_moe::swiglu_product_backward));
  m.impl("rms_norm", TORCH_BOX(&mini_moe::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&mini_moe::rms_norm_backward));
  m.impl("add_rms_norm", TORCH_BOX(&mini_moe::add_rms_norm));
  m.impl("add_rms_norm_backward", TORCH_BOX(&mini_moe::add_rms_norm_backward));
  m.impl("cross_entropy", TORCH_BOX(&mini_moe::cross_entropy));
  m.impl("cross_entropy_backward", TORCH_BOX(&mini_moe::cross_entropy_backward));
}
