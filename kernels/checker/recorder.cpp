// Which addresses the lanes of a warp touch with one instruction, and what that costs.
//
// The k-th time that a lane executes an instruction is paired with the k-th time of the other
// lanes, as on a GPU whose lanes loop in step. Global memory moves in sectors of 32 bytes, four
// to a line of 128; shared memory has 32 banks of 4 bytes, and a bank serves one word a cycle.
// Source: NVIDIA CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory" and "Shared
// Memory and Memory Banks".
#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "checker.h"

namespace checker {
bool recording = false;

namespace {
constexpr int kWarp = 32, kBanks = 32, kSector = 32, kLine = 128;

struct Instruction {  // one warp, one execution
  Space space;
  std::string buffer;
  uintptr_t begin;  // of the buffer
  size_t bytes[kWarp] = {};
  uintptr_t address[kWarp];
};

struct Total {  // for one source line and one buffer
  uint64_t executions = 0, lanes = 0, bytes = 0, sectors = 0, best_sectors = 0, lines = 0;
  uint64_t wavefronts = 0, best_wavefronts = 0;
};

using Key = std::tuple<unsigned, const void*, Access, unsigned>;  // the last: how often executed
using Source = std::tuple<const void*, Space, Access, std::string>;

std::map<Key, Instruction> block_log;
std::map<std::tuple<unsigned, const void*, Access>, unsigned> passed;  // by thread
std::map<Source, Total> totals;
std::string trace;  // of the watched warp
uint32_t watched_block, watched_warp;

// Cycles for one part of a warp: the largest number of words in any one bank.
unsigned serve(const Instruction& in, int first, int last) {
  std::set<uintptr_t> words[kBanks];
  size_t most = 0;
  for (int lane = first; lane < last; ++lane)
    for (size_t i = 0; i < in.bytes[lane]; i += 4) {
      uintptr_t word = (in.address[lane] + i) / 4;
      words[word % kBanks].insert(word);
      most = std::max(most, words[word % kBanks].size());
    }
  return most;
}

void add(const Instruction& in, Total& total) {
  std::set<uintptr_t> sectors, lines;
  size_t widest = 0, bytes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!in.bytes[lane]) continue;
    ++total.lanes;
    bytes += in.bytes[lane];
    widest = std::max(widest, in.bytes[lane]);
    for (uintptr_t a = in.address[lane]; a < in.address[lane] + in.bytes[lane]; ++a) {
      sectors.insert(a / kSector);
      lines.insert(a / kLine);
    }
  }
  ++total.executions;
  total.bytes += bytes;
  if (in.space == Space::global) {
    total.sectors += sectors.size();
    total.lines += lines.size();
    total.best_sectors += (bytes + kSector - 1) / kSector;
    return;
  }
  // 8 bytes per lane go by half warps, 16 by quarters.
  int parts = widest <= 4 ? 1 : widest <= 8 ? 2 : 4;
  for (int part = 0; part < parts; ++part) {
    unsigned cycles = serve(in, part * kWarp / parts, (part + 1) * kWarp / parts);
    total.wavefronts += cycles;
    total.best_wavefronts += cycles > 0;
  }
}
}  // namespace

void record(const Region& region, uintptr_t address, size_t bytes, Access access,
            const void* site) {
  unsigned warp = here.thread / kWarp, lane = here.thread % kWarp;
  unsigned time = passed[{here.thread, site, access}]++;
  Instruction& in = block_log[{warp, site, access, time}];
  in.space = region.space;
  in.buffer = region.name;
  in.begin = region.begin;
  in.bytes[lane] = bytes;
  in.address[lane] = address;
}

void end_of_block_recorded() {
  bool watched = here.block - first_block_of_launch == watched_block;
  for (auto& [key, in] : block_log) {
    auto [warp, site, access, time] = key;
    add(in, totals[{site, in.space, access, in.buffer}]);
    for (int lane = 0; watched && warp == watched_warp && lane < kWarp; ++lane)
      if (in.bytes[lane])
        trace += site_name(site) + "\t" + std::to_string(time) + "\t" + std::to_string(lane) +
                 "\t" + in.buffer + "\t" + std::to_string(in.address[lane] - in.begin) + "\t" +
                 std::to_string(in.bytes[lane]) + "\n";
  }
  block_log.clear();
  passed.clear();
}
}  // namespace checker

using namespace checker;

// From now on, records every access; for one warp of one block with all addresses.
extern "C" void checker_record(int on, uint32_t block, uint32_t warp) {
  recording = on;
  watched_block = block;
  watched_warp = warp;
  if (on) totals.clear(), trace.clear();
}

extern "C" const char* checker_totals() {
  static std::string text;
  text.clear();
  for (auto& [source, t] : totals) {
    auto& [site, space, access, buffer] = source;
    text += site_name(site) + "\t" + (space == Space::global ? "global" : "shared") + "\t" +
            (access == Access::read ? "read" : access == Access::write ? "write" : "atomic") +
            "\t" + buffer;
    for (uint64_t n : {t.executions, t.lanes, t.bytes, t.sectors, t.best_sectors, t.lines,
                       t.wavefronts, t.best_wavefronts})
      text += "\t" + std::to_string(n);
    text += "\n";
  }
  return text.c_str();
}

extern "C" const char* checker_trace() { return trace.c_str(); }
