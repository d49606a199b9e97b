// The interface between the operations (this folder) and the kernels (isa/), which are compiled
// once for each instruction set. Rows are the (token, choice) pairs sorted by expert; offsets[e] is
// where the rows of expert e begin. A pointer to void is float or bf16, depending on
// the table of kernels it is passed to.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mini_moe {

struct Forward {
  int64_t d_model, d_expert;
  const int64_t* token;  // [rows] row of x that each sorted row reads
  const void* x;         // [tokens, d_model]
  const void* gate_up;   // [experts, 2, d_expert, d_model]
  const void* down;      // [experts, d_model, d_expert]
  void* saved;           // [rows, 2, d_expert] products before the activation; null: not requested
  void* hidden;          // [rows, d_expert] after it; null: not requested
  void* output;          // [rows, d_model]
};

struct Backward {
  int64_t d_model, d_expert;
  const int64_t* token;
  const float* gates;   // [rows] in sorted order
  const void* grad;     // [tokens, d_model]
  const void* x;
  const void* gate_up;
  const void* down;
  const void* saved;
  void* weighted;       // [rows, d_expert] gate times hidden
  void* grad_saved;     // [rows, 2, d_expert]
  void* grad_rows;      // [rows, d_model] gradient of x, one row per choice
  float* grad_gates;    // [rows]
};

// out[m, n] = sum over k of a[index_a[k], m] * b[index_b[k], n]; an index may be null.
struct WeightGradient {
  int64_t m, n, k;
  bool b_is_bf16, out_is_bf16;  // a has the table's type
  const void* a;
  const int64_t* index_a;
  const void* b;
  const int64_t* index_b;
  void* out;
};

// out[r, :] = a[r, :] times the matrix of r's expert, transposed or not.
struct Product {
  int64_t k, n;
  bool transposed;  // the matrix is [n, k]; otherwise [k, n]
  bool a_is_bf16, b_is_bf16, out_is_bf16;  // operands are rounded to the table's type
  const void* a;    // [rows, k]
  const void* b;    // [experts, n, k] or [experts, k, n]
  void* out;        // [rows, n]
  int64_t left = 0, right = INT64_MAX;  // columns to compute: multiples of 32, or the end
};

// out[t, :] = sum over choices of gates[t, choice] * rows[place[t, choice], :]
struct Combine {
  int64_t top_k, width;
  const void* rows;
  const int64_t* place;
  const float* gates;  // null: all one
  void* out;
};

// Causal attention of latent heads: a query sees the keys up to its own; the last query sees all.
struct Attention {
  int64_t heads, queries, keys, d_nope, d_rope, d_v;
  float scale;
  const void* query;     // [batch, queries, heads, d_nope + d_rope]
  const void* kv;        // [batch, keys, heads, d_nope + d_v]
  const void* key_rope;  // [batch, keys, d_rope], shared by all heads
  float* row_sums;       // [batch, heads, queries, 2] largest score; 1 / sum of exp(score - largest)
  void* mixed;           // [batch, queries, heads, d_v]
  const void* grad;      // of mixed; the rest is for the backward pass
  void *grad_query, *grad_kv, *grad_key_rope;
  float* grad_rope;      // [batch, heads, keys, d_rope] what each head adds to grad_key_rope
};

// Heads [rows, heads, width] whose last 2 * pairs channels rotate; row r is at position
// r % positions.
struct Rotate {
  int64_t heads, width, pairs, positions;
  bool back;  // rotate the other way
  const float* rotation;  // [positions, pairs, 2] cosine and sine
  const void* x;
  void* out;
};

struct SwiGLU {
  const void *gate, *up;  // any shape, contiguous
  void* hidden;
  const void* grad = nullptr;  // of hidden; the rest is for the backward pass
  void *grad_gate = nullptr, *grad_up = nullptr;
};

struct Norm {
  int64_t width;
  float eps;
  bool y_is_bf16;       // y and grad; x and its gradient have the table's type
  const void* x;        // [rows, width]
  const float* weight;  // [width]
  void* y;
  float* shares;        // [rows] 1 / sqrt(mean of squares + eps)
  const void* grad;     // of y
  void* grad_x;
};

struct CrossEntropy {
  int64_t vocab;
  const void* logits;      // [rows, vocab]
  const int64_t* targets;  // [rows]
  float* row_sums;         // [rows, 2] largest logit; sum of exp(logit - largest)
  float* chosen;           // [rows] the target's logit
  const float* grad;       // [rows] of each row's loss
  void* grad_logits;
};

