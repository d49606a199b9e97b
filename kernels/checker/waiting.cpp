// Barriers and warp operations: who waits for whom, and who waits forever.
#include <algorithm>

#include "fibers.h"

namespace checker {
namespace {
int votes;  // true votes at the last barrier

unsigned alive_lanes(int warp) {
  unsigned mask = 0;
  for (int t = warp * kWarp; t < std::min(n_threads, (warp + 1) * kWarp); ++t)
    if (fibers[t].state != State::done) mask |= 1u << t % kWarp;
  return mask;
}

std::string whereabouts(int thread) {
  if (thread >= n_threads) return "the block has only " + std::to_string(n_threads) + " threads";
  const Fiber& fiber = fibers[thread];
  std::string who = "thread " + in_brackets(fiber.index);
  if (fiber.state == State::done) return who + " has returned";
  return who + " waits in " + fiber.waits_for + " at " + site_name(fiber.site);
}

// Finds the first two threads that do not wait at the same barrier.
bool diverged(std::string& text, const void*& site) {
  int first = -1;
  for (int t = 0; t < n_threads && first < 0; ++t)
    if (fibers[t].state != State::done) first = t;
  for (int t = 0; t < n_threads; ++t) {
    const Fiber &a = fibers[first], &b = fibers[t];
    if (a.state == b.state && a.state == State::at_barrier && a.file == b.file && a.line == b.line)
      continue;
    if (t == first) continue;
    site = a.site;
    text = whereabouts(first) + ", " + whereabouts(t);
    return true;
  }
  return false;
}
}  // namespace

// Reports a meeting whose missing lane never arrives, and stops the kernel.
void meets_in_vain(const Meeting& meeting, int warp, int missing) {
  const Fiber& first = fibers[meeting.first];
  report("divergence", first.site, whereabouts(meeting.first) + " for lane " +
                                       std::to_string(missing) + ", but " +
                                       whereabouts(warp * kWarp + missing));
  stopped = true;
}

void hold_complete_meetings(int warp) {
  auto& open = meetings[warp];
  for (size_t i = 0; i < open.size();) {
    Meeting meeting = open[i];
    if (meeting.arrived != (meeting.mask & alive_lanes(warp)) || !meeting.arrived) {
      ++i;
      continue;
    }
    if (meeting.whole_warp && meeting.arrived != ~0u)
      return meets_in_vain(meeting, warp, __builtin_ctz(~meeting.arrived));
    open.erase(open.begin() + i);
    for (int lane = 0; lane < kWarp; ++lane)
      if (meeting.arrived >> lane & 1) fibers[warp * kWarp + lane].state = State::ready;
    if (meeting.together) meeting.together(meeting.lanes, meeting.arrived);
  }
}

void release_barrier() {
  std::string text;
  const void* site = nullptr;
  for (int warp = 0; warp < (int)meetings.size(); ++warp)
    for (const Meeting& meeting : meetings[warp])
      return meets_in_vain(
          meeting, warp, __builtin_ctz(meeting.mask & alive_lanes(warp) & ~meeting.arrived));
  if (diverged(text, site)) {
    report("divergence", site, "in block " + in_brackets(block_id) + " " + text);
    stopped = true;
    return;
  }
  votes = 0;
  for (int t = 0; t < n_threads; ++t) {
    votes += fibers[t].vote != 0;
    fibers[t].state = State::ready;
  }
  ++here.interval;
}

int barrier(int vote, const char* file, int line) {
  Fiber& fiber = fibers[current];
  fiber.state = State::at_barrier;
  fiber.waits_for = "__syncthreads";
  fiber.file = file;
  fiber.line = line;
  fiber.site = __builtin_return_address(0);
  fiber.vote = vote;
  give_way();
  return votes;
}

void meet(const char* name, unsigned mask, void* argument, void (*together)(void**, unsigned),
          const char* file, int line, bool whole_warp) {
  int warp = current / kWarp, lane = current % kWarp;
  Fiber& fiber = fibers[current];
  fiber.waits_for = name;
  fiber.file = file;
  fiber.line = line;
  fiber.site = __builtin_return_address(0);
  if (!(mask >> lane & 1)) {
    report("divergence", fiber.site, std::string(name) + ": the mask names other lanes than " +
                                         describe(here.block, current));
    stop_kernel();
  }
  auto& open = meetings[warp];
  auto meeting = std::find_if(open.begin(), open.end(),
                              [&](const Meeting& m) { return m.mask == mask; });
  if (meeting == open.end()) {
    open.push_back({mask, 0, {}, together, current, whole_warp});
    meeting = open.end() - 1;
  }
  const Fiber& other = fibers[meeting->first];
  if (meeting->together != together || other.file != file || other.line != line) {
    fiber.state = State::meeting;
    report("divergence", fiber.site, whereabouts(meeting->first) + ", " + whereabouts(current));
    stop_kernel();
  }
  meeting->arrived |= 1u << lane;
  meeting->lanes[lane] = argument;
  fiber.state = State::meeting;
  hold_complete_meetings(warp);
  if (stopped || fiber.state == State::meeting) give_way();
}

void check_width(const char* name, int width) {
  if (width > 0 && width <= kWarp && (width & (width - 1)) == 0) return;
  report("divergence", __builtin_return_address(0),
         describe(here.block, current) + " calls " + name + " with width " +
             std::to_string(width) + "; it is 1, 2, 4, 8, 16 or 32");
  stop_kernel();
}

void lane_is_absent(int lane, int source) {
  int warp = current / kWarp * kWarp;
  const Fiber& reader = fibers[warp + lane];
  if (!first_time("lane" + site_name(reader.site))) return;
  bool gone = warp + source >= n_threads || fibers[warp + source].state == State::done;
  report("divergence", reader.site,
         describe(here.block, warp + lane) + " reads lane " + std::to_string(source) + " in " +
             reader.waits_for + ", but " +
             (gone ? whereabouts(warp + source) : "its mask does not name that lane"));
}

// __syncwarp orders memory: each lane that took part knows what the others did before.
void synchronise_lanes(void** lanes, unsigned mask) {
  (void)lanes;
  Fiber* warp = &fibers[current / kWarp * kWarp];
  uint32_t known[kWarp] = {};
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    for (int i = 0; i < kWarp; ++i) known[i] = std::max(known[i], warp[lane].known[i]);
    known[lane] = warp[lane].clock++;
  }
  for (int lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1) std::copy_n(known, kWarp, warp[lane].known);
  here.clock = fibers[current].clock;
}
}  // namespace checker
