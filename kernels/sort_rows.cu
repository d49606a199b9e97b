// sort_rows: group the tokens · top_k rows by expert, keeping the order of the tokens (stable).
//
//   counts[e]   = rows of expert e
//   offsets[e]  = Σ of the counts below e, each rounded up to a `multiple`; offsets[experts] = end
//   place[t, k] = offsets[e] + how many rows before (t, k) also have e = expert_ids[t, k]
//   token[place[t, k]] = t, and 0 in padding rows
//   An id outside [0, experts) is skipped: its place is -1 and it is not counted.
// Integers have no gradient. Nothing returns to the host: sizes follow from the arguments, with
// room for rows + min(experts, rows) · (multiple - 1) in `token`.
//
// Thread → data: three launches over chunks of rows, one chunk per block:
//   count   warps count lanes with equal ids (match) into the block's counts in shared memory
//   scan    thread e turns the blocks' counts of expert e into an exclusive prefix sum over blocks,
//           then the block sums the padded counts over the experts
//   place   each warp counts its own rows, the counts are summed over warps per expert, then a
//           lane's place is its expert's next one + the lower lanes with the same id: no atomics,
//           so stable
// Bytes: 16 per row read (each id twice), 16 per row written, and 8 · experts per block of
// workspace.
// Source: Merrill & Grimshaw, Parallel Scan for Stream Architectures, 2009: reduce, scan, scatter.
#include "device.cuh"

namespace {
constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kMaxExperts = 1024;
constexpr int kMaxBlocks = 264;  // two per SM of an H100; the scan over them is serial

__device__ inline int read_id(const int64_t* expert_ids, int64_t row, int64_t n_rows,
                              int n_experts) {
  if (row >= n_rows) return -1;
  int64_t id = expert_ids[row];
  return id >= 0 && id < n_experts ? int(id) : -1;
}

__device__ inline bool is_first(unsigned lanes, int lane) { return __ffs(lanes) - 1 == lane; }

__global__ void __launch_bounds__(kThreads)
    count_rows_kernel(const int64_t* expert_ids,  // [rows]
                      int* block_counts,          // [blocks, experts]
                      int64_t n_rows, int n_experts, int rounds) {
  int* counts = dynamic_shared<int>();  // [experts]
  for (int e = threadIdx.x; e < n_experts; e += kThreads) counts[e] = 0;
  __syncthreads();
  int lane = threadIdx.x % kWarp;
  for (int round = 0; round < rounds; ++round) {
    int64_t row = (int64_t(blockIdx.x) * rounds + round) * kThreads + threadIdx.x;
    int id = read_id(expert_ids, row, n_rows, n_experts);
    unsigned same = __match_any_sync(kAllLanes, id);
    if (id >= 0 && is_first(same, lane)) atomicAdd(&counts[id], __popc(same));
  }
  __syncthreads();
  for (int e = threadIdx.x; e < n_experts; e += kThreads)
    block_counts[int64_t(blockIdx.x) * n_experts + e] = counts[e];
}

__global__ void __launch_bounds__(kMaxExperts)
    scan_counts_kernel(int* block_counts,  // [blocks, experts], becomes the rows before each block
                       int64_t* counts,    // [experts]
                       int64_t* offsets,   // [experts + 1]
                       int n_blocks, int n_experts, int64_t multiple) {
  __shared__ int64_t warp_totals[kMaxExperts / kWarp];
  int e = threadIdx.x, lane = e % kWarp;
  int64_t count = 0;
  constexpr int kAtOnce = 8;  // counts loaded together
  for (int first = 0; e < n_experts && first < n_blocks; first += kAtOnce) {
    int here[kAtOnce];
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b)
      here[b] = first + b < n_blocks ? block_counts[int64_t(first + b) * n_experts + e] : 0;
#pragma unroll
    for (int b = 0; b < kAtOnce; ++b) {
      if (first + b < n_blocks) block_counts[int64_t(first + b) * n_experts + e] = int(count);
      count += here[b];
    }
  }
  if (e < n_experts) counts[e] = count;
  int64_t padded = (count + multiple - 1) / multiple * multiple, sum = padded;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {  // sum over the lanes up to this one
    int64_t below = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == kWarp - 1) warp_totals[e / kWarp] = sum;
  __syncthreads();
  for (int warp = 0; warp < e / kWarp; ++warp) sum += warp_totals[warp];
  if (e < n_experts) offsets[e] = sum - padded;
  if (e == n_experts - 1) offsets[n_experts] = sum;
}

