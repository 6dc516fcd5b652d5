#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <string>

#include "training/device.h"
#include "training/torch_errors.h"

namespace weft {
namespace {

using ::testing::HasSubstr;

TEST(SelectDeviceTest, CpuAndUnknownNames) {
  const auto cpu = SelectDevice("cpu");
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  EXPECT_TRUE(cpu->is_cpu());
  const auto unknown = SelectDevice("tpu");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("\"tpu\", expected auto, cpu or cuda"));
}

TEST(SelectDeviceTest, CudaIsRefusedWhereAutoFallsBackToTheCpu) {
  const auto chosen = SelectDevice("auto"), cuda = SelectDevice("cuda");
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->is_cuda(), cuda.ok());
  if (cuda.ok()) return;
  EXPECT_EQ(cuda.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(cuda.status().message()), HasSubstr("device cuda: "));
  EXPECT_THAT(std::string(cuda.status().message()), HasSubstr("--device cpu"));
}

TEST(DescribeDeviceTest, NamesThreads) {
  EXPECT_EQ(DescribeDevice(c10::kCPU, 1), "cpu (1 thread)");
  EXPECT_EQ(DescribeDevice(c10::kCPU, 2), "cpu (2 threads)");
  EXPECT_EQ(DescribeDevice(c10::Device(c10::kCUDA, 0), 2), "cuda:0");
}

TEST(CatchTorchTest, PassesStatusesThrough) {
  EXPECT_TRUE(CatchTorch([] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchTorch([] { return absl::CancelledError("x"); }).code(), absl::StatusCode::kCancelled);
}

TEST(CatchTorchTest, NoMemoryIsResourceExhausted) {
  const absl::Status status = CatchTorch([] {
    at::empty({int64_t{1} << 55}, at::TensorOptions(at::kFloat));
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("smaller training.batch_size"));
  EXPECT_EQ(CatchTorch([]() -> absl::Status { throw std::bad_alloc(); }).code(), absl::StatusCode::kResourceExhausted);
}

TEST(CatchTorchTest, OtherFailuresAreInternal) {
  const absl::Status status = CatchTorch([] {
    at::empty({2}, at::TensorOptions(at::kFloat)).view({3});
    return absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(CatchTorch([]() -> absl::Status { throw std::runtime_error("x"); }).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace weft
