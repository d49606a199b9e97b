// The buffers that a decoding pass keeps between its phases, carved out of one block of memory.
#pragma once

#include <algorithm>

#include "decode.h"

namespace mini_moe {

constexpr int64_t kHeadsAtOnce = 4;  // heads of one token that attend together

struct DecodeMemory {
  float *x, *normed, *shares, *ones;    // [rows, d_model] twice; [rows] twice
  float *made, *small, *query, *mixed;  // results of attention's products, one row per token
  float *hidden, *up;                   // [rows * top_k, d_expert], then [rows, d_ff]
  float *logits, *scores, *gates, *row_gates;
  int64_t *ids, *offsets, *token, *place;
  float* own;  // per thread: the queries of a group of heads, their mixed latents, their scores
  int64_t own_size;

  // Belongs to the calling thread, valid until its next pass.
  DecodeMemory(const Decode& d, int64_t parts) {
    const int64_t needed = lay_out(d, parts, nullptr);
    lay_out(d, parts, (float*)scratch(kDecode, needed * sizeof(float)));
  }

 private:
  int64_t lay_out(const Decode& d, int64_t parts, float* from) {
    int64_t q_rank = 0, d_ff = 0, experts = 0, d_expert = 0;
    for (const Layer& layer : d.layers) {
      q_rank = std::max(q_rank, layer.q_rank), d_ff = std::max(d_ff, layer.d_ff);
      experts = std::max(experts, layer.experts), d_expert = std::max(d_expert, layer.d_expert);
    }
    const int64_t rows = d.rows(), choices = experts ? rows * d.gate.top_k : 0;
    const int64_t hidden_size = choices * d_expert + rows * d_ff;
    own_size = padded(kHeadsAtOnce * (d.width() + d.rank + padded(d.longest())));
    int64_t used = 0;
    auto floats = [&](float*& to, int64_t n) { to = from + used, used += padded(n); };
    auto numbers = [&](int64_t*& to, int64_t n) {
      to = (int64_t*)(from + used), used += padded(2 * n);
    };
    floats(x, rows * d.d_model), floats(normed, rows * std::max(d.d_model, q_rank));
    floats(shares, rows), floats(ones, rows);
    floats(made, rows * d.width()), floats(small, rows * q_rank);
    floats(query, rows * d.heads * d.d_qk()), floats(mixed, rows * d.heads * d.d_v);
    floats(hidden, hidden_size), floats(up, hidden_size);
    floats(logits, rows * experts), floats(scores, rows * experts);
    floats(gates, choices), floats(row_gates, choices);
    numbers(ids, choices), numbers(offsets, experts + 1);
    numbers(token, choices), numbers(place, choices);
    floats(own, parts * own_size);
    return used;
  }

  static int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
};

}  // namespace mini_moe
