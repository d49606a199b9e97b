// A few tokens through all layers. Keys and values are never rebuilt: W_UK is absorbed into the
// query and W_UV into the output, head by head, so that heads attend to the latents directly.
// Source: DeepSeek-V2, arXiv 2405.04434 section 2.1.2.
//
// Six phases per layer, each divided among threads by columns of its matrices, or by rows and
// heads; one thread does the little work between them. Every sum is over one row of a matrix, in an
// order that does not depend on the number of threads. Everything but matrices and cache is float.
#include <algorithm>
#include <bit>

#include "decode.h"
#include "decode_memory.h"
#include "rows.h"
#include "support/phases.h"

namespace mini_moe {
namespace {

constexpr int64_t kPhases = 6;

// Rows of floats: all of them, or those listed in an index.
struct Lines {
  float* base;
  int64_t stride;
  const int64_t* index = nullptr;

  float* line(int64_t i) const { return base + (index ? index[i] : i) * stride; }
};

struct Columns {
  int64_t first, last;
};

class Pass {
 public:
  Pass(const Decode& d, int64_t parts)
      : d_(d), k_(kernels(d.bf16)), floats_(kernels(false)), pieces_(parts),
        phases_(kPhases * (int64_t)d.layers.size()), m_(d, parts) {
    const int64_t rows = d.rows(), groups = (pieces_ + rows - 1) / rows;
    together_ = std::clamp<int64_t>((d.heads + groups - 1) / groups, 1, kHeadsAtOnce);
    load(d.x, m_.x, rows * d.d_model);
    std::fill(m_.ones, m_.ones + rows, 1.0f);
    normalise(d.layers[0].input_norm);
  }

  // Every thread calls this.
  void run(int64_t part) {
    for (int64_t number = 0; number < (int64_t)d_.layers.size(); number++) {
      const Layer& layer = d_.layers[number];
      const int64_t phase = number * kPhases;
      make_queries(layer, number, phase);
      attend(layer, number, phase + 2, m_.own + part * m_.own_size);
      leave_attention(layer, phase + 3);
      enter_experts(layer, phase + 4);
      leave_experts(layer, number, phase + 5);
    }
  }

 private:
  const Decode& d_;
  const Kernels &k_, &floats_;
  const int64_t pieces_;
  int64_t together_;  // heads per piece of attention
  Phases phases_;
  const DecodeMemory m_;
  Sorted sorted_;

