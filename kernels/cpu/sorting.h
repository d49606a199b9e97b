// Counting sort of (token, choice) pairs by expert; see sort_rows.cpp.
#pragma once

#include <cstdint>

namespace mini_moe {

struct Sorted {
  int64_t n_rows, top_k, experts;
  int64_t* offsets;  // [experts + 1]
  int64_t* token;    // [rows]
  int64_t* place;    // [tokens, top_k]
};

// Fills the three arrays. Throws before writing when an id is outside [0, experts).
void sort_rows(const int64_t* ids, const Sorted& sorted);

}  // namespace mini_moe
