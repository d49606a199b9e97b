// The operations: the layer's steps, and the layer itself. Their schemas are in bindings.cpp.
#pragma once

#include <vector>

#include "support/checks.h"

namespace mini_moe {

std::tuple<Tensor, Tensor, Tensor, Tensor> sort_rows_op(const Tensor& expert_ids, int64_t experts);

std::tuple<Tensor, Tensor, Tensor> topk_gate(
    const Tensor& logits, std::optional<Tensor> bias, int64_t top_k, int64_t n_groups,
    int64_t top_k_groups, bool two_best, bool softmax, bool normalise, double route_scale);
Tensor topk_gate_backward(std::optional<Tensor> grad_gates, std::optional<Tensor> grad_scores,
                          const Tensor& logits, const Tensor& ids, bool softmax, bool normalise,
                          double route_scale);
Tensor choose_best(const Tensor& values, int64_t k);
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

std::tuple<Tensor, Tensor> latent_attention(
    const Tensor& query, const Tensor& kv, const Tensor& key_rope, double scale);
std::tuple<Tensor, Tensor, Tensor> latent_attention_backward(
    const Tensor& grad, const Tensor& query, const Tensor& kv, const Tensor& key_rope,
    const Tensor& row_sums, double scale);

Tensor rotate(const Tensor& x, const Tensor& rotation, bool back);

Tensor linear(const Tensor& x, const Tensor& weight, bool narrow);
std::tuple<Tensor, Tensor> linear_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight);

Tensor swiglu_product(const Tensor& gate, const Tensor& up);
std::tuple<Tensor, Tensor> swiglu_product_backward(
    const Tensor& grad, const Tensor& gate, const Tensor& up);

std::tuple<Tensor, Tensor> rms_norm(
    const Tensor& x, const Tensor& weight, double eps, bool narrow);
std::tuple<Tensor, Tensor> rms_norm_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Tensor& shares);
std::tuple<Tensor, Tensor, Tensor> add_rms_norm(
    const Tensor& x, const Tensor& added, const Tensor& weight, double eps, bool narrow);
std::tuple<Tensor, Tensor, Tensor> add_rms_norm_backward(
    const Tensor& grad_total, const Tensor& grad, const Tensor& total, const Tensor& weight,
    const Tensor& shares, bool narrow);

std::tuple<Tensor, Tensor> cross_entropy(const Tensor& logits, const Tensor& targets);
Tensor cross_entropy_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& targets, const Tensor& row_sums);

Tensor decode(
    const Tensor& x, Tensor numbers, std::vector<int64_t> lengths, const Tensor& rotation,
    std::vector<Tensor> layers, const Tensor& norm, int64_t heads, int64_t d_v, double scale,
    double norm_eps, double latent_eps, int64_t top_k, int64_t n_groups, int64_t top_k_groups,
    bool two_best, bool softmax, bool normalise, double route_scale);
Tensor few_rows(const Tensor& x, const Tensor& w);

}  // namespace mini_moe