// A few rows of floats times rows of a matrix; rows are passed as pointers, as they may be
// anywhere.
struct FewRows {
  int64_t rows, k;
  const float* const* x;  // [rows] pointers to k floats; for mix, to n
  const void* w;          // rows of k
  int64_t w_stride;
  float* const* out;      // [rows] pointers to as many floats as w has rows; for mix, to k
  const float* scale = nullptr;  // [rows] result is added with this weight; null: overwritten
};

struct Kernels {
  // Rows [begin, end) of one expert, all columns; the caller splits rows among threads.
  void (*swiglu)(const Forward&, int64_t expert, int64_t begin, int64_t end);
  void (*forward)(const Forward&, int64_t expert, int64_t begin, int64_t end);
  void (*backward)(const Backward&, int64_t expert, int64_t begin, int64_t end);
  void (*product)(const Product&, int64_t expert, int64_t begin, int64_t end);
  // For few rows: columns [first, last), without packing the weights.
  void (*thin_swiglu)(const Forward&, int64_t expert, int64_t begin, int64_t end, int64_t first,
                      int64_t last);
  void (*thin_down)(const Forward&, int64_t expert, int64_t begin, int64_t end, int64_t first,
                    int64_t last);
  // Rows [first, last), columns [left, right) of out; left is a multiple of 32. At least one k.
  void (*weight_gradient)(const WeightGradient&, int64_t first, int64_t last, int64_t left,
                          int64_t right);
  void (*combine)(const Combine&, int64_t first, int64_t last);
  // One token: sigmoid or softmax of n logits.
  void (*scores)(const void* logits, int64_t n, bool softmax, float* out);
  // Gradients of the logits, from the scores and their gradients.
  void (*scores_gradient)(const float* scores, const float* grad, int64_t n, bool softmax,
                          void* out);
  // Ids of the k largest of n values, best first; ties go to the lower id, NaN first. k <= n.
  void (*best)(const float* values, int64_t n, int64_t k, int64_t* ids);
  // out[r][n] = <x[r], w_n> for n in [first, last).
  void (*few_rows)(const FewRows&, int64_t first, int64_t last);
  void (*mix)(const FewRows&, int64_t n);  // out[r] = sum over n of x[r][n] w_n
  void (*softmax)(float* values, int64_t n, float scale);  // softmax(scale * values), in place
  // One head of one sequence; attention_rope sums over the heads of a sequence.
  void (*attention)(const Attention&, int64_t batch, int64_t head);
  void (*attention_backward)(const Attention&, int64_t batch, int64_t head);
  void (*attention_rope)(const Attention&, int64_t batch);
  // Rows [first, last).
  void (*rotate)(const Rotate&, int64_t first, int64_t last);
  void (*swiglu_product)(const SwiGLU&, int64_t first, int64_t last);  // elements
  void (*swiglu_gradient)(const SwiGLU&, int64_t first, int64_t last);
  void (*rms_norm)(const Norm&, int64_t first, int64_t last);
  void (*rms_norm_backward)(const Norm&, int64_t first, int64_t last, float* to_weight);
  void (*cross_entropy)(const CrossEntropy&, int64_t first, int64_t last);
  void (*cross_entropy_backward)(const CrossEntropy&, int64_t first, int64_t last);
};

// The kernels of each instruction set: [0] float, [1] bf16.
namespace portable { extern const Kernels kTables[2]; }
namespace avx2 { extern const Kernels kTables[2]; }
namespace avx512 { extern const Kernels kTables[2]; }
namespace avx512_bf16 { extern const Kernels kTables[2]; }

// This thread's memory that is kept between calls: a fresh page costs more than the work on it.
enum Slot {
  kPackedB, kPackedDown, kPackedA, kHiddenBlock, kSums,      // inside kernels
  kKeyRows, kScores, kPackedValues, kPackedQueries, kGradKeys,  // inside attention
  kOutputRows, kWeighted, kGradSaved, kGradRows, kRowFloats, kGates, kOffsets,
  kGradRope, kDecode,  // inside operations
  kSlots
};
void* scratch(Slot slot, size_t bytes);
// Frees what the caller and its threads keep, and returns the bytes. Each thread frees its own.
int64_t release_scratch();

}  // namespace mini_moe
