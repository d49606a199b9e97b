// topk_gate_backward: gradients of gates and scores -> gradient of the logits.
//
//   with q = scores[expert_ids] and S = Σ q + 1e-20:
//   dq = route_scale · (dgates / S - Σ dgates · q / S²) if `normalise`, else route_scale · dgates
//   ds = dscores, plus dq at the chosen experts
//   dlogits = ds · s (1 - s) for sigmoid, s · (ds - Σ ds · s) for softmax
// The scores are recomputed from the logits: cheaper than reading them, and never rounded as
// (score + bias) - bias. The bias has no gradient: it only affects the choice.
//
// Shapes: gates [tokens, top_k], scores and logits [tokens, experts].
// Thread → data: one warp per token, lane l holds experts l, l + 32, …; a chosen expert's values
// are exchanged by shuffles.
// Bytes per token: 2 E · sizeof(logit) + 12 K, + 4 E if scores have a gradient. FLOPs: about 10 E.
// Source: the derivative of topk_gate.cu; TransformerEngine's fused_router saves scores instead.
#include "topk_gate.cuh"

namespace {
template <int kPerLane>
__global__ void __launch_bounds__(kTokensPerBlock* kWarp)
    topk_gate_backward_kernel(const float* grad_gates,    // [tokens, top_k] by strides, or null
                              int64_t token_stride, int64_t k_stride,
                              const float* grad_scores,   // [tokens, experts], or null
                              const void* logits,         // [tokens, experts]
                              DType type,
                              const int64_t* expert_ids,  // [tokens, top_k]
                              void* grad_logits,          // [tokens, experts], type of logits
                              Gate gate) {
  int lane = threadIdx.x % kWarp;
  int64_t token = int64_t(blockIdx.x) * kTokensPerBlock + threadIdx.x / kWarp;
  if (token >= gate.n_tokens) return;
  float score[kPerLane], grad[kPerLane];
  load_scores(score, logits, type, gate, token, lane);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int expert = i * kWarp + lane;
    bool given = grad_scores && expert < gate.n_experts;
    grad[i] = given ? grad_scores[token * gate.n_experts + expert] : 0;
  }
  bool chosen = lane < gate.top_k;
  int my_id = chosen ? int(expert_ids[token * gate.top_k + lane]) : 0;
  float my_grad = 0, my_score = 0;
  if (chosen && grad_gates) my_grad = grad_gates[token * token_stride + lane * k_stride];
  for (int round = 0; round < gate.top_k; ++round) {  // lane `round` gets the score of its expert
    int id = __shfl_sync(kAllLanes, my_id, round);
    float found = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * kWarp + lane == id) found = score[i];
    found = __shfl_sync(kAllLanes, found, id % kWarp);
    if (lane == round) my_score = found;
  }
  float sum = warp_sum(my_score) + 1e-20f, weighted = warp_sum(my_grad * my_score);
  if (gate.normalise) my_grad = my_grad / sum - weighted / sum / sum;
  my_grad *= gate.route_scale;
  for (int round = 0; round < gate.top_k; ++round) {
    int id = __shfl_sync(kAllLanes, my_id, round);
    float more = __shfl_sync(kAllLanes, my_grad, round);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (i * kWarp + lane == id) grad[i] += more;
  }
  float common = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) common += grad[i] * score[i];
  if (gate.softmax) common = warp_sum(common);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int64_t at = token * gate.n_experts + i * kWarp + lane;
    if (i * kWarp + lane >= gate.n_experts) continue;
    float result = score[i] * (gate.softmax ? grad[i] - common : grad[i] * (1 - score[i]));
    if (type == kFloat32)
      static_cast<float*>(grad_logits)[at] = result;
    else
      static_cast<bf16*>(grad_logits)[at] = from_float<bf16>(result);
  }
}
}  // namespace

extern "C" const char* topk_gate_backward(
    const float* grad_gates, int64_t token_stride, int64_t k_stride, const float* grad_scores,
    const void* logits, int64_t logits_type, const int64_t* expert_ids, void* grad_logits,
    int64_t n_tokens, int64_t n_experts, int64_t top_k, int64_t softmax, int64_t normalise,
    double route_scale, void* stream) {
  Gate gate{n_tokens, int(n_experts), int(top_k),     1,                 1,
            false,    softmax != 0,   normalise != 0, float(route_scale)};
  TRY(check(gate, n_experts, top_k, 1, 1));
  TRY(check_type("logits", logits_type));
  if (n_tokens == 0) return nullptr;
  LAUNCH_FOR_EXPERTS("topk_gate_backward", topk_gate_backward_kernel, grad_gates, token_stride,
                     k_stride, grad_scores, logits, DType(logits_type), expert_ids, grad_logits,
                     gate);
}
