/// The least a plain test executable needs: CHECK, CHECK_THROWS, and a failure that says where.
#pragma once

#include <cstdio>
#include <cstdlib>

[[noreturn]] inline void check_failed(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
  std::abort();
}

#define CHECK(condition) ((condition) ? void() : check_failed("failed: " #condition, __FILE__, __LINE__))

#define CHECK_THROWS(exception, ...)                                       \
  do {                                                                     \
    bool thrown = false;                                                   \
    try {                                                                  \
      (void)(__VA_ARGS__);                                                 \
    } catch (const exception&) {                                           \
      thrown = true;                                                       \
    }                                                                      \
    if (!thrown) check_failed("no " #exception ": " #__VA_ARGS__, __FILE__, __LINE__); \
  } while (false)
