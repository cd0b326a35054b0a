//! JPEG by MozJPEG's libjpeg, at some eighths of its size.
//!
//! libjpeg shows what it can of a damaged file and counts warnings; here the first warning ends decoding, as its errors do.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::{ColorSpace, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, jpeg_std_error};

use super::samples::{Channels, Samples};

/// Decodes a grey or YCbCr file of `width` x `height` pixels; `None` where libjpeg meets anything unusual.
pub(super) fn decode(bytes: &[u8], (width, height): (u32, u32), channels: Channels, eighths: u32) -> Option<Samples> {
    let (stored, wanted) = match channels {
        Channels::Grey => (ColorSpace::JCS_GRAYSCALE, ColorSpace::JCS_GRAYSCALE),
        Channels::Rgba => (ColorSpace::JCS_YCbCr, ColorSpace::JCS_EXT_RGBA),
        Channels::GreyAlpha | Channels::Rgb => return None,
    };
    let read = || {
        let mut decoder = Decompress::with_err(strict()).from_mem(bytes).ok()?;
        let is_as_told = decoder.size() == (width as usize, height as usize) && decoder.color_space() == stored;
        is_as_told.then_some(())?;
        decoder.scale(u8::try_from(eighths).ok()?);
        let mut rows = decoder.to_colorspace(wanted).ok()?;
        let bytes = rows.read_scanlines::<u8>().ok()?;
        rows.finish().ok()?;
        Some(bytes)
    };
    // libjpeg's way out of an error is to unwind; nothing outlives it but the borrowed bytes.
    let bytes = catch_unwind(AssertUnwindSafe(read)).ok().flatten()?;
    let samples = Samples {
        width,
        height,
        eighths,
        channels,
        bytes,
    };
    let is_whole = samples.bytes.len() == samples.columns() as usize * samples.rows() as usize * channels.count();
    is_whole.then_some(samples)
}

/// libjpeg's handlers, but for those that would end the process or go on.
fn strict() -> jpeg_error_mgr {
    // SAFETY: the structure holds numbers, nullable pointers and optional functions, for all of which zeros are valid, and
    // `jpeg_std_error` fills it in without looking at it.
    let mut handlers = unsafe {
        let mut handlers: jpeg_error_mgr = std::mem::zeroed();
        jpeg_std_error(&mut handlers);
        handlers
    };
    handlers.error_exit = Some(refuse);
    handlers.emit_message = Some(refuse_warnings);
    handlers
}

extern "C-unwind" fn refuse(_: &mut jpeg_common_struct) {
    // Without the panic hook: a damaged picture is nothing to log.
    resume_unwind(Box::new("libjpeg refused it"));
}

extern "C-unwind" fn refuse_warnings(decoder: &mut jpeg_common_struct, level: std::ffi::c_int) {
    // Levels from 0 on are traces.
    if level < 0 {
        refuse(decoder);
    }
}
