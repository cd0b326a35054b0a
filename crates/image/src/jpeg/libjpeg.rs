//! libjpeg's decoder (MozJPEG's, which is libjpeg-turbo's), called as Pillow calls it: warnings are ignored, and missing
//! bytes at the end suspend the decoder, which is an error.

use std::ffi::{CStr, c_int, c_long};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    J_COLOR_SPACE, boolean, jpeg_common_struct, jpeg_create_decompress, jpeg_decompress_struct,
    jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress, jpeg_progress_mgr, jpeg_read_header,
    jpeg_read_scanlines, jpeg_resync_to_restart, jpeg_source_mgr, jpeg_start_decompress, jpeg_std_error,
};

/// Returns the limit of the scans of a picture of this size. A progressive file refines the whole picture with each scan:
/// without a limit, few bytes could cause much work. Encoders write about ten.
fn scans_max(width: u32, height: u32) -> c_int {
    /// Pixels times scans.
    const WORK_MAX: u64 = 1 << 30;
    let pixels = u64::from(width) * u64::from(height);
    (WORK_MAX / pixels.max(1)).clamp(16, 64) as c_int
}

/// `JMSG_LENGTH_MAX`, the longest of libjpeg's messages.
const MESSAGE_LENGTH: usize = 200;
const SUSPENDED: c_int = 0;
const TABLES_ONLY: c_int = 2;

/// A decoder of a file's bytes.
pub(super) struct Libjpeg<'a> {
    // Boxed, because libjpeg's structures point to each other.
    state: Box<State>,
    bytes: &'a [u8],
}

struct State {
    info: jpeg_decompress_struct,
    error: jpeg_error_mgr,
    source: jpeg_source_mgr,
    progress: jpeg_progress_mgr,
}

/// The reason for which decoding failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes ended early.
    Truncated,
    /// The file has more scans than this limit.
    TooManyScans(c_int),
    /// libjpeg's error message.
    Refused(String),
}

impl<'a> Libjpeg<'a> {
    /// Creates a decoder and reads the headers of `bytes`.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Stop> {
        // SAFETY: the structures consist of numbers, nullable pointers and optional functions, for which zeros are valid.
        let state: Box<State> = Box::new(unsafe { std::mem::zeroed() });
        let mut decoder = Self { state, bytes };
        let state = &mut *decoder.state;
        // SAFETY: `jpeg_std_error` writes the structure without reading it.
        unsafe { jpeg_std_error(&mut state.error) };
        state.error.error_exit = Some(exit);
        state.error.output_message = Some(ignore_message);
        state.source.next_input_byte = bytes.as_ptr();
        state.source.bytes_in_buffer = bytes.len();
        state.source.init_source = Some(ignore);
        state.source.fill_input_buffer = Some(suspend);
        state.source.skip_input_data = Some(skip);
        state.source.resync_to_restart = Some(jpeg_resync_to_restart);
        state.source.term_source = Some(ignore);
        state.progress.progress_monitor = Some(bound_scans);
        state.info.common.err = &mut state.error;
        decoder.guarded(|state| {
            // SAFETY: `err` points to handlers that live as long; the call clears the other fields, which are set below.
            unsafe { jpeg_create_decompress(&mut state.info) };
            state.info.src = &mut state.source;
            state.info.common.progress = &mut state.progress;
            loop {
                // SAFETY: the source is the caller's bytes, which outlive the decoder.
                match unsafe { jpeg_read_header(&mut state.info, 0) } {
                    SUSPENDED => return Err(Stop::Truncated),
                    TABLES_ONLY => {}
                    _ => return Ok(()),
                }
            }
        })?;
        Ok(decoder)
    }

    /// Returns the width and height in the frame header that libjpeg read.
    pub(super) fn size(&self) -> [u32; 2] {
        [self.state.info.image_width, self.state.info.image_height]
    }

    /// Starts decoding at `eighths` eighths of the size, in `colours`. Returns the width and height of the result.
    pub(super) fn start(&mut self, eighths: u32, colours: J_COLOR_SPACE) -> Result<[u32; 2], Stop> {
        self.guarded(|state| {
            state.info.scale_num = eighths;
            state.info.scale_denom = 8;
            state.info.out_color_space = colours;
            // SAFETY: the header was read.
            let has_started = unsafe { jpeg_start_decompress(&mut state.info) } != 0;
            has_started
                .then_some([state.info.output_width, state.info.output_height])
                .ok_or(Stop::Truncated)
        })
    }

    /// Returns the bytes of a row.
    pub(super) fn row_length(&self) -> usize {
        self.state.info.output_width as usize * self.state.info.output_components.unsigned_abs() as usize
    }

    /// Writes the next row to the front of `row`.
    ///
    /// # Panics
    /// If `row` is shorter than a row.
    pub(super) fn read_row(&mut self, row: &mut [u8]) -> Result<(), Stop> {
        assert!(row.len() >= self.row_length(), "the buffer holds a row");
        self.guarded(|state| {
            let mut row = row.as_mut_ptr();
            // SAFETY: decoding has started, and the buffer is at least as long as a row.
            let count = unsafe { jpeg_read_scanlines(&mut state.info, &mut row, 1) };
            if count == 1 { Ok(()) } else { Err(Stop::Truncated) }
        })
    }

    /// Reads what follows the last row. Like in Pillow, missing bytes are accepted and errors are not.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        let bytes = self.bytes;
        self.guarded(|state| {
            // SAFETY: decoding has started.
            let is_complete = unsafe { jpeg_finish_decompress(&mut state.info) } != 0;
            // This libjpeg suspends at an incomplete segment; libjpeg-turbo 3, which Pillow uses, refuses a second frame
            // header by its marker alone.
            let (read, _) = bytes.split_at(bytes.len() - state.source.bytes_in_buffer);
            if !is_complete && matches!(read, [.., 0xff, 0xc0..=0xc3 | 0xc9..=0xcb]) {
                return Err(Stop::Refused("it has two frame headers".to_owned()));
            }
            Ok(())
        })
    }

    /// Runs `work` and catches the unwinding by which libjpeg reports errors. After an error the decoder may only be
    /// dropped.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut State) -> Result<T, Stop>) -> Result<T, Stop> {
        let state = &mut *self.state;
        match catch_unwind(AssertUnwindSafe(|| work(state))) {
            Ok(result) => result,
            Err(reason) => Err(match reason.downcast::<Stop>() {
                Ok(stop) => *stop,
                Err(_) => Stop::Refused("the decoder failed on it".to_owned()),
            }),
        }
    }
}

