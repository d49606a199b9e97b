// The router's decisions after its logits, for the operation topk_gate and for decoding.
#pragma once

#include "kernels.h"
#include "support/checks.h"

namespace mini_moe {

struct Gate {
  int64_t tokens, experts, top_k, n_groups, top_k_groups;
  bool two_best, softmax, normalise;
  double route_scale;
};

// Throws if the settings don't fit the number of experts.
void check_gate(const Gate& gate);

// For tokens [first, last): scores [tokens, experts], ids and gates [tokens, top_k], and the scores
// used for the choice, -inf outside the chosen groups [tokens, experts].
struct Decisions {
  const void* logits;  // [tokens, experts], of the type of the kernels
  const float* bias;   // [experts]; null: none
  float* scores;
  int64_t* ids;
  float* gates;
  float* choice_scores;  // null: not requested
};
void choose_experts(const Gate& gate, const Kernels& kernels, int64_t element_size,
                    const Decisions& decisions, int64_t first, int64_t last);

}  // namespace mini_moe
