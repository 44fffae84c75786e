// client ADDRESS draw MODEL PROMPT [STEPS [WIDTH]]: a picture, from the request to its URL.
// client ADDRESS cancel ID: let a generation be.
// ATELIER_API_KEY is the API key, if one is wanted.
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "atelier/v1/generation.grpc.pb.h"
#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace pb = atelier::v1;

std::unique_ptr<grpc::ClientContext> call() {
  auto context = std::make_unique<grpc::ClientContext>();
  if (const char* key = std::getenv("ATELIER_API_KEY")) {
    context->AddMetadata("authorization", std::string("Bearer ") + key);
  }
  return context;
}

std::string new_request_id() {
  std::random_device device;
  std::string id;
  for (int n = 0; n < 4; ++n) id += std::to_string(device()) + (n < 3 ? "-" : "");
  return id;
}

// [shown]
grpc::Status draw(pb::GenerationService::Stub& door, pb::CreateGenerationRequest request) {
  request.set_request_id(new_request_id());  // so that the same request may be sent again
  pb::CreateGenerationResponse made;
  auto creating = call();
  if (auto status = door.CreateGeneration(creating.get(), request, &made); !status.ok()) return status;
  std::cout << "created " << made.generation().id() << std::endl;
  pb::WatchGenerationRequest watch;
  watch.set_id(made.generation().id());
  auto watching = call();
  auto views = door.WatchGeneration(watching.get(), watch);
  for (pb::WatchGenerationResponse view; views->Read(&view);) {
    const auto& at = view.generation().progress();
    std::cout << pb::GenerationState_Name(view.generation().state()) << " " << at.step() << "/"
              << at.total_steps() << std::endl;
    for (const auto& result : view.generation().results()) std::cout << "result " << result.url() << std::endl;
  }
  return views->Finish();
}

void explain(const grpc::Status& failed) {
  google::rpc::Status status;
  status.ParseFromString(failed.error_details());
  std::cout << "error " << google::rpc::Code_Name(google::rpc::Code(failed.error_code())) << " " << failed.error_message() << std::endl;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  google::rpc::RetryInfo retry;
  for (const auto& detail : status.details()) {
    if (detail.UnpackTo(&info)) std::cout << "reason " << info.reason() << std::endl;
    if (detail.UnpackTo(&retry)) {
      std::cout << "retry after " << retry.retry_delay().seconds() + retry.retry_delay().nanos() / 1e9 << std::endl;
    }
    if (!detail.UnpackTo(&bad)) continue;
    for (const auto& wrong : bad.field_violations()) {
      std::cout << "field " << wrong.field() << " " << wrong.description() << std::endl;
    }
  }
}
// [end]

int main(int count, char** given) {
  const std::vector<std::string> words(given + 1, given + count);
  auto channel = grpc::CreateChannel(words.at(0), grpc::InsecureChannelCredentials());
  auto door = pb::GenerationService::NewStub(channel);
  grpc::Status status;
  if (words.at(1) == "draw") {
    pb::CreateGenerationRequest request;
    request.set_model(words.at(2));
    request.mutable_image()->set_prompt(words.at(3));
    if (words.size() > 4) request.mutable_image()->set_steps(std::stoi(words[4]));
    if (words.size() > 5) request.mutable_image()->set_width(std::stoi(words[5]));
    status = draw(*door, request);
  } else {
    pb::CancelGenerationRequest request;
    request.set_id(words.at(2));
    pb::CancelGenerationResponse answer;
    status = door->CancelGeneration(call().get(), request, &answer);
    if (status.ok()) std::cout << "cancelled " << answer.generation().id() << std::endl;
  }
  if (status.ok()) return 0;
  explain(status);
  return 1;
}
