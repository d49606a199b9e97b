// A few tokens decoded with a cache of latents: the arguments that decode.cpp checks and
// decode_pass.cpp uses. Matrices are float or bf16, [out, in]; norms, router and its bias are
// float.
#pragma once

#include <vector>

#include "gate.h"

namespace mini_moe {

struct Layer {
  const float* input_norm;  // [d_model]
  const void* query_a;      // [q_rank, d_model]; null: queries are computed from the input
  const float* query_norm;  // [q_rank]
  const void* query;        // [heads, d_nope + d_rope, q_rank or d_model]
  const void* keep;         // [rank + d_rope, d_model]
  const float* latent_norm; // [rank]
  const void* up;           // [heads, d_nope + d_v, rank]
  const void* out;          // [d_model, heads, d_v]
  const float* post_norm;   // [d_model]
  const void *gate_proj, *up_proj;  // [d_ff, d_model]; null: no shared expert
  const void* down_proj;    // [d_model, d_ff]
  const float* router;      // [experts, d_model]; null: a dense layer
  const float* bias;        // [experts] or null
  const void* gate_up;      // [experts, 2, d_expert, d_model]
  const void* down;         // [experts, d_model, d_expert]
  int64_t d_ff, experts, d_expert, q_rank;
};

struct Decode {
  bool bf16;
  int64_t batch, new_tokens, d_model, heads, d_nope, d_rope, d_v, rank;
  int64_t cache_batch, capacity;
  float norm_eps, latent_eps, scale;
  Gate gate;  // experts is the layer's
  std::vector<Layer> layers;
  std::vector<int64_t> lengths;  // [batch] tokens in the cache
  const float* rotation;         // [positions, d_rope / 2, 2]
  const float* norm;             // [d_model] after the last layer
  char* cache;                   // [layers, cache_batch, capacity, rank + d_rope]
  const void* x;                 // [batch, new_tokens, d_model]
  void* y;                       // [batch, new_tokens, d_model] floats, normalised

  int64_t rows() const { return batch * new_tokens; }
  int64_t width() const { return rank + d_rope; }
  int64_t d_qk() const { return d_nope + d_rope; }
  int64_t size() const { return bf16 ? 2 : 4; }
  int64_t longest() const;  // tokens in the fullest row, the new ones included
};

void decode_pass(const Decode& decode);

}  // namespace mini_moe
