// Stops a kernel that would end the process, or never end, and reports its line.
//
// Faults (a wild address, a stack that overflows, abort, …) arrive as signals, which are caught
// while a kernel's thread runs. Loops are counted: g++ -fsanitize-coverage=trace-pc calls
// `__sanitizer_cov_trace_pc` at every loop and branch. Steps are counted, not seconds, so the
// verdict is the same on every machine. Only a loop without any step, which g++ turns into a jump
// to itself, is found with a timer. Kernels compiled without that flag are not counted.
#include <dlfcn.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

#include <cstring>

#include "fibers.h"

namespace checker {
namespace {
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGVTALRM};
constexpr int kTick = SIGVTALRM;
constexpr long kTickNanoseconds = 300'000'000;  // of the thread's CPU time
constexpr int kIdleTicks = 3;

uint64_t limit = 0, steps = 0;  // limit 0: none
uint64_t steps_at_tick;
int idle_ticks;
struct sigaction before[sizeof kSignals / sizeof *kSignals];
stack_t stack_before;
alignas(16) char signal_stack[64 << 10];
timer_t timer;
bool has_timer;

// Is the address in code that a kernel uses (a shuffle, its launch), not in the kernel itself?
bool ours(const Dl_info& info) {
  return info.dli_sname &&
         (strstr(info.dli_sname, "N7checker") || strstr(info.dli_sname, "6launchI"));
}

bool in_kernel(uintptr_t address) {
  static Dl_info here, info;
  dladdr((void*)&watch_signals, &here);
  return dladdr((void*)address, &info) && info.dli_fbase == here.dli_fbase && info.dli_sname &&
         !ours(info);
}

struct Interrupted {
  uintptr_t instruction, stack;
};
Interrupted interrupted(const void* context) {
  const mcontext_t& m = ((const ucontext_t*)context)->uc_mcontext;
#if defined(__x86_64__)
  return {(uintptr_t)m.gregs[REG_RIP], (uintptr_t)m.gregs[REG_RSP]};
#elif defined(__aarch64__)
  return {(uintptr_t)m.pc, (uintptr_t)m.sp};
#endif
}

// The innermost caller of the interrupted code that belongs to the kernel.
_Unwind_Reason_Code next_caller(_Unwind_Context* frame, void* found) {
  uintptr_t address = _Unwind_GetIP(frame);
  if (!in_kernel(address - 1)) return _URC_NO_REASON;
  *(uintptr_t*)found = address;
  return _URC_END_OF_STACK;
}

// The kernel's instruction, or the one after its call into the interrupted code.
const void* site_of(const Interrupted& where) {
  if (in_kernel(where.instruction)) return (const void*)(where.instruction + 1);
  uintptr_t caller = 0;
  _Unwind_Backtrace(next_caller, &caller);
  if (caller) return (const void*)caller;
  bool called = !in_guard(where.stack) && on_stack(where.stack + 7);  // a function at a wild address
  return called ? *(const void**)where.stack : (const void*)where.instruction;
}

void report_fault(int signal, uintptr_t address, const void* site) {
  std::string who = describe(here.block, here.thread);
  if ((signal == SIGSEGV || signal == SIGBUS) && in_guard(address))
    report("stack overflow", site, who + " needs more than 512 KB for its own variables; " +
                                       "does a function call itself without end?");
  else if (signal == SIGSEGV || signal == SIGBUS)
    report("out of bounds", site, who + " touches an address, " + nearest(address));
  else if (signal == SIGFPE)
    report("division by zero", site, who + " divides by 0");
  else
    report("stopped", site, who + (signal == SIGABRT ? " aborts" : " ends the program"));
}

void on_signal(int signal, siginfo_t* info, void* context) {
  Interrupted where = interrupted(context);
  bool in_thread = running && on_stack(where.stack);
  if (signal == kTick) {
    bool idle = in_thread && limit && steps == steps_at_tick && in_kernel(where.instruction);
    idle_ticks = idle ? idle_ticks + 1 : 0;
    steps_at_tick = steps;
    if (idle_ticks < kIdleTicks) return;
    report("endless", (const void*)(where.instruction + 1),
           describe(here.block, here.thread) + " is in a loop that does nothing and never ends");
    stop_kernel();
  }
  if (!in_thread) {  // not the kernel's fault: let it recur, under the previous handler
    for (size_t i = 0; i < sizeof kSignals / sizeof *kSignals; ++i)
      if (kSignals[i] == signal) sigaction(signal, &before[i], nullptr);
    return;
  }
  report_fault(signal, (uintptr_t)info->si_addr, site_of(where));
  stop_kernel();
}

void start_clock() {
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = kTick;
  event._sigev_un._tid = syscall(SYS_gettid);
  has_timer = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
  itimerspec every{{0, kTickNanoseconds}, {0, kTickNanoseconds}};
  if (has_timer) timer_settime(timer, 0, &every, nullptr);
}
}  // namespace

void watch_signals() {
  stack_t own{};
  own.ss_sp = signal_stack;  // an overflowed stack has no room for the handler
  own.ss_size = sizeof signal_stack;
  sigaltstack(&own, &stack_before);
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART;
  for (size_t i = 0; i < sizeof kSignals / sizeof *kSignals; ++i)
    sigaction(kSignals[i], &action, &before[i]);
  idle_ticks = 0;
  if (limit) start_clock();
}

void leave_signals() {
  if (has_timer) timer_delete(timer);
  has_timer = false;
  for (size_t i = 0; i < sizeof kSignals / sizeof *kSignals; ++i)
    sigaction(kSignals[i], &before[i], nullptr);
  sigaltstack(&stack_before, nullptr);
}

static void stop_here(const char* kind, const void* site, const std::string& text) {
  report(kind, site, describe(here.block, here.thread) + text);
  stop_kernel();
}

void trap() {
  stop_here("stopped", __builtin_return_address(0), " executes __trap()");
  __builtin_unreachable();
}
}  // namespace checker
using namespace checker;

// Sets how many steps a launch may take, over all threads.
extern "C" void checker_limit(uint64_t most) { limit = most, steps = 0; }

extern "C" void __sanitizer_cov_trace_pc() {
  if (!limit || !running || ++steps <= limit) return;
  Dl_info info{};
  if (dladdr(__builtin_return_address(0), &info) && ours(info)) return;
  Index grid = grid_size(), block = block_size();
  double threads = double(grid.x) * grid.y * grid.z * block.x * block.y * block.z;
  report("endless", __builtin_return_address(0),
         describe(here.block, here.thread) + " is still running after " + std::to_string(limit) +
             " steps of all threads; " +
             (threads > limit / 4 ? "the grid is too large for the checker"
                                  : "does this loop end?"));
  stop_kernel();
}

// A function wrote past its own variables; -fstack-protector notices when it returns.
extern "C" [[noreturn]] void __stack_chk_fail() {
  stop_here("out of bounds", __builtin_return_address(0), " wrote past an array of its own");
  __builtin_unreachable();
}

extern "C" [[noreturn]] void exit(int) {
  stop_here("stopped", __builtin_return_address(0), " calls exit");
  __builtin_unreachable();
}

// assert in a kernel.
extern "C" [[noreturn]] void __assert_fail(const char* claim, const char*, unsigned, const char*) {
  stop_here("assertion", __builtin_return_address(0), std::string(" finds that not ") + claim);
  __builtin_unreachable();
}
