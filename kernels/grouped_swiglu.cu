// The first half of every expert in one pass: gather, gate and up projections, SwiGLU.
//
//   for the rows r of expert e, x = x[token[r]]:  g = W_gate[e] x,  u = W_up[e] x
//   hidden[r] = silu(g) · u,  silu(g) = g / (1 + exp(-g));  saved[r] = (g | u) if requested
//   x [tokens, d_model], gate_up [experts, 2, d_expert, d_model], hidden [rows, d_expert],
//   saved [rows, 2 · d_expert]; a token outside [0, tokens) reads as zeros
//
// Idea: half of a tile's columns belong to gate and half to the same columns of up, and a warp
// computes both: the thread that holds g in registers also holds u, so only the activated hidden
// rows are ever stored.
// Thread → data: the pipeline of tensor_core_tiles.cuh; fp32, and bf16 that is not aligned:
// plain_tiles.cuh.
// Bytes, with bf16 and everything read once: 2 rows (d_model + d_expert) + 4 · active experts ·
// d_expert · d_model, and 4 rows · d_expert if g and u are saved. FLOPs: 4 rows · d_expert ·
// d_model. Speed on a GPU: not yet measured.
// Source: SwiGLU: arXiv 2002.05202 §2; gate and up in one product, activation in its epilogue:
// SonicMoE, quack_utils/gemm_gated.py.
#include "grouped_rows.cuh"
#include "plain_tiles.cuh"
#include "tensor_core_tiles.cuh"

