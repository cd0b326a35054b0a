//! Converts libtorch's errors to the backend's.

use headswap_model::BackendError;
use tch::TchError;

/// A [`BackendError`] that libtorch's errors convert to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(transparent)]
pub(crate) struct TorchError(#[from] pub BackendError);

/// The result of functions that call libtorch.
pub(crate) type Result<T, E = TorchError> = std::result::Result<T, E>;

impl From<TchError> for TorchError {
    fn from(error: TchError) -> Self {
        Self::from_message(&error.to_string())
    }
}

impl From<TorchError> for BackendError {
    fn from(error: TorchError) -> Self {
        error.0
    }
}

impl TorchError {
    /// Converts an error message of libtorch, CUDA or one of its libraries.
    pub fn from_message(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default().to_owned();
        // `CUDA out of memory`, `CUDA error: out of memory`; libtorch's own allocator for the host: `not enough memory`;
        // cuBLAS and cuDNN: `CUBLAS_STATUS_ALLOC_FAILED`, `CUDNN_STATUS_ALLOC_FAILED`.
        let exhausted = ["out of memory", "not enough memory", "STATUS_ALLOC_FAILED"];
        Self(if exhausted.iter().any(|words| line.contains(words)) {
            BackendError::OutOfMemory(line)
        } else {
            BackendError::Device(line)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_recognised() {
        for text in [
            "CUDA out of memory. Tried to allocate 392.00 MiB. GPU 0 has a total capacity of 79.11 GiB\nstack",
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ] {
            let error = TorchError::from_message(text);
            let line = text.lines().next().unwrap();
            assert_eq!(error.0, BackendError::OutOfMemory(line.to_owned()));
        }
        let other = "CUDA error: an illegal memory access was encountered";
        assert_eq!(TorchError::from_message(other).0, BackendError::Device(other.into()));
    }
}
