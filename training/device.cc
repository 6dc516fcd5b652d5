#include "training/device.h"

#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <dlfcn.h>

#include <exception>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace weft {
namespace {

// The folder LibTorch was loaded from, with a slash: its CUDA half lies beside.
std::string TorchFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::detail::getCUDAHooks), &info) == 0) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

// Loads LibTorch's CUDA half and tries the first GPU.
absl::Status TryCuda() {
  const auto refuse = [](absl::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat("device cuda: ", why, "; use a machine with a GPU, or --device cpu (or auto)"));
  };
  const std::string library = TorchFolder() + "libtorch_cuda.so";
  // Never closed: torch registers its kernels once for the life of the process.
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
    return refuse(absl::StrCat("cannot load it (", dlerror(), ")"));
  try {
    if (at::detail::getCUDAHooks().deviceCount() < 1) return refuse("no CUDA GPU found");
    at::empty({1}, at::TensorOptions(at::kFloat).device(at::kCUDA));
  } catch (const std::exception& error) {
    const absl::string_view what = error.what();
    return refuse(what.substr(0, what.find('\n')));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<c10::Device> SelectDevice(const std::string& name) {
  if (name == "cpu") return c10::Device(c10::kCPU);
  if (name != "cuda" && name != "auto") {
    return absl::InvalidArgumentError(absl::StrCat("device: found \"", name, "\", expected auto, cpu or cuda"));
  }
  const absl::Status cuda = TryCuda();
  if (cuda.ok()) return c10::Device(c10::kCUDA, 0);
  if (name == "cuda") return cuda;
  return c10::Device(c10::kCPU);
}

std::string DescribeDevice(c10::Device device, int threads) {
  if (!device.is_cpu()) return device.str();
  return absl::StrCat("cpu (", threads, threads == 1 ? " thread)" : " threads)");
}

}  // namespace weft
