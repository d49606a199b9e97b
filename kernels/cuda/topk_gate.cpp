// The router after its logits, and its gradient: topk_gate.cu, topk_gate_backward.cu.
#include "operations.h"

namespace mini_moe::cuda {

// Returns gates and expert_ids [tokens, top_k]; scores and choice_scores [tokens, experts]
std::tuple<Tensor, Tensor, Tensor, Tensor> topk_gate(
    const Tensor& logits_, std::optional<Tensor> bias_, int64_t top_k, int64_t n_groups,
    int64_t top_k_groups, bool two_best, bool softmax, bool normalise, double route_scale) {
  const OnDevice on("logits", logits_);
  check_shape("logits", logits_, {-1, -1});
  is_bf16("logits", logits_);
  const int64_t tokens = logits_.size(0), experts = logits_.size(1);
  if (bias_) {
    check_shape("bias", *bias_, {experts});
    on.check("bias", *bias_, ScalarType::Float);
  }
  require(top_k >= 1 && top_k <= 32 && top_k <= experts,
          "top_k: 1 to 32 and at most n_experts=", experts, " expected, got ", top_k);
  const Tensor logits = dense(logits_), bias = bias_ ? dense(*bias_) : Tensor();
  Tensor gates = on.empty({tokens, top_k}, ScalarType::Float);
  Tensor ids = on.empty({tokens, top_k}, ScalarType::Long);
  Tensor scores = on.empty({tokens, experts}, ScalarType::Float);
  Tensor choice_scores = on.empty({tokens, experts}, ScalarType::Float);
  run(launch::topk_gate_forward(in(logits), code(logits), bias_ ? in(bias) : nullptr, 0,
                                out<float>(scores), out<float>(choice_scores), out<int64_t>(ids),
                                out<float>(gates), tokens, experts, top_k, n_groups, top_k_groups, two_best, softmax,
                                normalise, route_scale, on.stream));
  return {gates, ids, scores, choice_scores};
}

// The gradient of the logits, in their type; a missing gradient counts as zero.
Tensor topk_gate_backward(std::optional<Tensor> grad_gates, std::optional<Tensor> grad_scores_,
                          const Tensor& logits_, const Tensor& ids_, bool softmax, bool normalise,
                          double route_scale) {
  const OnDevice on("logits", logits_);
  check_shape("logits", logits_, {-1, -1});
  is_bf16("logits", logits_);
  const int64_t tokens = logits_.size(0), experts = logits_.size(1);
  check_shape("expert_ids", ids_, {tokens, -1});
  on.check("expert_ids", ids_, ScalarType::Long);
  if (grad_gates) {
    check_shape("grad_gates", *grad_gates, {tokens, ids_.size(1)});
    on.check("grad_gates", *grad_gates, ScalarType::Float);
  }
  if (grad_scores_) {
    check_shape("grad_scores", *grad_scores_, {tokens, experts});
    on.check("grad_scores", *grad_scores_, ScalarType::Float);
  }
  const Tensor logits = dense(logits_), ids = dense(ids_);
  const Tensor grad_scores = grad_scores_ ? dense(*grad_scores_) : Tensor();
  Tensor grad_logits = on.empty({tokens, experts}, logits.scalar_type());
  run(launch::topk_gate_backward(
      grad_gates ? in<float>(*grad_gates) : nullptr, grad_gates ? grad_gates->stride(0) : 0,
      grad_gates ? grad_gates->stride(1) : 0, grad_scores_ ? in<float>(grad_scores) : nullptr,
      in(logits), code(logits), in<int64_t>(ids), out(grad_logits), tokens, experts, ids.size(1),
      softmax, normalise, route_scale, on.stream));
  return grad_logits;
}

}  // namespace mini_moe::cuda
