// The interface between the parts of the checker, and the functions that cuda_on_cpu.h calls.
//
// A launch runs block after block, and in a block thread after thread, each as a fiber: it keeps
// the processor until it waits (barrier, warp operation) or returns. g++ compiles the kernels with
// -fsanitize=thread, so that every load and store first calls `__tsan_read4(address)` and the like;
// memory.cpp implements these calls in place of ThreadSanitizer's library.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace checker {

struct Index {
  unsigned x, y, z;
};

enum class Access : uint8_t { read, write, atomic };
enum class Space : uint8_t { global, shared };

// What is known about one element of memory.
struct Cell {
  // The last write. Block 0: never written; block 1: by the host.
  uint32_t write_block, write_interval, write_site;
  uint32_t write_clock;
  uint16_t write_thread;
  bool write_atomic, write_by_many, in_flight;
  bool read_by_blocks;  // by more than one block, in this launch
  // The reads since the last barrier: one warp's lanes, and a thread of another warp.
  uint32_t read_block, read_interval, read_site, other_site;
  uint32_t read_lanes;
  uint32_t read_clock;
  uint16_t read_warp, other_thread;
  bool read_by_other;
};

struct Region {
  uintptr_t begin, end;
  size_t element;  // bytes a cell stands for
  Space space;
  bool writable;
  Cell* cells;
  std::string name;
};

// ---- fibers.cpp: threads, barriers, warp operations
__attribute__((const)) Index thread_index();
__attribute__((const)) Index block_index();
__attribute__((const)) Index block_size();
__attribute__((const)) Index grid_size();
int barrier(int vote, const char* file, int line);  // the number of threads with a true vote
// All lanes of `mask` meet; the last one calls `together` with the arguments of all. Lanes that
// have returned are not waited for, unless the instruction needs the `whole_warp`.
void meet(const char* name, unsigned mask, void* argument, void (*together)(void** lanes, unsigned),
          const char* file, int line, bool whole_warp = false);
void* dynamic_shared();
// Runs a kernel; returns nullptr, or why it did not finish.
const char* run(const char* name, Index grid, Index block, size_t shared_bytes,
                void (*body)(void*), void* context);

struct Position {  // of the running thread
  uint32_t block;     // counted over all launches, from 2
  uint32_t interval;  // counts starts of blocks and barriers
  uint16_t thread;    // in its block
  uint32_t clock;     // counts the thread's warp synchronisations
};
extern bool running;
extern Position here;
extern uint32_t first_block_of_launch;
bool on_stack(uintptr_t address);             // of the running thread
bool knows(unsigned lane, unsigned clock);    // has the running thread synchronised with it since?
std::string describe(uint32_t block, unsigned thread);  // "block (1,0,0) thread (3,0,0)"
[[noreturn]] void stop_kernel();              // no thread of it runs again; for threads only

// ---- memory.cpp: every access
void touch(const void* address, size_t bytes, Access access, const void* site);
void copy(void* to, const void* from, size_t bytes);  // one vector load or store
void copy_shared(void* to, const void* from, size_t bytes);  // the same, from shared memory only
void copy_later(void* to, const void* from, size_t bytes);  // cp.async; zeros from null
void commit_copies();
void wait_for_copies(int groups_left);
void forget_copies();  // when a block has ended

// ---- regions.cpp: the memory that may be touched, and the reports
void fill(void* to, int byte, size_t bytes);  // as the host does before a launch
Region* region_of(uintptr_t address);         // or null
std::string nearest(uintptr_t address);       // "4 bytes behind the end of `x`"
Region* declare(uintptr_t begin, size_t bytes, size_t element, Space space, bool writable,
                bool written, const char* name);
bool resize(Region* region, size_t bytes);   // false: no memory for its cells
void report(const char* kind, const void* site, const std::string& text);
void poison_shared_memory();                  // NaN, or -1, when a block begins
bool first_time(const std::string& key);   // since the reports were cleared
uint32_t offset_of(const void* site);      // in this library, so that sites fit 32 bits
const void* site_at(uint32_t offset);
std::string site_name(const void* site);   // "@1a2b", which Python turns into file:line

// ---- stops.cpp: kernels that would end the process, or never end
void watch_signals();   // for the thread that runs a kernel
void leave_signals();
[[noreturn]] void trap();  // __trap

// ---- recorder.cpp: which addresses a warp touches in one instruction
extern bool recording;
void record(const Region& region, uintptr_t address, size_t bytes, Access access, const void* site);
void end_of_block_recorded();

}  // namespace checker
