// Shared by both passes of the layer: its shape, its rows sorted by expert, and how threads divide
// them: evenly, with cuts moved to the start of an expert if one is near.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {

struct Sorted {
  int64_t n_rows, top_k, experts;
  int64_t* offsets;  // [experts + 1]
  int64_t* token;    // [rows]
  int64_t* place;    // [tokens, top_k]
};

// Fills the three arrays. Throws before writing if an id is outside [0, experts).
void sort_rows(const int64_t* ids, const Sorted& sorted);

struct Shape {
  int64_t tokens, top_k, experts, d_model, d_expert;
  int64_t rows() const { return tokens * top_k; }
};

inline Shape check(const Tensor& x, const Tensor& ids, const Tensor& gates, const Tensor& gate_up,
            const Tensor& down) {
  check_shape("gate_up_proj", gate_up, {-1, 2, -1, -1});
  check_shape("expert_ids", ids, {-1, -1});
  Shape s{ids.size(0), ids.size(1), gate_up.size(0), gate_up.size(3), gate_up.size(2)};
  check_shape("x", x, {s.tokens, s.d_model});
  check_shape("gates", gates, {s.tokens, s.top_k});
  check_shape("down_proj", down, {s.experts, s.d_model, s.d_expert});
  is_bf16("x", x), is_bf16("gates", gates);
  check_type("x", x, x.scalar_type());
  check_type("gates", gates, gates.scalar_type());
  check_type("expert_ids", ids, ScalarType::Long);
  check_type("gate_up_proj", gate_up, x.scalar_type());
  check_type("down_proj", down, x.scalar_type());
  require(s.top_k > 0, "expert_ids: at least 1 choice per token expected, got 0");
  return s;
}

inline Sorted sort(const Tensor& ids, const Shape& s) {
  auto* memory = (int64_t*)scratch(kOffsets, (2 * s.rows() + s.experts + 1) * sizeof(int64_t));
  Sorted sorted{s.rows(), s.top_k, s.experts, memory + 2 * s.rows(), memory, memory + s.rows()};
  sort_rows((const int64_t*)dense(ids).const_data_ptr(), sorted);
  return sorted;
}

// Gates as floats [tokens, top_k].
inline const float* as_floats(const Tensor& gates) {
  int64_t n = gates.numel();
  auto* out = (float*)scratch(kGates, n * sizeof(float));
  Tensor values = dense(gates);
  if (!is_bf16("gates", values)) {
    if (n) std::memcpy(out, values.const_data_ptr(), n * sizeof(float));
    return out;
  }
  auto* halves = (const uint16_t*)values.const_data_ptr();
  for (int64_t i = 0; i < n; i++) {
    uint32_t bits = uint32_t(halves[i]) << 16;
    std::memcpy(out + i, &bits, 4);
  }
  return out;
}

// Where part p of the rows begins: at the start of an expert if one is near.
inline int64_t cut(const Sorted& s, int64_t part, int64_t parts) {
  if (part >= parts) return s.n_rows;
  int64_t target = s.n_rows * part / parts, expert = 0;
  while (expert < s.experts && s.offsets[expert + 1] <= target) expert++;
  if (expert == s.experts) return s.n_rows;
  int64_t begin = s.offsets[expert], end = s.offsets[expert + 1], near = s.n_rows / parts / 16;
  if (target - begin <= near) return begin;
  if (end - target <= near) return end;
  return begin + (target - begin) / 12 * 12;
}

template <class Work>
void for_experts_in(const Sorted& s, int64_t begin, int64_t end, const Work& work) {
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = s.offsets[e] > begin ? s.offsets[e] : begin;
    int64_t last = s.offsets[e + 1] < end ? s.offsets[e + 1] : end;
    if (first < last) work(e, first, last);
  }
}

inline void combine_rows(const Kernels& k, const Combine& c, int64_t tokens) {
  in_parts(parts_for(tokens * c.top_k * c.width), [&](int64_t part, int64_t parts) {
    k.combine(c, tokens * part / parts, tokens * (part + 1) / parts);
  });
}

}  // namespace mini_moe
