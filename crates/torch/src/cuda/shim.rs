//! The interface to `shim.cpp`, whose library is opened when the first GPU is used.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr::NonNull;
use std::sync::OnceLock;

use headswap_model::BackendError;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::error::{Result, TorchError};

/// The shared library, compiled by `build.rs`.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libheadswap_cuda.so"));

/// A null pointer, or an error's text.
type Failure = *const c_char;

/// The shim's functions, which `shim.cpp` documents.
pub(super) struct Shim {
    pub exact_f32: unsafe extern "C" fn() -> Failure,
    pub stream_new: unsafe extern "C" fn(c_int, *mut *mut c_void) -> Failure,
    pub stream_free: unsafe extern "C" fn(*mut c_void),
    pub stream_enter: unsafe extern "C" fn(*const c_void) -> Failure,
    pub stream_wait: unsafe extern "C" fn(*const c_void, *const c_void) -> Failure,
    pub pool_new: unsafe extern "C" fn(*mut u64) -> Failure,
    pub graph_begin: unsafe extern "C" fn(*const u64, *mut *mut c_void) -> Failure,
    pub graph_end: unsafe extern "C" fn(*const u64, *mut c_void) -> Failure,
    pub graph_replay: unsafe extern "C" fn(*mut c_void) -> Failure,
    pub graph_free: unsafe extern "C" fn(*mut c_void),
    pub kernel_load: unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> Failure,
    pub kernel_run: unsafe extern "C" fn(*mut c_void, *const c_void, *mut c_void, c_uint, c_uint, c_uint) -> Failure,
}

impl Shim {
    /// Returns the shim, opened by the first call; libtorch_cuda.so must have been loaded.
    ///
    /// # Errors
    /// [`BackendError::Settings`] if this libtorch is not the one that the shim was compiled against.
    pub fn get() -> Result<&'static Self> {
        static SHIM: OnceLock<Result<Shim, String>> = OnceLock::new();
        let opened = SHIM.get_or_init(|| Self::open().map_err(|error| error.to_string()));
        opened.as_ref().map_err(|error| {
            let text = format!(
                "the part for GPUs does not fit this libtorch ({error}); use PyTorch 2.11.0 for CUDA 13, or --device cpu"
            );
            BackendError::Settings(text).into()
        })
    }

    fn open() -> Result<Self, Box<dyn std::error::Error>> {
        // A file in memory, which the loader can open by name, so that nothing is installed or written to disk.
        // SAFETY: the name is a C string, and a descriptor that is not negative is new and not owned elsewhere.
        let mut file = unsafe {
            let descriptor = libc::memfd_create(c"libheadswap_cuda.so".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            std::fs::File::from_raw_fd(descriptor)
        };
        file.write_all(LIBRARY)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // SAFETY: the library's initialisers are those of the C++ runtime. The function types are those of `shim.cpp`, and
        // the library is never unloaded, so the functions stay valid.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)?;
            let shim = Self {
                exact_f32: *library.get(b"headswap_exact_f32")?,
                stream_new: *library.get(b"headswap_stream_new")?,
                stream_free: *library.get(b"headswap_stream_free")?,
                stream_enter: *library.get(b"headswap_stream_enter")?,
                stream_wait: *library.get(b"headswap_stream_wait")?,
                pool_new: *library.get(b"headswap_pool_new")?,
                graph_begin: *library.get(b"headswap_graph_begin")?,
                graph_end: *library.get(b"headswap_graph_end")?,
                graph_replay: *library.get(b"headswap_graph_replay")?,
                graph_free: *library.get(b"headswap_graph_free")?,
                kernel_load: *library.get(b"headswap_kernel_load")?,
                kernel_run: *library.get(b"headswap_kernel_run")?,
            };
            std::mem::forget(library);
            Ok(shim)
        }
    }
}

/// An owned object of the shim's, of the type that its `free` takes.
pub(super) struct Handle {
    pointer: NonNull<c_void>,
    free: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: CUDA objects are not bound to a thread.
unsafe impl Send for Handle {}

impl Handle {
    /// Owns the object whose pointer `create` writes.
    pub fn new(
        free: unsafe extern "C" fn(*mut c_void),
        create: impl FnOnce(*mut *mut c_void) -> Failure,
    ) -> Result<Self> {
        let mut pointer = std::ptr::null_mut();
        check(create(&raw mut pointer))?;
        let pointer = NonNull::new(pointer).ok_or_else(|| BackendError::Device("CUDA returned no object".into()))?;
        Ok(Self { pointer, free })
    }

    /// Returns the pointer for the shim's functions.
    pub fn get(&self) -> *mut c_void {
        self.pointer.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the function that belongs to `free`, and is not used afterwards.
        unsafe { (self.free)(self.pointer.as_ptr()) };
    }
}

/// A stream, which threads may share.
pub(super) struct Stream(pub Handle);

// SAFETY: a stream is never written, and CUDA accepts work for it from any thread.
unsafe impl Sync for Stream {}

/// Converts the return value of a function of the shim's.
pub(super) fn check(failure: Failure) -> Result<()> {
    if failure.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns a C string that is valid until this thread's next call.
    let text = unsafe { CStr::from_ptr(failure) }.to_string_lossy();
    Err(TorchError::from_message(&text))
}
