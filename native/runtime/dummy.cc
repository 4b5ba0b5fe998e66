// SPDX-License-Identifier: MIT
#include "dummy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <compare>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <string_view>

#include "error.h"
#include "inventory.h"

namespace twelvex {

namespace {

constexpr size_t kMaxTileBytes = (size_t{1} << 26) + 8 * 1009;  // no multiple of a row, so that repeated rows differ
constexpr size_t kWindowAlign = 64;
constexpr float kFp8Spread = 64;  // standard deviation of stored values; the scale brings it to 1 / sqrt(columns)
constexpr float kFp4Spread = 2;
constexpr size_t kEntries = 256;  // values that elements are drawn from, all equally likely

/// Elements are normal with this mean and deviation; for E8M0 the mean is the exponent byte.
struct Recipe {
  Dtype dtype = Dtype::kF32;
  float mean = 0, deviation = 0;
  auto operator<=>(const Recipe&) const = default;
};

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

uint64_t hash(std::string_view text, uint64_t seed) {
  uint64_t state = mix(seed);
  for (char c : text) state = mix(state ^ static_cast<unsigned char>(c));
  return state;
}

/// The i-th of kEntries equally likely values of the standard normal distribution.
double normal_quantile(size_t i) {
  const double target = (static_cast<double>(i) + 0.5) / kEntries;
  double low = -8, high = 8;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < target ? low : high) = middle;
  }
  return low;
}

float decode_e4m3(unsigned code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code & 128 ? -magnitude : magnitude;
}

float decode_e2m1(unsigned code) {
  constexpr std::array<float, 8> kValues = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return code & 8 ? -kValues[code & 7] : kValues[code & 7];
}

/// The code below `codes` whose value is nearest; NaN codes are never nearest.
template <class Decode>
uint8_t nearest_code(double value, unsigned codes, Decode decode) {
  unsigned best = 0;
  for (unsigned code = 1; code < codes; ++code) {
    if (std::abs(decode(code) - value) < std::abs(decode(best) - value)) best = code;
  }
  return static_cast<uint8_t>(best);
}

