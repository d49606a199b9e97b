// The layer on CUDA, forward and backward: one launcher after another on torch's stream. Nothing
// returns to the host: every size follows from shapes, and kernels read offsets on the device.
#include "operations.h"

namespace mini_moe::cuda {
namespace {

struct Shape {
  int64_t tokens, top_k, experts, d_model, d_expert;
  int64_t rows() const { return tokens * top_k; }
};

Shape check(const Tensor& x, const Tensor& ids, const Tensor& gates, const Tensor& gate_up,
            const Tensor& down, const OnDevice& on) {
  check_shape("gate_up_proj", gate_up, {-1, 2, -1, -1});
  check_shape("expert_ids", ids, {-1, -1});
  const Shape s{ids.size(0), ids.size(1), gate_up.size(0), gate_up.size(3), gate_up.size(2)};
  check_shape("x", x, {s.tokens, s.d_model});
  check_shape("gates", gates, {s.tokens, s.top_k});
  check_shape("down_proj", down, {s.experts, s.d_model, s.d_expert});
  is_bf16("x", x), is_bf16("gates", gates);
  on.check("expert_ids", ids, ScalarType::Long);
  on.check("gates", gates, gates.scalar_type());
  on.check("gate_up_proj", gate_up, x.scalar_type());
  on.check("down_proj", down, x.scalar_type());
  require(s.top_k > 0, "expert_ids: at least 1 choice per token expected, got 0");
  return s;
}

Tensor as(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

}  // namespace

std::tuple<Tensor, Tensor> experts_forward(
    const Tensor& x_, const Tensor& ids, const Tensor& gates_, const Tensor& gate_up_,
    const Tensor& down_, bool keep) {
  const OnDevice on("x", x_);
  const Shape s = check(x_, ids, gates_, gate_up_, down_, on);
  const ScalarType type = x_.scalar_type();
  const Tensor x = dense(x_), gate_up = dense(gate_up_), down = dense(down_);
  const Tensor gates = dense(as(gates_, ScalarType::Float));
  const Sorted sorted = sort(ids, s.experts, on);
  auto* offsets = in<int64_t>(sorted.offsets);

  Tensor hidden = on.empty({s.rows(), s.d_expert}, type);
  Tensor saved = on.empty({keep ? s.rows() : 0, 2 * s.d_expert}, type);
  run(launch::grouped_swiglu(in(x), code(x), in<int64_t>(sorted.token), s.tokens, in(gate_up),
                             offsets, out(hidden), keep ? out(saved) : nullptr, s.rows(),
                             s.experts, s.d_model, s.d_expert, on.stream));
  Tensor rows = on.empty({s.rows(), s.d_model}, type);
  run(launch::grouped_gemm(in(hidden), code(x), nullptr, s.rows(), in(down), offsets, out(rows),
                           s.rows(), s.experts, s.d_expert, s.d_model, true, on.stream));
  Tensor mixed = on.empty({s.tokens, s.d_model}, type);
  run(launch::combine_forward(in(rows), code(x), in<int64_t>(sorted.place), in<float>(gates),
                              out(mixed), s.tokens, s.rows(), s.d_model, s.top_k, on.stream));
  return {mixed, saved};
}

// Gradients of x, gates, gate_up_proj, down_proj. With h = silu(g) u and y = W_down h a gate's
// gradient is <grad, y> = <W_down^T grad, h>, and h's gradient needs the left factor anyway.
std::tuple<Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& ids, const Tensor& gates_,
    const Tensor& gate_up_, const Tensor& down_, const Tensor& saved_) {
  const OnDevice on("x", x_);
  const Shape s = check(x_, ids, gates_, gate_up_, down_, on);
  const ScalarType type = x_.scalar_type();
  check_shape("grad", grad_, {s.tokens, s.d_model});
  check_shape("saved", saved_, {s.rows(), 2 * s.d_expert});
  on.check("grad", grad_, type);
  on.check("saved", saved_, type);
  const Tensor grad = dense(grad_), x = dense(x_), gate_up = dense(gate_up_);
  const Tensor down = dense(down_), saved = dense(saved_);
  const Tensor gates = dense(as(gates_, ScalarType::Float));
  const Sorted sorted = sort(ids, s.experts, on);
  auto *token = in<int64_t>(sorted.token), *offsets = in<int64_t>(sorted.offsets);
  auto* place = in<int64_t>(sorted.place);

  Tensor grad_hidden = on.empty({s.rows(), s.d_expert}, type);
  run(launch::grouped_gemm(in(grad), code(x), token, s.tokens, in(down), offsets, out(grad_hidden),
                           s.rows(), s.experts, s.d_model, s.d_expert, false, on.stream));
  Tensor both = on.empty({s.rows(), 2 * s.d_expert}, type);
  Tensor weighted = on.empty({s.rows(), s.d_expert}, type);
  Tensor grad_gates = on.empty({s.tokens, s.top_k}, ScalarType::Float);
  run(launch::swiglu_backward(in(grad_hidden), in(saved), code(x), place, in<float>(gates),
                              out(both), out(weighted), out<float>(grad_gates), s.rows(), s.rows(),
                              s.d_expert, on.stream));
  grad_hidden = Tensor();  // torch may reuse this memory, in stream order
  Tensor grad_down = on.empty({s.experts, s.d_model, s.d_expert}, type);
  run(launch::grouped_wgrad(in(grad), token, s.tokens, in(weighted), nullptr, s.rows(), code(x),
                            offsets, out(grad_down), s.rows(), s.experts, s.d_model, s.d_expert,
                            on.stream));
  weighted = Tensor();
  Tensor grad_gate_up = on.empty({s.experts, 2, s.d_expert, s.d_model}, type);
  run(launch::grouped_wgrad(in(both), nullptr, s.rows(), in(x), token, s.tokens, code(x), offsets,
                            out(grad_gate_up), s.rows(), s.experts, 2 * s.d_expert, s.d_model,
                            on.stream));
  Tensor grad_rows = on.empty({s.rows(), s.d_model}, type);
  run(launch::grouped_gemm(in(both), code(x), nullptr, s.rows(), in(gate_up), offsets,
                           out(grad_rows), s.rows(), s.experts, 2 * s.d_expert, s.d_model, false,
                           on.stream));
  Tensor grad_x = on.empty({s.tokens, s.d_model}, type);
  run(launch::combine_forward(in(grad_rows), code(x), place, nullptr, out(grad_x), s.tokens,
                              s.rows(), s.d_model, s.top_k, on.stream));
  return {grad_x, as(grad_gates, gates_.scalar_type()), grad_gate_up, grad_down};
}

}  // namespace mini_moe::cuda
