// The operations that also exist on CUDA: the experts' layer, its stages and the gate. bindings.cpp
// holds their schemas; CPU-only operations register themselves at the end of their files.
#pragma once

#include <vector>

#include "support/checks.h"

namespace mini_moe {

std::tuple<Tensor, Tensor, Tensor, Tensor> sort_rows_op(const Tensor& expert_ids, int64_t experts);

std::tuple<Tensor, Tensor, Tensor, Tensor> topk_gate(
    const Tensor& logits, std::optional<Tensor> bias, int64_t top_k, int64_t n_groups,
    int64_t top_k_groups, bool two_best, bool softmax, bool normalise, double route_scale);
Tensor topk_gate_backward(std::optional<Tensor> grad_gates, std::optional<Tensor> grad_scores,
                          const Tensor& logits, const Tensor& ids, bool softmax, bool normalise,
                          double route_scale);
std::tuple<Tensor, Tensor> grouped_swiglu(
    const Tensor& x, const Tensor& token, const Tensor& offsets, const Tensor& gate_up, bool keep);
Tensor grouped_gemm(const Tensor& a, const Tensor& offsets, const Tensor& b, bool transposed);
Tensor grouped_wgrad(const Tensor& a, const Tensor& b, const Tensor& offsets);
Tensor combine(const Tensor& rows, const Tensor& place, std::optional<Tensor> gates);

std::tuple<Tensor, Tensor> experts_forward(
    const Tensor& x, const Tensor& ids, const Tensor& gates, const Tensor& gate_up,
    const Tensor& down, bool keep);

std::tuple<Tensor, Tensor, Tensor, Tensor> experts_backward(
    const Tensor& grad, const Tensor& x, const Tensor& ids, const Tensor& gates,
    const Tensor& gate_up, const Tensor& down, const Tensor& saved);

}  // namespace mini_moe
