// Streams and graphs of CUDA as C functions: what libtorch has in C++ alone.
//
// `build.rs` compiles this against libtorch's headers into a library of its own, and `shim.rs` opens that only when a GPU
// computes, after libtorch_cuda.so. Each function returns null, or what went wrong: valid until the thread's next call.

#include <cstdint>
#include <exception>
#include <string>

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

namespace {

using at::cuda::CUDAGraph;
using c10::cuda::CUDAStream;

template <class Body>
const char* guarded(Body body) {
  thread_local std::string error;
  try {
    body();
    return nullptr;
  } catch (const c10::Error& caught) {
    error = caught.what_without_backtrace();
  } catch (const std::exception& caught) {
    error = caught.what();
  } catch (...) {
    error = "an unknown exception";
  }
  return error.c_str();
}

}  // namespace

extern "C" {

// Products of f32 are products of f32: by default libtorch rounds what enters convolutions to TF32's 10 bits.
const char* headswap_exact_f32() {
  return guarded([] { at::globalContext().setAllowTF32CuDNN(false); });
}

// A stream of the device that waits for no other, the default stream included.
const char* headswap_stream_new(int device, CUDAStream** stream) {
  return guarded([&] {
    *stream = new CUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device)));
  });
}

void headswap_stream_free(CUDAStream* stream) { delete stream; }

// From here on, what this thread asks of the stream's device goes there.
const char* headswap_stream_enter(const CUDAStream* stream) {
  return guarded([&] {
    c10::cuda::set_device(stream->device_index());
    c10::cuda::setCurrentCUDAStream(*stream);
  });
}

// What `stream` is given from here on waits for what `other`, of the same device, has been given so far.
const char* headswap_stream_wait(const CUDAStream* stream, const CUDAStream* other) {
  return guarded([&] {
    c10::cuda::set_device(stream->device_index());
    cudaEvent_t event = nullptr;
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    const cudaError_t recorded = cudaEventRecord(event, other->stream());
    const cudaError_t waited = recorded == cudaSuccess ? cudaStreamWaitEvent(stream->stream(), event, 0) : recorded;
    // Freed by the driver once it has happened.
    const cudaError_t destroyed = cudaEventDestroy(event);
    C10_CUDA_CHECK(waited);
    C10_CUDA_CHECK(destroyed);
  });
}

// Memory that graphs may share which never run at the same time.
const char* headswap_pool_new(std::uint64_t pool[2]) {
  return guarded([&] {
    const auto id = at::cuda::graph_pool_handle();
    pool[0] = id.first;
    pool[1] = id.second;
  });
}

// What this thread gives its current stream is recorded from here on, and not run. Other threads may go on allocating.
const char* headswap_graph_begin(const std::uint64_t pool[2], CUDAGraph** graph) {
  return guarded([&] {
    auto* created = new CUDAGraph();
    try {
      created->capture_begin({pool[0], pool[1]}, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      delete created;
      throw;
    }
    *graph = created;
  });
}

const char* headswap_graph_end(CUDAGraph* graph) {
  return guarded([&] { graph->capture_end(); });
}

// Runs it in this thread's current stream.
const char* headswap_graph_replay(CUDAGraph* graph) {
  return guarded([&] { graph->replay(); });
}

void headswap_graph_free(CUDAGraph* graph) { delete graph; }

}  // extern "C"
