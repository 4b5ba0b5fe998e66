// SPDX-License-Identifier: MIT
// The test harness of native code. A file of tests:
//
//   TEST("states a behaviour") {
//     CHECK_EQ(sum(1, 2), 3);
//     CHECK_THROWS_CODE(load("missing"), ErrorCode::kBadCheckpoint, "missing");  // code, then parts of the message
//   }
//
// CHECK* record a failure and go on; REQUIRE ends the test; SKIP ends it without failing (say why). `main` is in check.cc.
#pragma once

#include <cmath>
#include <initializer_list>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>

#include "runtime/error.h"

namespace twelvex::check {

struct Place {
  const char* file;
  int line;
};

struct Ended {};  // thrown by REQUIRE and SKIP

/// Adds a test to the program; returns a value so that it can run before main.
bool add(const char* title, void (*body)());
void fail(Place place, const std::string& message);
[[noreturn]] void skip(const std::string& reason);

/// What CHECK_THROWS_CODE expects.
struct Expected {
  ErrorCode code;
  std::initializer_list<std::string_view> parts;
};
void check_thrown(Place place, const char* text, const Error* error, const Expected& expected);

/// Readable form of a value in a failure.
template <class T>
std::string show(const T& value) {
  std::ostringstream out;
  out.precision(9);
  if constexpr (std::is_enum_v<T>) {
    out << static_cast<long long>(value);
  } else if constexpr (std::is_integral_v<T> && sizeof(T) == 1) {
    out << static_cast<int>(value);
  } else if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(value of " << sizeof(T) << " bytes)";
  }
  return out.str();
}

template <class A, class B>
bool equal(const A& actual, const B& expected) {
  if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> && !std::is_same_v<B, bool>) {
    const bool actual_negative = std::is_signed_v<A> && actual < A{};
    const bool expected_negative = std::is_signed_v<B> && expected < B{};
    using Widest = unsigned long long;
    return actual_negative == expected_negative && static_cast<Widest>(actual) == static_cast<Widest>(expected);
  } else {
    return actual == expected;
  }
}

template <class A, class B>
void check_equal(Place place, const char* text, const A& actual, const B& expected) {
  if (!equal(actual, expected)) fail(place, std::string(text) + ": got " + show(actual) + ", expected " + show(expected));
}

inline void check_near(Place place, const char* text, double actual, double expected, double tolerance) {
  if (!(std::abs(actual - expected) <= tolerance)) {
    fail(place, std::string(text) + ": got " + show(actual) + ", expected " + show(expected) + " within " + show(tolerance));
  }
}

}  // namespace twelvex::check

#define CHECK_JOIN_(a, b) a##b
#define CHECK_NAME_(a, b) CHECK_JOIN_(a, b)
#define CHECK_PLACE_ (::twelvex::check::Place{__FILE__, __LINE__})

#define TEST(title)                                                                                        \
  static void CHECK_NAME_(test_body_, __LINE__)();                                                         \
  [[maybe_unused]] static const bool CHECK_NAME_(test_added_, __LINE__) =                                  \
      ::twelvex::check::add(title, &CHECK_NAME_(test_body_, __LINE__));                                    \
  static void CHECK_NAME_(test_body_, __LINE__)()

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) ::twelvex::check::fail(CHECK_PLACE_, "not so: " #condition); \
  } while (false)

#define REQUIRE(condition)                                                  \
  do {                                                                      \
    if (!(condition)) {                                                     \
      ::twelvex::check::fail(CHECK_PLACE_, "required, not so: " #condition); \
      throw ::twelvex::check::Ended{};                                      \
    }                                                                       \
  } while (false)

#define SKIP(reason) ::twelvex::check::skip(reason)

#define CHECK_EQ(actual, expected) ::twelvex::check::check_equal(CHECK_PLACE_, #actual, actual, expected)
#define CHECK_NEAR(actual, expected, tolerance) \
  ::twelvex::check::check_near(CHECK_PLACE_, #actual, actual, expected, tolerance)

/// `expression` throws twelvex::Error with `code`; further arguments are parts that its message must have.
#define CHECK_THROWS_CODE(expression, code, ...)                                                            \
  do {                                                                                                      \
    try {                                                                                                   \
      static_cast<void>(expression);                                                                        \
      ::twelvex::check::check_thrown(CHECK_PLACE_, #expression, nullptr, {code, {__VA_ARGS__}});            \
    } catch (const ::twelvex::Error& check_error) {                                                         \
      ::twelvex::check::check_thrown(CHECK_PLACE_, #expression, &check_error, {code, {__VA_ARGS__}});       \
    }                                                                                                       \
  } while (false)
