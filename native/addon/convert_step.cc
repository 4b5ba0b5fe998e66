// SPDX-License-Identifier: MIT
#include <cstring>
#include <string>
#include <type_traits>

#include "convert.h"

namespace twelvex {
namespace {

template <typename T>
struct ArrayKind;
template <>
struct ArrayKind<int32_t> {
  static constexpr napi_typedarray_type type = napi_int32_array;
  static constexpr const char* name = "Int32Array";
};
template <>
struct ArrayKind<uint32_t> {
  static constexpr napi_typedarray_type type = napi_uint32_array;
  static constexpr const char* name = "Uint32Array";
};
template <>
struct ArrayKind<uint8_t> {
  static constexpr napi_typedarray_type type = napi_uint8_array;
  static constexpr const char* name = "Uint8Array";
};
template <>
struct ArrayKind<float> {
  static constexpr napi_typedarray_type type = napi_float32_array;
  static constexpr const char* name = "Float32Array";
};
template <>
struct ArrayKind<uint64_t> {
  static constexpr napi_typedarray_type type = napi_biguint64_array;
  static constexpr const char* name = "BigUint64Array";
};

template <typename T>
std::vector<T> read_array(const Napi::Object& plan, const char* name) {
  const Napi::Value value = plan.Get(name);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != ArrayKind<T>::type) {
    throw Error(ErrorCode::kInvalidPlan, std::string("plan.") + name + " must be a " + ArrayKind<T>::name);
  }
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  const size_t length = array.ElementLength();  // 0 once detached
  if (length == 0) return {};
  return std::vector<T>(array.Data(), array.Data() + length);
}

/// One column of SamplingParams.
template <typename T>
void read_column(const Napi::Object& plan, const char* name, std::vector<SamplingParams>& rows, T SamplingParams::* field) {
  const std::vector<T> column = read_array<T>(plan, name);
  if (column.size() != rows.size()) {
    throw Error(ErrorCode::kInvalidPlan, std::string("plan.") + name + " has " + std::to_string(column.size()) +
                                             " entries, plan.temperature has " + std::to_string(rows.size()));
  }
  for (size_t s = 0; s < rows.size(); ++s) rows[s].*field = column[s];
}

std::vector<SamplingParams> read_sampling(const Napi::Object& plan) {
  const std::vector<float> temperature = read_array<float>(plan, "temperature");
  std::vector<SamplingParams> rows(temperature.size());
  for (size_t s = 0; s < rows.size(); ++s) rows[s].temperature = temperature[s];
  read_column(plan, "topP", rows, &SamplingParams::top_p);
  read_column(plan, "topK", rows, &SamplingParams::top_k);
  read_column(plan, "minP", rows, &SamplingParams::min_p);
  read_column(plan, "repetitionPenalty", rows, &SamplingParams::repetition_penalty);
  read_column(plan, "presencePenalty", rows, &SamplingParams::presence_penalty);
  read_column(plan, "frequencyPenalty", rows, &SamplingParams::frequency_penalty);
  read_column(plan, "seed", rows, &SamplingParams::seed);
  read_column(plan, "logprobs", rows, &SamplingParams::logprobs);
  return rows;
}

template <typename T>
void set_array(Napi::Object& result, const char* name, const std::vector<T>& values) {
  auto array = Napi::TypedArrayOf<T>::New(result.Env(), values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  result.Set(name, array);
}

}  // namespace

StepInput read_step_input(const Napi::Value& value) {
  if (!value.IsObject()) throw Error(ErrorCode::kInvalidPlan, "plan must be an object of typed arrays");
  const auto plan = value.As<Napi::Object>();
  StepInput input;
  input.slot = read_array<int32_t>(plan, "slot");
  input.position = read_array<int32_t>(plan, "position");
  input.count = read_array<int32_t>(plan, "count");
  input.drafts = read_array<int32_t>(plan, "drafts");
  input.next_token = read_array<int32_t>(plan, "nextToken");
  input.flags = read_array<uint8_t>(plan, "flags");
  input.window_base = read_array<int32_t>(plan, "windowBase");
  input.window_offset = read_array<int32_t>(plan, "windowOffset");
  input.window_blocks = read_array<int32_t>(plan, "windowBlocks");
  input.context_offset = read_array<int32_t>(plan, "contextOffset");
  input.context_blocks = read_array<int32_t>(plan, "contextBlocks");
  input.tokens = read_array<int32_t>(plan, "tokens");
  input.sampling = read_sampling(plan);
  input.penalty_offset = read_array<int32_t>(plan, "penaltyOffset");
  input.penalty_tokens = read_array<int32_t>(plan, "penaltyTokens");
  input.penalty_counts = read_array<int32_t>(plan, "penaltyCounts");
  input.bias_offset = read_array<int32_t>(plan, "biasOffset");
  input.bias_tokens = read_array<int32_t>(plan, "biasTokens");
  input.bias_values = read_array<float>(plan, "biasValues");
  input.mask_row = read_array<int32_t>(plan, "maskRow");
  input.masks = read_array<uint32_t>(plan, "masks");
  return input;
}

Napi::Object step_result(Napi::Env env, const StepOutput& output) {
  Napi::Object result = Napi::Object::New(env);
  set_array(result, "acceptedCount", output.accepted_count);
  set_array(result, "accepted", output.accepted);
  set_array(result, "drafts", output.drafts);
  result.Set("topWidth", output.top_width);
  set_array(result, "logprobs", output.logprobs);
  set_array(result, "topTokens", output.top_tokens);
  set_array(result, "topLogprobs", output.top_logprobs);
  set_array(result, "promptLogprobs", output.prompt_logprobs);
  set_array(result, "promptTopTokens", output.prompt_top_tokens);
  set_array(result, "promptTopLogprobs", output.prompt_top_logprobs);
  set_array(result, "logits", output.logits);
  set_array(result, "mtpLogits", output.mtp_logits);
  result.Set("micros", static_cast<double>(output.micros));
  result.Set("gathersOverlapped", output.gathers_overlapped);
  result.Set("gathersInline", output.gathers_inline);
  result.Set("reductionsOverlapped", output.reductions_overlapped);
  result.Set("reductionsInline", output.reductions_inline);
  return result;
}

}  // namespace twelvex
