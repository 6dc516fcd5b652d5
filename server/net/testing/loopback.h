#ifndef WEFT_SERVER_NET_TESTING_LOOPBACK_H_
#define WEFT_SERVER_NET_TESTING_LOOPBACK_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/codec.h"
#include "proto/service.grpc.pb.h"
#include "server/net/server.h"
#include "server/net/testing/fake_coordinator.h"

namespace weft::server {

// A real Server on a free loopback port in front of a FakeCoordinator, and stubs for it.
class LoopbackTest : public testing::Test {
 protected:
  // Small, so that a few kilobytes make several chunks.
  static constexpr uint64_t kChunkBytes = 1024;
  static constexpr int kMaxMessageBytes = 65536;

  LoopbackTest()
      : layout_(*Layout::Create({{"a.lora_A.weight", "lora_a", {8, 64}}, {"a.lora_B.weight", "lora_b", {64, 8}}})),
        fake_(layout_) {
    auto adapter = std::make_shared<Adapter>(layout_);
    for (size_t i = 0; i < adapter->values().size(); ++i) adapter->values()[i] = 0.25f * static_cast<float>(i);
    fake_.adapter = adapter;
    Start({});
  }

  void Start(Server::Options options) {
    server_.reset();
    options.config.set_listen("127.0.0.1:0");
    options.config.set_page("off");
    options.config.set_chunk_bytes(kChunkBytes);
    options.config.set_max_message_bytes(kMaxMessageBytes);
    options.coordinator = &fake_;
    auto server = Server::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto channel =
        grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->grpc_port()), grpc::InsecureChannelCredentials());
    federation_ = proto::Federation::NewStub(channel);
    admin_ = proto::Admin::NewStub(channel);
  }

  std::vector<float> Values() const { return {fake_.adapter->values().begin(), fake_.adapter->values().end()}; }

  // The adapter as header and chunks.
  std::pair<proto::TensorHeader, std::vector<proto::Chunk>> Encoded(uint64_t chunk_bytes = kChunkBytes) const {
    AdapterEncoder encoder(*fake_.adapter, chunk_bytes);
    std::vector<proto::Chunk> chunks;
    for (proto::Chunk chunk; encoder.Next(&chunk);) chunks.push_back(chunk);
    return {encoder.Header(), chunks};
  }

  // Whether `part` is in the message; prints both when it is not.
  static testing::AssertionResult Says(const grpc::Status& status, const std::string& part) {
    if (status.error_message().find(part) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "\"" << status.error_message() << "\" lacks \"" << part << "\"";
  }

  const std::shared_ptr<const Layout> layout_;
  FakeCoordinator fake_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<proto::Federation::Stub> federation_;
  std::unique_ptr<proto::Admin::Stub> admin_;
};

}  // namespace weft::server

#endif  // WEFT_SERVER_NET_TESTING_LOOPBACK_H_
