// SPDX-License-Identifier: MIT
// The kernel A/B: sparse prefill attention of a csa and an hca layer at prompts of 1,036, 4,491, 17,891 and 63,543 tokens, 32
// heads, bf16 rows; one head a block, eight heads a block, and the product kernel on the same inputs. The last 2,048 tokens
// of the prompt (or all) are timed; three runs each, medians. Prints a table, and JSON lines with --json.
#include <algorithm>

#include "attention/sparse_prefill.h"
#include "attention_reference.h"
#include "fma_prefill.cuh"

using namespace twelvex;
using namespace twelvex::test;

namespace {

constexpr int kHeads = 32, kTopk = 512;

struct Times {
  double one = 0, eight = 0, product = 0, flops = 0, difference = 0;
};

template <int kBlockHeads>
double time_fma(const cuda::SparsePrefillParams& p) {
  return time_us([&] {
    bench::fma_prefill_kernel<kBlockHeads><<<dim3(p.tokens, kHeads / kBlockHeads), bench::kThreads>>>(p);
    cuda::check_launch("fma_prefill_kernel");
  }, 3);
}

Times measure(LayerKind kind, int prompt) {
  const int tokens = std::min(prompt, 2048), position = prompt - tokens, blocks = prompt / kBlockTokens + 1;
  const AttentionCase c({.kind = kind, .format = RowFormat::kBF16, .heads = kHeads, .topk = kTopk, .rows = {{position, tokens}},
                         .window_blocks = 24, .context_blocks = blocks});
  const DeviceArray<__nv_bfloat16> a(c.query.size()), b(c.query.size());
  auto p = c.params<cuda::SparsePrefillParams>(a);
  Times times;
  double candidates = 0;
  for (int t = 0; t < tokens; ++t) candidates += static_cast<double>(c.candidates(t).size());
  times.flops = 4.0 * kHeads * kHeadDim * candidates;
  times.one = time_fma<1>(p);
  times.eight = time_fma<8>(p);
  p.attended = b;
  times.product = time_us([&] { cuda::run_sparse_prefill(p, nullptr); }, 3);
  const auto x = a.download(), y = b.download();
  Difference difference;
  for (size_t i = 0; i < x.size(); i += 97) difference.add(__bfloat162float(y[i]), __bfloat162float(x[i]));
  times.difference = difference.relative();
  return times;
}

}  // namespace

int main(int argc, char** argv) {
  start("prefill_ab", argc, argv);
  const bool json = argc > 1 && std::strcmp(argv[argc - 1], "--json") == 0;
  std::printf("%6s %5s | %12s %8s | %12s %8s | %12s %8s | %6s\n", "prompt", "layer", "one head us", "TFLOP/s", "eight heads",
              "TFLOP/s", "product us", "TFLOP/s", "x8h");
  for (const int prompt : {1036, 4491, 17891, 63543}) {
    for (const LayerKind kind : {LayerKind::kCsa, LayerKind::kHca}) {
      const Times t = measure(kind, prompt);
      const char* name = kind == LayerKind::kCsa ? "csa" : "hca";
      std::printf("%6d %5s | %12.1f %8.1f | %12.1f %8.1f | %12.1f %8.1f | %6.1f\n", prompt, name, t.one, t.flops / t.one * 1e-6,
                  t.eight, t.flops / t.eight * 1e-6, t.product, t.flops / t.product * 1e-6, t.eight / t.product);
      if (json) {
        std::printf("{\"kind\":\"kernel\",\"prompt\":%d,\"layer\":\"%s\",\"one_head_us\":%.1f,\"eight_heads_us\":%.1f,", prompt,
                    name, t.one, t.eight);
        std::printf("\"product_us\":%.1f,\"flops\":%.4g}\n", t.product, t.flops);
      }
      expect(t.difference < 6e-3, "the product kernel agrees with the FMA kernels");
    }
  }
  return finish("prefill_ab");
}
