// SPDX-License-Identifier: MIT
// Whether a device can run the clusters of decode (hyper/hyper_cluster.cu, moe/route_cluster.cu).
#pragma once

namespace twelvex::cuda {

/// Whether the current device has 16 multiprocessors for a cluster of 16 blocks of 512 threads. Clusters of more than eight
/// blocks are not portable: a part of a divided device, or one whose groups lack multiprocessors, may have no room for any.
bool runs_clusters();

}  // namespace twelvex::cuda
