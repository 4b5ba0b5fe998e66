// SPDX-License-Identifier: MIT
// What a decode step keeps of a layer, in one launch: the normalised latents for the products that follow, the window rows, the
// entries that tokens complete and the state that later entries pool from.
#pragma once

#include "compressor/compressor.h"
#include "elementwise/norm_rope.h"
#include "hyper/hyper.h"

namespace twelvex::cuda {

/// The same bits as run_latent_kv (and run_quantise), run_store_window and run_compressor; p.norm.kv stays as it is.
/// A row has at most 1 + kMaxMtp tokens: then no position that they keep takes the place of one that an entry pools from
/// (runtime/cache_layout.h).
struct DecodeRowsParams {
  LatentKvParams norm;
  bool quantise_latent = false;  // what meets the latents reads them quantised
  BatchView batch;
  RowPages window;
  int num_compressors = 0;
  CompressorParams compressors[2];
  LateComb comb;  // of the tokens, which mHC, two launches before this one or more, has left
};
void run_decode_rows(const DecodeRowsParams& params, cudaStream_t queue);

}  // namespace twelvex::cuda
