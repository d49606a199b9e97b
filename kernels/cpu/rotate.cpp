// Rotary position embedding on the last channels of every head, in fp32; `back` rotates the other
// way, which is also the gradient. Source: Su et al., arXiv 2104.09864 section 3.4.2.
#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {

// x [batch, seq, heads, width], rotation [seq, pairs, 2]
Tensor rotate(const Tensor& x_, const Tensor& rotation_, bool back) {
  check_shape("x", x_, {-1, -1, -1, -1});
  check_shape("rotation", rotation_, {x_.size(1), -1, 2});
  const int64_t width = x_.size(3), pairs = rotation_.size(1), rows = x_.size(0) * x_.size(1);
  require(2 * pairs <= width, "rotation: at most ", width / 2, " pairs expected, got ", pairs);
  const bool bf16 = is_bf16("x", x_);
  check_type("x", x_, x_.scalar_type());
  check_type("rotation", rotation_, ScalarType::Float);
  const Tensor x = dense(x_), rotation = dense(rotation_);
  Tensor out = empty({x.size(0), x.size(1), x.size(2), width}, x.scalar_type());
  const Rotate r{x.size(2), width, pairs, x.size(1), back,
                 (const float*)rotation.const_data_ptr(), x.const_data_ptr(),
                 out.mutable_data_ptr()};
  in_parts(parts_for(x.numel()), [&](int64_t part, int64_t parts) {
    kernels(bf16).rotate(r, rows * part / parts, rows * (part + 1) / parts);
  });
  return out;
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def("rotate(Tensor x, Tensor rotation, bool back) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("rotate", TORCH_BOX(&mini_moe::rotate));
}
