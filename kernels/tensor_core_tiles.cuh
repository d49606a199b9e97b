// The pipeline shared by all grouped products: bf16 tiles, tensor cores, sums in fp32.
//
// A block computes kM × kN sums. Tiles of both operands, kK deep, go through kStages buffers in
// shared memory: while one is multiplied, the next kStages - 1 are loading (cp.async). Within a
// tile, ldmatrix loads the next 16 of kK into registers while mma multiplies the current 16.
// Thread → data: warps share the sums as kWarpsM × kWarpsN; at 64 × 64 a warp reads 4 KB of shared
// memory for 2 · 64 · 64 · 16 FLOPs, half as many bytes per FLOP as at 32 × 32.
// Bytes from global memory: 2 (kM + kN) for 2 · kM · kN FLOPs, mostly from the L2 cache.
//
// An operand has one of two layouts in memory, and its tile keeps it:
//   Along: [rows, k], summed along a row; ldmatrix loads the layout that mma needs
//   Down:  [k, columns], summed down a column; ldmatrix transposes while loading
// Source: NVIDIA CUTLASS, "Efficient GEMM in CUDA" (pipelining); gau-nernst/learn-cuda (swizzle).
#pragma once
#include "grouped_rows.cuh"
#include "tensor_core.cuh"

template <int m, int n, int k, int stages, int warps_m, int warps_n>
struct Tiles {
  static constexpr int kM = m, kN = n, kK = k, kStages = stages;
  static constexpr int kWarpM = m / warps_m, kWarpN = n / warps_n, kWarpsN = warps_n;
  static constexpr int kThreads = warps_m * warps_n * kWarp;
  static constexpr int kSharedBytes = stages * (m + n) * k * 2;
  static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0 && k % 32 == 0 && stages >= 2);
  static_assert(m * n <= stages * (m + n) * k, "the result is stored through the same memory");
  static_assert(k <= 64, "16-byte chunks of a row: 4 or a multiple of 8");
};

// Whether 128 × 256 tiles beat 128 × 128 ones for `n_matrices` products of height × width, summed
// over `depth`. All launchers call this, so one line changes their choice. Computed, not measured;
// `make bench-gpu` starts by measuring it:
// + For every 16 of depth, mma.sync takes 406 clocks and 12 KB from the L2 cache: 30 bytes per
//   clock. Two blocks of 128 × 128 take as long and 16 KB: 40 bytes per clock.
// − One block fills an SM, so nothing hides its first copies and last stores, some 4,000 clocks:
//   8 % of the time of the products at a depth of 2048, 31 % at 512.
// − The last wave is rarely full, so require four waves on 132 SMs, and no tile half empty.
inline bool wide_tiles_pay(int64_t n_matrices, int64_t height, int64_t width, int64_t depth) {
  int64_t columns = (width + 127) / 128, tiles = n_matrices * ((height + 127) / 128) * columns / 2;
  return height >= 128 && columns % 2 == 0 && depth >= 2048 && tiles >= 4 * 132;
}

// Rows of 16-byte chunks, one after another. The eight rows that ldmatrix reads at once would be in
// the same banks; so each row permutes its chunks, differently in each of eight neighbouring rows.
template <int rows, int columns>
struct Swizzled {
  static constexpr int kRows = rows, kColumns = columns, kChunks = columns / 8;
  static constexpr int kSize = rows * columns;
  static_assert(kChunks == 2 || kChunks == 4 || kChunks % 8 == 0);
  static __device__ int place(unsigned row, unsigned chunk) {
    constexpr unsigned kChoices = kChunks < 8 ? kChunks : 8;
    return (row * kChunks + (chunk ^ row / (8 / kChoices) % kChoices)) * 8;
  }
};

// A thread's share of copying one tile: kCount chunks, each in a different row.
template <class Tile, int kThreads>
struct Copies {
  static constexpr int kRowsAtOnce = kThreads / Tile::kChunks;
  static constexpr int kCount = Tile::kRows / kRowsAtOnce;
  static_assert(kCount * kRowsAtOnce == Tile::kRows && kRowsAtOnce * Tile::kChunks == kThreads);
  static_assert(kRowsAtOnce % 8 == 0);  // so that a thread's chunks are equally far apart
  static __device__ int row(int i) { return threadIdx.x / Tile::kChunks + i * kRowsAtOnce; }
  static __device__ int chunk() { return threadIdx.x % Tile::kChunks; }
  static __device__ void start(bf16* tile, int i, const bf16* from, bool exists) {
    bf16* to = tile + Tile::place(row(0), chunk()) + i * kRowsAtOnce * Tile::kColumns;
    copy_async16(to, from, exists);
  }
};

// The i-th entry of an index, or −1; whether that row exists has not been checked yet.
__device__ inline int64_t asked(const SourceRows& rows, int i) {
  if (!rows.index) return i < rows.count ? rows.first + i : -1;
  return load_if(rows.index + rows.first + i, i < rows.count);
}

