// The launchers of kernels/*.cu: plain C, compiled by nvcc. Types are 0 for float32, 1 for
// bfloat16; the stream comes last; each returns null, or a sentence that says why nothing was
// launched.
#pragma once

#include <cstdint>

namespace mini_moe::launch {
extern "C" {

const char* topk_gate_forward(const void* logits, int64_t logits_type, const void* bias,
                              int64_t bias_type, float* scores, float* choice_scores, int64_t* expert_ids, float* gates,
                              int64_t n_tokens, int64_t n_experts, int64_t top_k, int64_t n_groups,
                              int64_t top_k_groups, int64_t two_best, int64_t softmax,
                              int64_t normalise, double route_scale, void* stream);

const char* topk_gate_backward(const float* grad_gates, int64_t token_stride, int64_t k_stride,
                               const float* grad_scores, const void* logits, int64_t logits_type,
                               const int64_t* expert_ids, void* grad_logits, int64_t n_tokens,
                               int64_t n_experts, int64_t top_k, int64_t softmax,
                               int64_t normalise, double route_scale, void* stream);

int64_t sort_rows_workspace(int64_t n_rows, int64_t n_experts);
const char* sort_rows(const int64_t* expert_ids, int64_t* token, int64_t* place, int64_t* counts,
                      int64_t* offsets, int* workspace, int64_t n_tokens, int64_t top_k,
                      int64_t n_experts, int64_t multiple, void* stream);

const char* grouped_swiglu(const void* x, int64_t type, const int64_t* token, int64_t n_tokens,
                           const void* gate_up, const int64_t* offsets, void* hidden, void* saved,
                           int64_t n_rows, int64_t n_experts, int64_t d_model, int64_t d_expert,
                           void* stream);

const char* grouped_gemm(const void* a, int64_t type, const int64_t* a_row, int64_t n_source_rows,
                         const void* b, const int64_t* offsets, void* out, int64_t n_rows,
                         int64_t n_experts, int64_t k, int64_t n, int64_t transposed,
                         void* stream);

const char* grouped_wgrad(const void* a, const int64_t* a_row, int64_t n_a, const void* b,
                          const int64_t* b_row, int64_t n_b, int64_t type, const int64_t* offsets,
                          void* out, int64_t n_rows, int64_t n_experts, int64_t m, int64_t n,
                          void* stream);

const char* swiglu_backward(const void* grad_hidden, const void* saved, int64_t type,
                            const int64_t* place, const float* gates, void* grad_both,
                            void* weighted, float* grad_gates, int64_t n_choices, int64_t n_rows,
                            int64_t d_expert, void* stream);

const char* combine_forward(const void* y, int64_t type, const int64_t* place, const float* gates,
                            void* out, int64_t n_tokens, int64_t n_rows, int64_t d_model,
                            int64_t top_k, void* stream);
}
}  // namespace mini_moe::launch
