#ifndef WEFT_CLIENT_TESTING_FAKE_FEDERATION_H_
#define WEFT_CLIENT_TESTING_FAKE_FEDERATION_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/service.grpc.pb.h"

namespace weft {

// A Federation service on a free loopback port whose three calls are functions of the test.
class FakeFederation : public proto::Federation::Service {
 public:
  using Stream = grpc::ServerReaderWriter<proto::ServerMessage, proto::ClientMessage>;
  std::function<grpc::Status(grpc::ServerContext*, Stream*)> connect;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerWriter<proto::TensorMessage>*)> download;
  std::function<grpc::Status(grpc::ServerContext*, grpc::ServerReader<proto::UploadMessage>*)> upload;

  FakeFederation() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  // Cuts off what is under way.
  ~FakeFederation() override { Stop(); }
  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status Connect(grpc::ServerContext* context, Stream* stream) override { return connect(context, stream); }
  grpc::Status Download(grpc::ServerContext* context, const proto::DownloadRequest*,
                        grpc::ServerWriter<proto::TensorMessage>* writer) override {
    return download(context, writer);
  }
  grpc::Status Upload(grpc::ServerContext* context, grpc::ServerReader<proto::UploadMessage>* reader,
                      proto::UploadReply*) override {
    return upload(context, reader);
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace weft

#endif  // WEFT_CLIENT_TESTING_FAKE_FEDERATION_H_
