// The threads of the running block, for fibers.cpp and waiting.cpp only.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <vector>

#include "checker.h"

namespace checker {
constexpr int kWarp = 32;

enum class State { ready, at_barrier, meeting, done };

struct Fiber {
  jmp_buf context;
  ucontext_t start;
  char* stack = nullptr;
  bool born = false;
  State state = State::done;
  Index index;
  uint32_t clock;
  uint32_t known[kWarp];  // the clock up to which this thread knows each lane of its warp
  const char* waits_for;
  const char* file;
  int line;
  const void* site;
  int vote;
};

struct Meeting {
  unsigned mask, arrived;
  void* lanes[kWarp];
  void (*together)(void**, unsigned);
  int first;  // the thread that arrived first
  bool whole_warp;
};

extern std::vector<Fiber> fibers;
extern std::vector<std::vector<Meeting>> meetings;  // open ones, by warp
extern bool stopped;
extern int current, n_threads;
extern Index block_id;

std::string in_brackets(Index i);
bool in_guard(uintptr_t address);      // at the end of the running thread's stack
void give_way();                       // lets other threads run
void hold_complete_meetings(int warp);  // if all lanes have arrived
void release_barrier();                // or report a thread that waits forever
}  // namespace checker