__global__ void __launch_bounds__(kThreads)
    place_rows_kernel(const int64_t* expert_ids,  // [rows]
                      const int* rows_before,     // [blocks, experts]
                      const int64_t* offsets,     // [experts + 1]
                      int64_t* place,             // [rows]
                      int64_t* token,             // [room]
                      int64_t n_rows, int n_experts, int top_k, int rounds) {
  int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int* next = dynamic_shared<int>();  // [warps, experts]: rows of a warp, then its next place
  int* mine = next + warp * n_experts;
  for (int e = lane; e < n_experts; e += kWarp) mine[e] = 0;
  __syncwarp();
  // A warp's rows are consecutive, so earlier warps hold earlier rows.
  int64_t first = (int64_t(blockIdx.x) * kWarps + warp) * rounds * kWarp + lane;
  for (int round = 0; round < rounds; ++round) {
    int id = read_id(expert_ids, first + round * kWarp, n_rows, n_experts);
    unsigned same = __match_any_sync(kAllLanes, id);
    if (id >= 0 && is_first(same, lane)) mine[id] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  for (int e = threadIdx.x; e < n_experts; e += kThreads) {
    int sum = int(offsets[e]) + rows_before[int64_t(blockIdx.x) * n_experts + e];
    for (int w = 0; w < kWarps; ++w) {
      int rows = next[w * n_experts + e];
      next[w * n_experts + e] = sum;
      sum += rows;
    }
  }
  __syncthreads();
  unsigned lanes_below = (1u << lane) - 1;
  int64_t end = offsets[n_experts];
  for (int round = 0; round < rounds; ++round) {
    int64_t row = first + round * kWarp;
    int id = read_id(expert_ids, row, n_rows, n_experts);
    unsigned same = __match_any_sync(kAllLanes, id);
    int64_t here = id >= 0 ? mine[id] + __popc(same & lanes_below) : -1;
    __syncwarp();  // all have read before one of them writes
    if (id >= 0 && is_first(same, lane)) mine[id] += __popc(same);
    __syncwarp();
    if (row < n_rows) place[row] = here;
    if (id >= 0) token[here] = row / top_k;
    if (row < n_rows && row >= end) token[row] = 0;  // a padding row
  }
}

int rounds_for(int64_t n_rows) {
  int64_t rounds = ceil_div(n_rows, int64_t(kMaxBlocks) * kThreads);
  return int(rounds < 4 ? 4 : rounds);
}
int64_t blocks_for(int64_t n_rows) {
  return ceil_div(n_rows, int64_t(rounds_for(n_rows)) * kThreads);
}

const char* check(int64_t n_tokens, int64_t top_k, int64_t n_experts, int64_t multiple) {
  if (n_experts < 1 || n_experts > kMaxExperts)
    return fail("n_experts: expected 1 to 1024, got %lld", shown(n_experts));
  if (top_k < 1 || top_k > n_experts)
    return fail("top_k: expected 1 to n_experts=%lld, got %lld", shown(n_experts),
                shown(top_k));
  if (multiple < 1 || multiple > 1 << 16)
    return fail("multiple: expected 1 to 65536, got %lld", shown(multiple));
  int64_t most = 0x7fffffff - n_experts * multiple;
  if (n_tokens < 0 || n_tokens > most / top_k)
    return fail("n_tokens: expected 0 to %lld (rows are counted in 31 bits), got %lld",
                shown(most / top_k), shown(n_tokens));
  return nullptr;
}
}  // namespace

// Number of integers that `workspace` must hold.
extern "C" int64_t sort_rows_workspace(int64_t n_rows, int64_t n_experts) {
  return blocks_for(n_rows) * n_experts;
}

// Number of rows that `token` must hold.
extern "C" int64_t sort_rows_room(int64_t n_rows, int64_t n_experts, int64_t multiple) {
  return n_rows + (n_rows < n_experts ? n_rows : n_experts) * (multiple - 1);
}

extern "C" const char* sort_rows(const int64_t* expert_ids, int64_t* token, int64_t* place,
                                 int64_t* counts, int64_t* offsets, int* workspace,
                                 int64_t n_tokens, int64_t top_k, int64_t n_experts,
                                 int64_t multiple, void* stream) {
  TRY(check(n_tokens, top_k, n_experts, multiple));
  int64_t n_rows = n_tokens * top_k, n_blocks = blocks_for(n_rows);
  int rounds = rounds_for(n_rows), experts = int(n_experts);
  if (n_rows)
    TRY(launch("sort_rows: count", count_rows_kernel, n_blocks, kThreads, experts * sizeof(int),
               stream, expert_ids, workspace, n_rows, experts, rounds));
  TRY(launch("sort_rows: scan", scan_counts_kernel, 1, ceil_div(n_experts, kWarp) * kWarp, 0,
             stream, workspace, counts, offsets, n_blocks, experts, multiple));
  if (!n_rows) return nullptr;
  if (multiple > 1) {
    size_t room = sort_rows_room(n_rows, n_experts, multiple);
    TRY(fill_bytes(token, 0, room * sizeof(int64_t), stream));
  }
  return launch("sort_rows: place", place_rows_kernel, n_blocks, kThreads,
                kWarps * experts * sizeof(int), stream, expert_ids, workspace, offsets, place,
                token, n_rows, experts, int(top_k), rounds);
}
