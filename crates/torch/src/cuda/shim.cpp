// C functions for CUDA's streams, graphs and a kernel, which libtorch offers only in C++.
//
// `build.rs` compiles this against libtorch's headers to a library of its own, which `shim.rs` opens only when a GPU
// computes, after libtorch_cuda.so. Each function returns null or an error message, which is valid until the thread's next
// call.

#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
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

// Ends a failed recording; otherwise allocations would continue to come from its pool.
void abandon(c10::MempoolId_t pool) {
  try {
    c10::cuda::CUDACachingAllocator::endAllocateToPool(c10::cuda::current_device(), pool);
  } catch (...) {
  }
  try {
    at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
  } catch (...) {
  }
}

}  // namespace

extern "C" {

// Computes convolutions of f32 in f32. By default libtorch rounds their inputs to TF32, of 10 bits.
const char* headswap_exact_f32() {
  return guarded([] { at::globalContext().setAllowTF32CuDNN(false); });
}

// Returns a stream of the device that does not wait for others, including the default stream.
const char* headswap_stream_new(int device, CUDAStream** stream) {
  return guarded([&] {
    *stream = new CUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device)));
  });
}

void headswap_stream_free(CUDAStream* stream) { delete stream; }

// Makes the stream the current one of this thread.
const char* headswap_stream_enter(const CUDAStream* stream) {
  return guarded([&] {
    c10::cuda::set_device(stream->device_index());
    c10::cuda::setCurrentCUDAStream(*stream);
  });
}

// Makes later work of `stream` wait for the work that `other`, of the same device, has by now.
const char* headswap_stream_wait(const CUDAStream* stream, const CUDAStream* other) {
  return guarded([&] {
    c10::cuda::set_device(stream->device_index());
    cudaEvent_t event = nullptr;
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    const cudaError_t recorded = cudaEventRecord(event, other->stream());
    const cudaError_t waited = recorded == cudaSuccess ? cudaStreamWaitEvent(stream->stream(), event, 0) : recorded;
    // The driver frees the event once it has happened.
    const cudaError_t destroyed = cudaEventDestroy(event);
    C10_CUDA_CHECK(waited);
    C10_CUDA_CHECK(destroyed);
  });
}

// Returns a memory pool for graphs that never run at the same time.
const char* headswap_pool_new(std::uint64_t pool[2]) {
  return guarded([&] {
    const auto id = at::cuda::graph_pool_handle();
    pool[0] = id.first;
    pool[1] = id.second;
  });
}

// Begins to record the work that this thread submits to its current stream, instead of running it. Other threads may
// allocate during the recording.
const char* headswap_graph_begin(const std::uint64_t pool[2], CUDAGraph** graph) {
  return guarded([&] {
    auto created = std::make_unique<CUDAGraph>();
    try {
      created->capture_begin({pool[0], pool[1]}, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      abandon({pool[0], pool[1]});
      throw;
    }
    *graph = created.release();
  });
}

const char* headswap_graph_end(const std::uint64_t pool[2], CUDAGraph* graph) {
  return guarded([&] {
    try {
      graph->capture_end();
    } catch (...) {
      abandon({pool[0], pool[1]});
      throw;
    }
  });
}

// Runs the graph in this thread's current stream.
const char* headswap_graph_replay(CUDAGraph* graph) {
  return guarded([&] { graph->replay(); });
}

void headswap_graph_free(CUDAGraph* graph) { delete graph; }

// Loads the kernel of `pool.cu`; the driver compiles it for the GPU that runs it.
const char* headswap_kernel_load(const char* ptx, cudaKernel_t* kernel) {
  return guarded([&] {
    cudaLibrary_t library = nullptr;
    C10_CUDA_CHECK(cudaLibraryLoadData(&library, ptx, nullptr, nullptr, 0, nullptr, nullptr, 0));
    C10_CUDA_CHECK(cudaLibraryGetKernel(kernel, library, "headswap_pool"));
  });
}

// Runs the kernel in this thread's current stream. The result has `rows` x `columns` x `channels`; `channels` is a multiple
// of eight.
const char* headswap_kernel_run(cudaKernel_t kernel, const void* input, void* output, unsigned rows, unsigned columns,
                                unsigned channels) {
  return guarded([&] {
    constexpr unsigned kThreads = 256;
    unsigned chunks = channels / 8;
    unsigned total = rows * columns * chunks;
    void* arguments[] = {&input, &output, &total, &columns, &chunks};
    C10_CUDA_CHECK(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3((total + kThreads - 1) / kThreads),
                                    dim3(kThreads), arguments, 0, c10::cuda::getCurrentCUDAStream().stream()));
  });
}

}  // extern "C"