template <class T>
void put(uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

/// Writes entry i of a recipe's kEntries values.
void put_entry(const Recipe& recipe, size_t i, uint8_t* at) {
  const double value = recipe.mean + recipe.deviation * normal_quantile(i);
  switch (recipe.dtype) {
    case Dtype::kF32: return put(at, static_cast<float>(value));
    case Dtype::kBF16: {
      uint32_t bits = 0;
      const auto real = static_cast<float>(value);
      std::memcpy(&bits, &real, sizeof bits);
      return put(at, static_cast<uint16_t>((bits + 0x8000) >> 16));
    }
    case Dtype::kF8E4M3: return put(at, nearest_code(value, 256, decode_e4m3));
    case Dtype::kI8: {
      const auto nibble = [&](size_t sixteenth) {  // the middle quantile of a sixteenth
        return nearest_code(recipe.mean + recipe.deviation * normal_quantile(sixteenth * 16 + 8), 16, decode_e2m1);
      };
      return put(at, static_cast<uint8_t>(nibble(i % 16) | nibble(i / 16) << 4));
    }
    case Dtype::kF8E8M0: return put(at, static_cast<uint8_t>(recipe.mean - (i % 4 == 0 ? 1 : 0)));
    default: throw Error(ErrorCode::kInternal, std::string("no dummy values of dtype ") + dtype_name(recipe.dtype));
  }
}

std::vector<uint8_t> make_tile(const Recipe& recipe, size_t bytes, uint64_t seed) {
  const size_t width = dtype_bytes(recipe.dtype);
  std::vector<uint8_t> entries(kEntries * width);
  for (size_t i = 0; i < kEntries; ++i) put_entry(recipe, i, entries.data() + i * width);
  std::vector<uint8_t> tile(bytes);
  uint64_t random = 0;
  for (size_t i = 0; i < bytes / width; ++i) {
    random = i % 8 == 0 ? mix(seed + i) : random >> 8;
    std::memcpy(tile.data() + i * width, entries.data() + random % kEntries * width, width);
  }
  return tile;
}

/// Exponent byte that brings stored values of deviation `spread` to 1 / sqrt(columns).
float scale_byte(float spread, int64_t columns) {
  return static_cast<float>(127 - std::lround(std::log2(spread * std::sqrt(static_cast<double>(columns)))));
}

Recipe recipe_of(const TensorSpec& spec) {
  const std::string_view name = spec.name;
  const auto is = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  const int64_t columns = spec.shape.back();
  const auto fan_in = static_cast<float>(1 / std::sqrt(static_cast<double>(columns)));
  switch (spec.dtype) {
    case Dtype::kF8E4M3: return {spec.dtype, 0, kFp8Spread};
    case Dtype::kI8: return {spec.dtype, 0, kFp4Spread};
    case Dtype::kF8E8M0:
      return {spec.dtype, is(".experts.") ? scale_byte(kFp4Spread, columns * 32) : scale_byte(kFp8Spread, columns * 128), 0};
    case Dtype::kBF16:
      if (spec.shape.size() == 1) return {spec.dtype, 1, 0.1f};  // norms
      return {spec.dtype, 0, name == "embed.weight" ? 1 : fan_in};
    default:
      if (is("_fn")) return {spec.dtype, 0, fan_in};
      if (is("_scale")) return {spec.dtype, 1, 0.1f};
      return {spec.dtype, 0, is("gate.bias") ? 0.1f : 0.5f};  // hc base, sinks, ape
  }
}

class DummySource : public TensorSource {
 public:
  DummySource(const ModelConfig& config, uint64_t seed)
      : seed_(seed), experts_(config.num_experts), specs_(make_inventory(config)) {
    std::sort(specs_.begin(), specs_.end(), [](const TensorSpec& a, const TensorSpec& b) { return a.name < b.name; });
    for (const TensorSpec& spec : specs_) {
      if (spec.dtype == Dtype::kI64) continue;
      size_t& bytes = tiles_[recipe_of(spec)].bytes;
      bytes = std::min(kMaxTileBytes, std::max(bytes, 2 * static_cast<size_t>(spec.bytes()) + kWindowAlign));
    }
  }

  TensorView tensor(const std::string& name) const override {
    const auto at =
        std::partition_point(specs_.begin(), specs_.end(), [&](const TensorSpec& spec) { return spec.name < name; });
    if (at == specs_.end() || at->name != name) {
      throw Error(ErrorCode::kBadCheckpoint, "tensor \"" + name + "\" is not in the configuration");
    }
    TensorView view{at->dtype, at->shape, nullptr, at->bytes(), nullptr};
    if (at->dtype == Dtype::kI64) {
      own(view, expert_table(*at));
      return view;
    }
    const std::vector<uint8_t>& tile = tile_of(recipe_of(*at));
    const uint64_t random = hash(name, seed_);
    if (view.bytes <= tile.size() - kWindowAlign) {
      view.data = tile.data() + random % ((tile.size() - view.bytes) / kWindowAlign + 1) * kWindowAlign;
    } else {
      own(view, repeated(tile, random % (tile.size() / kWindowAlign) * kWindowAlign, view.bytes));
    }
    return view;
  }

 private:
  struct Tile {
    size_t bytes = 0;
    std::vector<uint8_t> data;  // empty until wanted
  };

  static void own(TensorView& view, std::vector<uint8_t> data) {
    auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(data));
    view.data = owner->data();
    view.owner = std::move(owner);
  }

  const std::vector<uint8_t>& tile_of(const Recipe& recipe) const {
    const std::lock_guard lock(mutex_);
    Tile& tile = tiles_.at(recipe);
    if (tile.data.empty()) {
      const size_t width = dtype_bytes(recipe.dtype);
      const std::string key = std::to_string(recipe.mean) + " " + std::to_string(recipe.deviation);
      const uint64_t seed = hash(dtype_name(recipe.dtype), hash(key, seed_));
      tile.data = make_tile(recipe, (tile.bytes + width - 1) / width * width, seed);
    }
    return tile.data;
  }

  static std::vector<uint8_t> repeated(const std::vector<uint8_t>& tile, size_t offset, size_t bytes) {
    std::vector<uint8_t> data;
    data.reserve(bytes);
    while (data.size() < bytes) {
      const size_t part = std::min(tile.size() - offset, bytes - data.size());
      data.insert(data.end(), tile.begin() + static_cast<std::ptrdiff_t>(offset),
                  tile.begin() + static_cast<std::ptrdiff_t>(offset + part));
      offset = 0;
    }
    return data;
  }

  /// Distinct experts for every token: neighbours of a random one.
  std::vector<uint8_t> expert_table(const TensorSpec& spec) const {
    std::vector<uint8_t> data(spec.bytes());
    const uint64_t random = hash(spec.name, seed_);
    const auto per_token = static_cast<size_t>(spec.shape[1]);
    for (size_t i = 0; i < data.size() / sizeof(int64_t); ++i) {
      const uint64_t first = mix(random + i / per_token) % static_cast<uint64_t>(experts_);
      put(data.data() + i * sizeof(int64_t), static_cast<int64_t>((first + i % per_token) % static_cast<uint64_t>(experts_)));
    }
    return data;
  }

  const uint64_t seed_;
  const int experts_;
  std::vector<TensorSpec> specs_;  // sorted by name
  mutable std::mutex mutex_;       // guards the making of tiles
  mutable std::map<Recipe, Tile> tiles_;
};

}  // namespace

std::unique_ptr<TensorSource> make_dummy_source(const ModelConfig& config, uint64_t seed) {
  return std::make_unique<DummySource>(config, seed);
}

}  // namespace twelvex