namespace {
template <class T>
struct Layer {
  const T* x;              // [tokens, d_model]
  const int64_t* token;    // [rows], or null
  const T* gate_up;        // [experts, 2, d_expert, d_model]
  const int64_t* offsets;  // [experts + 1]
  T* hidden;               // [rows, d_expert]
  T* saved;                // [rows, 2 · d_expert], or null
  int64_t n_tokens, n_rows;
  int n_experts, d_model, d_expert;
};

__device__ inline float swiglu(float g, float u) { return g / (1 + expf(-g)) * u; }
// The same in a few instructions, off by a few units in the last place of fp32; bf16 keeps only 8
// of those 24 bits.
__device__ inline float fast_swiglu(float g, float u) {
  return __fdividef(g, 1 + __expf(-g)) * u;
}

// kN / 2 columns of gate, then the same columns of up. A warp takes half of its columns from each.
template <class T>
struct GateAndUp {
  using Half = Along<T, T::kN / 2, false>;
  using Tile = Swizzled<T::kN, T::kK>;
  static constexpr bool kTransposed = false;
  static constexpr int kHalfWarp = T::kWarpN / 2;
  static __device__ int outer(int warp, int j) {
    bool is_up = 16 * j >= kHalfWarp;
    return warp / 2 + 16 * j + (is_up ? T::kN / 2 - kHalfWarp : 0);
  }
  Half gate, up;
  __device__ void fetch(bf16* tile, int step) {
    gate.fetch(tile, step);
    up.fetch(tile + Half::Tile::kSize, step);
  }
};

template <class T>
__global__ void __launch_bounds__(T::kThreads)
    tensor_core_kernel(Layer<bf16> p, int n_slots, int n_column_tiles) {
  BlockPlace place = place_of_block(n_slots, n_column_tiles);
  RowShare rows = find_rows(p.offsets, p.n_experts, p.n_rows, T::kM, place.slot);
  if (!rows.count) return;  // the whole block
  int column = place.column_tile * (T::kN / 2);
  Sums<T> sums = {};
  if (rows.expert < p.n_experts) {
    const bf16* gate = p.gate_up + int64_t(rows.expert) * 2 * p.d_expert * p.d_model;
    const bf16* up = gate + int64_t(p.d_expert) * p.d_model;
    SourceRows columns{nullptr, column, 0, p.d_expert - column};
    Along<T, T::kM, true> x(p.x, p.d_model, {p.token, rows.first, p.n_tokens, rows.count});
    GateAndUp<T> weights{{gate, p.d_model, columns}, {up, p.d_model, columns}};
    int n_steps = (p.d_model + T::kK - 1) / T::kK;
    multiply_rows<T>(x, weights, n_steps, sums, rows.count);
  }
  constexpr int kColumns = T::kWarpN / 2;
  int64_t row = rows.first + sums.warp_m();
  int n_rows = rows.count - sums.warp_m();
  column += sums.warp_n() / 2;
  auto g = [&](int i, int j, int c) { return sums.of[i][j][c]; };
  auto u = [&](int i, int j, int c) { return sums.of[i][j + kColumns / 8][c]; };
  auto h = [&](int i, int j, int c) { return fast_swiglu(g(i, j, c), u(i, j, c)); };
  if (p.saved) {
    bf16* saved = p.saved + row * 2 * p.d_expert + column;
    store_rows<T::kWarpM, kColumns>(g, saved, 2 * p.d_expert, n_rows, p.d_expert - column);
    saved += p.d_expert;
    store_rows<T::kWarpM, kColumns>(u, saved, 2 * p.d_expert, n_rows, p.d_expert - column);
  }
  bf16* hidden = p.hidden + row * p.d_expert + column;
  store_rows<T::kWarpM, kColumns>(h, hidden, p.d_expert, n_rows, p.d_expert - column);
}

template <class T>
__global__ void __launch_bounds__(plain::kThreads, plain::kBlocks)
    plain_kernel(Layer<T> p, int n_slots, int n_column_tiles) {
  __shared__ plain::Tile x_tile, w_tile;
  BlockPlace place = place_of_block(n_slots, n_column_tiles);
  RowShare rows = find_rows(p.offsets, p.n_experts, p.n_rows, plain::kTile, place.slot);
  if (!rows.count) return;
  constexpr int kColumns = plain::kTile / 2, kHalf = plain::kSums / 2;
  int first_column = place.column_tile * kColumns;
  const T* weights = p.gate_up + int64_t(rows.expert) * 2 * p.d_expert * p.d_model;
  SourceRows tokens{p.token, rows.first, p.n_tokens, rows.count};
  int token[plain::kMine];
#pragma unroll
  for (int i = 0; i < plain::kMine; ++i) token[i] = tokens.find(plain::my_row(i));
  auto x = [&](int i, int, int64_t k) {
    return token[i] < 0 || k >= p.d_model ? 0.f : to_float(p.x[int64_t(token[i]) * p.d_model + k]);
  };
  auto w = [&](int, int j, int64_t k) {  // 32 columns of gate, then 32 of up
    int column = first_column + j % kColumns;
    if (column >= p.d_expert || k >= p.d_model) return 0.f;
    int64_t row = int64_t(j / kColumns) * p.d_expert + column;
    return to_float(weights[row * p.d_model + k]);
  };
  float sum[plain::kSums][plain::kSums] = {};
  int64_t depth = rows.expert < p.n_experts ? p.d_model : 0;
  plain::multiply<true, true>(x_tile, w_tile, depth, x, w, sum);
  for (int i = 0; i < plain::kSums; ++i)
    for (int j = 0; j < kHalf; ++j) {
      int local = plain::row_of(i), column = first_column + plain::column_of(j);
      if (local >= rows.count || column >= p.d_expert) continue;
      int64_t row = rows.first + local;
      float g = sum[i][j], u = sum[i][j + kHalf];
      p.hidden[row * p.d_expert + column] = from_float<T>(swiglu(g, u));
      if (!p.saved) continue;
      p.saved[row * 2 * p.d_expert + column] = from_float<T>(g);
      p.saved[(row * 2 + 1) * p.d_expert + column] = from_float<T>(u);
    }
}

template <class T>
const char* start(void (*kernel)(Layer<T>, int, int), int height, int width, int threads,
                  size_t shared_bytes, Layer<T> p, void* stream) {
  int64_t n_slots = slots_of(p.n_rows, p.n_experts, height);
  int64_t n_column_tiles = ceil_div(p.d_expert, width);
  TRY(check_blocks(n_slots * n_column_tiles));
  return launch("grouped_swiglu", kernel, n_slots * n_column_tiles, threads, shared_bytes, stream,
                p, int(n_slots), int(n_column_tiles));
}
template <class T>
const char* start_plain(Layer<T> p, void* stream) {
  return start(plain_kernel<T>, plain::kTile, plain::kTile / 2, plain::kThreads, 0, p, stream);
}
template <class T>
const char* start_tensor_cores(Layer<bf16> p, void* stream) {
  return start(tensor_core_kernel<T>, T::kM, T::kN / 2, T::kThreads, T::kSharedBytes, p, stream);
}

using Start = const char* (*)(Layer<bf16>, void*);
constexpr Start kConfigurations[] = {
    start_tensor_cores<Tiles<16, 128, 64, 4, 1, 4>>,   // few rows per expert: bound by weights
    start_tensor_cores<Tiles<64, 128, 64, 3, 2, 2>>,
    start_tensor_cores<Tiles<128, 128, 32, 4, 2, 2>>,  // two blocks per SM
    start_tensor_cores<Tiles<128, 256, 32, 4, 2, 4>>,  // one block, fewer bytes per FLOP
};
constexpr int kCount = sizeof kConfigurations / sizeof *kConfigurations;

int best_configuration(const Layer<bf16>& p) {  // an estimate, not yet measured
  int64_t rows = p.n_rows / p.n_experts;
  if (rows <= 96) return rows <= 16 ? 0 : 1;
  return wide_tiles_pay(p.n_experts, rows, 2 * p.d_expert, p.d_model) ? 3 : 2;
}

template <class T>
Layer<T> layer(const void* x, const int64_t* token, int64_t n_tokens, const void* gate_up,
               const int64_t* offsets, void* hidden, void* saved, int64_t n_rows,
               int64_t n_experts, int64_t d_model, int64_t d_expert) {
  return {static_cast<const T*>(x), token, static_cast<const T*>(gate_up), offsets,
          static_cast<T*>(hidden), static_cast<T*>(saved), n_tokens, n_rows, int(n_experts),
          int(d_model), int(d_expert)};
}
}  // namespace

