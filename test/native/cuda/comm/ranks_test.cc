// SPDX-License-Identifier: MIT
// One rank computes the parts that two ranks sum (runtime/ops.h, Parts): on one device, every logit and every token is the same
// to the bit, with products on every kind of tensor core. Run from the repository's root.
#include "ranks.h"

#include "backend.h"
#include "support.h"

using namespace twelvex;
using namespace twelvex::test;

namespace {

/// With the products of one architecture: 120 those on FP8 tensor cores, computed from bf16 products where the device has none;
/// 0 those that every one has.
template <int kArch>
class ArchOps : public cuda::CudaOps {
 public:
  using CudaOps::CudaOps;

 protected:
  int product_arch() const override { return kArch; }
};

template <class Operations>
void check_model(const RanksModel& model, const std::string& name, RanksNumbers numbers, std::initializer_list<int> chunks) {
  for (const int chunk : chunks) {
    numbers.chunk = chunk;
    const RanksTrace one = trace_of_ranks<Operations>(model, 1, numbers), two = trace_of_ranks<Operations>(model, 2, numbers);
    size_t different = 0;
    for (size_t i = 0; i < one.logits.size() && i < two.logits.size(); ++i) different += one.logits[i] != two.logits[i];
    expect(!one.logits.empty() && one.same_bits(two),
           name + ", chunks of " + std::to_string(chunk) + ": one and two ranks give the same bits (" +
               std::to_string(different) + " of " + std::to_string(one.logits.size()) + " logits differ)");
  }
}

void check_models(const RanksModel& model, const std::string& name) {
  RanksNumbers exact;
  exact.rows = RowFormat::kBF16;
  exact.stream_element_bytes = 2;
  RanksNumbers served = exact;
  served.rows = RowFormat::kFp8;
  served.numerics = Numerics::kServed;
  check_model<cuda::CudaOps>(model, name + " exact", exact, {200, 7});
  check_model<cuda::CudaOps>(model, name + " served", served, {200, 7});
  check_model<ArchOps<0>>(model, name + " served, plain products", served, {200});
  check_model<ArchOps<120>>(model, name + " served, FP8 products", served, {200});
}

}  // namespace

int main(int argc, char** argv) {
  start("ranks", argc, argv);
  if (brief) {
    std::printf("ranks: SKIPPED, under compute-sanitizer one rank's kernel waits for the other's, which is not launched\n");
    return 0;
  }
  try {
    check_models(RanksModel::even("."), "parts of several units");
    check_models(RanksModel::uneven("."), "parts of different sizes");
    check_models(RanksModel::checkpoint("models/demo"), "demo");
  } catch (const Error& error) {
    expect(false, error.what());
  }
  return finish("ranks");
}
