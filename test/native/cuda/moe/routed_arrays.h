// SPDX-License-Identifier: MIT
// What routing and dispatch write, on the device and as it was left there.
#pragma once

#include "../support.h"
#include "moe/dispatch.h"
#include "moe/experts.h"

namespace twelvex::test {

/// What routing and dispatch leave on the host.
struct Routed {
  std::vector<int32_t> ids, token, row, begin;
  std::vector<float> weights, weight;
  std::vector<cuda::GroupTile> tiles;

  bool operator==(const Routed& other) const {
    const auto same_tile = [](const cuda::GroupTile& x, const cuda::GroupTile& y) {
      return x.expert == y.expert && x.first == y.first && x.rows == y.rows;
    };
    return std::equal(tiles.begin(), tiles.end(), other.tiles.begin(), other.tiles.end(), same_tile) && ids == other.ids &&
           weights == other.weights && token == other.token && weight == other.weight && row == other.row && begin == other.begin;
  }
};

/// The arrays that they write on the device.
struct RoutedArrays {
  int slots, experts;
  DeviceArray<int32_t> ids, token, row, begin, count;
  DeviceArray<float> weights, weight;
  DeviceArray<cuda::GroupTile> tiles;

  RoutedArrays(int slots_of, int experts_of)
      : slots(slots_of),
        experts(experts_of),
        ids(slots),
        token(slots),
        row(slots),
        begin(experts + 1),
        count(1),
        weights(slots),
        weight(slots),
        tiles(cuda::max_group_tiles(slots, experts, 8)) {}

  cuda::DispatchParams dispatch(int picks) const {
    return {.slots = slots, .picks = picks, .experts = experts, .tile_rows = 8, .ids = ids, .weights = weights,
            .sorted_token = token, .sorted_weight = weight, .row_of_slot = row, .begin = begin, .tiles = tiles,
            .tile_count = count};
  }

  /// What `launch` leaves of them.
  template <class Launch>
  Routed after(const Launch& launch) const {
    ids.poison(), token.poison(), row.poison(), begin.poison(), count.poison();
    weights.poison(), weight.poison(), tiles.poison();
    launch();
    sync("routing");
    Routed r = {ids.download(), token.download(), row.download(), begin.download(), weights.download(), weight.download(),
                tiles.download()};
    r.tiles.resize(static_cast<size_t>(count.download()[0]));
    const auto sorted = static_cast<size_t>(std::count_if(r.row.begin(), r.row.end(), [](int32_t row) { return row >= 0; }));
    // What is behind was not written.
    r.token.resize(sorted), r.weight.resize(sorted);
    return r;
  }
};

/// Rows of tokens, one of them padding.
inline std::vector<int32_t> rows_with_padding(int tokens) {
  std::vector<int32_t> rows(static_cast<size_t>(tokens), 0);
  if (tokens > 2) rows[static_cast<size_t>(tokens / 2)] = -1;
  return rows;
}

}  // namespace twelvex::test
