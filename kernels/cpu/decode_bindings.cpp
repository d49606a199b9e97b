// Schemas and registration of what decoding has of its own; the CPU alone has these.
#include "operations.h"

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def(
      "decode(Tensor x, Tensor(a!) numbers, int[] lengths, Tensor rotation, Tensor[] layers,"
      " Tensor norm, int heads, int d_v, float scale, float norm_eps, float latent_eps, int top_k,"
      " int n_groups, int top_k_groups, bool two_best, bool softmax, bool normalise,"
      " float route_scale) -> Tensor");
  m.def("few_rows(Tensor x, Tensor w) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("decode", TORCH_BOX(&mini_moe::decode));
  m.impl("few_rows", TORCH_BOX(&mini_moe::few_rows));
}