impl Drop for Libjpeg<'_> {
    fn drop(&mut self) {
        // SAFETY: a zeroed or a created structure can be destroyed, and it is not used afterwards.
        unsafe { jpeg_destroy_decompress(&mut self.state.info) };
    }
}

/// Unwinds with libjpeg's message. The panic hook does not run: a damaged picture is not logged.
extern "C-unwind" fn exit(info: &mut jpeg_common_struct) {
    let buffer = [0_u8; MESSAGE_LENGTH];
    // SAFETY: `jpeg_std_error` set the handlers. The binding's parameter type is shorter than what libjpeg may write; the
    // buffer is not.
    unsafe {
        if let Some(format) = (*info.err).format_message {
            format(info, &*std::hint::black_box(buffer.as_ptr()).cast());
        }
    }
    let message = CStr::from_bytes_until_nul(std::hint::black_box(&buffer)).map(CStr::to_string_lossy);
    resume_unwind(Box::new(Stop::Refused(message.unwrap_or_default().into_owned())));
}

extern "C-unwind" fn ignore_message(_: &mut jpeg_common_struct) {}

extern "C-unwind" fn ignore(_: &mut jpeg_decompress_struct) {}

/// Called by libjpeg when it needs more bytes.
extern "C-unwind" fn suspend(_: &mut jpeg_decompress_struct) -> boolean {
    0
}

extern "C-unwind" fn skip(info: &mut jpeg_decompress_struct, count: c_long) {
    // SAFETY: the source is in the same `State`, and only this thread uses it.
    let source = unsafe { &mut *info.src };
    let count = usize::try_from(count).unwrap_or(0).min(source.bytes_in_buffer);
    // SAFETY: `count` is at most the bytes in the buffer.
    source.next_input_byte = unsafe { source.next_input_byte.add(count) };
    source.bytes_in_buffer -= count;
}

extern "C-unwind" fn bound_scans(info: &mut jpeg_common_struct) {
    // SAFETY: only decompressors get this function, and a decompressor's structure begins with the common part.
    let info = unsafe { &*std::ptr::from_mut(info).cast::<jpeg_decompress_struct>() };
    let limit = scans_max(info.image_width, info.image_height);
    if info.input_scan_number > limit {
        resume_unwind(Box::new(Stop::TooManyScans(limit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_may_have_fewer_scans() {
        assert_eq!(
            (scans_max(640, 427), scans_max(4096, 4096), scans_max(8192, 8192)),
            (64, 64, 16)
        );
        assert_eq!((scans_max(0, 0), scans_max(65_535, 65_535)), (64, 16));
    }
}
