// SPDX-License-Identifier: MIT
#include "step_graph.h"

#include "common/check.h"

namespace twelvex::cuda {

StepGraphs::~StepGraphs() {
  for (auto& [shape, graph] : graphs_) cudaGraphExecDestroy(graph);
}

bool StepGraphs::begin(const GraphShape& shape, cudaStream_t queue) {
  shape_ = shape;
  if (graphs_.contains(shape)) return true;
  check(cudaStreamBeginCapture(queue, cudaStreamCaptureModeThreadLocal), "beginning a graph");
  capturing_ = true;
  return false;
}

bool StepGraphs::finish_capture(cudaStream_t queue) {
  if (!capturing_) return false;
  capturing_ = false;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(queue, &graph), "capturing a graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "instantiating a graph");
  graphs_.emplace(shape_, executable);
  check(cudaGraphUpload(executable, queue), "uploading a graph");
  check(cudaStreamSynchronize(queue), "uploading a graph");
  return true;
}

void StepGraphs::launch(cudaStream_t queue) { check(cudaGraphLaunch(graphs_.at(shape_), queue), "launching a graph"); }

void StepGraphs::abandon(cudaStream_t queue) noexcept {
  if (!capturing_) return;
  capturing_ = false;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(queue, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  cudaGetLastError();
}

}  // namespace twelvex::cuda
