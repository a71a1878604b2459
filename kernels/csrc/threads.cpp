#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

namespace gfnet::pixels {

namespace {

std::atomic<Team> found{nullptr};

Team look() {
  pthread_atfork(nullptr, nullptr, [] { found.store(nullptr); });
  return reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
}

}  // namespace

Team team() {
  static const bool looked = (found.store(look()), true);
  static_cast<void>(looked);
  return found.load();
}

void set_team(Team team_of_tests) {
  team();
  found.store(team_of_tests);
}

}  // namespace gfnet::pixels