// Operand [rows, width], summed over its columns. The rows are the same in every step: an index is
// looked up once; without one, rows are equally spaced.
template <class T, int kOuter, bool kIndexed>
struct Along {
  using Tile = Swizzled<kOuter, T::kK>;
  using Mine = Copies<Tile, T::kThreads>;
  static constexpr bool kTransposed = false;
  static __device__ int outer(int warp, int i) { return warp + 16 * i; }  // a warp's i-th square
  const bf16* source[kIndexed ? Mine::kCount : 1];  // null: zeros
  int width, count;

  __device__ Along(const bf16* from, int width, const SourceRows& rows)
      : width(width), count(rows.count) {
    constexpr int kCount = kIndexed ? Mine::kCount : 1;
    int64_t row[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i)  // all are loaded before one is used
      row[i] = kIndexed ? asked(rows, Mine::row(i)) : rows.first + Mine::row(i);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      bool exists = !kIndexed || (row[i] >= 0 && row[i] < rows.n_there);
      source[i] = exists ? from + row[i] * width + Mine::chunk() * 8 : nullptr;
    }
  }
  __device__ void fetch(bf16* tile, int step) {
    bool inside = step * T::kK + Mine::chunk() * 8 < width;
#pragma unroll
    for (int i = 0; i < Mine::kCount; ++i) {
      bool exists = kIndexed ? source[i] != nullptr : Mine::row(i) < count;
      const bf16* row = kIndexed ? source[i] : source[0] + int64_t(i) * Mine::kRowsAtOnce * width;
      Mine::start(tile, i, row + step * T::kK, exists && inside);
    }
  }
};

// Operand [rows, width], summed over its rows, so every step loads new rows. The index is loaded
// one step ahead and checked when it is used, so that nothing waits for it.
template <class T, int kOuter, bool kIndexed>
struct Down {
  using Tile = Swizzled<T::kK, kOuter>;
  using Mine = Copies<Tile, T::kThreads>;
  static constexpr bool kTransposed = true;
  static __device__ int outer(int warp, int i) { return warp + 16 * i; }
  const bf16* from;  // this thread's column; without an index, in its first row of the next step
  int width;
  SourceRows rows;  // `first` and `count` move on
  int64_t next[kIndexed ? Mine::kCount : 1];  // rows of the next step, as memory has them

  __device__ Down(const bf16* from, int width, int column, const SourceRows& rows)
      : from(from + column + Mine::chunk() * 8), width(width), rows(rows) {
    if (column + Mine::chunk() * 8 >= width) this->rows.count = 0;
    if (kIndexed)
      find_next();
    else
      this->from += (rows.first + Mine::row(0)) * width;
  }
  __device__ void find_next() {
#pragma unroll
    for (int i = 0; i < Mine::kCount; ++i)
      next[i] = load_if(rows.index + rows.first + Mine::row(i), Mine::row(i) < rows.count);
    rows.first += T::kK, rows.count -= T::kK;
  }
  __device__ void fetch(bf16* tile, int) {
#pragma unroll
    for (int i = 0; i < Mine::kCount; ++i) {
      bool exists = kIndexed ? next[i] >= 0 && next[i] < rows.n_there : Mine::row(i) < rows.count;
      int64_t row = kIndexed ? int(next[i]) : i * Mine::kRowsAtOnce;  // an existing row fits
      Mine::start(tile, i, from + row * width, exists);
    }
    if (kIndexed)
      find_next();
    else
      from += int64_t(T::kK) * width, rows.count -= T::kK;
  }
};

// 16 × 16 of a tile: four matrices, the second one below the first, or next to it.
// `row` is a multiple of 16: rows that far apart have the same permutation of chunks.
template <class Tile, bool kBelowFirst, bool kTransposed>
__device__ void load_square(unsigned (&r)[4], const bf16* tile, int row, int column) {
  int lane = threadIdx.x % kWarp, second = lane / 8 % 2, third = lane / 16;
  int below = lane % 8 + 8 * (kBelowFirst ? second : third);
  int chunk = column / 8 + (kBelowFirst ? third : second);
  const bf16* from = tile + row * Tile::kColumns + Tile::place(below, chunk);
  if (kTransposed)
    load_matrices_transposed(r, from);
  else
    load_matrices(r, from);
}

template <class T>
struct Fragments {  // one warp's, 16 deep
  unsigned a[T::kWarpM / 16][4], b[T::kWarpN / 16][4];

  template <class A, class B>
  __device__ void load(const bf16* a_tile, const bf16* b_tile, int warp_m, int warp_n, int k) {
    constexpr bool ta = A::kTransposed, tb = B::kTransposed;
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i) {
      int outer = A::outer(warp_m, i);
      load_square<typename A::Tile, !ta, ta>(a[i], a_tile, ta ? k : outer, ta ? outer : k);
    }
#pragma unroll
    for (int j = 0; j < T::kWarpN / 16; ++j) {
      int outer = B::outer(warp_n, j);
      load_square<typename B::Tile, tb, tb>(b[j], b_tile, tb ? k : outer, tb ? outer : k);
    }
  }
};

