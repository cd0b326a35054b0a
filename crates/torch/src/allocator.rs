//! How the C allocator treats the memory of activations, which libtorch takes and gives back in every layer.

/// Makes glibc keep that memory between batches instead of returning it and faulting it in again, and keep it in one
/// place: a thread's own arena holds no block above 64 MiB. To be called before any thread is started.
pub(super) fn keep_freed_memory() {
    // SAFETY: mallopt only changes the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