extern "C" int64_t grouped_swiglu_configurations() { return kCount; }

// `configuration`: which tiles the tensor cores use; −1 chooses by size.
extern "C" const char* grouped_swiglu_configured(int64_t configuration, const void* x,
                                                 int64_t type, const int64_t* token,
                                                 int64_t n_tokens, const void* gate_up,
                                                 const int64_t* offsets, void* hidden,
                                                 void* saved, int64_t n_rows, int64_t n_experts,
                                                 int64_t d_model, int64_t d_expert, void* stream) {
  TRY(check_type(type));
  TRY(check_rows("n_rows", n_rows));
  TRY(check_source("n_tokens", token, n_tokens, n_rows));
  TRY(check_experts(n_experts));
  TRY(check_width("d_model", d_model));
  TRY(check_width("d_expert", d_expert));
  TRY(check_configuration(configuration, kCount));
  if (!n_rows) return nullptr;
  if (n_tokens) TRY(check_pointer("x", x));
  TRY(check_pointer("gate_up", gate_up));
  TRY(check_pointer("offsets", offsets));
  TRY(check_pointer("hidden", hidden));
  if (type == kFloat32)
    return start_plain(layer<float>(x, token, n_tokens, gate_up, offsets, hidden, saved, n_rows,
                                    n_experts, d_model, d_expert), stream);
  auto p = layer<bf16>(x, token, n_tokens, gate_up, offsets, hidden, saved, n_rows, n_experts,
                       d_model, d_expert);
  bool wide = aligned16(x) && aligned16(gate_up) && aligned16(hidden) && aligned16(saved) &&
              d_model % 8 == 0 && d_expert % 8 == 0;
  if (!wide) return start_plain(p, stream);
  if (configuration < 0) configuration = best_configuration(p);
  return kConfigurations[configuration](p, stream);
}

extern "C" const char* grouped_swiglu(const void* x, int64_t type, const int64_t* token,
                                      int64_t n_tokens, const void* gate_up,
                                      const int64_t* offsets, void* hidden, void* saved,
                                      int64_t n_rows, int64_t n_experts, int64_t d_model,
                                      int64_t d_expert, void* stream) {
  return grouped_swiglu_configured(-1, x, type, token, n_tokens, gate_up, offsets, hidden, saved,
                                   n_rows, n_experts, d_model, d_expert, stream);
}