template <class T>
struct Sums {  // one warp's: element (16 i + 8 h + lane / 4, 8 j + lane % 4 · 2 + c) is in
  float of[T::kWarpM / 16][T::kWarpN / 8][4];  // of[i][j][2 h + c]
  __device__ static int warp_m() { return threadIdx.x / kWarp / T::kWarpsN * T::kWarpM; }
  __device__ static int warp_n() { return threadIdx.x / kWarp % T::kWarpsN * T::kWarpN; }

  __device__ void add(const Fragments<T>& x) {
#pragma unroll
    for (int i = 0; i < T::kWarpM / 16; ++i)
#pragma unroll
      for (int j = 0; j < T::kWarpN / 8; ++j) {
        unsigned b[2] = {x.b[j / 2][j % 2 * 2], x.b[j / 2][j % 2 * 2 + 1]};
        multiply_add(of[i][j], x.a[i], b);
      }
  }
};

// sums += a b, over n_steps · kK. Steps past the last one load zeros, which are never used.
// Unless kEveryWarpAdds, a warp without rows copies and waits with the others but adds nothing.
template <class T, bool kEveryWarpAdds, class A, class B>
__device__ void multiply_tiles(A& a, B& b, int n_steps, Sums<T>& sums, bool has_rows = true) {
  constexpr int kAhead = T::kStages - 1, kStageSize = A::Tile::kSize + B::Tile::kSize;
  bf16* stages = dynamic_shared<bf16>();
  auto fetch = [&](int step) {
    bf16* tile = stages + step % T::kStages * kStageSize;
    a.fetch(tile, step);
    b.fetch(tile + A::Tile::kSize, step);
    commit_async_copies();
  };
  Fragments<T> fragments[2];
  auto load = [&](int which, int step, int k) {
    const bf16* tile = stages + step % T::kStages * kStageSize;
    fragments[which].template load<A, B>(tile, tile + A::Tile::kSize, sums.warp_m(),
                                         sums.warp_n(), k);
  };
  auto wait_for_next_step = [&]() {  // for this thread's copies, then for all; and no thread
    wait_for_async_copies<kAhead - 1>();  // reads this step's tiles again: they are in registers
    __syncthreads();
  };

  for (int step = 0; step < kAhead; ++step) fetch(step);
  wait_for_next_step();
  load(0, 0, 0);
  for (int step = 0; step < n_steps; ++step) {
#pragma unroll
    for (int k = 0; k < T::kK; k += 16) {
      bool last = k == T::kK - 16;
      if (last) wait_for_next_step();
      load((k / 16 + 1) % 2, last ? step + 1 : step, last ? 0 : k + 16);
      if (kEveryWarpAdds || has_rows) sums.add(fragments[k / 16 % 2]);
      if (k == 0) fetch(step + kAhead);  // into the buffer of the step before
    }
  }
  wait_for_async_copies<0>();
  __syncthreads();  // the tiles' memory is free
}

// The same for a tile with n_rows >= 1 rows. Whether every warp has some of them is tested here,
// once for the whole block: a test inside the loop would keep the compiler from interleaving
// ldmatrix, copies and mma. The deepest tiles have no registers for a second loop; there every warp
// adds, even if it only adds zeros.
template <class T, class A, class B>
__device__ void multiply_rows(A& a, B& b, int n_steps, Sums<T>& sums, int n_rows) {
  constexpr bool kOneLoop = T::kWarpM == T::kM || T::kWarpM * T::kK >= 64 * 64;
  if (kOneLoop || n_rows > T::kM - T::kWarpM)
    multiply_tiles<T, true>(a, b, n_steps, sums);
  else
    multiply_tiles<T, false>(a, b, n_steps, sums, sums.warp_m() < n_rows);
}

// A warp stores kRows × kColumns through its own part of shared memory, so that neighbouring lanes
// write 16 bytes each of one row, whole sectors. `value(i, j, c)`: indexed as in `Sums`.
template <int kRows, int kColumns, class Value>
__device__ void store_rows(Value value, bf16* out, int64_t stride, int rows, int columns) {
  using Tile = Swizzled<kRows, kColumns>;
  constexpr int kRounds = kRows * Tile::kChunks / kWarp;
  static_assert(kRounds * kWarp == kRows * Tile::kChunks);
  int lane = threadIdx.x % kWarp;
  bf16* tile = dynamic_shared<bf16>() + threadIdx.x / kWarp * Tile::kSize;
#pragma unroll
  for (int row = 0; row < kRows; row += 8)
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      int i = row / 16, c = row / 8 % 2 * 2;
      *reinterpret_cast<unsigned*>(tile + Tile::place(row + lane / 4, j) + lane % 4 * 2) =
          pack_two(value(i, j, c), value(i, j, c + 1));
    }
  __syncwarp();
#pragma unroll 4  // loads from shared memory in flight at once
  for (int i = 0; i < kRounds; ++i) {
    int at = i * kWarp + lane, row = at / Tile::kChunks, chunk = at % Tile::kChunks;
    if (row < rows && chunk * 8 < columns)
      *reinterpret_cast<uint4*>(out + row * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(tile + Tile::place(row, chunk));
  }
  __syncwarp();  // before the next call writes there
}
