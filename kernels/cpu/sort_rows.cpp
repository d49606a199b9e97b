// Sorts (token, choice) pairs by expert: count, prefix sum, place. Stable: within an expert, rows
// keep the order of the tokens. One pass over the ids to count, one to place; 8 bytes read and
// 16 written per row.
#include "rows.h"

#include <cstring>

#include "support/checks.h"

namespace mini_moe {

void sort_rows(const int64_t* ids, const Sorted& s) {
  int64_t lowest = 0, highest = 0;
  for (int64_t i = 0; i < s.n_rows; i++) {
    lowest = ids[i] < lowest ? ids[i] : lowest;
    highest = ids[i] > highest ? ids[i] : highest;
  }
  require(lowest >= 0 && (highest < s.experts || !s.n_rows), "expert_ids must lie in [0, ",
          s.experts, "), got ", lowest, " to ", highest);
  std::memset(s.offsets, 0, (s.experts + 1) * sizeof(int64_t));
  for (int64_t i = 0; i < s.n_rows; i++) s.offsets[ids[i] + 1]++;
  for (int64_t e = 0; e < s.experts; e++) s.offsets[e + 1] += s.offsets[e];
  // offsets[e] advances through e's block as it fills, and ends where e + 1 begins.
  for (int64_t i = 0, token = 0, choice = 0; i < s.n_rows; i++) {
    int64_t row = s.offsets[ids[i]]++;
    s.place[i] = row;
    s.token[row] = token;
    if (++choice == s.top_k) choice = 0, token++;
  }
  std::memmove(s.offsets + 1, s.offsets, s.experts * sizeof(int64_t));
  s.offsets[0] = 0;
}

// Returns token [rows], place [tokens, top_k], counts [experts], offsets [experts + 1]
std::tuple<Tensor, Tensor, Tensor, Tensor> sort_rows_op(const Tensor& expert_ids, int64_t experts) {
  check_type("expert_ids", expert_ids, ScalarType::Long);
  check_shape("expert_ids", expert_ids, {-1, -1});
  require(experts > 0, "n_experts: at least 1 expected, got ", experts);
  Tensor ids = dense(expert_ids);
  int64_t n_rows = ids.numel(), top_k = ids.size(1);
  Tensor token = empty({n_rows}, ScalarType::Long), counts = empty({experts}, ScalarType::Long);
  Tensor place = empty({ids.size(0), top_k}, ScalarType::Long);
  Tensor offsets = empty({experts + 1}, ScalarType::Long);
  auto* bounds = (int64_t*)offsets.mutable_data_ptr();
  sort_rows((const int64_t*)ids.const_data_ptr(),
            {n_rows, top_k, experts, bounds, (int64_t*)token.mutable_data_ptr(),
             (int64_t*)place.mutable_data_ptr()});
  auto* count = (int64_t*)counts.mutable_data_ptr();
  for (int64_t e = 0; e < experts; e++) count[e] = bounds[e + 1] - bounds[e];
  return {token, place, counts, offsets};
}

}  // namespace mini_moe
