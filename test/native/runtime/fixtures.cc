// SPDX-License-Identifier: MIT
#include "fixtures.h"

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <unistd.h>

namespace twelvex::check {

ScratchDirectory::ScratchDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "twelvex-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void ScratchDirectory::write(const std::string& name, const std::string& bytes) const {
  std::ofstream out(path_ / name, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out) throw std::runtime_error("cannot write " + name);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string project_path(const std::string& relative) { return std::string(TWELVEX_ROOT) + "/" + relative; }

std::string safetensors_bytes(const std::string& header, const std::string& payload) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 255);
  return bytes + header + payload;
}

std::string replaced(const std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos || text.find(from, at + 1) != std::string::npos) {
    throw std::runtime_error("expected exactly one " + from);
  }
  return text.substr(0, at) + to + text.substr(at + from.size());
}

std::string safetensors_bytes(const std::vector<FileTensor>& tensors) {
  std::ostringstream header;
  std::string payload;
  header << "{\"__metadata__\":{\"format\":\"pt\"}";
  for (const FileTensor& tensor : tensors) {
    header << ",\"" << tensor.name << "\":{\"dtype\":\"" << dtype_name(tensor.dtype) << "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) header << (i > 0 ? "," : "") << tensor.shape[i];
    header << "],\"data_offsets\":[" << payload.size() << "," << payload.size() + tensor.bytes.size() << "]}";
    payload += tensor.bytes;
  }
  header << "}";
  return safetensors_bytes(header.str(), payload);
}

std::vector<FileTensor> read_tensors(const std::string& path) {
  const std::string bytes = read_file(path);
  const std::span<const uint8_t> view(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  std::vector<FileTensor> tensors;
  for (const SafetensorsEntry& entry : parse_safetensors_header(view, bytes.size(), path)) {
    tensors.push_back({entry.name, entry.dtype, entry.shape, bytes.substr(entry.offset, entry.bytes)});
  }
  return tensors;
}

}  // namespace twelvex::check
