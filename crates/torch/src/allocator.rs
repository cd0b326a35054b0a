//! Configures the C allocator for activations, which libtorch allocates and frees in every layer.

/// Makes glibc keep freed memory between batches, instead of returning it to the system and faulting it in again, and
/// use one arena: other threads' arenas hold no block above 64 MiB. Must be called before any thread is started.
pub(super) fn keep_freed_memory() {
    // SAFETY: mallopt only changes the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