  // Converts floats from the type of x, and to that of the cache.
  void load(const void* from, float* to, int64_t n) const {
    if (!d_.bf16) return (void)std::memcpy(to, from, n * sizeof(float));
    auto* halves = (const uint16_t*)from;
    for (int64_t i = 0; i < n; i++) to[i] = std::bit_cast<float>((uint32_t)halves[i] << 16);
  }
  void keep(const float* from, char* to, int64_t n) const {
    if (!d_.bf16) return (void)std::memcpy(to, from, n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
      const auto bits = std::bit_cast<uint32_t>(from[i]);
      const bool nan = from[i] != from[i];  // otherwise to the nearest, ties to even
      ((uint16_t*)to)[i] = nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
  }

  const void* skip(const void* matrix, int64_t numbers) const {
    return (const char*)matrix + numbers * d_.size();
  }

  // normed = x normalised, the input of the next step.
  void normalise(const float* weight) {
    norm_rows(m_.x, weight, d_.d_model, d_.norm_eps, m_.normed, false, d_.rows());
  }

  void norm_rows(const float* x, const float* weight, int64_t width, float eps, void* y,
                 bool y_is_bf16, int64_t rows) const {
    Norm norm{};
    norm.width = width, norm.eps = eps, norm.y_is_bf16 = y_is_bf16;
    norm.x = x, norm.weight = weight, norm.y = y, norm.shares = m_.shares;
    floats_.rms_norm(norm, 0, rows);
  }

  // Piece i of the columns; it starts at a multiple of 16.
  Columns piece(int64_t i, int64_t width) const {
    auto cut = [&](int64_t i) { return i == pieces_ ? width : width * i / pieces_ / 16 * 16; };
    return {cut(i), cut(i + 1)};
  }

  // Columns [first, last) of out = x w, or out += scale times that, for some rows.
  void multiply(const Lines& x, int64_t rows, int64_t k, const void* w, const Lines& out,
                Columns columns, const float* scale = nullptr) const {
    multiply(k_, x, rows, k, w, out, columns, scale);
  }
  static void multiply(const Kernels& kernels, const Lines& x, int64_t rows, int64_t k,
                       const void* w, const Lines& out, Columns columns, const float* scale) {
    constexpr int64_t most = 64;  // rows at a time
    for (int64_t at = 0; at < rows; at += most) {
      const int64_t n = std::min(most, rows - at);
      float *from[most], *to[most];
      for (int64_t i = 0; i < n; i++) from[i] = x.line(at + i), to[i] = out.line(at + i);
      kernels.few_rows({n, k, from, w, k, to, scale ? scale + at : nullptr}, columns.first,
                       columns.last);
    }
  }

  void make_queries(const Layer& layer, int64_t number, int64_t phase) {
    const int64_t rows = d_.rows(), queries = d_.heads * d_.d_qk(), width = d_.width();
    const int64_t d = d_.d_model;
    const Lines normed{m_.normed, d};
    const bool compressed = layer.query_a;
    const void* first = compressed ? layer.query_a : layer.query;
    float* out = compressed ? m_.small : m_.query;
    const int64_t n_first = compressed ? layer.q_rank : queries;
    phases_.run(phase, pieces_, [&](int64_t i) {
      multiply(normed, rows, d, first, {out, n_first}, piece(i, n_first));
      multiply(normed, rows, d, layer.keep, {m_.made, width}, piece(i, width));
    }, [&] {
      for (int64_t t = 0; t < rows; t++) remember(layer, number, t);
      if (compressed)
        norm_rows(m_.small, layer.query_norm, n_first, d_.latent_eps, m_.normed, false, rows);
    });
    if (!compressed) return;
    phases_.run(phase + 1, pieces_, [&](int64_t i) {
      multiply({m_.normed, n_first}, rows, n_first, layer.query, {m_.query, queries},
               piece(i, queries));
    }, [] {});
  }

  int64_t position(int64_t t) const {
    return d_.lengths[t / d_.new_tokens] + t % d_.new_tokens;
  }
  char* cached(int64_t number, int64_t t, int64_t at) const {
    const int64_t row = number * d_.cache_batch + t / d_.new_tokens;
    return d_.cache + (row * d_.capacity + at) * d_.width() * d_.size();
  }

  // Writes the token's normalised latent and its rotated key into the cache.
  void remember(const Layer& layer, int64_t number, int64_t t) {
    float* made = m_.made + t * d_.width();
    char* to = cached(number, t, position(t));
    norm_rows(made, layer.latent_norm, d_.rank, d_.latent_eps, to, d_.bf16, 1);
    turn(made + d_.rank, made + d_.rank, position(t));
    keep(made + d_.rank, to + d_.rank * d_.size(), d_.d_rope);
  }

  // RoPE on neighbouring pairs.
  void turn(const float* from, float* to, int64_t position) const {
    const float* angles = d_.rotation + position * d_.d_rope;
    for (int64_t i = 0; i < d_.d_rope; i += 2) {
      const float a = from[i], b = from[i + 1], cosine = angles[i], sine = angles[i + 1];
      to[i] = a * cosine - b * sine, to[i + 1] = a * sine + b * cosine;
    }
  }

  void attend(const Layer& layer, int64_t number, int64_t phase, float* own) {
    const int64_t groups = (d_.heads + together_ - 1) / together_;
    phases_.run(phase, d_.rows() * groups, [&](int64_t i) {
      const int64_t first = i % groups * together_;
      attend_heads(layer, number, i / groups, first, std::min(first + together_, d_.heads), own);
    }, [] {});
  }

  // Heads [first, last) of one token: queries on latents, scores, mixed latents, values.
  void attend_heads(const Layer& layer, int64_t number, int64_t t, int64_t first, int64_t last,
                    float* own) const {
    const int64_t keys = position(t) + 1, width = d_.width(), n = last - first;
    const int64_t d_up = d_.d_nope + d_.d_v, room = (d_.longest() + 15) / 16 * 16;
    float *query[kHeadsAtOnce], *score[kHeadsAtOnce], *mixed[kHeadsAtOnce];
    for (int64_t h = 0; h < n; h++) {
      query[h] = own + h * width;
      mixed[h] = own + kHeadsAtOnce * width + h * d_.rank;
      score[h] = own + kHeadsAtOnce * (width + d_.rank) + h * room;
      const float* plain = m_.query + (t * d_.heads + first + h) * d_.d_qk();
      const void* to_latent = skip(layer.up, (first + h) * d_up * d_.rank);
      k_.mix({1, d_.rank, &plain, to_latent, d_.rank, &query[h]}, d_.d_nope);
      turn(plain + d_.d_nope, query[h] + d_.rank, position(t));
    }
    const void* held = cached(number, t, 0);
    k_.few_rows({n, width, query, held, width, score}, 0, keys);
    for (int64_t h = 0; h < n; h++) k_.softmax(score[h], keys, d_.scale);
    k_.mix({n, d_.rank, score, held, width, mixed}, keys);
    for (int64_t h = 0; h < n; h++) {
      float* out = m_.mixed + (t * d_.heads + first + h) * d_.d_v;
      const void* to_value = skip(layer.up, ((first + h) * d_up + d_.d_nope) * d_.rank);
      k_.few_rows({1, d_.rank, &mixed[h], to_value, d_.rank, &out}, 0, d_.d_v);
    }
  }

  void leave_attention(const Layer& layer, int64_t phase) {
    const int64_t rows = d_.rows(), width = d_.heads * d_.d_v;
    phases_.run(phase, pieces_, [&](int64_t i) {
      multiply({m_.mixed, width}, rows, width, layer.out, {m_.x, d_.d_model},
               piece(i, d_.d_model), m_.ones);
    }, [&] {
      normalise(layer.post_norm);
      if (layer.router) route(layer);
    });
  }

  // Chooses each token's experts and gates, and sorts the rows by expert.
  void route(const Layer& layer) {
    const int64_t rows = d_.rows(), top_k = d_.gate.top_k;
    Gate gate = d_.gate;
    gate.tokens = rows, gate.experts = layer.experts;
    multiply(floats_, {m_.normed, d_.d_model}, rows, d_.d_model, layer.router,
             {m_.logits, layer.experts}, {0, layer.experts}, nullptr);
    choose_experts(gate, floats_, 4, {m_.logits, layer.bias, m_.scores, m_.ids, m_.gates}, 0, rows);
    sorted_ = {rows * top_k, top_k, layer.experts, m_.offsets, m_.token, m_.place};
    sort_rows(m_.ids, sorted_);
    for (int64_t i = 0; i < rows * top_k; i++) m_.row_gates[m_.place[i]] = m_.gates[i];
  }

  // Hidden rows: one per choice, then one per token for the shared expert.
  void enter_experts(const Layer& layer, int64_t phase) {
    const int64_t rows = d_.rows(), d = d_.d_model, ff = layer.d_ff, f = layer.d_expert;
    const int64_t choices = layer.router ? rows * d_.gate.top_k : 0;
    const int64_t shared = choices * f;
    phases_.run(phase, pieces_, [&](int64_t i) {
      if (layer.router) {
        const Columns own = piece(i, f);
        for_experts_in(sorted_, 0, choices, [&](int64_t e, int64_t begin, int64_t end) {
          const Lines x{m_.normed, d, m_.token + begin};
          const int64_t n = end - begin, at = begin * f, gate = 2 * e * f * d;
          multiply(x, n, d, skip(layer.gate_up, gate), {m_.hidden + at, f}, own);
          multiply(x, n, d, skip(layer.gate_up, gate + f * d), {m_.up + at, f}, own);
        });
        activate(0, choices, f, own);
      }
      if (!ff) return;
      const Lines x{m_.normed, d};
      multiply(x, rows, d, layer.gate_proj, {m_.hidden + shared, ff}, piece(i, ff));
      multiply(x, rows, d, layer.up_proj, {m_.up + shared, ff}, piece(i, ff));
      activate(shared, rows, ff, piece(i, ff));
    }, [] {});
  }

  // hidden = silu(hidden) * up, columns [first, last) of rows `width` long.
  void activate(int64_t at, int64_t rows, int64_t width, Columns columns) const {
    float *hidden = m_.hidden + at, *up = m_.up + at;
    for (int64_t r = 0; r < rows; r++, hidden += width, up += width)
      floats_.swiglu_product({hidden, up, hidden}, columns.first, columns.last);
  }

  void leave_experts(const Layer& layer, int64_t number, int64_t phase) {
    const int64_t rows = d_.rows(), d = d_.d_model, ff = layer.d_ff, f = layer.d_expert;
    const int64_t choices = layer.router ? rows * d_.gate.top_k : 0;
    phases_.run(phase, pieces_, [&](int64_t i) {
      const Columns own = piece(i, d);
      if (layer.router)
        for_experts_in(sorted_, 0, choices, [&](int64_t e, int64_t begin, int64_t end) {
          multiply({m_.hidden + begin * f, f}, end - begin, f, skip(layer.down, e * d * f),
                   {m_.x, d, m_.token + begin}, own, m_.row_gates + begin);
        });
      if (ff)
        multiply({m_.hidden + choices * f, ff}, rows, ff, layer.down_proj, {m_.x, d}, own,
                 m_.ones);
    }, [&] {
      const int64_t next = number + 1;
      if (next < (int64_t)d_.layers.size()) return normalise(d_.layers[next].input_norm);
      norm_rows(m_.x, d_.norm, d, d_.norm_eps, d_.y, false, rows);
    });
  }
};

}  // namespace

int64_t Decode::longest() const {
  return *std::max_element(lengths.begin(), lengths.end()) + new_tokens;
}

void decode_pass(const Decode& d) {
  int64_t work = 0;
  for (const Layer& layer : d.layers)
    work += d.rows() * d.d_model * (d.heads * d.d_qk() + 3 * layer.d_ff +
                                    (layer.router ? 3 * d.gate.top_k * layer.d_expert : 0));
  const int64_t parts = parts_for(work);
  Pass pass(d, parts);
  in_parts(parts, [&](int64_t part, int64_t) { pass.run(part); });
}

}  // namespace mini_moe
