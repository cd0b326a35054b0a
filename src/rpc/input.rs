//! A picture as it comes from a client.

use bytes::Bytes;

use super::pb::{classify_request, embed_request};

/// Encoded or raw; both share the message's memory.
#[derive(Clone, Debug)]
pub enum Input {
    /// JPEG, PNG, WebP, GIF or BMP.
    Image(Bytes),
    /// 224 x 224 x 3 u8.
    Pixels(Bytes),
}

impl From<classify_request::Input> for Input {
    fn from(input: classify_request::Input) -> Self {
        match input {
            classify_request::Input::Image(bytes) => Self::Image(bytes),
            classify_request::Input::Pixels(bytes) => Self::Pixels(bytes),
        }
    }
}

impl From<embed_request::Input> for Input {
    fn from(input: embed_request::Input) -> Self {
        match input {
            embed_request::Input::Image(bytes) => Self::Image(bytes),
            embed_request::Input::Pixels(bytes) => Self::Pixels(bytes),
        }
    }
}
