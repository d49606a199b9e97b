// The gradients of the experts' weights: for every expert a product summed over its rows.
//
//   out[e] = Σ over the rows r of expert e of a[a_row[r]]ᵀ b[b_row[r]], zeros if it has no rows
//   a [a's rows, m], b [b's rows, n], out [experts, m, n]; without a_row or b_row, row r itself; an
//   index that is out of range adds nothing
//
// Idea: both operands are summed along their columns, so ldmatrix transposes both. A block owns its
// tile of out and walks through all rows of its expert: no atomics, the same bits on every run, and
// an expert without rows costs only its zeros. If there is an index, the row numbers of the next
// step are loaded while this one is multiplied.
// Thread → data: the pipeline of tensor_core_tiles.cuh; fp32, and bf16 that is not aligned:
// plain_tiles.cuh.
// Bytes, with bf16 and everything read once: 2 rows (m + n), 16 per row for indices,
// 2 experts · m · n.
// FLOPs: 2 rows · m · n. Speed on a GPU: not yet measured.
#include "grouped_rows.cuh"
#include "plain_tiles.cuh"
#include "tensor_core_tiles.cuh"

namespace {
template <class T>
struct Gradient {
  const T* a;              // [n_a, m]
  const int64_t* a_row;    // [rows], or null
  const T* b;              // [n_b, n]
  const int64_t* b_row;    // [rows], or null
  const int64_t* offsets;  // [experts + 1]
  T* out;                  // [experts, m, n]
  int64_t n_a, n_b, n_rows;
  int m, n;
};

struct GradientTile {  // one block's
  int row, column, count;
  int64_t expert, first;
};
// Neighbouring blocks share an expert and, within it, the columns.
template <class T>
__device__ GradientTile find_tile(const Gradient<T>& p, int height, int width) {
  int rows = (p.m + height - 1) / height, columns = (p.n + width - 1) / width;
  int64_t expert = blockIdx.x / rows / columns;
  int64_t first = clamped(p.offsets[expert], p.n_rows);
  int64_t end = clamped(p.offsets[expert + 1], p.n_rows);
  return {int(blockIdx.x % rows) * height, int(blockIdx.x / rows % columns) * width,
          int(max(end - first, int64_t(0))), expert, first};
}

template <class T, bool kIndexA, bool kIndexB>
__global__ void __launch_bounds__(T::kThreads) tensor_core_kernel(Gradient<bf16> p) {
  GradientTile tile = find_tile(p, T::kM, T::kN);
  Sums<T> sums = {};
  Down<T, T::kM, kIndexA> a(p.a, p.m, tile.row, {p.a_row, tile.first, p.n_a, tile.count});
  Down<T, T::kN, kIndexB> b(p.b, p.n, tile.column, {p.b_row, tile.first, p.n_b, tile.count});
  multiply_tiles<T, true>(a, b, int((int64_t(tile.count) + T::kK - 1) / T::kK), sums);
  int row = tile.row + sums.warp_m(), column = tile.column + sums.warp_n();
  auto value = [&](int i, int j, int c) { return sums.of[i][j][c]; };
  store_rows<T::kWarpM, T::kWarpN>(value, p.out + (tile.expert * p.m + row) * p.n + column, p.n,
                                   p.m - row, p.n - column);
}

template <class T>
__global__ void __launch_bounds__(plain::kThreads, plain::kBlocks) plain_kernel(Gradient<T> p) {
  __shared__ plain::Tile a_tile, b_tile;
  GradientTile tile = find_tile(p, plain::kTile, plain::kTile);
  SourceRows a_rows{p.a_row, tile.first, p.n_a, tile.count};
  SourceRows b_rows{p.b_row, tile.first, p.n_b, tile.count};
  auto a = [&](int, int row, int64_t k) {
    int source = tile.row + row < p.m ? a_rows.find(int(k)) : -1;
    return source < 0 ? 0.f : to_float(p.a[int64_t(source) * p.m + tile.row + row]);
  };
  auto b = [&](int, int column, int64_t k) {
    int source = tile.column + column < p.n ? b_rows.find(int(k)) : -1;
    return source < 0 ? 0.f : to_float(p.b[int64_t(source) * p.n + tile.column + column]);
  };
  float sum[plain::kSums][plain::kSums] = {};
  plain::multiply<false, false>(a_tile, b_tile, tile.count, a, b, sum);
  for (int i = 0; i < plain::kSums; ++i)
    for (int j = 0; j < plain::kSums; ++j) {
      int row = tile.row + plain::row_of(i), column = tile.column + plain::column_of(j);
      if (row < p.m && column < p.n)
        p.out[(tile.expert * p.m + row) * p.n + column] = from_float<T>(sum[i][j]);
    }
}

template <class T>
const char* start(void (*kernel)(Gradient<T>), int height, int width, int threads,
                  size_t shared_bytes, Gradient<T> p, int64_t n_experts, void* stream) {
  int64_t n_blocks = ceil_div(p.m, height) * ceil_div(p.n, width);
  TRY(check_blocks(n_blocks * n_experts));
  return launch("grouped_wgrad", kernel, n_blocks * n_experts, threads, shared_bytes, stream, p);
}
template <class T>
const char* start_plain(Gradient<T> p, int64_t n_experts, void* stream) {
  return start(plain_kernel<T>, plain::kTile, plain::kTile, plain::kThreads, 0, p, n_experts,
               stream);
}
template <class T>
const char* start_tensor_cores(Gradient<bf16> p, int64_t n_experts, void* stream) {
  constexpr void (*kKernels[2][2])(Gradient<bf16>) = {
      {tensor_core_kernel<T, false, false>, tensor_core_kernel<T, false, true>},
      {tensor_core_kernel<T, true, false>, tensor_core_kernel<T, true, true>}};
  auto kernel = kKernels[p.a_row != nullptr][p.b_row != nullptr];
  return start(kernel, T::kM, T::kN, T::kThreads, T::kSharedBytes, p, n_experts, stream);
}

using Start = const char* (*)(Gradient<bf16>, int64_t, void*);
constexpr Start kConfigurations[] = {
    start_tensor_cores<Tiles<64, 64, 64, 3, 2, 2>>,    // many blocks from small matrices
    start_tensor_cores<Tiles<128, 128, 32, 4, 2, 2>>,  // two blocks per SM
    start_tensor_cores<Tiles<128, 256, 32, 4, 2, 4>>,  // one block, fewer bytes per FLOP
};
constexpr int kCount = sizeof kConfigurations / sizeof *kConfigurations;

// An estimate, not yet measured.
int best_configuration(const Gradient<bf16>& p, int64_t n_experts) {
  constexpr int kBlocksAtOnce = 264;  // two per SM of an H100
  if (ceil_div(p.m, 128) * ceil_div(p.n, 128) * n_experts < kBlocksAtOnce) return 0;
  return wide_tiles_pay(n_experts, p.m, p.n, p.n_rows / n_experts) ? 2 : 1;
}

template <class T>
Gradient<T> gradient(const void* a, const int64_t* a_row, int64_t n_a, const void* b,
                     const int64_t* b_row, int64_t n_b, const int64_t* offsets, void* out,
                     int64_t n_rows, int64_t m, int64_t n) {
  return {static_cast<const T*>(a), a_row, static_cast<const T*>(b), b_row, offsets,
          static_cast<T*>(out), n_a, n_b, n_rows, int(m), int(n)};
}
}  // namespace

