// Grouped product: one matrix per expert, rows sorted by expert. The last step of the ladder.
//
//   out[r] = A[r] b[e] for the rows r of expert e; A[r] = a[a_row[r]], or a[r] without a_row
//   a [source rows, k], out [rows, n], b [experts, k, n], or [experts, n, k] if `transposed`
// The layer's down-projection (transposed) and its gradient with respect to the input (not). The
// gather is part of loading a: no copy of the tokens is made. A row whose a_row is not in
// [0, source rows) is zero, as are rows past the last expert's.
//
// Idea, beyond step 5: blocks search for their expert, run in an order that shares tiles in the L2
// cache, and store 16 bytes per lane; there are several tile sizes, for few and many rows per
// expert.
// Thread → data: tensor_core_tiles.cuh; fp32, and bf16 that is not aligned: plain_tiles.cuh.
// Bytes, with bf16 and everything read once: 2 rows (k + n) + 2 · active experts · k · n, and 8
// per row for a_row. FLOPs: 2 rows · k · n. Speed on a GPU: not yet measured.
#include "grouped_rows.cuh"
#include "plain_tiles.cuh"
#include "tensor_core_tiles.cuh"

namespace {
template <class T>
struct Product {
  const T* a;              // [source rows, k]
  const int64_t* a_row;    // [rows], or null
  const T* b;              // [experts, k, n] or [experts, n, k]
  const int64_t* offsets;  // [experts + 1]
  T* out;                  // [rows, n]
  int64_t n_source_rows, n_rows;
  int n_experts, k, n;
};

template <class T, bool kTransposed>
__global__ void __launch_bounds__(T::kThreads)
    tensor_core_kernel(Product<bf16> p, int n_slots, int n_column_tiles) {
  BlockPlace place = place_of_block(n_slots, n_column_tiles);
  RowShare rows = find_rows(p.offsets, p.n_experts, p.n_rows, T::kM, place.slot);
  if (!rows.count) return;  // the whole block
  int column = place.column_tile * T::kN, n_steps = (p.k + T::kK - 1) / T::kK;
  const bf16* weights = p.b + int64_t(rows.expert) * p.k * p.n;
  Sums<T> sums = {};
  if (rows.expert < p.n_experts) {
    SourceRows source{p.a_row, rows.first, p.n_source_rows, rows.count};
    Along<T, T::kM, true> a(p.a, p.k, source);
    if constexpr (kTransposed) {
      Along<T, T::kN, false> b(weights, p.k, {nullptr, column, 0, p.n - column});
      multiply_rows<T>(a, b, n_steps, sums, rows.count);
    } else {
      Down<T, T::kN, false> b(weights, p.n, column, {nullptr, 0, 0, p.k});
      multiply_rows<T>(a, b, n_steps, sums, rows.count);
    }
  }
  int64_t row = rows.first + sums.warp_m();
  column += sums.warp_n();
  auto value = [&](int i, int j, int c) { return sums.of[i][j][c]; };
  store_rows<T::kWarpM, T::kWarpN>(value, p.out + row * p.n + column, p.n,
                                   rows.count - sums.warp_m(), p.n - column);
}

template <class T, bool kTransposed>
__global__ void __launch_bounds__(plain::kThreads, plain::kBlocks)
    plain_kernel(Product<T> p, int n_slots, int n_column_tiles) {
  __shared__ plain::Tile a_tile, b_tile;
  BlockPlace place = place_of_block(n_slots, n_column_tiles);
  RowShare rows = find_rows(p.offsets, p.n_experts, p.n_rows, plain::kTile, place.slot);
  if (!rows.count) return;
  int first_column = place.column_tile * plain::kTile;
  const T* weights = p.b + int64_t(rows.expert) * p.k * p.n;
  SourceRows source_rows{p.a_row, rows.first, p.n_source_rows, rows.count};
  int source[plain::kMine];
#pragma unroll
  for (int i = 0; i < plain::kMine; ++i) source[i] = source_rows.find(plain::my_row(i));
  auto a = [&](int i, int, int64_t k) {
    return source[i] < 0 || k >= p.k ? 0.f : to_float(p.a[int64_t(source[i]) * p.k + k]);
  };
  auto b = [&](int, int j, int64_t k) {
    int column = first_column + j;
    if (column >= p.n || k >= p.k) return 0.f;
    return to_float(weights[kTransposed ? int64_t(column) * p.k + k : k * p.n + column]);
  };
  float sum[plain::kSums][plain::kSums] = {};
  int64_t depth = rows.expert < p.n_experts ? p.k : 0;
  plain::multiply<true, kTransposed>(a_tile, b_tile, depth, a, b, sum);
  for (int i = 0; i < plain::kSums; ++i)
    for (int j = 0; j < plain::kSums; ++j) {
      int row = plain::row_of(i), column = first_column + plain::column_of(j);
      if (row < rows.count && column < p.n)
        p.out[(rows.first + row) * p.n + column] = from_float<T>(sum[i][j]);
    }
}

template <class T>
const char* start(void (*kernel)(Product<T>, int, int), int height, int width, int threads,
                  size_t shared_bytes, Product<T> p, void* stream) {
  int64_t n_slots = slots_of(p.n_rows, p.n_experts, height), n_column_tiles = ceil_div(p.n, width);
  TRY(check_blocks(n_slots * n_column_tiles));
  return launch("grouped_gemm", kernel, n_slots * n_column_tiles, threads, shared_bytes, stream, p,
                int(n_slots), int(n_column_tiles));
}
template <class T>
const char* start_plain(Product<T> p, bool transposed, void* stream) {
  auto kernel = transposed ? plain_kernel<T, true> : plain_kernel<T, false>;
  return start(kernel, plain::kTile, plain::kTile, plain::kThreads, 0, p, stream);
}
template <class T>
const char* start_tensor_cores(Product<bf16> p, bool transposed, void* stream) {
  auto kernel = transposed ? tensor_core_kernel<T, true> : tensor_core_kernel<T, false>;
  return start(kernel, T::kM, T::kN, T::kThreads, T::kSharedBytes, p, stream);
}

using Start = const char* (*)(Product<bf16>, bool, void*);
constexpr Start kConfigurations[] = {
    start_tensor_cores<Tiles<16, 128, 64, 4, 1, 4>>,   // few rows per expert: bound by weights
    start_tensor_cores<Tiles<64, 128, 64, 3, 2, 2>>,
    start_tensor_cores<Tiles<128, 128, 32, 4, 2, 2>>,  // two blocks per SM
    start_tensor_cores<Tiles<128, 128, 64, 3, 2, 2>>,  // half as many barriers
    start_tensor_cores<Tiles<128, 256, 32, 4, 2, 4>>,  // one block, fewer bytes per FLOP
};
constexpr int kCount = sizeof kConfigurations / sizeof *kConfigurations;

int best_configuration(const Product<bf16>& p) {  // an estimate, not yet measured
  int64_t rows = p.n_rows / p.n_experts;
  if (rows <= 96) return rows <= 16 ? 0 : 1;
  return wide_tiles_pay(p.n_experts, rows, p.n, p.k) ? 4 : 2;
}

template <class T>
Product<T> product(const void* a, const int64_t* a_row, int64_t n_source_rows, const void* b,
                   const int64_t* offsets, void* out, int64_t n_rows, int64_t n_experts, int64_t k,
                   int64_t n) {
  return {static_cast<const T*>(a), a_row, static_cast<const T*>(b), offsets, static_cast<T*>(out),
          n_source_rows, n_rows, int(n_experts), int(k), int(n)};
}
}  // namespace

