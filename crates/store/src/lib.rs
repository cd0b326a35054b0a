//! Where heads outlive the process: a folder, in which a version is wholly there or wholly absent.

mod dir;
mod record;
mod safetensors_file;
mod synced_file;
mod upload;

pub use dir::DirStore;
pub use upload::{Announced, UPLOAD_BYTES_MAX, UPLOADS_MAX, Upload, UploadDir};
