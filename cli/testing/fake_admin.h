#ifndef WEFT_CLI_TESTING_FAKE_ADMIN_H_
#define WEFT_CLI_TESTING_FAKE_ADMIN_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/service.grpc.pb.h"

namespace weft::cli {

// An Admin service on a free loopback port that plays back what a test gives it and keeps what it is sent.
class FakeAdmin : public proto::Admin::Service {
 public:
  // What every call ends with.
  grpc::Status end;
  proto::CoordinatorStatus status;                             // of GetStatus
  std::vector<std::vector<proto::CoordinatorStatus>> watches;  // one list for each Watch call, then no more
  grpc::Status watch_end;                                      // of every Watch but the last
  proto::JobStatus stopped;
  std::vector<proto::ExportMessage> exported;

  std::vector<proto::SubmitMessage> submitted;
  std::string asked_job;
  std::string asked_which;
  size_t watch_calls = 0;

  FakeAdmin() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeAdmin() override { Stop(); }
  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  grpc::Status Submit(grpc::ServerContext*, grpc::ServerReader<proto::SubmitMessage>* reader,
                      proto::SubmitReply* reply) override {
    for (proto::SubmitMessage message; reader->Read(&message);) submitted.push_back(message);
    reply->set_job_id("job-7");
    return end;
  }
  grpc::Status GetStatus(grpc::ServerContext*, const proto::StatusRequest* request,
                         proto::CoordinatorStatus* reply) override {
    asked_job = request->job_id();
    *reply = status;
    return end;
  }
  grpc::Status Watch(grpc::ServerContext*, const proto::StatusRequest* request,
                     grpc::ServerWriter<proto::CoordinatorStatus>* writer) override {
    asked_job = request->job_id();
    if (watch_calls == watches.size()) return end;
    for (const proto::CoordinatorStatus& message : watches[watch_calls]) writer->Write(message);
    return ++watch_calls < watches.size() ? watch_end : end;
  }
  grpc::Status Stop(grpc::ServerContext*, const proto::StopRequest* request, proto::StopReply* reply) override {
    asked_job = request->job_id();
    *reply->mutable_job() = stopped;
    return end;
  }
  grpc::Status Export(grpc::ServerContext*, const proto::ExportRequest* request,
                      grpc::ServerWriter<proto::ExportMessage>* writer) override {
    asked_job = request->job_id();
    asked_which = request->which();
    for (const proto::ExportMessage& message : exported) writer->Write(message);
    return end;
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace weft::cli

#endif  // WEFT_CLI_TESTING_FAKE_ADMIN_H_