extern "C" int64_t grouped_gemm_configurations() { return kCount; }

// `configuration`: which tiles the tensor cores use; −1 chooses by size.
extern "C" const char* grouped_gemm_configured(int64_t configuration, const void* a, int64_t type,
                                               const int64_t* a_row, int64_t n_source_rows,
                                               const void* b, const int64_t* offsets, void* out,
                                               int64_t n_rows, int64_t n_experts, int64_t k,
                                               int64_t n, int64_t transposed, void* stream) {
  TRY(check_type(type));
  TRY(check_rows("n_rows", n_rows));
  TRY(check_source("n_source_rows", a_row, n_source_rows, n_rows));
  TRY(check_experts(n_experts));
  TRY(check_width("k", k));
  TRY(check_width("n", n));
  TRY(check_configuration(configuration, kCount));
  if (!n_rows) return nullptr;
  if (n_source_rows) TRY(check_pointer("a", a));
  TRY(check_pointer("b", b));
  TRY(check_pointer("offsets", offsets));
  TRY(check_pointer("out", out));
  if (type == kFloat32)
    return start_plain(product<float>(a, a_row, n_source_rows, b, offsets, out, n_rows, n_experts,
                                      k, n), transposed, stream);
  auto p = product<bf16>(a, a_row, n_source_rows, b, offsets, out, n_rows, n_experts, k, n);
  bool wide = aligned16(a) && aligned16(b) && aligned16(out) && k % 8 == 0 && n % 8 == 0;
  if (!wide) return start_plain(p, transposed, stream);
  if (configuration < 0) configuration = best_configuration(p);
  return kConfigurations[configuration](p, transposed, stream);
}

extern "C" const char* grouped_gemm(const void* a, int64_t type, const int64_t* a_row,
                                    int64_t n_source_rows, const void* b, const int64_t* offsets,
                                    void* out, int64_t n_rows, int64_t n_experts, int64_t k,
                                    int64_t n, int64_t transposed, void* stream) {
  return grouped_gemm_configured(-1, a, type, a_row, n_source_rows, b, offsets, out, n_rows,
                                 n_experts, k, n, transposed, stream);
}
