// The threads of a block as fibers, and which one runs next.
//
// Fibers start with ucontext and switch with setjmp/longjmp, without system calls. Their order is
// fixed (or exactly reversed), so a report is the same on every run, and a race is found
// although the two accesses never happen at the same time.
#include <sys/mman.h>

#include <algorithm>

#include "fibers.h"

// The memory that `extern __shared__` refers to in a kernel.
extern "C" {
alignas(128) char checker_dynamic_shared[228 << 10];
}

namespace checker {
bool running = false;
Position here;
uint32_t first_block_of_launch = 2;
std::vector<Fiber> fibers;
std::vector<std::vector<Meeting>> meetings;
bool stopped;
int current, n_threads;
Index block_id;

static jmp_buf scheduler;

std::string in_brackets(Index i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

void give_way() {
  if (_setjmp(fibers[current].context) == 0) _longjmp(scheduler, 1);
}

namespace {
constexpr size_t kStackGuard = 64 << 10;  // a stack overflow faults here
constexpr size_t kStackBytes = (512 << 10) + kStackGuard;  // 512 KB: CUDA's limit per thread
constexpr size_t kMaxShared = 227 << 10;  // dynamic bytes a block of an H100 may ask for
bool reversed = false;
Index block_dim, grid_dim;
void (*kernel_body)(void*);
void* kernel_context;
Region* shared = nullptr;
std::string stop_reason;

Index unravel(unsigned i, Index size) {
  return {i % size.x, i / size.x % size.y, i / size.x / size.y};
}

void life() {  // a fiber's main loop: runs one kernel thread after another
  for (;;) {
    kernel_body(kernel_context);
    fibers[current].state = State::done;
    give_way();
  }
}

bool give_stacks() {
  for (int t = 0; t < n_threads; ++t) {
    if (fibers[t].stack) continue;
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) return false;
    mprotect(stack, kStackGuard, PROT_NONE);
    fibers[t].stack = (char*)stack;
  }
  return true;
}

void resume(int thread) {
  current = thread;
  Fiber& fiber = fibers[thread];
  here.thread = thread;
  here.clock = fiber.clock;
  if (_setjmp(scheduler)) return;
  if (fiber.born) _longjmp(fiber.context, 1);
  fiber.born = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack;
  fiber.start.uc_stack.ss_size = kStackBytes;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, life, 0);
  setcontext(&fiber.start);
}

bool run_warp(int warp) {
  bool ran = false;
  for (int i = 0; i < kWarp; ++i) {
    int thread = warp * kWarp + (reversed ? kWarp - 1 - i : i);
    if (thread >= n_threads || fibers[thread].state != State::ready) continue;
    resume(thread);
    ran = true;
    if (stopped) return false;
    if (fibers[thread].state == State::done) hold_complete_meetings(warp);
  }
  return ran;
}

void run_block() {
  poison_shared_memory();
  ++here.block;
  ++here.interval;
  for (int t = 0; t < n_threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.state = State::ready;
    fiber.index = unravel(t, block_dim);
    fiber.clock = 1;
    std::fill_n(fiber.known, kWarp, 0);
  }
  int n_warps = meetings.size();
  for (auto& open : meetings) open.clear();
  while (!stopped) {
    for (int i = 0; i < n_warps && !stopped; ++i)
      while (run_warp(reversed ? n_warps - 1 - i : i)) {
      }
    if (stopped) break;
    bool over = std::all_of(fibers.begin(), fibers.begin() + n_threads,
                            [](const Fiber& fiber) { return fiber.state == State::done; });
    if (over) break;
    release_barrier();
  }
  forget_copies();
  if (recording) end_of_block_recorded();
}

const char* wrong_configuration(Index grid, Index block, size_t shared_bytes) {
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) return "invalid launch; block: 1 to 1024 threads, at most 64 of them in z";
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return "invalid launch; grid: x up to 2^31-1, y and z up to 65535, none 0";
  if (shared_bytes > kMaxShared) return "invalid launch; shared memory: at most 227 KB";
  return nullptr;
}
}  // namespace

Index thread_index() { return fibers[current].index; }
Index block_index() { return block_id; }
Index block_size() { return block_dim; }
Index grid_size() { return grid_dim; }
void* dynamic_shared() { return checker_dynamic_shared; }

bool on_stack(uintptr_t address) {
  return address - (uintptr_t)fibers[current].stack < kStackBytes;
}

bool in_guard(uintptr_t address) {
  return address - (uintptr_t)fibers[current].stack < kStackGuard;
}

bool knows(unsigned lane, unsigned clock) { return fibers[current].known[lane] >= clock; }

std::string describe(uint32_t block, unsigned thread) {
  uint32_t i = block - first_block_of_launch;
  if (reversed) i = grid_dim.x * grid_dim.y * grid_dim.z - 1 - i;
  return "block " + in_brackets(unravel(i, grid_dim)) + " thread " +
         in_brackets(unravel(thread, block_dim));
}

void stop_kernel() {
  stopped = true;
  _longjmp(scheduler, 1);
}

static const char* refuse(const char* name, const char* why) {
  stop_reason = std::string(name) + ": " + why;
  return stop_reason.c_str();
}

static void run_blocks() {
  uint64_t n_blocks = uint64_t(grid_dim.x) * grid_dim.y * grid_dim.z;
  for (uint64_t i = 0; i < n_blocks && !stopped; ++i) {
    block_id = unravel(reversed ? n_blocks - 1 - i : i, grid_dim);
    run_block();
  }
}

const char* run(const char* name, Index grid, Index block, size_t shared_bytes,
                void (*body)(void*), void* context) {
  if (const char* wrong = wrong_configuration(grid, block, shared_bytes))
    return refuse(name, wrong);
  if (!shared)
    shared = declare((uintptr_t)checker_dynamic_shared, 0, 1, Space::shared, true, false,
                     "dynamic shared memory");
  grid_dim = grid;
  block_dim = block;
  kernel_body = body;
  kernel_context = context;
  n_threads = block.x * block.y * block.z;
  if ((int)fibers.size() < n_threads) fibers.resize(1024);  // once: contexts must not move
  if (!resize(shared, shared_bytes) || !give_stacks())
    return refuse(name, "not enough memory for the stacks of its threads");
  meetings.assign((n_threads + kWarp - 1) / kWarp, {});
  if (here.block == 0) here.block = here.interval = 1;  // 1 is the host
  first_block_of_launch = here.block + 1;
  stopped = false;
  running = true;
  watch_signals();
  run_blocks();
  leave_signals();
  running = false;
  if (!stopped) return nullptr;
  for (Fiber& fiber : fibers) fiber.born = false;  // drops threads that stopped in the middle
  return refuse(name, "stopped by the checker, see its reports");
}
}  // namespace checker

extern "C" void checker_reverse(int on) { checker::reversed = on; }