extern "C" int64_t grouped_wgrad_configurations() { return kCount; }

// `configuration`: which tiles the tensor cores use; −1 chooses by size.
extern "C" const char* grouped_wgrad_configured(int64_t configuration, const void* a,
                                                const int64_t* a_row, int64_t n_a, const void* b,
                                                const int64_t* b_row, int64_t n_b, int64_t type,
                                                const int64_t* offsets, void* out, int64_t n_rows,
                                                int64_t n_experts, int64_t m, int64_t n,
                                                void* stream) {
  TRY(check_type(type));
  TRY(check_rows("n_rows", n_rows));
  TRY(check_source("n_a", a_row, n_a, n_rows));
  TRY(check_source("n_b", b_row, n_b, n_rows));
  TRY(check_experts(n_experts));
  TRY(check_width("m", m));
  TRY(check_width("n", n));
  TRY(check_configuration(configuration, kCount));
  if (n_rows && n_a) TRY(check_pointer("a", a));
  if (n_rows && n_b) TRY(check_pointer("b", b));
  TRY(check_pointer("offsets", offsets));
  TRY(check_pointer("out", out));
  if (type == kFloat32)
    return start_plain(gradient<float>(a, a_row, n_a, b, b_row, n_b, offsets, out, n_rows, m, n),
                       n_experts, stream);
  auto p = gradient<bf16>(a, a_row, n_a, b, b_row, n_b, offsets, out, n_rows, m, n);
  bool wide = aligned16(a) && aligned16(b) && aligned16(out) && m % 8 == 0 && n % 8 == 0;
  if (!wide) return start_plain(p, n_experts, stream);
  if (configuration < 0) configuration = best_configuration(p, n_experts);
  return kConfigurations[configuration](p, n_experts, stream);
}

extern "C" const char* grouped_wgrad(const void* a, const int64_t* a_row, int64_t n_a,
                                     const void* b, const int64_t* b_row, int64_t n_b,
                                     int64_t type, const int64_t* offsets, void* out,
                                     int64_t n_rows, int64_t n_experts, int64_t m, int64_t n,
                                     void* stream) {
  return grouped_wgrad_configured(-1, a, a_row, n_a, b, b_row, n_b, type, offsets, out, n_rows,
                                  n_experts, m, n, stream);
}
