//! The durable store of heads, a directory in which a version is stored completely or not at all, and of uploads.

mod dir;
mod histories;
mod record;
mod safetensors_file;
mod synced_file;
mod upload;

pub use dir::DirStore;
pub use upload::{Announced, UPLOAD_BYTES_MAX, UPLOADS_MAX, Upload, UploadDir};
