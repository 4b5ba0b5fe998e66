// SPDX-License-Identifier: MIT
// One rank computes the parts that two ranks sum (runtime/ops.h, Parts): every logit and every token is the same to the bit.
#include "ranks.h"

#include "check.h"
#include "cpu/cpu_ops.h"

namespace {

using namespace twelvex;
using namespace twelvex::check;
using test::RanksModel;
using test::RanksTrace;

void check_model(const RanksModel& model, std::initializer_list<int> chunks) {
  for (const bool served : {false, true}) {
    for (const int chunk : chunks) {
      test::RanksNumbers numbers;
      if (served) numbers.numerics = Numerics::kServed, numbers.rows = RowFormat::kFp8;
      numbers.chunk = chunk;
      const RanksTrace one = test::trace_of_ranks<cpu::CpuOps>(model, 1, numbers),
                       two = test::trace_of_ranks<cpu::CpuOps>(model, 2, numbers);
      REQUIRE(one.logits.size() > static_cast<size_t>(numbers.prompt) * static_cast<size_t>(model.config.vocab_size));
      CHECK(one.same_bits(two));
    }
  }
}

TEST("one and two ranks give the tiny oracle the same bits, in exact and in served numerics") {
  check_model(RanksModel::checkpoint(TWELVEX_ROOT "/test/oracle/tiny"), {200, 7});
}

TEST("one and two ranks give the demo the same bits") { check_model(RanksModel::checkpoint(TWELVEX_ROOT "/models/demo"), {60}); }

TEST("one and two ranks give the same bits where parts have several units, and where they differ in size") {
  check_model(RanksModel::even(TWELVEX_ROOT), {50});
  check_model(RanksModel::uneven(TWELVEX_ROOT), {50});
}

}  // namespace
