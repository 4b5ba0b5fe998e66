// SPDX-License-Identifier: MIT
#include "check.h"

#include <chrono>
#include <cstdio>
#include <exception>
#include <vector>

namespace twelvex::check {

namespace {

constexpr int kShownFailures = 10;  // of one test; the rest are counted

struct Case {
  const char* title;
  void (*body)();
};

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

int failures = 0;  // of the running test
std::string skipped;

std::string code_and_message(const Error& error) {
  return std::string(error_code_name(error.code())) + " \"" + error.what() + "\"";
}

/// Runs the body; an exception that leaves it is a failure.
void run_body(const Case& test) {
  try {
    test.body();
  } catch (const Ended&) {
  } catch (const Error& error) {
    fail({test.title, 0}, "ended by " + code_and_message(error));
  } catch (const std::exception& error) {
    fail({test.title, 0}, std::string("ended by exception \"") + error.what() + "\"");
  }
}

}  // namespace

bool add(const char* title, void (*body)()) {
  cases().push_back({title, body});
  return true;
}

void fail(Place place, const std::string& message) {
  if (++failures <= kShownFailures) std::printf("  %s:%d: %s\n", place.file, place.line, message.c_str());
}

void skip(const std::string& reason) {
  skipped = reason;
  throw Ended{};
}

void check_thrown(Place place, const char* text, const Error* error, const Expected& expected) {
  if (error == nullptr) {
    fail(place, std::string(text) + ": threw nothing, expected " + error_code_name(expected.code));
    return;
  }
  const std::string thrown = std::string(text) + ": threw " + code_and_message(*error);
  if (error->code() != expected.code) fail(place, thrown + ", expected " + error_code_name(expected.code));
  for (std::string_view part : expected.parts) {
    const bool there = std::string_view(error->what()).find(part) != std::string_view::npos;
    if (!there) fail(place, thrown + ", which lacks \"" + std::string(part) + "\"");
  }
}

/// Runs the tests whose title contains `filter`; returns the number that failed.
int run(std::string_view filter) {
  using Clock = std::chrono::steady_clock;
  int passed = 0, failed = 0, left_out = 0;
  for (const Case& test : cases()) {
    if (std::string_view(test.title).find(filter) == std::string_view::npos) continue;
    failures = 0;
    skipped.clear();
    const auto start = Clock::now();
    run_body(test);
    const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
    const char* verdict = failures > 0 ? "FAILED" : skipped.empty() ? "ok" : "skipped";
    ++(failures > 0 ? failed : skipped.empty() ? passed : left_out);
    std::printf("%-7s %s (%lld ms)%s%s\n", verdict, test.title, static_cast<long long>(millis), skipped.empty() ? "" : ": ",
                skipped.c_str());
    if (failures > kShownFailures) std::printf("  %d failures in all\n", failures);
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed", passed, failed);
  if (left_out > 0) std::printf(", %d skipped", left_out);
  std::printf("\n");
  if (passed + failed + left_out == 0) {
    std::printf("no test matches \"%s\"\n", std::string(filter).c_str());
    return 1;
  }
  return failed;
}

}  // namespace twelvex::check

int main(int argc, char** argv) { return twelvex::check::run(argc > 1 ? argv[1] : "") == 0 ? 0 : 1; }
