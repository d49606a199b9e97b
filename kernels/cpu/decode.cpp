// Checks the arguments of a pass over a few tokens; also a product for few rows. The pass itself is
// in decode_pass.cpp.
#include "decode.h"

#include "support/checks.h"
#include "support/dispatch.h"

namespace mini_moe {
namespace {

constexpr int64_t kPerLayer = 16;  // tensors; empty if a layer does not have one

// Hands out a layer's tensors one by one, checked.
struct Reader {
  const std::vector<Tensor>& tensors;
  int64_t at;
  ScalarType type;

  const Tensor& next(const char* name, ScalarType wanted) {
    const Tensor& tensor = tensors[at++];
    check_type(name, tensor, wanted);
    require(tensor.is_contiguous(), name, ": a contiguous tensor expected, got strides");
    return tensor;
  }
  const void* matrix(const char* name, std::initializer_list<int64_t> shape) {
    const Tensor& tensor = next(name, type);
    check_shape(name, tensor, shape);
    return tensor.const_data_ptr();
  }
  const float* floats(const char* name, std::initializer_list<int64_t> shape) {
    const Tensor& tensor = next(name, ScalarType::Float);
    check_shape(name, tensor, shape);
    return (const float*)tensor.const_data_ptr();
  }
  // Rows of the next tensor; 0 if it is missing.
  int64_t length() const { return tensors[at].numel() ? tensors[at].size(0) : 0; }
  void skip(int64_t n) { at += n; }
};

Layer read_layer(Reader from, const Decode& d) {
  Layer layer{};
  const int64_t width = d.d_model;
  layer.input_norm = from.floats("input_norm", {width});
  layer.q_rank = from.length();
  if (layer.q_rank) {
    layer.query_a = from.matrix("query_a", {layer.q_rank, width});
    layer.query_norm = from.floats("query_norm", {layer.q_rank});
  } else {
    from.skip(2);
  }
  layer.query = from.matrix("query", {d.heads * d.d_qk(), layer.q_rank ? layer.q_rank : width});
  layer.keep = from.matrix("keep", {d.width(), width});
  layer.latent_norm = from.floats("latent_norm", {d.rank});
  layer.up = from.matrix("up", {d.heads * (d.d_nope + d.d_v), d.rank});
  layer.out = from.matrix("out", {width, d.heads * d.d_v});
  layer.post_norm = from.floats("post_norm", {width});
  layer.d_ff = from.length();
  if (layer.d_ff) {
    layer.gate_proj = from.matrix("gate_proj", {layer.d_ff, width});
    layer.up_proj = from.matrix("up_proj", {layer.d_ff, width});
    layer.down_proj = from.matrix("down_proj", {width, layer.d_ff});
  } else {
    from.skip(3);
  }
  layer.experts = from.length();
  if (!layer.experts) return layer;
  Gate gate = d.gate;
  gate.experts = layer.experts;
  check_gate(gate);
  layer.router = from.floats("router", {layer.experts, width});
  if (from.length()) layer.bias = from.floats("bias", {layer.experts});
  else from.skip(1);
  const Tensor& both = from.tensors[from.at];
  layer.d_expert = both.dim() == 4 ? both.size(2) : 0;
  layer.gate_up = from.matrix("gate_up_proj", {layer.experts, 2, layer.d_expert, width});
  layer.down = from.matrix("down_proj", {layer.experts, width, layer.d_expert});
  return layer;
}

}  // namespace

// Returns y [batch, new, d_model] in float32: x after all layers and the final norm. Writes `new`
// positions into numbers [layers, rows, capacity, rank + d_rope], after the first lengths[b] of row
// b.
Tensor decode(const Tensor& x_, Tensor numbers, std::vector<int64_t> lengths,
              const Tensor& rotation, std::vector<Tensor> layers, const Tensor& norm,
              int64_t heads, int64_t d_v, double scale, double norm_eps, double latent_eps,
              int64_t top_k, int64_t n_groups, int64_t top_k_groups, bool two_best, bool softmax,
              bool normalise, double route_scale) {
  check_shape("x", x_, {-1, -1, -1});
  Decode d{};
  d.bf16 = is_bf16("x", x_);
  const ScalarType type = x_.scalar_type();
  check_type("x", x_, type);
  d.batch = x_.size(0), d.new_tokens = x_.size(1), d.d_model = x_.size(2);
  require(d.rows() > 0, "x: at least one token expected, got ", shape_of(x_));
  require(!layers.empty() && layers.size() % kPerLayer == 0, "layers: ", kPerLayer,
          " tensors per layer expected, got ", layers.size());
  const int64_t n_layers = layers.size() / kPerLayer;
  check_shape("rotation", rotation, {-1, -1, 2});
  check_type("rotation", rotation, ScalarType::Float);
  require(rotation.is_contiguous() && numbers.is_contiguous(),
          "rotation and numbers: contiguous tensors expected, got strides");
  d.d_rope = 2 * rotation.size(1);
  check_shape("numbers", numbers, {n_layers, -1, -1, -1});
  check_type("numbers", numbers, type);
  d.cache_batch = numbers.size(1), d.capacity = numbers.size(2);
  d.rank = numbers.size(3) - d.d_rope;
  require(d.rank > 0, "numbers: more than ", d.d_rope, " per token expected, got ",
          numbers.size(3));
  require((int64_t)lengths.size() == d.batch && d.batch <= d.cache_batch, "lengths: ", d.batch,
          " of the cache's ", d.cache_batch, " rows expected, got ", lengths.size());
  const int64_t room = std::min(d.capacity, rotation.size(0)) - d.new_tokens;
  for (int64_t length : lengths)
    require(length >= 0 && length <= room, "lengths: 0 to ", room, " expected, got ", length);
  d.lengths = std::move(lengths);
  const Tensor& up = layers[6];
  require(heads > 0 && d_v > 0 && up.dim() == 2 && up.size(0) % heads == 0 &&
              up.size(0) / heads >= d_v,
          "heads, d_v: a divisor of the rows of up and at most a head's expected, got ", heads,
          " and ", d_v, " for ", shape_of(up));
  d.heads = heads, d.d_v = d_v, d.d_nope = up.size(0) / heads - d_v;
  d.scale = (float)scale, d.norm_eps = (float)norm_eps, d.latent_eps = (float)latent_eps;
  d.gate = {d.rows(), 0, top_k, n_groups, top_k_groups, two_best, softmax, normalise, route_scale};
  for (int64_t i = 0; i < n_layers; i++)
    d.layers.push_back(read_layer({layers, i * kPerLayer, type}, d));
  const std::vector<Tensor> last{norm};
  d.norm = Reader{last, 0, type}.floats("norm", {d.d_model});
  const Tensor x = dense(x_);
  Tensor y = empty({d.batch, d.new_tokens, d.d_model}, ScalarType::Float);
  d.rotation = (const float*)rotation.const_data_ptr();
  d.cache = (char*)numbers.mutable_data_ptr(), d.x = x.const_data_ptr();
  d.y = y.mutable_data_ptr();
  decode_pass(d);
  return y;
}

// x [rows, k] times w [n, k] transposed; w is read once for up to four rows, in place.
Tensor few_rows(const Tensor& x_, const Tensor& w_) {
  check_shape("x", x_, {-1, -1});
  check_shape("w", w_, {-1, x_.size(1)});
  check_type("x", x_, ScalarType::Float);
  const bool bf16 = is_bf16("w", w_);
  check_type("w", w_, w_.scalar_type());
  const Tensor x = dense(x_), w = dense(w_);
  const int64_t rows = x.size(0), k = x.size(1), n = w.size(0);
  Tensor out = empty({rows, n}, ScalarType::Float);
  std::vector<const float*> from(rows);
  std::vector<float*> to(rows);
  for (int64_t r = 0; r < rows; r++) {
    from[r] = (const float*)x.const_data_ptr() + r * k;
    to[r] = (float*)out.mutable_data_ptr() + r * n;
  }
  const FewRows f{rows, k, from.data(), w.const_data_ptr(), k, to.data()};
  in_parts(parts_for(rows * n * k), [&](int64_t part, int64_t parts) {
    auto cut = [&](int64_t part) { return part == parts ? n : n * part / parts / 16 * 16; };
    kernels(bf16).few_rows(f, cut(part), cut(part + 1));
  });
  return out;
}

}  // namespace mini_moe

STABLE_TORCH_LIBRARY_FRAGMENT(mini_moe, m) {
  m.def(
      "decode(Tensor x, Tensor(a!) numbers, int[] lengths, Tensor rotation, Tensor[] layers,"
      " Tensor norm, int heads, int d_v, float scale, float norm_eps, float latent_eps, int top_k,"
      " int n_groups, int top_k_groups, bool two_best, bool softmax, bool normalise,"
      " float route_scale) -> Tensor");
  m.def("few_rows(Tensor x, Tensor w) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(mini_moe, CPU, m) {
  m.impl("decode", TORCH_BOX(&mini_moe::decode));
  m.impl("few_rows", TORCH_BOX(&mini_moe::few_rows));
}
