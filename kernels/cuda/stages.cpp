// The stages of the layer as separate operations. Rows are sorted by expert; offsets[e] is where
// expert e's rows begin.
#include "operations.h"

namespace mini_moe::cuda {

Sorted sort(const Tensor& expert_ids, int64_t n_experts, const OnDevice& on) {
  on.check("expert_ids", expert_ids, ScalarType::Long);
  check_shape("expert_ids", expert_ids, {-1, -1});
  require(n_experts >= 1 && n_experts <= 1024, "n_experts: 1 to 1024 on CUDA expected, got ",
          n_experts);
  const Tensor ids = dense(expert_ids);
  const int64_t n_rows = ids.numel(), tokens = ids.size(0), top_k = ids.size(1);
  Sorted s{on.empty({n_rows}, ScalarType::Long), on.empty({tokens, top_k}, ScalarType::Long),
           on.empty({n_experts}, ScalarType::Long), on.empty({n_experts + 1}, ScalarType::Long)};
  Tensor workspace = on.empty({launch::sort_rows_workspace(n_rows, n_experts)}, ScalarType::Int);
  run(launch::sort_rows(in<int64_t>(ids), out<int64_t>(s.token), out<int64_t>(s.place),
                        out<int64_t>(s.counts), out<int64_t>(s.offsets), out<int>(workspace),
                        tokens, top_k, n_experts, 1, on.stream));
  return s;
}

// Returns token [rows], place [tokens, top_k], counts [experts], offsets [experts + 1]
std::tuple<Tensor, Tensor, Tensor, Tensor> sort_rows(const Tensor& expert_ids, int64_t n_experts) {
  const Sorted s = sort(expert_ids, n_experts, OnDevice("expert_ids", expert_ids));
  return {s.token, s.place, s.counts, s.offsets};
}

std::tuple<Tensor, Tensor> grouped_swiglu(
    const Tensor& x_, const Tensor& token_, const Tensor& offsets_, const Tensor& gate_up_,
    bool keep) {
  const OnDevice on("x", x_);
  check_shape("gate_up_proj", gate_up_, {-1, 2, -1, -1});
  const int64_t experts = gate_up_.size(0), d_expert = gate_up_.size(2), d_model = gate_up_.size(3);
  check_shape("x", x_, {-1, d_model});
  check_shape("token", token_, {-1});
  check_shape("offsets", offsets_, {experts + 1});
  is_bf16("x", x_);
  on.check("token", token_, ScalarType::Long);
  on.check("offsets", offsets_, ScalarType::Long);
  on.check("gate_up_proj", gate_up_, x_.scalar_type());
  const Tensor x = dense(x_), token = dense(token_), offsets = dense(offsets_);
  const Tensor gate_up = dense(gate_up_);
  const int64_t rows = token.numel();
  Tensor hidden = on.empty({rows, d_expert}, x.scalar_type());
  Tensor saved = on.empty({keep ? rows : 0, 2 * d_expert}, x.scalar_type());
  run(launch::grouped_swiglu(in(x), code(x), in<int64_t>(token), x.size(0), in(gate_up),
                             in<int64_t>(offsets), out(hidden), keep ? out(saved) : nullptr, rows,
                             experts, d_model, d_expert, on.stream));
  return {hidden, saved};
}

Tensor grouped_gemm(const Tensor& a_, const Tensor& offsets_, const Tensor& b_, bool transposed) {
  const OnDevice on("a", a_);
  check_shape("b", b_, {-1, -1, -1});
  const int64_t experts = b_.size(0), k = b_.size(transposed ? 2 : 1);
  const int64_t n = b_.size(transposed ? 1 : 2);
  check_shape("a", a_, {-1, k});
  check_shape("offsets", offsets_, {experts + 1});
  is_bf16("a", a_);
  on.check("offsets", offsets_, ScalarType::Long);
  on.check("b", b_, a_.scalar_type());
  const Tensor a = dense(a_), b = dense(b_), offsets = dense(offsets_);
  const int64_t rows = a.size(0);
  Tensor result = on.empty({rows, n}, a.scalar_type());
  run(launch::grouped_gemm(in(a), code(a), nullptr, rows, in(b), in<int64_t>(offsets), out(result),
                           rows, experts, k, n, transposed, on.stream));
  return result;
}

Tensor grouped_wgrad(const Tensor& a_, const Tensor& b_, const Tensor& offsets_) {
  const OnDevice on("a", a_);
  check_shape("a", a_, {-1, -1});
  check_shape("b", b_, {a_.size(0), -1});
  check_shape("offsets", offsets_, {-1});
  require(offsets_.numel() > 1, "offsets: [experts + 1] expected, got ", shape_of(offsets_));
  is_bf16("a", a_);
  on.check("b", b_, a_.scalar_type());
  on.check("offsets", offsets_, ScalarType::Long);
  const Tensor a = dense(a_), b = dense(b_), offsets = dense(offsets_);
  const int64_t experts = offsets.numel() - 1, rows = a.size(0), m = a.size(1), n = b.size(1);
  Tensor result = on.empty({experts, m, n}, a.scalar_type());
  run(launch::grouped_wgrad(in(a), nullptr, rows, in(b), nullptr, rows, code(a),
                            in<int64_t>(offsets), out(result), rows, experts, m, n, on.stream));
  return result;
}

Tensor combine(const Tensor& rows_, const Tensor& place_, std::optional<Tensor> gates_) {
  const OnDevice on("rows", rows_);
  check_shape("rows", rows_, {-1, -1});
  check_shape("place", place_, {-1, -1});
  is_bf16("rows", rows_);
  on.check("place", place_, ScalarType::Long);
  const int64_t tokens = place_.size(0), top_k = place_.size(1), width = rows_.size(1);
  if (gates_) {
    check_shape("gates", *gates_, {tokens, top_k});
    on.check("gates", *gates_, ScalarType::Float);
  }
  const Tensor rows = dense(rows_), place = dense(place_);
  const Tensor gates = gates_ ? dense(*gates_) : Tensor();
  Tensor result = on.empty({tokens, width}, rows.scalar_type());
  run(launch::combine_forward(in(rows), code(rows), in<int64_t>(place),
                              gates_ ? in<float>(gates) : nullptr, out(result), tokens,
                              rows.size(0), width, top_k, on.stream));
  return result;
}

}  // namespace mini_moe::cuda
