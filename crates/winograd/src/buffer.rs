//! Memory aligned to cache lines, in huge pages if it is large.

use std::alloc::{self, Layout};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a cache line on every supported CPU, and of an AVX-512 register.
const LINE: usize = 64;
/// x86-64's huge page in bytes.
const HUGE_PAGE: usize = 2 << 20;

/// Numbers for which all bits zero are the value 0.
///
/// # Safety
/// Any bit pattern is a valid value, and the type has no drop glue.
pub unsafe trait Number: Copy + Default + Send + Sync + 'static {}

// SAFETY: every bit pattern is an f32.
unsafe impl Number for f32 {}
// SAFETY: every bit pattern is an i16.
unsafe impl Number for i16 {}

/// A slice of fixed length, zeroed at first.
pub struct Buffer<T: Number> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its memory as a `Vec` does, and `T` is `Send`.
unsafe impl<T: Number> Send for Buffer<T> {}
// SAFETY: shared access reads only, and `T` is `Sync`.
unsafe impl<T: Number> Sync for Buffer<T> {}

impl<T: Number> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self {
                start: NonNull::dangling(),
                len,
            };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero, since `len` is not and `T` is a number.
        let start = unsafe { alloc::alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<T>()) else {
            alloc::handle_alloc_error(layout);
        };
        // Before the zeros are written, because a page's first write decides whether it is huge. (With a large
        // alignment, `alloc_zeroed` would write the zeros itself.)
        advise_huge_pages(start.as_ptr().cast(), layout);
        // SAFETY: the allocation has room for `len` numbers, and all bits zero are a number.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Self { start, len }
    }

    /// Makes room for `len` numbers. The contents are lost if it has to grow.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeroed(len);
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn layout(len: usize) -> Layout {
        let bytes = len
            .checked_mul(size_of::<T>())
            .expect("a buffer is smaller than memory");
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { LINE };
        Layout::from_size_align(bytes, align).expect("a buffer is smaller than memory")
    }
}

/// Asks for huge pages: a pass over 494 MB of weights touches 242 pages of 2 MiB instead of 120,000 of 4 KiB.
#[cfg(target_os = "linux")]
fn advise_huge_pages(start: *mut libc::c_void, layout: Layout) {
    if layout.align() == HUGE_PAGE {
        // SAFETY: the range is the allocation of `layout` at `start`. The advice changes no contents, and its failure
        // only leaves small pages.
        unsafe { libc::madvise(start, layout.size(), libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages(_: *mut libc::c_void, _: Layout) {}

impl<T: Number> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: `zeroed` allocated it with this layout, and nothing else frees it.
            unsafe { alloc::dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) };
        }
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` initialised numbers (zeros at first) that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Number> Default for Buffer<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Number> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Number> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes())
    }
}

/// A slice that several threads write, each its own part.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: every access is in an unsafe block whose author vouches that no thread touches what another writes, as if
// each thread had been sent its own `&mut [T]`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Shares `slice`.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            life: PhantomData,
        }
    }

    /// The `len` elements from `at`, to read.
    ///
    /// # Safety
    /// While the part is in use, no other thread writes to it.
    ///
    /// # Panics
    /// If there are fewer.
    pub unsafe fn part(self, at: usize, len: usize) -> &'a [T] {
        let start = self.pointer(at, len);
        // SAFETY: `pointer` checked that the part lies within the slice, which is borrowed for 'a; the caller excludes
        // writers.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// A pointer to element `at`, for a kernel that writes scattered pieces.
    ///
    /// # Panics
    /// If there are not `len` elements from `at`.
    pub fn pointer(self, at: usize, len: usize) -> *mut T {
        assert!(at <= self.len && len <= self.len - at, "a part of the slice");
        self.start.wrapping_add(at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_zero_and_aligned() {
        for bytes in [4, 64, HUGE_PAGE - 4, HUGE_PAGE, 3 * HUGE_PAGE + 4] {
            // The allocator may return freed memory with other contents.
            let mut dirty = Buffer::<f32>::zeroed(bytes / 4);
            dirty.fill(1.0);
            drop(dirty);
            let buffer = Buffer::<f32>::zeroed(bytes / 4);
            assert!(buffer.iter().all(|&number| number.to_bits() == 0), "{bytes} bytes");
            let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { LINE };
            assert_eq!(buffer.as_ptr().addr() % align, 0, "{bytes} bytes");
        }
    }

    /// The system may have no huge pages; a mapping that is advised and written here shows whether it has.
    #[cfg(target_os = "linux")]
    #[test]
    fn large_buffers_lie_in_huge_pages_where_there_are_any() {
        const BYTES: usize = 8 * HUGE_PAGE;
        let layout = Layout::from_size_align(BYTES, HUGE_PAGE).unwrap();
        // SAFETY: the size is not zero; the writes and `dealloc` are within the allocation.
        let available = unsafe {
            let start = alloc::alloc(layout);
            libc::madvise(start.cast(), BYTES, libc::MADV_HUGEPAGE);
            start.write_bytes(1, BYTES);
            let available = huge_kib_at(start.addr());
            alloc::dealloc(start, layout);
            available
        };
        let buffer = Buffer::<f32>::zeroed(BYTES / size_of::<f32>());
        let got = huge_kib_at(buffer.as_ptr().addr());
        if available == BYTES >> 10 {
            assert!(got > 0, "none of {available} KiB");
        }
    }

    /// KiB in huge pages of the mapping that holds an address.
    #[cfg(target_os = "linux")]
    fn huge_kib_at(address: usize) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_inside = false;
        for line in smaps.lines() {
            let bounds = line.split_whitespace().next().and_then(|range| range.split_once('-'));
            if let Some((start, end)) = bounds
                && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            {
                is_inside = (start..end).contains(&address);
            }
            if is_inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
                return rest.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        0
    }
}
