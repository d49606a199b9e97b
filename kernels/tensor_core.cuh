// The instructions of a tensor-core kernel: PTX under nvcc, equivalent C++ under g++.
//
// Layouts are PTX's: an 8 × 8 matrix of bf16 is spread over a warp with lane =
// 4 · row + column / 2, and a register holds two neighbours of a row. With g = lane / 4 and
// t = lane % 4:
//   A 16 × 16: a[0] = (g, 2t..), a[1] = (g + 8, 2t..), a[2] and a[3] the same at column 2t + 8..
//   B 16 × 8:  b[0] = (2t.., g), b[1] = (2t + 8.., g)
//   C 16 × 8:  c[0], c[1] = (g, 2t..), c[2], c[3] = (g + 8, 2t..)
// Source: PTX ISA, "mma.m16n8k16", "ldmatrix", "cp.async".
#pragma once
#include "device.cuh"

#ifdef __CUDACC__
__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes from global to shared memory, bypassing registers. They have arrived after
// `wait_for_async_copies`; other threads also need a barrier.
__device__ inline void copy_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(shared)),
               "l"(global)
               : "memory");
}
// The same, or 16 bytes of zeros without reading `global`. The L2 cache fetches 128 bytes.
__device__ inline void copy_async16(void* shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(exists ? 16 : 0)
               : "memory");
}
// *from, or −1 without reading `from`. There is no branch, so nothing waits until it is used.
__device__ inline int64_t load_if(const int64_t* from, bool exists) {
  int64_t x;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nmov.b64 %0, -1;\n"
      "@p ld.global.nc.b64 %0, [%1];\n}\n"
      : "=&l"(x)
      : "l"(from), "r"(int(exists)));
  return x;
}
__device__ inline void commit_async_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most `kGroupsLeft` of this thread's commits are pending.
template <int kGroupsLeft>
__device__ void wait_for_async_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroupsLeft) : "memory");
}

// Four 8 × 8 matrices; lane i gives the address of row i % 8 of matrix i / 8.
__device__ inline void load_matrices(unsigned (&r)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(unsigned (&r)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// C += A B, 16 × 8 × 16, products of bf16 summed in fp32.
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else  // g++

__device__ inline void copy_async16(void* shared, const void* global) {
  checker::copy_later(shared, global, 16);
}
__device__ inline void copy_async16(void* shared, const void* global, bool exists) {
  checker::copy_later(shared, exists ? global : nullptr, 16);
}
__device__ inline int64_t load_if(const int64_t* from, bool exists) { return exists ? *from : -1; }
__device__ inline void commit_async_copies() { checker::commit_copies(); }
template <int kGroupsLeft>
__device__ inline void wait_for_async_copies() {
  checker::wait_for_copies(kGroupsLeft);
}

namespace checker {
struct Rows {  // one lane's part of ldmatrix
  uint16_t row[8];
  unsigned r[4];
};
template <bool transposed>
UNWATCHED inline void share_matrices(void** lanes, unsigned) {
  for (int lane = 0; lane < kWarp; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) {
      unsigned pair = 0;
      for (int i = 0; i < 2; ++i) {
        int row = lane / 4, column = lane % 4 * 2 + i;
        if (transposed) row = column, column = lane / 4;
        pair |= unsigned(((Rows*)lanes[matrix * 8 + row])->row[column]) << 16 * i;
      }
      ((Rows*)lanes[lane])->r[matrix] = pair;
    }
}

struct Fragments {
  float* c;
  const unsigned *a, *b;
};
UNWATCHED inline float half_of(const unsigned* registers, int i) {
  return bit_copy<float>(registers[i / 2] >> 16 * (i % 2) << 16);
}
UNWATCHED inline void multiply_fragments(void** lanes, unsigned) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    auto& f = *(Fragments*)lanes[lane];
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; ++i) a[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] = half_of(f.a, i);
    for (int i = 0; i < 4; ++i) b[2 * t + i % 2 + i / 2 * 8][g] = half_of(f.b, i);
  }
  for (int lane = 0; lane < kWarp; ++lane)
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 16; ++k)
        ((Fragments*)lanes[lane])->c[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
}

template <bool transposed>
ALWAYS_INLINE void load_rows(unsigned (&r)[4], const void* row, const char* file, int line) {
  Rows mine;
  copy_shared(mine.row, row, 16);
  meet("ldmatrix", kAllLanes, &mine, share_matrices<transposed>, file, line, true);
  for (int i = 0; i < 4; ++i) r[i] = mine.r[i];
}
}  // namespace checker

ALWAYS_INLINE void load_matrices(unsigned (&r)[4], const bf16* row,
                                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  checker::load_rows<false>(r, row, file, line);
}
ALWAYS_INLINE void load_matrices_transposed(unsigned (&r)[4], const bf16* row,
                                            const char* file = __builtin_FILE(),
                                            int line = __builtin_LINE()) {
  checker::load_rows<true>(r, row, file, line);
}
ALWAYS_INLINE void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  checker::Fragments mine{c, a, b};
  checker::meet("mma", kAllLanes, &mine, checker::multiply_fragments, file, line, true);
}
#endif
